//! PID 1 of the sandbox: arranges it, starts the command, reaps, passes signals on, and ends when the last
//! descendant has ended, with the command's status (SEMANTICS X2, X3).
//!
//! It runs as the command's user, without privileges, under the same filters; the kernel keeps signals of those
//! inside from it, and with its end (also that of `nameward` outside, by the parent-death signal) ends everything.
#![allow(unsafe_code, reason = "fork, exec and descriptor hygiene between them")]

use std::ffi::CString;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{
    SaFlags, SigAction, SigHandler, SigSet, SigmaskHow, Signal, kill, sigaction, sigprocmask,
};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::socket::{MsgFlags, recv, send};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, chdir, fork, setsid};
use seccompiler::BpfProgram;

use super::spawn::MESSAGE_SIZE;
use super::{Plan, mounts, privileges};

/// Messages to the outside.
pub(super) const READY: u8 = b'r';
/// See [`READY`]; the text follows.
pub(super) const FAILED: u8 = b'f';
/// See [`READY`].
pub(super) const COMMAND_ENDED: u8 = b'e';
/// Messages from the outside.
pub(super) const GO: u8 = b'g';
/// See [`GO`]; the signal's number follows.
pub(super) const SIGNAL: u8 = b's';

/// Status when there is nothing to run (SEMANTICS X3).
const OWN_FAILURE: i32 = 125;
const NOT_EXECUTABLE: i32 = 126;
const NOT_FOUND: i32 = 127;

/// Life of the first process. Never returns.
pub(super) fn main(plan: &Plan, filters: &[BpfProgram], control: OwnedFd) -> ! {
    // A panic must not unwind into the copy of the parent's stack.
    let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| life(plan, filters, &control)));
    let status = match result {
        Ok(Ok(status)) => status,
        Ok(Err(error)) => {
            say(&control, FAILED, format!("{error:#}").as_bytes());
            OWN_FAILURE
        }
        Err(_) => OWN_FAILURE,
    };
    // SAFETY: ends the process without running what the parent has registered for its own end.
    unsafe { libc::_exit(status) }
}

fn life(plan: &Plan, filters: &[BpfProgram], control: &OwnedFd) -> Result<i32> {
    close_others(control)?;
    if plan.own_session {
        setsid().context("cannot leave the caller's session")?;
    }
    mounts::arrange(&plan.view, &plan.directory)?;
    chdir(&plan.directory).with_context(|| {
        format!("the current directory {} is not visible inside", plan.directory.display())
    })?;
    privileges::drop_all(&plan.credentials, filters)?;
    // Not before the change of user, which clears the parent-death signal and sets "dumpable" anew.
    privileges::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL as libc::c_ulong)
        .context("cannot tie the sandbox to nameward")?;
    privileges::prctl(libc::PR_SET_DUMPABLE, 0).context("cannot protect the first process")?;
    privileges::verify(&plan.credentials)?;
    mounts::verify()?;
    say(control, READY, &[]);
    let mut buffer = [0; 2];
    // An end of file means that nameward was gone before the parent-death signal was set.
    match recv(control.as_raw_fd(), &mut buffer, MsgFlags::empty()) {
        Ok(1) if buffer[0] == GO => supervise(plan, control),
        _ => Ok(OWN_FAILURE),
    }
}

/// Descriptors other than 0-2 and ours would pass what they stand for into the sandbox.
fn close_others(control: &OwnedFd) -> Result<()> {
    let kept = control.as_raw_fd() as libc::c_uint;
    for (first, last) in [(3, kept - 1), (kept + 1, libc::c_uint::MAX)] {
        // SAFETY: no pointers. What the closed descriptors belonged to is never used again in this process.
        if first <= last && unsafe { libc::close_range(first, last, 0) } != 0 {
            return Err(Errno::last()).context("cannot close inherited descriptors");
        }
    }
    Ok(())
}

fn supervise(plan: &Plan, control: &OwnedFd) -> Result<i32> {
    let watched = SigSet::from(Signal::SIGCHLD);
    sigprocmask(SigmaskHow::SIG_SETMASK, Some(&watched), None).context("cannot set the signal mask")?;
    let children = SignalFd::with_flags(&watched, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
        .context("cannot watch for children")?;
    // Made before the fork: nothing may be allocated between it and exec for longer than needed.
    let command = start(plan)?;
    let mut status = None;
    loop {
        let mut ready = [
            PollFd::new(children.as_fd(), PollFlags::POLLIN),
            PollFd::new(control.as_fd(), PollFlags::POLLIN),
        ];
        match poll(&mut ready, PollTimeout::NONE) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => return Err(error).context("cannot wait for children"),
        }
        let [child_ended, told] = ready.map(|one| one.any().unwrap_or_default());
        if told && obey(control, status.is_none().then_some(command)) == Told::NobodyListens {
            return Ok(OWN_FAILURE);
        }
        if child_ended {
            while let Ok(Some(_)) = children.read_signal() {}
            let before = status;
            if reap(command, &mut status) == Reaped::NoneLeft {
                return Ok(status.unwrap_or(OWN_FAILURE));
            }
            if before.is_none() && status.is_some() {
                say(control, COMMAND_ENDED, &[]);
            }
        }
    }
}

#[derive(PartialEq, Eq)]
enum Reaped {
    SomeLeft,
    NoneLeft,
}

