//! What is asked of upstreams: once for all who wait for the same, each of whom is told.
//!
//! A client over UDP has no task while an upstream is waited for. What remains to be done for it is done by who hears the
//! answer; only when that has to wait, for an enforcer nearly always, it becomes a task (docs/decisions/0017).

use std::{
    sync::Arc,
    task::{Context, Poll, Waker},
    time::Instant,
};

use tokio::sync::oneshot;

use super::{
    Server,
    inquiry::{Waiting, fit},
    udp::Socket,
};
use crate::{
    cache::{CachedAnswer, Known, Ticket},
    datagrams::Path,
    upstream::{Departing, Group, Question, Reply, Started, UpstreamError},
    wire::query::Query,
};

/// What came of the question to an upstream.
pub(super) type Heard = Result<Arc<CachedAnswer>, UpstreamError>;

/// Who waits for an upstream.
pub(super) enum Waits {
    /// A task.
    Task(oneshot::Sender<Heard>),
    /// A client over UDP.
    Client(Client),
}

/// A question that came in a datagram, and where its answer goes.
pub(super) struct Client {
    pub(super) waiting: Box<Waiting>,
    pub(super) socket: Arc<Socket>,
    pub(super) path: Path,
}

/// A question on its way. Who waits for it is told, whatever happens.
struct Flight {
    server: Server,
    ticket: Option<Ticket>,
}

impl Server {
    /// Answers a client as soon as there is something to answer. If an upstream has to be asked, the question leaves with
    /// others.
    pub(super) fn answer_later(&self, client: Client, departing: &mut Departing) {
        // It was read before from the same octets.
        let Ok(query) = Query::read(&client.waiting.message) else { return };
        let (question, group) = (Question::of(&query), self.group(&client.waiting));
        self.ask(group, question, Waits::Client(client), departing);
    }

    /// The upstream's answer.
    pub(super) async fn hear(&self, query: &Query<'_>, waiting: &Waiting) -> Heard {
        let (told, heard) = oneshot::channel();
        Departing::at_once(|departing| {
            self.ask(self.group(waiting), Question::of(query), Waits::Task(told), departing);
        });
        heard.await.unwrap_or(Err(UpstreamError::Nobody))
    }

    fn group(&self, waiting: &Waiting) -> Arc<Group> {
        self.0.routes.group(&waiting.name, waiting.meaning.server)
    }

    fn ask(&self, group: Arc<Group>, question: Question, waits: Waits, departing: &mut Departing) {
        let shared = &self.0;
        let key = (group.number(), question.clone());
        match shared.cache.look(key, waits, Instant::now()) {
            Known::Answer(answer, waits) => {
                shared.counters.cached.count();
                waits.tell(self, Ok(answer));
            }
            Known::Asked => {}
            Known::Nothing(ticket) => {
                let flight = Flight { server: self.clone(), ticket: Some(ticket) };
                let told = move |started| flight.go_on(started);
                group.begin(question, &shared.outstanding, &shared.counters, departing, told);
            }
        }
    }
}

impl Flight {
    fn go_on(self, started: Started) {
        match started {
            Started::Reply(reply) => self.end(Ok(reply)),
            Started::Rest(rest) => {
                tokio::spawn(async move { self.end(rest.go_on().await) });
            }
        }
    }

    fn end(mut self, reply: Result<Reply, UpstreamError>) {
        self.tell(reply);
    }

    fn tell(&mut self, reply: Result<Reply, UpstreamError>) {
        let Some(ticket) = self.ticket.take() else { return };
        let heard = reply.map(CachedAnswer::new);
        let waiting = self.server.0.cache.end(ticket, heard.as_ref().ok());
        waiting.into_iter().for_each(|waits| waits.tell(&self.server, heard.clone()));
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        self.tell(Err(UpstreamError::Nobody));
    }
}

impl Waits {
    fn tell(self, server: &Server, heard: Heard) {
        match self {
            Self::Task(task) => {
                if task.send(heard).is_err() {
                    tracing::trace!("an answer that nobody waits for any more");
                }
            }
            Self::Client(client) => client.tell(server.clone(), heard),
        }
    }
}

impl Client {
    fn tell(self, server: Server, heard: Heard) {
        let Self { waiting, socket, path } = self;
        let counters = Arc::clone(&server.0.counters);
        let mut answering = Box::pin(async move {
            let mut answer = server.conclude(&waiting, heard).await;
            fit(&server, &waiting.message, 0, &mut answer);
            // It is on its way until somebody sends it.
            (answer, waiting)
        });
        match answering.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready((answer, _waiting)) => socket.hand_out(&counters, &answer, path),
            // Without a runtime the process is at its end.
            Poll::Pending => {
                if let Ok(runtime) = tokio::runtime::Handle::try_current() {
                    runtime.spawn(async move {
                        let (answer, _waiting) = answering.await;
                        socket.hand_out(&counters, &answer, path);
                    });
                }
            }
        }
    }
}
