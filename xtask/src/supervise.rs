//! Runs a program until it ends or its time is up, and sees to it that nothing that it started outlives it.
//!
//! Whatever is started inherits an environment variable with the run's mark; that finds also what has moved to
//! another process group, session or parent. The program stays in the caller's process group, so ctrl-C reaches it.

use std::{
    fs,
    io::{BufRead, BufReader},
    process::{Child, Command, ExitStatus, Stdio, id},
    sync::mpsc::{self, Receiver, RecvTimeoutError},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::command::show;

const MARK: &str = "NAMEWARD_XTASK_RUN";
/// How often it is looked whether a program that writes nothing has ended.
const STEP: Duration = Duration::from_millis(100);
/// How often nobody must be found: who replaces its program just now shows no environment.
const LOOKS: u32 = 3;
/// What a program started may take this long to end after it.
const PATIENCE: Duration = Duration::from_secs(5);

/// How a program ended.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    /// By itself, with this status.
    Itself(ExitStatus),
    /// It was killed when its time was up.
    TimeUp,
}

/// What is left of a run when its program has ended.
#[derive(Debug)]
pub(crate) struct Outcome {
    /// How the program ended.
    pub(crate) ended: Ended,
    /// Processes that it left behind; they were killed.
    pub(crate) survivors: Vec<String>,
}

/// Runs `command` until `deadline` at most, and gives each line that it writes to `line`.
pub(crate) fn run(
    command: &mut Command,
    deadline: Instant,
    mut line: impl FnMut(&[u8]) -> Result<()>,
) -> Result<Outcome> {
    let shown = show(command);
    eprintln!("$ {shown}");
    let run = Run::new();
    command.env(MARK, &run.mark).stdin(Stdio::null()).stdout(Stdio::piped());
    let mut child = command.spawn().with_context(|| format!("cannot start {shown}"))?;
    let lines = lines(&mut child)?;
    let ended = watch(&mut child, &lines, deadline, &mut line)?;
    let survivors = match ended {
        Ended::Itself(_) => run.end(PATIENCE)?,
        Ended::TimeUp => run.end(Duration::ZERO).map(|_| Vec::new())?,
    };
    child.wait()?;
    // What was written before the end is in the pipe; nobody is left who could write more.
    while let Ok(text) = lines.recv_timeout(PATIENCE) {
        line(&text)?;
    }
    Ok(Outcome { ended, survivors })
}

fn watch(
    child: &mut Child,
    lines: &Receiver<Vec<u8>>,
    deadline: Instant,
    line: &mut impl FnMut(&[u8]) -> Result<()>,
) -> Result<Ended> {
    loop {
        match lines.recv_timeout(STEP) {
            Ok(text) => line(&text)?,
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => thread::sleep(STEP),
        }
        if let Some(status) = child.try_wait()? {
            return Ok(Ended::Itself(status));
        }
        if Instant::now() >= deadline {
            return Ok(Ended::TimeUp);
        }
    }
}

/// Lines as they come. Read on a thread, because a reader cannot be given a deadline.
fn lines(child: &mut Child) -> Result<Receiver<Vec<u8>>> {
    let (sender, receiver) = mpsc::channel();
    let stdout = child.stdout.take().context("the program's output is not a pipe")?;
    thread::Builder::new().name("output".into()).spawn(move || {
        for line in BufReader::new(stdout).split(b'\n').map_while(Result::ok) {
            if sender.send(line).is_err() {
                return;
            }
        }
    })?;
    Ok(receiver)
}

/// Everything that one program started.
struct Run {
    mark: String,
}

impl Run {
    fn new() -> Self {
        use std::sync::atomic::{AtomicU32, Ordering};
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        Self { mark: format!("{}-{}", id(), NUMBER.fetch_add(1, Ordering::Relaxed)) }
    }

    /// Waits for all to end, then kills what is left, and says what that was.
    fn end(&self, patience: Duration) -> Result<Vec<String>> {
        let asked = Instant::now();
        let mut killed: Vec<String> = Vec::new();
        let mut empty = 0;
        loop {
            let members = self.members();
            empty = if members.is_empty() { empty + 1 } else { 0 };
            if empty == LOOKS {
                return Ok(killed);
            }
            if asked.elapsed() >= patience {
                // Again and again: who is killed may just have started another.
                for (process, name) in members {
                    kill(Pid::from_raw(process), Signal::SIGKILL).ok();
                    killed.push(format!("{name} ({process})"));
                }
                killed.sort();
                killed.dedup();
            }
            anyhow::ensure!(
                empty > 0 || asked.elapsed() < patience + PATIENCE,
                "cannot be killed: {}",
                killed.join(", ")
            );
            thread::sleep(STEP);
        }
    }

    /// Processes with the mark that have not ended.
    fn members(&self) -> Vec<(i32, String)> {
        let wanted = format!("{MARK}={}", self.mark);
        let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
        let processes = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
        let is_member = |process: &i32| {
            // Empty for processes that have ended and wait for their parent.
            let variables = fs::read(format!("/proc/{process}/environ")).unwrap_or_default();
            variables.split(|byte| *byte == 0).any(|variable| variable == wanted.as_bytes())
        };
        let name = |process: i32| {
            fs::read_to_string(format!("/proc/{process}/comm")).unwrap_or_default().trim().to_owned()
        };
        processes.filter(is_member).map(|process| (process, name(process))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str, limit: Duration) -> (Outcome, Vec<String>) {
        let mut said = Vec::new();
        let outcome = run(Command::new("sh").args(["-c", script]), Instant::now() + limit, |line| {
            said.push(String::from_utf8_lossy(line).into_owned());
            Ok(())
        });
        (outcome.unwrap(), said)
    }

    #[test]
    fn what_ends_in_time_is_left_alone() {
        let (outcome, said) = shell("echo one; echo two; exit 3", Duration::from_secs(60));
        assert!(matches!(outcome.ended, Ended::Itself(status) if status.code() == Some(3)));
        assert_eq!(said, ["one", "two"]);
        assert_eq!(outcome.survivors, [""; 0]);
    }

    #[test]
    fn what_does_not_end_is_killed_with_all_that_it_started() {
        let script = "setsid sleep 1000 & echo $!; sleep 1000";
        let started = Instant::now();
        let (outcome, said) = shell(script, Duration::from_millis(500));
        assert_eq!(outcome.ended, Ended::TimeUp);
        assert!(started.elapsed() < Duration::from_secs(60), "it was not waited for");
        let child = format!("/proc/{}/cmdline", said[0]);
        assert_eq!(fs::read(child).unwrap_or_default(), b"", "a process of another session outlived it");
    }

    #[test]
    fn what_a_program_leaves_behind_is_killed_and_named() {
        let (outcome, said) = shell("setsid sleep 1000 & echo $!", Duration::from_secs(60));
        assert!(matches!(outcome.ended, Ended::Itself(status) if status.success()));
        assert_eq!(outcome.survivors, [format!("sleep ({})", said[0])]);
    }
}
