//! The end that comes before the story's: ctrl-C, or a demo that takes too long.
//!
//! The command that runs just now is killed, and the next step does not begin, so that all guards are dropped.

use std::{
    sync::{
        OnceLock,
        atomic::{AtomicI32, Ordering},
        mpsc,
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use nameward_test_support::patient;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tokio::signal::unix::{SignalKind, signal};

/// When the story is broken off.
const STORY: Duration = Duration::from_secs(90);
/// When the process ends, whatever it is doing.
const WHOLE: Duration = Duration::from_secs(120);
const STEP: Duration = Duration::from_millis(10);
/// How often something that lasts is told about.
const TOLD: Duration = Duration::from_secs(2);

/// Why the demo ends before its story does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cause {
    Asked,
    TimeUp,
}

static CAUSE: OnceLock<Cause> = OnceLock::new();
/// The command that runs just now; 0 = none.
static CURRENT: AtomicI32 = AtomicI32::new(0);

/// From here on SIGINT, SIGTERM and SIGHUP end the demo in order, and so does the end of its time.
///
/// Signals are handled, not blocked: a blocked signal would be blocked in the demo's name server as well.
pub(crate) fn watch() -> Result<()> {
    let (ready, wait) = mpsc::channel();
    thread::Builder::new().name("end".into()).spawn(move || -> Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            let kinds = [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()];
            let [mut interrupt, mut terminate, mut hang_up] = match kinds.map(signal) {
                [Ok(interrupt), Ok(terminate), Ok(hang_up)] => [interrupt, terminate, hang_up],
                other => bail!("cannot handle signals: {other:?}"),
            };
            ready.send(()).ok();
            let (story, whole) = (tokio::time::sleep(patient(STORY)), tokio::time::sleep(patient(WHOLE)));
            tokio::pin!(story, whole);
            let mut told = false;
            loop {
                tokio::select! {
                    _ = interrupt.recv() => end(Cause::Asked),
                    _ = terminate.recv() => end(Cause::Asked),
                    _ = hang_up.recv() => end(Cause::Asked),
                    () = &mut story, if !told => {
                        told = true;
                        end(Cause::TimeUp);
                    }
                    () = &mut whole => give_up(),
                }
            }
        })
    })?;
    wait.recv().context("cannot handle signals")
}

fn end(cause: Cause) {
    CAUSE.get_or_init(|| cause);
    let current = CURRENT.load(Ordering::SeqCst);
    if current != 0 {
        kill(Pid::from_raw(current), Signal::SIGKILL).ok();
    }
}

fn give_up() {
    eprintln!("error: not ended after {WHOLE:?}; `cargo xtask clean-up` removes what is left");
    std::process::exit(1);
}

/// Whether a signal came.
pub(crate) fn was_asked() -> bool {
    CAUSE.get() == Some(&Cause::Asked)
}

/// Fails once the demo is to end.
pub(crate) fn check() -> Result<()> {
    match CAUSE.get() {
        None => Ok(()),
        Some(Cause::Asked) => bail!("stopped"),
        Some(Cause::TimeUp) => bail!("the demo takes longer than {STORY:?}"),
    }
}

/// Notes the command that runs just now; 0 = none.
pub(crate) fn current(process: u32) {
    CURRENT.store(process.cast_signed(), Ordering::SeqCst);
    // A signal may have come just before this one was known.
    if let Some(cause) = CAUSE.get() {
        end(*cause);
    }
}

/// Asks until `found` gives something; says every other second that it still waits.
///
/// Fails when nothing was found within `limit`, when `found` fails, or when the demo is to end.
pub(crate) fn wait_until<T>(
    what: &str,
    limit: Duration,
    mut found: impl FnMut() -> Result<Option<T>>,
) -> Result<T> {
    let started = Instant::now();
    let mut told = Duration::ZERO;
    loop {
        check()?;
        if let Some(value) = found()? {
            return Ok(value);
        }
        let passed = started.elapsed();
        if passed > limit {
            bail!("{what}: not within {limit:?}");
        }
        if passed >= told + TOLD {
            told += TOLD;
            println!("      ... {} s: waiting until {what}", told.as_secs());
        }
        thread::sleep(STEP);
    }
}
