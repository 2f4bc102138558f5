//! UDP to one server: sockets at ports that cannot be guessed, each open for a short time, with several questions on one
//! when there are many.
//!
//! While questions are few each has a port of its own. Under load there are [`PORTS`], and a question goes out by any of
//! them: a socket for each would cost more than everything else (docs/decisions/0008). Questions of one moment leave
//! together, by one port (docs/decisions/0022). One task hears a port; a question has none, nor a timer: the answer is
//! handed on where it is heard (docs/decisions/0017).

use std::cell::RefCell;
use std::collections::VecDeque;
use std::collections::hash_map::{Entry, HashMap};
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use rand::RngExt;
use tokio::io::{Interest, Ready};
use tokio::net::UdpSocket;
use tokio::sync::{Notify, oneshot};
use tokio::time::{Instant, sleep_until};

use super::HEDGE_AFTER;
use super::question::Asked;
use crate::counters::Counters;
use crate::datagrams::{BATCH, Incoming, Outgoing};

/// Ports that are open at one time for new questions.
const PORTS: usize = 256;
/// How long a port takes new questions.
const LIFETIME: Duration = Duration::from_secs(1);
/// The largest datagram we read, in octets. We say 1232; some servers send more.
const LARGEST_DATAGRAM: usize = 65 * 64;
/// An answer, or an ICMP message about a question.
const HEARD: Interest = Interest::READABLE.add(Interest::ERROR);

thread_local! {
    /// What is heard is handed on before anything else is heard.
    static INCOMING: RefCell<Incoming> = RefCell::new(Incoming::new(LARGEST_DATAGRAM, false));
}

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
    server: SocketAddr,
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

/// Questions that leave together, those to a server by one port and one system call. Sent by [`Departing::send`]; what is
/// dropped before it has to be asked again.
#[derive(Debug, Default)]
pub(crate) struct Departing(Vec<Departure>);

#[derive(Debug)]
struct Departure {
    port: Arc<Port>,
    messages: Outgoing,
    /// Of each message.
    ids: Vec<u16>,
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

