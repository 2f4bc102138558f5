//! SIGTERM and SIGINT as something to wait for. As the first process of a container nothing else would end this program:
//! the kernel spares such a process what it has not asked for.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd},
    time::Duration,
};

use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::{
        signal::{SigSet, Signal},
        signalfd::{SfdFlags, SignalFd},
    },
};

/// The signals, from its making on.
#[derive(Debug)]
pub(crate) struct Stop(SignalFd);

impl Stop {
    /// Keeps the signals from ending this process by themselves.
    pub(crate) fn listen() -> io::Result<Self> {
        let signals: SigSet = [Signal::SIGTERM, Signal::SIGINT].into_iter().collect();
        signals.thread_block()?;
        Ok(Self(SignalFd::with_flags(&signals, SfdFlags::SFD_CLOEXEC)?))
    }

    /// Waits for one for some time; whether it has come.
    pub(crate) fn within(&self, time: Duration) -> io::Result<bool> {
        let timeout = PollTimeout::try_from(time).unwrap_or(PollTimeout::MAX);
        match poll(&mut [PollFd::new(self.0.as_fd(), PollFlags::POLLIN)], timeout) {
            Err(Errno::EINTR) => Ok(false),
            other => Ok(other? > 0),
        }
    }

    /// Returns when one has come.
    pub(crate) fn wait(&self) -> io::Result<()> {
        self.0.read_signal()?;
        Ok(())
    }
}

impl AsFd for Stop {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use nix::sys::signal::raise;

    use super::*;

    #[test]
    fn a_signal_is_waited_for_instead_of_ending_this_process() {
        let stop = Stop::listen().unwrap();
        assert!(!stop.within(Duration::ZERO).unwrap());
        raise(Signal::SIGTERM).unwrap();
        assert!(stop.within(Duration::from_secs(10)).unwrap());
        stop.wait().unwrap();
        assert!(!stop.within(Duration::ZERO).unwrap());
    }
}
