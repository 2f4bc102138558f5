//! One grant that several enforcers have to acknowledge: it ends with the last of them, or with the first that refuses.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::sync::oneshot;

use crate::grants::{Granted, Refused};

/// What has been heard so far.
#[derive(Debug)]
pub(super) struct Gathering(Mutex<Heard>);

#[derive(Debug)]
struct Heard {
    missing: usize,
    /// The shortest so far.
    usable_for: Duration,
    /// None once it has ended.
    done: Option<oneshot::Sender<Result<Granted, Refused>>>,
}

impl Gathering {
    /// Waits for so many. None of them can make it usable for longer than `at_most`.
    pub(super) fn new(
        enforcers: usize,
        at_most: Duration,
    ) -> (Arc<Self>, oneshot::Receiver<Result<Granted, Refused>>) {
        let (done, wait) = oneshot::channel();
        let heard = Heard { missing: enforcers, usable_for: at_most, done: Some(done) };
        (Arc::new(Self(Mutex::new(heard))), wait)
    }

    /// The word of one of them.
    pub(super) fn hear(&self, outcome: Result<Granted, Refused>) {
        match outcome {
            Ok(granted) => self.count(granted.usable_for),
            Err(refused) => self.end(Err(refused)),
        }
    }

    /// One of them is not waited for any more.
    pub(super) fn leave(&self) {
        self.count(Duration::MAX);
    }

    fn count(&self, usable_for: Duration) {
        let mut heard = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        heard.usable_for = heard.usable_for.min(usable_for);
        heard.missing = heard.missing.saturating_sub(1);
        let outcome = Ok(Granted { usable_for: heard.usable_for });
        let ended = heard.missing == 0;
        drop(heard);
        if ended {
            self.end(outcome);
        }
    }

    fn end(&self, outcome: Result<Granted, Refused>) {
        let done = self.0.lock().unwrap_or_else(PoisonError::into_inner).done.take();
        if done.is_some_and(|done| done.send(outcome).is_err()) {
            tracing::debug!("a grant that nobody waits for any more");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    fn granted(seconds: u64) -> Result<Granted, Refused> {
        Ok(Granted { usable_for: Duration::from_secs(seconds) })
    }

    // G1
    #[test]
    fn it_ends_with_the_last_word() {
        let (gathering, mut wait) = Gathering::new(3, MINUTE);
        gathering.hear(granted(30));
        gathering.leave();
        assert!(wait.try_recv().is_err(), "one is missing");
        gathering.hear(granted(90));
        assert_eq!(wait.try_recv(), Ok(granted(30)));
    }

    #[test]
    fn one_that_refuses_refuses_for_all() {
        let (gathering, mut wait) = Gathering::new(3, MINUTE);
        gathering.hear(Err(Refused::Absent));
        assert_eq!(wait.try_recv(), Ok(Err(Refused::Absent)));
        gathering.hear(granted(30));
        gathering.hear(granted(30));
    }
}
