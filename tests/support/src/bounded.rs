//! Commands with a time limit: one that hangs fails its test with a sentence, not the whole run with silence.

use std::{
    io::Read,
    os::unix::process::CommandExt,
    process::{Child, Command, ExitStatus, Output, Stdio},
    sync::mpsc::{self, Receiver},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use nix::{
    sys::signal::{Signal, killpg},
    unistd::Pid,
};

use crate::patient;

const STEP: Duration = Duration::from_millis(2);
const LIMIT: Duration = Duration::from_secs(60);
/// How long output may stay open after the command has ended: something that it started may hold it.
const REST: Duration = Duration::from_secs(2);

/// Runs a command to its end and returns its status and what it wrote, as [`Command::output`] does.
///
/// # Errors
/// When it cannot be started, or has not ended within `limit`; then it is killed with its process group, and what it
/// wrote is in the text.
pub fn output_within(command: &mut Command, limit: Duration) -> Result<Output> {
    finish(start(command)?, limit)
}

/// Runs a command that must succeed within a minute, and returns what it wrote.
///
/// # Errors
/// When it fails, with what it wrote.
pub(crate) fn checked(command: &mut Command) -> Result<String> {
    let output = output_within(command, LIMIT)?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&[output.stderr, output.stdout].concat()).trim().to_owned();
        bail!("{command:?}: {}: {said}", output.status);
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Starts a command for [`finish`], in a process group of its own: signals of the terminal do not reach it.
///
/// # Errors
/// When it cannot be started.
pub fn start(command: &mut Command) -> Result<Child> {
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
    command.spawn().with_context(|| format!("cannot start {command:?}; `cargo xtask setup` installs it"))
}

/// The end of what [`start`] started.
///
/// # Errors
/// See [`output_within`].
pub fn finish(mut child: Child, limit: Duration) -> Result<Output> {
    let (stdout, stderr) = (collect(child.stdout.take()), collect(child.stderr.take()));
    let status = wait(&mut child, Instant::now() + patient(limit))?;
    if status.is_none() {
        let group = Pid::from_raw(child.id().cast_signed());
        killpg(group, Signal::SIGKILL).ok();
        child.kill()?;
        child.wait()?;
    }
    let output = |from: Receiver<Vec<u8>>| from.recv_timeout(REST).unwrap_or_default();
    let (stdout, stderr) = (output(stdout), output(stderr));
    let Some(status) = status else {
        let said = String::from_utf8_lossy(&[stdout, stderr].concat()).trim().to_owned();
        bail!("process {} was killed: it had not ended after {limit:?}; it wrote: {said}", child.id());
    };
    Ok(Output { status, stdout, stderr })
}

fn wait(child: &mut Child, end: Instant) -> Result<Option<ExitStatus>> {
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if Instant::now() >= end {
            return Ok(None);
        }
        thread::sleep(STEP);
    }
}

/// Everything that is written to a pipe, when it is closed. Read on a thread: a full pipe would stop the writer.
fn collect(pipe: Option<impl Read + Send + 'static>) -> Receiver<Vec<u8>> {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        let mut all = Vec::new();
        if let Some(mut pipe) = pipe {
            pipe.read_to_end(&mut all).ok();
        }
        sender.send(all).ok();
    });
    receiver
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str, limit: Duration) -> Result<Output> {
        output_within(Command::new("sh").args(["-c", script]).stdin(Stdio::null()), limit)
    }

    #[test]
    fn both_outputs_come_whole() {
        let output = shell("yes | head -c 200000; echo no >&2; exit 3", Duration::from_secs(60)).unwrap();
        assert_eq!((output.status.code(), output.stdout.len()), (Some(3), 200_000));
        assert_eq!(output.stderr, b"no\n");
    }

    #[test]
    fn a_command_that_hangs_is_killed_and_tells_what_it_wrote() {
        let started = Instant::now();
        let error = shell("echo waiting; sleep 1000", Duration::from_millis(300)).unwrap_err().to_string();
        assert!(error.contains("had not ended after 300ms; it wrote: waiting"), "{error}");
        assert!(started.elapsed() < Duration::from_secs(60), "it was waited for");
    }
}
