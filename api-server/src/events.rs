//! Streams of decisions of many nodes as one stream of server-sent events, which is taken up again where it ended.
//!
//! Each node's stream has a task of its own, which connects again and again, and goes on behind the last event that it has
//! heard. The identifier of the whole ([`Positions`]) stands at the last event of what is written together: it says that all
//! before it was seen, too.

use std::{collections::HashMap, sync::Arc, time::Duration};

use axum::{body::Bytes, response::Response};
use futures::stream;
use http_body_util::BodyExt;
use nameward_api::{
    GATHER, KEEP_ALIVE,
    client::{Parser, Raw},
    event_stream,
};
use serde_json::json;
use tokio::{
    sync::{OwnedSemaphorePermit, mpsc},
    task::{AbortHandle, JoinSet},
    time::{Instant, sleep, timeout},
};

use crate::{
    Node, Nodes,
    access::{Ticket, YES_FOR},
    node::Trouble,
    positions::Positions,
};

/// A node says something at least each [`KEEP_ALIVE`].
const SILENT: Duration = Duration::from_secs(40);
/// A stream begins within this time.
const BEGIN_WITHIN: Duration = Duration::from_secs(3);
/// Wait before the first new try; doubled up to the last.
const FIRST_WAIT: Duration = Duration::from_millis(250);
/// See [`FIRST_WAIT`].
const LAST_WAIT: Duration = Duration::from_secs(5);
/// Events that wait to be written; then nodes wait.
const WAITING: usize = 1_024;
/// Events of one write at most.
const BATCH: usize = 256;

/// What is followed.
#[derive(Debug)]
pub(crate) struct Followed {
    /// Of whom.
    pub(crate) nodes: Nodes,
    /// Only these nodes; none = all.
    pub(crate) only: Vec<String>,
    /// What nodes are asked for.
    pub(crate) address: String,
    /// Where it goes on.
    pub(crate) positions: Positions,
    /// A place among those who follow.
    pub(crate) _place: OwnedSemaphorePermit,
    /// The right to it, which may be taken away.
    pub(crate) ticket: Option<Ticket>,
}

/// What a node's stream said.
struct Said {
    node: Arc<str>,
    what: What,
}

enum What {
    Event(Raw),
    Gone(String),
}

/// The stream.
pub(crate) fn follow(followed: Followed) -> Response {
    let (say, said) = mpsc::channel(WAITING);
    let merged = Merged {
        followed,
        say,
        said,
        readers: HashMap::new(),
        tasks: JoinSet::new(),
        begun: false,
        check_at: Instant::now() + YES_FOR,
    };
    event_stream(stream::unfold(merged, async |mut merged| {
        let chunk = merged.next().await?;
        Some((chunk, merged))
    }))
}

struct Merged {
    followed: Followed,
    say: mpsc::Sender<Said>,
    said: mpsc::Receiver<Said>,
    readers: HashMap<Arc<str>, (Arc<Node>, AbortHandle)>,
    /// They end with this.
    tasks: JoinSet<()>,
    begun: bool,
    /// When it is asked again whether it may be followed.
    check_at: Instant,
}

impl Merged {
    /// The next bytes; none when it may not be followed any more.
    async fn next(&mut self) -> Option<Bytes> {
        if !self.begun {
            self.begun = true;
            self.read_nodes();
            return Some(Bytes::from_static(b": following\n\n"));
        }
        if Instant::now() >= self.check_at {
            if let Some(ticket) = &self.followed.ticket
                && !ticket.is_good().await
            {
                return None;
            }
            self.check_at = Instant::now() + YES_FOR;
        }
        let first = loop {
            tokio::select! {
                Some(said) = self.said.recv() => break said,
                () = self.followed.nodes.changed() => self.read_nodes(),
                () = sleep(KEEP_ALIVE) => return Some(Bytes::from_static(b":\n\n")),
            }
        };
        sleep(GATHER).await;
        let mut events = Vec::new();
        self.take(first, &mut events);
        while events.len() < BATCH
            && let Ok(said) = self.said.try_recv()
        {
            self.take(said, &mut events);
        }
        Some(self.written(&events).into())
    }