fn reap(command: Pid, status: &mut Option<i32>) -> Reaped {
    loop {
        match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::StillAlive) => return Reaped::SomeLeft,
            Ok(WaitStatus::Exited(pid, code)) if pid == command => *status = Some(code),
            Ok(WaitStatus::Signaled(pid, signal, _)) if pid == command => *status = Some(128 + signal as i32),
            Ok(_) | Err(Errno::EINTR) => {}
            Err(_) => return Reaped::NoneLeft,
        }
    }
}

#[derive(PartialEq, Eq)]
enum Told {
    Something,
    NobodyListens,
}

/// Passes a signal on: to the command, to everybody left once it has ended.
fn obey(control: &OwnedFd, command: Option<Pid>) -> Told {
    let mut buffer = [0; 2];
    match recv(control.as_raw_fd(), &mut buffer, MsgFlags::MSG_DONTWAIT) {
        Ok(0) | Err(Errno::ECONNRESET) => return Told::NobodyListens,
        Ok(2) if buffer[0] == SIGNAL => {
            if let Ok(signal) = Signal::try_from(i32::from(buffer[1])) {
                // Whoever is gone does not need it any more.
                let _gone = kill(command.unwrap_or(Pid::from_raw(-1)), signal);
            }
        }
        Ok(_) | Err(_) => {}
    }
    Told::Something
}

fn start(plan: &Plan) -> Result<Pid> {
    let pointers = |strings: &[CString]| -> Vec<*const libc::c_char> {
        strings.iter().map(|one| one.as_ptr()).chain([std::ptr::null()]).collect()
    };
    let (arguments, environment) = (pointers(&plan.command), pointers(&plan.environment));
    let path = plan.environment.iter().find(|one| one.as_bytes().starts_with(b"PATH="));
    let candidates = candidates(&plan.command[0], path);
    // SAFETY: this process has one thread.
    match unsafe { fork() }.context("cannot start a process in the sandbox")? {
        ForkResult::Parent { child } => Ok(child),
        ForkResult::Child => {
            reset_signals();
            let errno = execute(&candidates, &arguments, &environment);
            eprintln!("nameward: cannot run {}", why_not(&plan.command[0], errno));
            let status = if errno == Errno::ENOENT { NOT_FOUND } else { NOT_EXECUTABLE };
            // SAFETY: ends the child without running what the parent has registered.
            unsafe { libc::_exit(status) }
        }
    }
}

fn why_not(command: &CString, errno: Errno) -> String {
    match command.to_string_lossy() {
        word if word.is_empty() => "an empty word; write a command after --".to_owned(),
        word => format!("{word}: {}", errno.desc()),
    }
}

/// Files that a command may mean, in order: itself when it names a folder, else along PATH.
fn candidates(command: &CString, path: Option<&CString>) -> Vec<CString> {
    if command.is_empty() || command.as_bytes().contains(&b'/') {
        return vec![command.clone()];
    }
    let path = path.map_or(&b"/usr/local/bin:/usr/bin:/bin"[..], |one| &one.as_bytes()[b"PATH=".len()..]);
    path.split(|byte| *byte == b':')
        .map(|folder| if folder.is_empty() { &b"."[..] } else { folder })
        .filter_map(|folder| CString::new([folder, b"/", command.as_bytes()].concat()).ok())
        .collect()
}

/// Tries each candidate; gives the error that tells most when none can be run.
fn execute(
    files: &[CString],
    arguments: &[*const libc::c_char],
    environment: &[*const libc::c_char],
) -> Errno {
    let mut worst = Errno::ENOENT;
    for file in files {
        // SAFETY: all three are null-terminated and live; it returns only on failure.
        unsafe { libc::execve(file.as_ptr(), arguments.as_ptr(), environment.as_ptr()) };
        match Errno::last() {
            Errno::ENOENT | Errno::ENOTDIR => {}
            Errno::EACCES => worst = Errno::EACCES,
            Errno::ENOEXEC => return run_by_shell(file, arguments, environment),
            other => return other,
        }
    }
    worst
}

/// A script without `#!` is run by the shell, as execvp(3) and every shell do.
fn run_by_shell(
    file: &CString,
    arguments: &[*const libc::c_char],
    environment: &[*const libc::c_char],
) -> Errno {
    let shell = c"/bin/sh";
    let rest = arguments.iter().skip(1).copied();
    let arguments: Vec<_> = [shell.as_ptr(), file.as_ptr()].into_iter().chain(rest).collect();
    // SAFETY: as in `execute`.
    unsafe { libc::execve(shell.as_ptr(), arguments.as_ptr(), environment.as_ptr()) };
    Errno::last()
}

/// The command starts with nothing blocked and SIGPIPE as usual (Rust ignores it).
fn reset_signals() {
    let usual = SigAction::new(SigHandler::SigDfl, SaFlags::empty(), SigSet::empty());
    for signal in [Signal::SIGPIPE, Signal::SIGCHLD] {
        // SAFETY: the default action is no handler.
        let _cannot_fail = unsafe { sigaction(signal, &usual) };
    }
    let _cannot_fail = sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None);
}

fn say(control: &OwnedFd, what: u8, text: &[u8]) {
    let mut message = Vec::with_capacity(1 + text.len());
    message.push(what);
    message.extend_from_slice(&text[..text.len().min(MESSAGE_SIZE - 1)]);
    // When nobody listens, nameward is gone, and so are we in a moment.
    let _gone = send(control.as_raw_fd(), &message, MsgFlags::MSG_NOSIGNAL);
}
