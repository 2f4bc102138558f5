//! Waiting for an event with a deadline, instead of sleeping and hoping.

use std::{
    thread,
    time::{Duration, Instant},
};

const STEP: Duration = Duration::from_millis(5);

/// A deadline on this machine: `NAMEWARD_PATIENCE` times as long where that is set, as on emulated processors.
#[must_use]
pub fn patient(deadline: Duration) -> Duration {
    let factor = std::env::var("NAMEWARD_PATIENCE").ok().and_then(|text| text.parse().ok());
    deadline.saturating_mul(factor.unwrap_or(1))
}

/// Asks until `found` gives something, and returns that.
///
/// # Panics
/// When nothing was found before the deadline; `what` says what was waited for.
#[track_caller]
pub fn wait_until<T>(what: &str, deadline: Duration, mut found: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + patient(deadline);
    loop {
        if let Some(value) = found() {
            return value;
        }
        assert!(Instant::now() < end, "{what}: not within {deadline:?}");
        thread::sleep(STEP);
    }
}

/// [`wait_until`] for what says why it is not there yet.
///
/// # Panics
/// When there was nothing before the deadline, with the last reason.
#[track_caller]
pub fn wait_until_ok<T>(what: &str, deadline: Duration, mut tried: impl FnMut() -> Result<T, String>) -> T {
    let end = Instant::now() + patient(deadline);
    loop {
        match tried() {
            Ok(value) => return value,
            Err(last) => assert!(Instant::now() < end, "{what}: not within {deadline:?}: {last}"),
        }
        thread::sleep(STEP);
    }
}

/// [`wait_until`] for tasks.
///
/// # Panics
/// When nothing was found before the deadline.
pub async fn wait_until_async<T>(
    what: &str,
    deadline: Duration,
    mut found: impl AsyncFnMut() -> Option<T>,
) -> T {
    let end = Instant::now() + patient(deadline);
    loop {
        if let Some(value) = found().await {
            return value;
        }
        assert!(Instant::now() < end, "{what}: not within {deadline:?}");
        tokio::time::sleep(STEP).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_asks_again_until_there_is_something() {
        let mut left = 3;
        let found = wait_until("the third time", Duration::from_secs(5), || {
            left -= 1;
            (left == 0).then_some("here")
        });
        assert_eq!(found, "here");
    }

    #[test]
    #[should_panic(expected = "a miracle: not within 20ms: there are none")]
    fn the_deadline_ends_it_with_the_last_reason() {
        wait_until_ok("a miracle", Duration::from_millis(20), || Err::<(), _>("there are none".to_owned()));
    }

    #[test]
    #[should_panic(expected = "a miracle: not within")]
    fn the_deadline_ends_it() {
        wait_until("a miracle", Duration::from_millis(20), || None::<()>);
    }
}
