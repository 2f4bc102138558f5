//! The way to one enforcer: messages out, and grants that wait for their acknowledgement.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use nameward_feed::proto::{Ack, FromResolver, from_resolver::Message};
use thiserror::Error;
use tokio::sync::{mpsc, oneshot};
use tonic::Status;

use super::convert;
use crate::grants::{GrantRequest, Granted, Refused};

/// Who waits for an acknowledgement, by sequence number.
type Waiting = HashMap<u64, oneshot::Sender<Result<Granted, Refused>>>;

/// One stream's outgoing side. What is put on it while the stream is busy leaves in one write.
#[derive(Debug)]
pub(super) struct Link {
    say: mpsc::Sender<Result<FromResolver, Status>>,
    sequence: AtomicU64,
    /// None once the stream has ended.
    waiting: Mutex<Option<Waiting>>,
}

/// Messages are not read as fast as they are said, or not at all any more.
#[derive(Debug, Error)]
#[error("the enforcer does not read what it is told")]
pub(super) struct Stuck;

impl Link {
    pub(super) fn new(say: mpsc::Sender<Result<FromResolver, Status>>) -> Arc<Self> {
        Arc::new(Self { say, sequence: AtomicU64::new(1), waiting: Mutex::new(Some(HashMap::new())) })
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
        if waiting.is_none_or(|done| done.send(convert::outcome(ack)).is_err()) {
            tracing::debug!(sequence, "an acknowledgement that nobody waits for any more");
        }
    }

    /// Asks, and waits for the answer for as long as the stream lives. The caller bounds the wait.
    pub(super) async fn grant(&self, request: &GrantRequest) -> Result<Granted, Refused> {
        let sequence = self.sequence.fetch_add(1, Ordering::Relaxed);
        let (done, wait) = oneshot::channel();
        match self.waiting().as_mut() {
            Some(waiting) => drop(waiting.insert(sequence, done)),
            None => return Err(Refused::Absent),
        }
        let _place = Place { link: self, sequence };
        self.say(Message::Grant(convert::grant(sequence, request)))
            .map_err(|stuck| Refused::Kernel(stuck.to_string()))?;
        wait.await.unwrap_or(Err(Refused::Absent))
    }

    /// The stream has ended: nobody answers any more.
    pub(super) fn end(&self) {
        self.waiting().take();
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
        if let Some(waiting) = self.link.waiting().as_mut() {
            waiting.remove(&self.sequence);
        }
    }
}
