//! A process that serves in the background: started, watched until it is ready, ended with its guard.

use std::{
    fs::{self, File},
    io,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::patient;

/// How long a process has to end after SIGTERM, before it is killed.
const PATIENCE: Duration = Duration::from_secs(5);
const STEP: Duration = Duration::from_millis(5);

/// A process with its output in a file; SIGTERM, then SIGKILL, when the guard is dropped.
#[derive(Debug)]
pub struct Daemon {
    name: String,
    log: PathBuf,
    process: Child,
}

impl Daemon {
    /// Starts `command`, with both outputs added to `log`. Signals of the terminal do not reach it.
    pub fn start(name: &str, command: &mut Command, log: &Path) -> Result<Self> {
        let file = File::options().create(true).append(true).open(log)?;
        command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file).process_group(0);
        let process = command.spawn().with_context(|| format!("cannot start {name}"))?;
        Ok(Self { name: name.to_owned(), log: log.to_path_buf(), process })
    }

    /// Waits until `ready` holds. Fails when the process ends before, or not within `deadline`, with what it wrote.
    pub fn wait(&mut self, deadline: Duration, mut ready: impl FnMut() -> bool) -> Result<()> {
        let end = Instant::now() + patient(deadline);
        while !ready() {
            self.check()?;
            if Instant::now() > end {
                bail!("{} is not ready after {deadline:?}:\n{}", self.name, self.log());
            }
            std::thread::sleep(STEP);
        }
        Ok(())
    }

    /// Fails when it has ended, with what it wrote.
    pub fn check(&mut self) -> Result<()> {
        match self.process.try_wait()? {
            Some(status) => bail!("{} ended: {status}:\n{}", self.name, self.log()),
            None => Ok(()),
        }
    }

    /// What it wrote so far.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Its process number; the program replaces `nsenter`, so this is the program's own.
    pub fn id(&self) -> u32 {
        self.process.id()
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        kill(self.pid(), signal).with_context(|| format!("cannot signal {}", self.name))
    }

    /// Ends it by SIGTERM, and waits. One that does not end in time is killed, which its status shows.
    pub fn stop(&mut self) -> io::Result<ExitStatus> {
        if let Some(status) = self.process.try_wait()? {
            return Ok(status);
        }
        kill(self.pid(), Signal::SIGTERM).ok();
        let end = Instant::now() + PATIENCE;
        while Instant::now() < end {
            if let Some(status) = self.process.try_wait()? {
                return Ok(status);
            }
            std::thread::sleep(STEP);
        }
        self.process.kill()?;
        self.process.wait()
    }

    fn pid(&self) -> Pid {
        Pid::from_raw(self.process.id().cast_signed())
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        drop(self.stop());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Scratch;

    fn start(script: &str) -> (Daemon, Scratch) {
        let folder = Scratch::new("daemon").unwrap();
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        (Daemon::start("sh", &mut command, &folder.path().join("log")).unwrap(), folder)
    }

    #[test]
    fn it_is_waited_for_and_ended() {
        let (mut daemon, folder) = start("echo ready; while :; do sleep 0.01; done");
        let log = folder.path().join("log");
        daemon
            .wait(Duration::from_secs(10), || fs::read_to_string(&log).is_ok_and(|text| text == "ready\n"))
            .unwrap();
        assert!(!daemon.stop().unwrap().success(), "ended by the signal");
    }

    #[test]
    fn one_that_ends_tells_why() {
        let (mut daemon, _folder) = start("echo port taken >&2; exit 3");
        let error = daemon.wait(Duration::from_secs(10), || false).unwrap_err().to_string();
        assert!(error.contains("port taken") && error.contains("exit status: 3"), "{error}");
    }
}
