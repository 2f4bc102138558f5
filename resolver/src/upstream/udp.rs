//! UDP to one server: sockets at ports that cannot be guessed, each open for a short time, with several questions on one
//! when there are many.
//!
//! While questions are few each has a port of its own. Under load there are [`PORTS`], and a question goes out by any of
//! them: a socket for each would cost more than everything else (docs/decisions/0008). One task hears a port; a question
//! has none, nor a timer: the answer is handed on where it is heard (docs/decisions/0017).

use std::collections::VecDeque;
use std::collections::hash_map::{Entry, HashMap};
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::AsRawFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use nix::sys::socket::{MsgFlags, send};
use rand::RngExt;
use tokio::io::{Interest, Ready};
use tokio::net::UdpSocket;
use tokio::sync::{Notify, oneshot};
use tokio::time::{Instant, sleep_until};

use super::HEDGE_AFTER;
use super::question::Asked;
use crate::counters::Counters;

/// Ports that are open at one time for new questions.
const PORTS: usize = 256;
/// How long a port takes new questions.
const LIFETIME: Duration = Duration::from_secs(1);
/// The largest datagram we read. We say 1232; some servers send more.
const LARGEST_DATAGRAM: usize = 4_096;
/// An answer, or an ICMP message about a question.
const HEARD: Interest = Interest::READABLE.add(Interest::ERROR);

/// A server that is asked over UDP.
#[derive(Debug)]
pub(super) struct UdpClient {
    server: SocketAddr,
    /// Oldest first. Each is held by who hears it.
    ports: Mutex<VecDeque<Weak<Port>>>,
}

/// A socket, connected: the kernel drops what other servers and ports send (A9).
#[derive(Debug)]
struct Port {
    socket: UdpSocket,
    opened_at: Instant,
    /// None once nobody hears any more.
    waiting: Mutex<Option<Questions>>,
    /// Somebody who waited has left.
    left: Notify,
}

type Questions = HashMap<u16, Question, foldhash::fast::RandomState>;

struct Question {
    asked: Asked,
    waiter: Waiter,
}