    /// The same without waiting, when `departing` is sent: `told` is called once. It must not block.
    pub(super) fn begin(
        &self,
        asked: Asked,
        told: Told,
        counters: &Arc<Counters>,
        departing: &mut Departing,
    ) {
        let question = Question { asked, waiter: Waiter::Call { told, asked_at: Instant::now() } };
        let Err(question) = departing.join(self.server, question) else { return };
        let (message, id) = (question.asked.message.clone(), question.asked.id());
        match self.enter(question, counters) {
            Ok(port) => departing.open(port, &message, id),
            Err((error, question)) => question.tell(Err(error)),
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

impl Departing {
    /// Sends what `ask` asks at once.
    pub(crate) fn at_once(ask: impl FnOnce(&mut Self)) {
        let mut departing = Self::default();
        ask(&mut departing);
        departing.send();
    }

    /// Lets a question leave with others to its server; gives it back when there are none, or one of them has its ID.
    fn join(&mut self, server: SocketAddr, question: Question) -> Result<(), Question> {
        let Some(Departure { port, messages, ids }) =
            self.0.iter_mut().rfind(|departure| departure.port.server == server)
        else {
            return Err(question);
        };
        let (begin, id) = (messages.room().len(), question.asked.id());
        messages.room().extend_from_slice(&question.asked.message);
        if let Err(question) = port.enter(question) {
            messages.room().truncate(begin);
            return Err(question);
        }
        messages.add(begin, None);
        ids.push(id);
        Ok(())
    }

    /// A question that waits on `port` leaves with those that follow.
    fn open(&mut self, port: Arc<Port>, message: &[u8], id: u16) {
        let mut messages = Outgoing::default();
        messages.room().extend_from_slice(message);
        messages.add(0, None);
        self.0.push(Departure { port, messages, ids: vec![id] });
    }

    /// Sends all. Who asked what cannot be sent is told.
    pub(crate) fn send(&mut self) {
        for Departure { port, mut messages, ids } in self.0.drain(..) {
            messages.send(port.socket.as_fd(), |at, error| {
                if let Some(question) = port.leave(ids[at]) {
                    question.tell(Err(error.into()));
                }
            });
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
        Ok(Self { server, socket, opened_at: Instant::now(), waiting, left: Notify::new() })
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
            // (tokio's `try_io` takes one interest at a time.)
            let seen = self
                .socket
                .try_io(Interest::ERROR, || io::Result::<()>::Err(io::ErrorKind::WouldBlock.into()));
            drop(seen);
            // What an ICMP message says holds for all who wait for this server.
            if let Ok(Some(error)) = self.socket.take_error() {
                self.fail(&error);
            }
        }
        INCOMING.with_borrow_mut(|incoming| {
            // It is judged before tokio may take a datagram that comes now for one that was taken.
            let take = |incoming: &mut Incoming| {
                self.socket.try_io(Interest::READABLE, || self.take_some(incoming, counters))
            };
            loop {
                match take(incoming) {
                    Ok(()) => {}
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                    Err(error) => return self.fail(&error),
                }
            }
        });
    }

    /// Takes what is waited for. `WouldBlock` when that was all: what comes later wakes anew.
    fn take_some(&self, incoming: &mut Incoming, counters: &Counters) -> io::Result<()> {
        // One is taken though nobody waits, so that it is gone.
        let most = self.waiting().max(1);
        let taken = incoming.take(self.socket.as_fd(), most)?;
        incoming.datagrams().for_each(|(datagram, _)| self.take(datagram.octets, counters));
        // Nobody waits for more: the system call that would say that nothing is there is spared.
        let all = taken < most.min(BATCH) || self.waiting() == 0;
        if all { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(()) }
    }

    fn waiting(&self) -> usize {
        lock(&self.waiting).as_ref().map_or(0, HashMap::len)
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

#[cfg(test)]
mod tests {
    use std::net::UdpSocket as Blocking;
    use std::sync::mpsc::{Receiver, channel};

    use tokio::time::timeout;

    use super::super::question::{Outstanding, Question as What};
    use super::*;

    fn server() -> (Blocking, UdpClient) {
        let server = Blocking::bind("127.0.0.1:0").unwrap();
        server.set_nonblocking(true).unwrap();
        let client = UdpClient::new(server.local_addr().unwrap());
        (server, client)
    }

    fn what() -> What {
        let name = b"\x03www\x07example\x04test\x00"[..].into();
        What { name, record_type: 1, dnssec_ok: false, checking_disabled: false }
    }

    /// What is heard of a question, and how.
    fn told(heard: &Receiver<Result<Vec<u8>, String>>) -> Result<Vec<u8>, String> {
        heard.recv_timeout(Duration::from_secs(5)).unwrap()
    }

    fn begin(
        client: &UdpClient,
        asked: Asked,
        departing: &mut Departing,
    ) -> Receiver<Result<Vec<u8>, String>> {
        let (tell, heard) = channel();
        let told: Told = Box::new(move |what| {
            let what = match what {
                Heard::Answer(octets) => Ok(octets.to_vec()),
                Heard::Failed(error) => Err(error.to_string()),
                Heard::Slow(_) => Err("slow".into()),
                Heard::Never => Err("never".into()),
            };
            tell.send(what).unwrap();
        });
        client.begin(asked, told, &Arc::default(), departing);
        heard
    }

    /// The questions that have come, and from where.
    fn questions(server: &Blocking) -> Vec<(Vec<u8>, SocketAddr)> {
        let mut buffer = [0; 512];
        std::iter::from_fn(|| {
            server.recv_from(&mut buffer).ok().map(|(length, from)| (buffer[..length].to_vec(), from))
        })
        .collect()
    }

    fn answer(server: &Blocking, (question, from): &(Vec<u8>, SocketAddr)) -> Vec<u8> {
        let mut answer = question.clone();
        answer[2] |= 0x80;
        server.send_to(&answer, from).unwrap();
        answer
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
    async fn questions_of_one_moment_leave_by_one_port_and_each_gets_its_answer() {
        let ((server, client), outstanding) = (server(), Outstanding::default());
        let mut departing = Departing::default();
        // More than one system call takes. None has the ID of another, for which it would need a port of its own.
        let mut ids = std::collections::HashSet::new();
        let asked =
            std::iter::repeat_with(|| what().ask(&outstanding)).filter(|asked| ids.insert(asked.id()));
        let heard: Vec<_> =
            asked.take(BATCH + 8).map(|asked| begin(&client, asked, &mut departing)).collect();
        assert!(questions(&server).is_empty(), "others may join");
        departing.send();
        let questions = questions(&server);
        assert_eq!(questions.len(), heard.len());
        assert!(questions.iter().all(|(_, from)| from == &questions[0].1));
        // In another order than they came.
        let answers: Vec<_> = questions.iter().rev().map(|question| answer(&server, question)).collect();
        for (heard, answer) in heard.iter().zip(answers.iter().rev()) {
            assert_eq!(told(heard).as_ref(), Ok(answer));
        }
        departing.send();
        assert!(self::questions(&server).is_empty(), "each is sent once");
    }

    // A9: who hears an answer by a port knows by its ID whose it is
    #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
    async fn one_with_the_id_of_another_leaves_by_another_port() {
        let ((server, client), outstanding) = (server(), Outstanding::default());
        let mut departing = Departing::default();
        let first = what().ask(&outstanding);
        let same = std::iter::repeat_with(|| what().ask(&outstanding)).find(|asked| asked.id() == first.id());
        let heard = [first, same.unwrap()].map(|asked| begin(&client, asked, &mut departing));
        departing.send();
        let questions = questions(&server);
        assert_eq!(questions.len(), 2);
        assert_ne!(questions[0].1, questions[1].1);
        for (heard, question) in heard.iter().zip(&questions) {
            let answer = answer(&server, question);
            assert_eq!(told(heard), Ok(answer));
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
    async fn who_cannot_be_sent_is_told_and_holds_up_nobody() {
        let ((server, client), outstanding) = (server(), Outstanding::default());
        let mut departing = Departing::default();
        let mut asked = [(); 3].map(|()| what().ask(&outstanding));
        asked[1].message.resize(1 << 16, 0);
        let heard = asked.map(|asked| begin(&client, asked, &mut departing));
        departing.send();
        assert!(told(&heard[1]).is_err_and(|error| error != "slow"));
        let questions = questions(&server);
        assert_eq!(questions.len(), 2);
        for (heard, question) in [&heard[0], &heard[2]].into_iter().zip(&questions) {
            let answer = answer(&server, question);
            assert_eq!(told(heard), Ok(answer));
        }
    }

    #[tokio::test]
    async fn an_answer_that_no_buffer_holds_is_heard_as_its_beginning() {
        let ((server, client), outstanding) = (server(), Outstanding::default());
        let counters = Arc::default();
        let asking = client.ask(what().ask(&outstanding), &counters);
        let answering = async {
            loop {
                tokio::task::yield_now().await;
                if let Some((mut question, from)) = questions(&server).pop() {
                    question[2] |= 0x80;
                    question.resize(LARGEST_DATAGRAM + 1, 0);
                    return server.send_to(&question, from).unwrap();
                }
            }
        };
        let both = async { tokio::join!(asking, answering) };
        let (heard, _) = timeout(Duration::from_secs(5), both).await.unwrap();
        assert_eq!(heard.unwrap().len(), LARGEST_DATAGRAM);
    }
}
