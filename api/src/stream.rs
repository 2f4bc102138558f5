//! The stream of decisions as server-sent events (HTML Living Standard 9.2): replay from memory, then what comes.
//!
//! A reader that is too slow loses decisions and is told how many; it never holds up the others. What comes within a
//! short while goes out together, so that a thousand readers cost few writes.

use std::{collections::VecDeque, convert::Infallible, sync::Arc, time::Duration};

use axum::{
    body::{Body, Bytes},
    http::{HeaderValue, header},
    response::Response,
};
use futures::stream::{self, Stream, StreamExt};
use tokio::{
    sync::broadcast::{self, error::RecvError, error::TryRecvError},
    time::Instant,
};

use crate::{Problem, Source, filter::DecisionFilter, source::Followed};

/// The first decision goes out at once, those within this time after it together.
pub const GATHER: Duration = Duration::from_millis(50);
/// A comment this often shows that the connection lives.
pub const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// Events of one write at most.
const BATCH: usize = 256;
/// Bytes of a write that need no more beside them.
const ENOUGH: usize = 65_536;

/// The last event that a reader has seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LastSeen {
    epoch: u64,
    sequence: u64,
}

impl LastSeen {
    /// Reads the identifier of an event.
    ///
    /// # Errors
    /// When it is none of ours.
    pub fn read(text: &str) -> Result<Self, Problem> {
        let parts = text.split_once('-').and_then(|(epoch, sequence)| {
            Some(Self { epoch: u64::from_str_radix(epoch, 16).ok()?, sequence: sequence.parse().ok()? })
        });
        parts.ok_or_else(|| {
            Problem::bad("Last-Event-ID: pass on the identifier of an event as it is, or leave it out")
        })
    }
}

/// The events behind `last` that are still kept, and then all that come.
pub(crate) fn follow(source: &dyn Source, filter: DecisionFilter, last: Option<LastSeen>) -> Response {
    // What comes between here and the first event is told, or behind this identifier.
    let kept = source.recent_decisions();
    let newest = kept.last().map_or(0, |newest| newest.sequence);
    let mut follower = Follower::new(source, filter, last.map_or(newest, |last| last.sequence));
    if let Some(last) = last {
        follower.replay(source.recent_decisions(), last);
    }
    event_stream(stream::unfold(follower, async |mut follower| {
        let chunk = follower.next().await?;
        Some((chunk, follower))
    }))
}

/// The response that brings server-sent events, as they are written.
pub fn event_stream(events: impl Stream<Item = Bytes> + Send + 'static) -> Response {
    let mut response = Response::new(Body::from_stream(events.map(Ok::<_, Infallible>)));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

struct Follower {
    coming: broadcast::Receiver<Arc<Followed>>,
    filter: DecisionFilter,
    epoch: u64,
    /// The latest that was told or passed over.
    seen: u64,
    replayed: VecDeque<Arc<Followed>>,
    lost: u64,
    /// Not written before.
    due: Instant,
    begun: bool,
    /// Where it begins, for readers that are interrupted before anything comes.
    begins_behind: u64,
}

impl Follower {
    fn new(source: &dyn Source, filter: DecisionFilter, begins_behind: u64) -> Self {
        Self {
            coming: source.follow(),
            filter,
            epoch: source.epoch(),
            seen: 0,
            replayed: VecDeque::new(),
            lost: 0,
            due: Instant::now(),
            begun: false,
            begins_behind,
        }
    }

    /// What is kept behind the last event that was seen. Whoever saw another process's events gets all that is kept.
    fn replay(&mut self, kept: Vec<Arc<Followed>>, last: LastSeen) {
        let last = if last.epoch == self.epoch { last.sequence } else { 0 };
        self.begins_behind = last;
        let newest = kept.last().map_or(0, |newest| newest.sequence);
        self.replayed = kept.into_iter().filter(|one| one.sequence > last).collect();
        if last != 0 {
            // Not only the oldest are forgotten: each workload has its own part of the memory.
            self.lost += newest.saturating_sub(last).saturating_sub(self.replayed.len() as u64);
        }
        self.seen = last;
    }

    /// The next bytes; none when the process ends.
    async fn next(&mut self) -> Option<Bytes> {
        if !self.begun {
            self.begun = true;
            // Headers leave with the first bytes: a reader knows that it follows.
            return Some(format!(": following\nid: {:x}-{}\n\n", self.epoch, self.begins_behind).into());
        }
        let mut text = String::new();
        self.tell_lost(&mut text);
        while text.len() < ENOUGH {
            let Some(one) = self.replayed.pop_front() else { break };
            self.take(&one, &mut text);
        }
        if !self.replayed.is_empty() {
            return Some(text.into());
        }
        while text.is_empty() {
            match tokio::time::timeout(KEEP_ALIVE, self.coming.recv()).await {
                Err(_) => return Some(Bytes::from_static(b":\n\n")),
                Ok(Ok(one)) => self.take(&one, &mut text),
                Ok(Err(RecvError::Lagged(count))) => self.lost += count,
                Ok(Err(RecvError::Closed)) => return None,
            }
            self.tell_lost(&mut text);
        }
        tokio::time::sleep_until(self.due).await;
        self.gather(&mut text);
        self.due = Instant::now() + GATHER;
        Some(text.into())
    }

    /// What has come meanwhile.
    fn gather(&mut self, text: &mut String) {
        for _ in 0..BATCH {
            match self.coming.try_recv() {
                Ok(one) => self.take(&one, text),
                Err(TryRecvError::Lagged(count)) => {
                    self.lost += count;
                    self.tell_lost(text);
                }
                Err(TryRecvError::Empty | TryRecvError::Closed) => return,
            }
        }
    }

    fn take(&mut self, one: &Followed, text: &mut String) {
        // What came while the memory was read is in both.
        if one.sequence <= self.seen {
            return;
        }
        self.seen = one.sequence;
        if self.filter.passes(one) {
            // JSON has no line break of its own: a name cannot begin another event.
            *text +=
                &format!("id: {:x}-{}\nevent: decision\ndata: {}\n\n", self.epoch, one.sequence, one.json());
        }
    }

    fn tell_lost(&mut self, text: &mut String) {
        if self.lost > 0 {
            *text += &format!("event: lost\ndata: {{\"count\":{}}}\n\n", self.lost);
            self.lost = 0;
        }
    }
}