    /// Begins to read nodes that are new or elsewhere, and leaves those that are gone.
    fn read_nodes(&mut self) {
        let Some(all) = self.followed.nodes.all() else { return };
        let is_meant =
            |name: &str| self.followed.only.is_empty() || self.followed.only.iter().any(|one| one == name);
        self.readers.retain(|name, (node, reader)| {
            let stays = all.get(name).is_some_and(|now| Arc::ptr_eq(now, node));
            if !stays {
                reader.abort();
            }
            stays
        });
        for (name, node) in all.iter().filter(|(name, _)| is_meant(name)) {
            if !self.readers.contains_key(name) {
                let last = self.followed.positions.of(name);
                let reading = read(Arc::clone(node), self.followed.address.clone(), last, self.say.clone());
                let reader = self.tasks.spawn(reading);
                self.readers.insert(Arc::clone(name), (Arc::clone(node), reader));
            }
        }
    }

    /// Makes an event of what was said; where only the position moves on there is none.
    fn take(&mut self, said: Said, events: &mut Vec<String>) {
        let node = &said.node;
        match said.what {
            What::Event(raw) => {
                self.followed.positions.advance(node, &raw.id);
                if let Some(rest) = raw.data.strip_prefix('{').filter(|_| !raw.kind.is_empty()) {
                    events.push(format!("event: {}\ndata: {{\"node\":{},{rest}\n", raw.kind, json!(**node)));
                }
            }
            What::Gone(problem) => {
                let data = json!({"node": **node, "problem": problem});
                events.push(format!("event: unanswered\ndata: {data}\n"));
            }
        }
    }

    fn written(&self, events: &[String]) -> String {
        let id = self.followed.positions.text().map(|id| format!("id: {id}\n")).unwrap_or_default();
        match events.split_last() {
            None => id + "\n",
            Some((last, before)) => {
                let mut text: String = before.iter().flat_map(|event| [event.as_str(), "\n"]).collect();
                text += &format!("{id}{last}\n");
                text
            }
        }
    }
}

/// Reads a node's stream until nobody listens. That it is gone is said once, until it is back.
async fn read(node: Arc<Node>, address: String, mut last: Option<String>, say: mpsc::Sender<Said>) {
    let (mut wait, mut told) = (FIRST_WAIT, false);
    loop {
        let problem = match timeout(BEGIN_WITHIN, node.follow(&address, last.as_deref())).await {
            Ok(Ok(mut body)) => {
                let mut parser = Parser::default();
                loop {
                    let frame = match timeout(SILENT, body.frame()).await {
                        Ok(Some(Ok(frame))) => frame,
                        Ok(Some(Err(error))) => break format!("its stream broke off: {error}"),
                        Ok(None) => break "its stream has ended".into(),
                        Err(_) => break format!("nothing was heard for {} s", SILENT.as_secs()),
                    };
                    (wait, told) = (FIRST_WAIT, false);
                    if let Some(data) = frame.data_ref() {
                        parser.push(data);
                    }
                    while let Some(raw) = parser.ready.pop_front() {
                        last = Some(raw.id.clone()).filter(|id| !id.is_empty()).or(last);
                        if say
                            .send(Said { node: Arc::clone(node.name()), what: What::Event(raw) })
                            .await
                            .is_err()
                        {
                            return;
                        }
                    }
                }
            }
            Ok(Err(Trouble::Silent(problem))) => problem,
            Ok(Err(Trouble::Refused(problem))) => problem.detail,
            Err(_) => format!("no stream within {} s", BEGIN_WITHIN.as_secs()),
        };
        if !told {
            told = true;
            if say.send(Said { node: Arc::clone(node.name()), what: What::Gone(problem) }).await.is_err() {
                return;
            }
        }
        sleep(wait).await;
        wait = (wait * 2).min(LAST_WAIT);
    }
}
