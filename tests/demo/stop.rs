//! ctrl-C: the command that runs just now is ended, and the next step does not begin, so that all guards are dropped.

use std::{
    sync::atomic::{AtomicBool, AtomicI32, Ordering},
    thread,
};

use anyhow::{Result, bail};
use nix::{
    sys::signal::{SigSet, Signal, kill},
    unistd::Pid,
};

static ASKED: AtomicBool = AtomicBool::new(false);
/// The command that runs just now; 0 = none.
static CURRENT: AtomicI32 = AtomicI32::new(0);

/// From here on SIGINT, SIGTERM and SIGHUP end the demo in order. To be called before there are other threads.
pub(crate) fn watch() -> Result<()> {
    let signals: SigSet = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP].into_iter().collect();
    signals.thread_block()?;
    thread::Builder::new().name("signals".into()).spawn(move || {
        while signals.wait().is_ok() {
            ASKED.store(true, Ordering::SeqCst);
            let current = CURRENT.load(Ordering::SeqCst);
            if current != 0 {
                kill(Pid::from_raw(current), Signal::SIGKILL).ok();
            }
        }
    })?;
    Ok(())
}

/// Whether a signal came.
pub(crate) fn was_asked() -> bool {
    ASKED.load(Ordering::SeqCst)
}

/// Fails when a signal came.
pub(crate) fn check() -> Result<()> {
    if was_asked() {
        bail!("stopped by a signal");
    }
    Ok(())
}

/// Says which command a signal has to end; 0 = none.
pub(crate) fn current(process: u32) {
    CURRENT.store(process.cast_signed(), Ordering::SeqCst);
}
