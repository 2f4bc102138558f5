//! Signals of the one who started us, and what becomes of them.
//!
//! The terminal sends its signals to the whole process group, the command included: those are not passed on, and
//! not counted while the command lives, or a shell inside would die of its second ctrl-C. Signals that somebody
//! sends to us alone are passed on; a second SIGINT or SIGTERM kills (SEMANTICS X2).
#![allow(unsafe_code, reason = "registering a descriptor with the runtime")]

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::sys::signal::{SigSet, SigmaskHow, Signal, sigprocmask};
use nix::sys::signalfd::{SfdFlags, SignalFd, siginfo};
use tokio::io::unix::AsyncFd;

const WATCHED: [Signal; 6] =
    [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP, Signal::SIGQUIT, Signal::SIGUSR1, Signal::SIGUSR2];

/// One request often arrives twice: timeout(1) signals its child and then the whole group.
const ONE_REQUEST: Duration = Duration::from_millis(200);

/// Signals that wait in a descriptor instead of interrupting.
#[derive(Debug)]
pub(crate) struct Signals {
    descriptor: SignalFd,
}

/// What a signal asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Request {
    /// Nothing: the command has it already.
    Nothing,
    /// Pass it on.
    Forward(i32),
    /// Kill what is left.
    Kill,
}

/// Counts the requests to end.
#[derive(Debug, Default)]
pub(crate) struct Requests {
    first: Option<Instant>,
}

impl Signals {
    /// Blocks the signals for this thread and all it starts. Must be called while there is one thread.
    pub(crate) fn block() -> Result<Self> {
        let watched = SigSet::from_iter(WATCHED);
        sigprocmask(SigmaskHow::SIG_BLOCK, Some(&watched), None).context("cannot block signals")?;
        let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
        let descriptor = SignalFd::with_flags(&watched, flags).context("cannot watch signals")?;
        Ok(Self { descriptor })
    }

    /// For waiting; inside a runtime.
    pub(crate) fn listen(self) -> Result<AsyncFd<SignalFd>> {
        // SAFETY: the descriptor is owned by what is registered, and nothing closes or replaces it.
        unsafe { AsyncFd::register(self.descriptor) }
            .map_err(std::io::Error::from)
            .context("cannot watch signals")
    }
}

/// The next signal.
pub(crate) async fn next(signals: &AsyncFd<SignalFd>) -> Result<siginfo> {
    loop {
        let mut ready = signals.readable().await.context("cannot watch signals")?;
        match signals.get_ref().read_signal().context("cannot read a signal")? {
            Some(signal) => return Ok(signal),
            None => ready.clear_ready(),
        }
    }
}

impl Requests {
    /// What a signal asks for now.
    pub(crate) fn judge(&mut self, signal: &siginfo, command_lives: bool, now: Instant) -> Request {
        let number = signal.ssi_signo as i32;
        let from_terminal = signal.ssi_code > 0; // SI_KERNEL; those of kill(2) are zero or below
        self.decide(number, from_terminal, command_lives, now)
    }

    fn decide(&mut self, number: i32, from_terminal: bool, command_lives: bool, now: Instant) -> Request {
        if from_terminal && command_lives {
            return Request::Nothing;
        }
        if !matches!(number, libc::SIGINT | libc::SIGTERM) {
            return Request::Forward(number);
        }
        match self.first {
            Some(first) if now.saturating_duration_since(first) >= ONE_REQUEST => Request::Kill,
            Some(_) => Request::Nothing,
            None => {
                self.first = Some(now);
                Request::Forward(number)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // X2
    #[test]
    fn a_second_request_kills() {
        let (mut requests, now) = (Requests::default(), Instant::now());
        assert_eq!(requests.decide(libc::SIGTERM, false, true, now), Request::Forward(libc::SIGTERM));
        assert_eq!(requests.decide(libc::SIGTERM, false, true, now + ONE_REQUEST / 2), Request::Nothing);
        assert_eq!(requests.decide(libc::SIGINT, false, true, now + ONE_REQUEST), Request::Kill);
    }

    // X2
    #[test]
    fn the_terminal_is_heard_when_the_command_has_ended() {
        let (mut requests, now) = (Requests::default(), Instant::now());
        for _ in 0..3 {
            assert_eq!(requests.decide(libc::SIGINT, true, true, now), Request::Nothing);
        }
        assert_eq!(requests.decide(libc::SIGINT, true, false, now), Request::Forward(libc::SIGINT));
        assert_eq!(requests.decide(libc::SIGINT, true, false, now + ONE_REQUEST), Request::Kill);
        assert_eq!(requests.decide(libc::SIGHUP, false, true, now), Request::Forward(libc::SIGHUP));
    }
}
