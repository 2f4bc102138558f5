//! ctrl-C: the command that runs just now is ended, and the next step does not begin, so that all guards are dropped.

use std::{
    sync::{
        atomic::{AtomicBool, AtomicI32, Ordering},
        mpsc,
    },
    thread,
};

use anyhow::{Context, Result, bail};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tokio::signal::unix::{SignalKind, signal};

static ASKED: AtomicBool = AtomicBool::new(false);
/// The command that runs just now; 0 = none.
static CURRENT: AtomicI32 = AtomicI32::new(0);

/// From here on SIGINT, SIGTERM and SIGHUP end the demo in order.
///
/// They are handled, not blocked: a blocked signal would be blocked in the demo's name server as well.
pub(crate) fn watch() -> Result<()> {
    let (ready, wait) = mpsc::channel();
    thread::Builder::new().name("signals".into()).spawn(move || -> Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            let kinds = [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()];
            let [mut interrupt, mut terminate, mut hang_up] = match kinds.map(signal) {
                [Ok(interrupt), Ok(terminate), Ok(hang_up)] => [interrupt, terminate, hang_up],
                other => bail!("cannot handle signals: {other:?}"),
            };
            ready.send(()).ok();
            loop {
                tokio::select! {
                    _ = interrupt.recv() => {}
                    _ = terminate.recv() => {}
                    _ = hang_up.recv() => {}
                }
                end_current();
            }
        })
    })?;
    wait.recv().context("cannot handle signals")
}

fn end_current() {
    ASKED.store(true, Ordering::SeqCst);
    let current = CURRENT.load(Ordering::SeqCst);
    if current != 0 {
        kill(Pid::from_raw(current), Signal::SIGKILL).ok();
    }
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
