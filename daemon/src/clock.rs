//! The wall clock, which people and programs may set while somebody waits for it.

use std::time::Duration;

use jiff::Timestamp;

/// It is looked at this often.
const LOOK_EVERY: Duration = Duration::from_secs(10);

/// Waits until it says a time; for ever where there is none. Returns a little later than the time itself, so that what
/// changes then has changed when it is looked at.
pub async fn until(at: Option<Timestamp>) {
    let Some(at) = at else { return std::future::pending().await };
    loop {
        let left = Duration::try_from(Timestamp::now().duration_until(at)).unwrap_or_default();
        tokio::time::sleep((left + Duration::from_millis(1)).min(LOOK_EVERY)).await;
        if Timestamp::now() >= at {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_time_is_waited_for_and_not_more() {
        let at = Timestamp::now() + Duration::from_millis(20);
        until(Some(at)).await;
        assert!(Timestamp::now() >= at);
        until(Some(Timestamp::UNIX_EPOCH)).await;
        let never = tokio::time::timeout(Duration::from_millis(20), until(None)).await;
        assert!(never.is_err(), "there is nothing to wait for");
    }
}