/// Who is told, by what became of it.
pub(super) type Told = Box<dyn FnOnce(Heard<'_>) + Send>;

enum Waiter {
    /// Told at once, by the task that hears the port; or that it is slow.
    Call {
        told: Told,
        asked_at: Instant,
    },
    Task(oneshot::Sender<io::Result<Vec<u8>>>),
}

/// What became of a question within [`HEDGE_AFTER`].
pub(super) enum Heard<'a> {
    /// The datagram that answers it.
    Answer(&'a [u8]),
    /// The system knows that the server is not there.
    Failed(io::Error),
    /// Nothing yet.
    Slow(Place),
    /// It was not asked.
    Never,
}

/// A place among the waiting; who gives up waiting leaves nothing behind.
#[derive(Debug)]
pub(super) struct Place {
    port: Arc<Port>,
    id: u16,
    answered: oneshot::Receiver<io::Result<Vec<u8>>>,
}

impl UdpClient {
    pub(super) fn new(server: SocketAddr) -> Self {
        Self { server, ports: Mutex::default() }
    }

    /// The datagram that answers. What does not is counted and waited past. Ends with an error when the system knows that
    /// the server is not there; the caller bounds the wait.
    pub(super) async fn ask(&self, asked: Asked, counters: &Arc<Counters>) -> io::Result<Vec<u8>> {
        let (answer, answered) = oneshot::channel();
        let (message, id) = (asked.message.clone(), asked.id());
        let question = Question { asked, waiter: Waiter::Task(answer) };
        let port = self.enter(question, counters).map_err(|(error, _)| error)?;
        let place = Place { port, id, answered };
        place.port.socket.send(&message).await?;
        place.answer().await
    }

    /// The same without waiting: `told` is called once. It must not block.
    pub(super) fn begin(&self, asked: Asked, told: Told, counters: &Arc<Counters>) {
        let (id, waiter) = (asked.id(), Waiter::Call { told, asked_at: Instant::now() });
        let message = asked.message.clone();
        let port = match self.enter(Question { asked, waiter }, counters) {
            Ok(port) => port,
            Err((error, question)) => return question.tell(Err(error)),
        };
        if let Err(error) = send(port.socket.as_raw_fd(), &message, MsgFlags::MSG_DONTWAIT)
            && let Some(question) = port.leave(id)
        {
            question.tell(Err(error.into()));
        }
    }

    /// Puts a question among those that wait on a port on which no other has the same ID.
    fn enter(
        &self,
        mut question: Question,
        counters: &Arc<Counters>,
    ) -> Result<Arc<Port>, (io::Error, Question)> {
        let now = Instant::now();
        let mut ports = lock(&self.ports);
        let is_old = |port: &Weak<Port>| port.upgrade().is_none_or(|port| now - port.opened_at >= LIFETIME);
        while ports.front().is_some_and(is_old) {
            ports.pop_front();
        }
        if ports.len() >= PORTS
            && let Some(port) = ports[rand::rng().random_range(0..ports.len())].upgrade()
        {
            match port.enter(question) {
                Ok(()) => return Ok(port),
                Err(refused) => question = refused,
            }
        }
        let port = match Port::open(self.server) {
            Ok(port) => Arc::new(port),
            Err(error) => return Err((error, question)),
        };
        ports.push_back(Arc::downgrade(&port));
        drop(ports);
        let entered = port.enter(question);
        tokio::spawn(Arc::clone(&port).hear(Arc::clone(counters)));
        match entered {
            Ok(()) => Ok(port),
            Err(question) => Err((io::ErrorKind::AddrInUse.into(), question)),
        }
    }
}

impl Port {
    fn open(server: SocketAddr) -> io::Result<Self> {
        let any: SocketAddr = match server {
            SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
            SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
        };
        let socket = std::net::UdpSocket::bind(any)?;
        socket.connect(server)?;
        socket.set_nonblocking(true)?;
        let (socket, waiting) = (UdpSocket::from_std(socket)?, Mutex::new(Some(Questions::default())));
        Ok(Self { socket, opened_at: Instant::now(), waiting, left: Notify::new() })
    }

    /// Gives it back when another question has the same ID, or nobody hears any more.
    fn enter(&self, question: Question) -> Result<(), Question> {
        let mut waiting = lock(&self.waiting);
        let Some(waiting) = waiting.as_mut() else { return Err(question) };
        match waiting.entry(question.asked.id()) {
            Entry::Vacant(vacant) => {
                vacant.insert(question);
                Ok(())
            }
            Entry::Occupied(_) => Err(question),
        }
    }

    fn leave(&self, id: u16) -> Option<Question> {
        lock(&self.waiting).as_mut()?.remove(&id)
    }

    /// Hands answers to those who wait, until nobody does and nobody new will.
    async fn hear(self: Arc<Self>, counters: Arc<Counters>) {
        let closes_at = self.opened_at + LIFETIME;
        let look = sleep_until(self.opened_at + HEDGE_AFTER);
        tokio::pin!(look);
        let mut closing = false;
        while !(closing && self.ends()) {
            tokio::select! {
                biased;
                () = &mut look => {
                    let now = Instant::now();
                    closing = now >= closes_at;
                    let next = self.tell_slow(now);
                    look.as_mut().reset(if closing { next } else { next.min(closes_at) });
                }
                heard = self.socket.ready(HEARD) => match heard {
                    Ok(ready) => self.take_all(ready, &counters),
                    Err(error) => return self.fail(&error),
                },
                () = self.left.notified(), if closing => {}
            }
        }
    }

    /// Tells those who have waited long that it is so. Returns when the next will have.
    fn tell_slow(self: &Arc<Self>, now: Instant) -> Instant {
        let (mut slow, mut next) = (Vec::new(), now + HEDGE_AFTER);
        for (id, question) in lock(&self.waiting).iter_mut().flatten() {
            let Waiter::Call { asked_at, .. } = question.waiter else { continue };
            if now < asked_at + HEDGE_AFTER {
                next = next.min(asked_at + HEDGE_AFTER);
                continue;
            }
            let (answer, answered) = oneshot::channel();
            if let Waiter::Call { told, .. } = std::mem::replace(&mut question.waiter, Waiter::Task(answer)) {
                slow.push((told, Place { port: Arc::clone(self), id: *id, answered }));
            }
        }
        slow.into_iter().for_each(|(told, place)| told(Heard::Slow(place)));
        next
    }

    /// Lets nobody in any more, unless somebody waits.
    fn ends(&self) -> bool {
        lock(&self.waiting).take_if(|waiting| waiting.is_empty()).is_some()
    }

    fn take_all(&self, ready: Ready, counters: &Counters) {
        if ready.is_error() {
            self.done(Interest::ERROR);
            // What an ICMP message says holds for all who wait for this server.
            if let Ok(Some(error)) = self.socket.take_error() {
                self.fail(&error);
            }
        }
        let mut buffer = [0; LARGEST_DATAGRAM];
        loop {
            match self.socket.try_recv(&mut buffer) {
                Ok(length) => self.take(&buffer[..length], counters),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) => return self.fail(&error),
            }
            // Nobody waits for more: the system call that would say that nothing is there is spared.
            if lock(&self.waiting).as_ref().is_none_or(HashMap::is_empty) {
                return self.done(Interest::READABLE);
            }
        }
    }

    /// What comes from now on wakes anew. (tokio's `try_io` takes one interest at a time.)
    fn done(&self, interest: Interest) {
        let nothing =
            self.socket.try_io(interest, || io::Result::<()>::Err(io::ErrorKind::WouldBlock.into()));
        drop(nothing);
    }

    /// A9: anything but the answer to a question that waits is counted, and the question waits on.
    fn take(&self, message: &[u8], counters: &Counters) {
        match self.find(message) {
            Some(question) => question.tell(Ok(message)),
            None => counters.mismatched.count(),
        }
    }

    fn find(&self, message: &[u8]) -> Option<Question> {
        let id = u16::from_be_bytes(*message.first_chunk()?);
        match lock(&self.waiting).as_mut()?.entry(id) {
            Entry::Occupied(entry) if entry.get().asked.is_answered_by(message) => Some(entry.remove()),
            Entry::Occupied(_) | Entry::Vacant(_) => None,
        }
    }

    fn fail(&self, error: &io::Error) {
        let all = lock(&self.waiting).as_mut().map(std::mem::take).unwrap_or_default();
        all.into_values()
            .for_each(|question| question.tell(Err(io::Error::new(error.kind(), error.to_string()))));
    }
}

