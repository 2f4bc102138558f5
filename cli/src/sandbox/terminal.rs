//! The terminal: which process group had it before the command, so that it can have it back.
//!
//! Where there is one, the command stays in the process group of `nameward`, so that pipelines, ctrl-C and ctrl-Z reach it
//! as they would without us. (And so it can signal who else is in that group, if its user may.) An interactive shell inside takes the terminal for its own groups and cannot give it back:
//! ours has no number in its PID namespace.

use std::fs::File;

use nix::sys::signal::{SigSet, SigmaskHow, Signal, pthread_sigmask};
use nix::unistd::{Pid, getpgrp, tcgetpgrp, tcsetpgrp};

/// The controlling terminal, if there is one and it was ours to use.
#[derive(Debug)]
pub(crate) struct Terminal {
    device: Option<(File, Pid)>,
}

impl Terminal {
    /// Whether this process has one.
    pub(crate) fn is_there() -> bool {
        open().is_some()
    }

    /// Remembers who has the terminal now.
    pub(crate) fn remember() -> Self {
        let device = open().and_then(|tty| {
            let group = tcgetpgrp(&tty).ok()?;
            (group == getpgrp()).then_some((tty, group))
        });
        Self { device }
    }

    /// Takes the terminal back, when it was in our hands at the start.
    pub(crate) fn restore(&self) {
        let Some((tty, group)) = &self.device else { return };
        if tcgetpgrp(tty) == Ok(*group) {
            return;
        }
        // A background group that calls tcsetpgrp is stopped by SIGTTOU unless the signal is blocked.
        let mut old = SigSet::empty();
        let blocked = SigSet::from(Signal::SIGTTOU);
        if pthread_sigmask(SigmaskHow::SIG_BLOCK, Some(&blocked), Some(&mut old)).is_ok() {
            if let Err(error) = tcsetpgrp(tty, *group) {
                tracing::debug!(%error, "the terminal could not be taken back");
            }
            if let Err(error) = pthread_sigmask(SigmaskHow::SIG_SETMASK, Some(&old), None) {
                tracing::debug!(%error, "the signal mask could not be restored");
            }
        }
    }
}

fn open() -> Option<File> {
    File::options().read(true).write(true).open("/dev/tty").ok()
}
