//! The way to one enforcer: messages out, and grants that wait for their acknowledgement.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use nameward_feed::{
    DEAD_AFTER_MILLIS,
    proto::{Ack, FromResolver, from_resolver::Message},
};
use thiserror::Error;
use tokio::sync::{mpsc, oneshot};
use tonic::Status;

use super::{convert, gathering::Gathering};
use crate::grants::{GrantRequest, Granted, Refused};

/// Who waits for an acknowledgement, by sequence number.
type Waiting = HashMap<u64, Waiter>;

/// Who waits for an acknowledgement.
#[derive(Debug)]
enum Waiter {
    /// A grant that this enforcer alone is asked for.
    Alone(oneshot::Sender<Result<Granted, Refused>>),
    /// One that others are asked for, too.
    OneOf(Arc<Gathering>),
}

/// One stream's outgoing side. What is put on it while the stream is busy leaves in one write.
#[derive(Debug)]
pub(super) struct Link {
    say: mpsc::Sender<Result<FromResolver, Status>>,
    sequence: Arc<AtomicU64>,
    /// None once the stream has ended.
    waiting: Mutex<Option<Waiting>>,
}

/// Messages are not read as fast as they are said, or not at all any more.
#[derive(Debug, Error)]
#[error("the enforcer does not read what it is told")]
pub(super) struct Stuck;

impl Link {
    /// Grants on it are numbered from `sequence`.
    pub(super) fn new(
        say: mpsc::Sender<Result<FromResolver, Status>>,
        sequence: Arc<AtomicU64>,
    ) -> Arc<Self> {
        Arc::new(Self { say, sequence, waiting: Mutex::new(Some(HashMap::new())) })
    }

    pub(super) fn say(&self, message: Message) -> Result<(), Stuck> {
        self.say.try_send(Ok(FromResolver { message: Some(message) })).map_err(|_| Stuck)
    }

    /// Says why the stream ends. The other side may have gone already.
    pub(super) fn say_end(&self, status: Status) {
        if self.say.try_send(Err(status)).is_err() {
            tracing::trace!("nobody hears why the feed ended");
        }
    }

    /// Ends when the other side reads no more.
    pub(super) async fn closed(&self) {
        self.say.closed().await;
    }

    /// Hands an acknowledgement to who waits for it.
    pub(super) fn acknowledge(&self, ack: Ack) {
        let sequence = ack.sequence;
        let waiting = self.waiting().as_mut().and_then(|waiting| waiting.remove(&sequence));
        let heard = match waiting {
            Some(Waiter::Alone(done)) => done.send(convert::outcome(ack)).is_ok(),
            Some(Waiter::OneOf(gathering)) => {
                gathering.hear(convert::outcome(ack));
                true
            }
            None => false,
        };
        if !heard {
            tracing::debug!(sequence, "an acknowledgement that nobody waits for any more");
        }
    }

    /// The acknowledgement with this number goes there; whoever put it on the stream sees to the rest.
    pub(super) fn await_one_of(&self, sequence: u64, gathering: &Arc<Gathering>) {
        match self.waiting().as_mut() {
            Some(waiting) => drop(waiting.insert(sequence, Waiter::OneOf(Arc::clone(gathering)))),
            None => gathering.hear(Err(Refused::Absent)),
        }
    }

    /// Nobody waits for this number any more.
    pub(super) fn give_up(&self, sequence: u64) {
        if let Some(waiting) = self.waiting().as_mut() {
            waiting.remove(&sequence);
        }
    }

    /// Asks, and waits for the answer for as long as the stream lives. The caller bounds the wait.
    pub(super) async fn grant(&self, request: &GrantRequest) -> Result<Granted, Refused> {
        let sequence = self.sequence.fetch_add(1, Ordering::Relaxed);
        let (done, wait) = oneshot::channel();
        match self.waiting().as_mut() {
            Some(waiting) => drop(waiting.insert(sequence, Waiter::Alone(done))),
            None => return Err(Refused::Absent),
        }
        let _place = Place { link: self, sequence };
        self.say(Message::Grant(convert::grant(sequence, request)))
            .map_err(|stuck| Refused::Kernel(stuck.to_string()))?;
        wait.await.unwrap_or(Err(Refused::Absent))
    }

    /// The stream has ended, of an enforcer that was heard then for the last time: nobody answers any more. Who waits for
    /// others, too, goes on without one that is dead (Q9).
    pub(super) fn end(&self, heard: Instant) {
        let dead = heard.elapsed() >= Duration::from_millis(DEAD_AFTER_MILLIS);
        let waiting = self.waiting().take();
        for waiter in waiting.into_iter().flat_map(HashMap::into_values) {
            match waiter {
                Waiter::OneOf(gathering) if dead => gathering.leave(),
                Waiter::OneOf(gathering) => gathering.hear(Err(Refused::Absent)),
                Waiter::Alone(waiter) => drop(waiter),
            }
        }
    }

    fn waiting(&self) -> MutexGuard<'_, Option<Waiting>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A grant that waits; who gives up waiting leaves nothing behind.
struct Place<'a> {
    link: &'a Link,
    sequence: u64,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.link.give_up(self.sequence);
    }
}
