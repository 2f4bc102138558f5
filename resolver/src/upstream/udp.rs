//! UDP to one server: sockets at ports that cannot be guessed, each open for a short time, with several questions on one
//! when there are many.
//!
//! While questions are few each has a port of its own. Under load there are [`PORTS`], and a question goes out by any of
//! them: a socket for each would cost more than everything else (docs/decisions/0008).

use std::collections::VecDeque;
use std::collections::hash_map::{Entry, HashMap};
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use rand::RngExt;
use tokio::io::{Interest, Ready};
use tokio::net::UdpSocket;
use tokio::sync::{Notify, oneshot};
use tokio::time::{Instant, sleep_until};

use super::question::{Asked, Expected};
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

#[derive(Debug)]
struct Question {
    expected: Expected,
    answer: oneshot::Sender<io::Result<Vec<u8>>>,
}

/// A place among the waiting; who gives up waiting leaves nothing behind.
struct Place {
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
    pub(super) async fn ask(&self, asked: &Asked<'_>, counters: &Arc<Counters>) -> io::Result<Vec<u8>> {
        let mut place = self.place(asked, counters)?;
        place.port.socket.send(&asked.message).await?;
        (&mut place.answered).await.unwrap_or_else(|_| Err(io::ErrorKind::NotConnected.into()))
    }

    /// A place on a port on which no other question has the same ID.
    fn place(&self, asked: &Asked<'_>, counters: &Arc<Counters>) -> io::Result<Place> {
        let mut ports = lock(&self.ports);
        let is_old =
            |port: &Weak<Port>| port.upgrade().is_none_or(|port| port.opened_at.elapsed() >= LIFETIME);
        while ports.front().is_some_and(is_old) {
            ports.pop_front();
        }
        if ports.len() >= PORTS {
            let any = ports[rand::rng().random_range(0..ports.len())].upgrade();
            if let Some(place) = any.and_then(|port| port.enter(asked)) {
                return Ok(place);
            }
        }
        let port = Arc::new(Port::open(self.server)?);
        ports.push_back(Arc::downgrade(&port));
        drop(ports);
        tokio::spawn(Arc::clone(&port).hear(Arc::clone(counters)));
        port.enter(asked).ok_or_else(|| io::ErrorKind::AddrInUse.into())
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

    /// Nothing when another question has the same ID, or nobody hears any more.
    fn enter(self: &Arc<Self>, asked: &Asked<'_>) -> Option<Place> {
        let (id, (answer, answered)) = (asked.id(), oneshot::channel());
        let mut waiting = lock(&self.waiting);
        let Entry::Vacant(vacant) = waiting.as_mut()?.entry(id) else { return None };
        vacant.insert(Question { expected: asked.expected(), answer });
        Some(Place { port: Arc::clone(self), id, answered })
    }

    /// Hands answers to those who wait, until nobody does and nobody new will.
    async fn hear(self: Arc<Self>, counters: Arc<Counters>) {
        let mut buffer = vec![0; LARGEST_DATAGRAM];
        let (closes_at, mut closing) = (self.opened_at + LIFETIME, false);
        while !(closing && self.ends()) {
            tokio::select! {
                heard = self.socket.ready(HEARD) => match heard {
                    Ok(ready) => self.take_all(ready, &mut buffer, &counters),
                    Err(error) => return self.fail(&error),
                },
                () = self.left.notified(), if closing => {}
                () = sleep_until(closes_at), if !closing => closing = true,
            }
        }
    }

    /// Lets nobody in any more, unless somebody waits.
    fn ends(&self) -> bool {
        lock(&self.waiting).take_if(|waiting| waiting.is_empty()).is_some()
    }

    fn take_all(&self, ready: Ready, buffer: &mut [u8], counters: &Counters) {
        if ready.is_error() {
            self.done(Interest::ERROR);
            // What an ICMP message says holds for all who wait for this server.
            if let Ok(Some(error)) = self.socket.take_error() {
                self.fail(&error);
            }
        }
        loop {
            match self.socket.try_recv(buffer) {
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
            Some(question) => question.say(Ok(message.to_vec())),
            None => counters.mismatched.count(),
        }
    }

    fn find(&self, message: &[u8]) -> Option<Question> {
        let id = u16::from_be_bytes(*message.first_chunk()?);
        match lock(&self.waiting).as_mut()?.entry(id) {
            Entry::Occupied(entry) if entry.get().expected.is_answered_by(message) => Some(entry.remove()),
            Entry::Occupied(_) | Entry::Vacant(_) => None,
        }
    }

    fn fail(&self, error: &io::Error) {
        let all = lock(&self.waiting).as_mut().map(std::mem::take).unwrap_or_default();
        all.into_values()
            .for_each(|question| question.say(Err(io::Error::new(error.kind(), error.to_string()))));
    }
}

impl Question {
    fn say(self, answer: io::Result<Vec<u8>>) {
        if self.answer.send(answer).is_err() {
            tracing::trace!("an answer that nobody waits for any more");
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.answered.close();
        // Another may have this ID by now.
        if let Some(waiting) = lock(&self.port.waiting).as_mut()
            && let Entry::Occupied(entry) = waiting.entry(self.id)
            && entry.get().answer.is_closed()
        {
            entry.remove();
        }
        self.port.left.notify_one();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
