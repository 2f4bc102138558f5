//! Starting the sandbox and hearing from it.
//!
//! [`Sandbox::spawn`] clones straight into the cgroup: no instant of the sandbox's life is spent outside. It must
//! be called before the process has a second thread. The new process arranges itself meanwhile and waits for
//! [`Sandbox::go`], so that the caller can fence the cgroup at the same time.
#![allow(unsafe_code, reason = "clone3 has no safe wrapper")]

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use anyhow::{Context, Result, bail};
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, recv, send, socketpair};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};

use super::{Cgroup, Plan, init};

/// clone(2); the constant of `libc` does not fit its type.
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// Longest message between the two.
pub(crate) const MESSAGE_SIZE: usize = 4096;

/// What the first process says.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Report {
    /// Arranged, waiting for [`Sandbox::go`].
    Ready,
    /// It could not arrange itself; nothing was run.
    Failed(String),
    /// The command has ended, descendants may go on.
    CommandEnded,
    /// It has ended, and with it everything inside.
    Closed,
}

/// How the sandbox ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ended {
    /// Exit status for our own caller: the command's, or 128 + n (SEMANTICS X3).
    pub(crate) status: i32,
}

/// A running sandbox. Dropping it kills everything inside.
#[derive(Debug)]
pub(crate) struct Sandbox {
    process: OwnedFd,
    control: OwnedFd,
}

impl Sandbox {
    /// Starts the first process of a sandbox in `cgroup`.
    pub(crate) fn spawn(plan: &Plan, cgroup: &Cgroup) -> Result<Self> {
        let filters = super::seccomp::filters()?;
        let kind = (AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC);
        let (ours, theirs) = socketpair(kind.0, kind.1, None, kind.2).context("cannot make a socket pair")?;
        match clone_into(cgroup.descriptor()).context(
            "cannot start a process in new namespaces; `nameward run` needs root with CAP_SYS_ADMIN in the host's user namespace",
        )? {
            Some(process) => Ok(Self { process, control: ours }),
            None => {
                drop(ours);
                init::main(plan, &filters, theirs)
            }
        }
    }

    /// Lets the command start.
    pub(crate) fn go(&self) -> Result<()> {
        self.tell(&[init::GO])
    }

    /// Passes a signal on to the command, or to all that are left when it has ended.
    pub(crate) fn forward(&self, signal: i32) -> Result<()> {
        self.tell(&[init::SIGNAL, signal as u8])
    }

    /// Kills the first process, and so everything inside.
    pub(crate) fn kill(&self) {
        // SAFETY: a descriptor, a number, no pointer that is read.
        unsafe {
            libc::syscall(
                libc::SYS_pidfd_send_signal,
                self.process.as_raw_fd(),
                libc::SIGKILL,
                std::ptr::null::<libc::siginfo_t>(),
                0,
            );
        }
    }

    /// The next report; waits for it.
    pub(crate) fn report(&self) -> Result<Report> {
        let mut buffer = [0; MESSAGE_SIZE];
        let length = loop {
            match recv(self.control.as_raw_fd(), &mut buffer, MsgFlags::empty()) {
                Err(nix::Error::EINTR) => {}
                Err(nix::Error::ECONNRESET) => break 0,
                other => break other.context("cannot hear from the sandbox")?,
            }
        };
        Ok(match buffer[..length].split_first() {
            Some((&init::READY, _)) => Report::Ready,
            Some((&init::FAILED, text)) => Report::Failed(String::from_utf8_lossy(text).into_owned()),
            Some((&init::COMMAND_ENDED, _)) => Report::CommandEnded,
            Some((other, _)) => bail!("the sandbox said {other}, which means nothing"),
            None => Report::Closed,
        })
    }

    /// Descriptor that is readable when there is a report.
    pub(crate) fn control(&self) -> BorrowedFd<'_> {
        self.control.as_fd()
    }

    /// Waits for the first process to be gone and gives its status.
    pub(crate) fn wait(&self) -> Result<Ended> {
        loop {
            match waitid(Id::PIDFd(self.process.as_fd()), WaitPidFlag::WEXITED) {
                Err(nix::Error::EINTR) => {}
                Ok(WaitStatus::Exited(_, status)) => return Ok(Ended { status }),
                Ok(WaitStatus::Signaled(_, signal, _)) => return Ok(Ended { status: 128 + signal as i32 }),
                Ok(other) => bail!("the sandbox ended in an unknown way: {other:?}"),
                Err(error) => return Err(error).context("cannot wait for the sandbox"),
            }
        }
    }

    fn tell(&self, message: &[u8]) -> Result<()> {
        match send(self.control.as_raw_fd(), message, MsgFlags::MSG_NOSIGNAL) {
            // It has ended meanwhile; its status will say so.
            Ok(_) | Err(nix::Error::EPIPE | nix::Error::ECONNRESET) => Ok(()),
            Err(error) => Err(error).context("cannot speak to the sandbox"),
        }
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        self.kill();
        // Already waited for in the ordinary case.
        if let Err(error) = self.wait() {
            tracing::trace!(%error, "sandbox already gone");
        }
    }
}

/// Forks into the cgroup and new namespaces: the child's pidfd in the parent, `None` in the child.
fn clone_into(cgroup: BorrowedFd<'_>) -> io::Result<Option<OwnedFd>> {
    let mut pidfd: libc::c_int = -1;
    let namespaces = libc::CLONE_NEWNS | libc::CLONE_NEWPID | libc::CLONE_NEWIPC;
    let arguments = libc::clone_args {
        flags: (namespaces | libc::CLONE_PIDFD) as u64 | CLONE_INTO_CGROUP,
        pidfd: &raw mut pidfd as u64,
        child_tid: 0,
        parent_tid: 0,
        exit_signal: libc::SIGCHLD as u64,
        stack: 0,
        stack_size: 0,
        tls: 0,
        set_tid: 0,
        set_tid_size: 0,
        cgroup: cgroup.as_raw_fd() as u64,
    };
    // SAFETY: like fork: no memory is shared, the child goes on here with a copy. The process has one thread, so
    // no lock is held by anybody who is not in the child.
    let result =
        unsafe { libc::syscall(libc::SYS_clone3, &raw const arguments, std::mem::size_of_val(&arguments)) };
    match result {
        -1 => Err(io::Error::last_os_error()),
        0 => Ok(None),
        // SAFETY: the kernel has just opened this descriptor for us (CLONE_PIDFD).
        _ => Ok(Some(unsafe { OwnedFd::from_raw_fd(pidfd) })),
    }
}