impl Question {
    fn tell(self, answer: io::Result<&[u8]>) {
        match (self.waiter, answer) {
            (Waiter::Call { told, .. }, Ok(message)) => told(Heard::Answer(message)),
            (Waiter::Call { told, .. }, Err(error)) => told(Heard::Failed(error)),
            (Waiter::Task(waiting), answer) => {
                if waiting.send(answer.map(<[u8]>::to_vec)).is_err() {
                    tracing::trace!("an answer that nobody waits for any more");
                }
            }
        }
    }
}

impl std::fmt::Debug for Question {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Question").field("asked", &self.asked).finish_non_exhaustive()
    }
}

impl Place {
    /// What comes.
    pub(super) async fn answer(mut self) -> io::Result<Vec<u8>> {
        (&mut self.answered).await.unwrap_or_else(|_| Err(io::ErrorKind::NotConnected.into()))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.answered.close();
        // Another may have this ID by now.
        let mut waiting = lock(&self.port.waiting);
        if let Some(waiting) = waiting.as_mut()
            && let Entry::Occupied(entry) = waiting.entry(self.id)
            && matches!(&entry.get().waiter, Waiter::Task(answer) if answer.is_closed())
        {
            entry.remove();
        }
        drop(waiting);
        self.port.left.notify_one();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
