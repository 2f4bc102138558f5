//! DNS over UDP: datagrams are taken and answered in batches; questions that wait are answered when they are ready.

use std::{
    io,
    net::{SocketAddr, UdpSocket},
    os::fd::{AsFd, AsRawFd},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use nix::{
    errno::Errno,
    sys::socket::{ControlMessage, MsgFlags, SockaddrStorage, sendmsg, setsockopt, sockopt},
};
use tokio::{io::Interest, sync::Notify};

use super::{
    Meaning, Server, Stop,
    asking::Client,
    inquiry::{Inquiry, fit},
};
use crate::{
    counters::Counters,
    datagrams::{BATCH, From, Incoming, Outgoing, Path},
    upstream::Departing,
    wire::PLAIN_UDP_OCTETS,
};

/// The longest query that is read, in octets: longer ones are none (EDNS options are short).
const LONGEST_QUERY: usize = 33 * 64;
/// Batches taken at the end: more than a receive buffer holds.
const AT_THE_END: usize = 1_024;
/// Octets of queries that may wait, where the system allows that much: those of one moment of all workloads.
const WAITING_OCTETS: usize = 4 << 20;
/// Batches after which other sockets have their turn.
const IN_A_ROW: usize = 16;

/// A UDP socket and what its queries mean.
pub(super) struct Listener {
    server: Server,
    socket: Arc<Socket>,
    meaning: Meaning,
}

/// A socket that answers from the address that was asked.
pub(super) struct Socket {
    udp: tokio::net::UdpSocket,
    /// Bound to all addresses: the kernel has to say which one was meant, and be told again.
    wildcard: bool,
    /// Answers to questions that waited; none are kept once nobody listens any more.
    ready: Mutex<Option<Outgoing>>,
    /// There are such.
    filled: Notify,
}

/// What came at one moment, and what leaves for it.
struct Batch {
    incoming: Incoming,
    out: Outgoing,
    departing: Departing,
}

impl Batch {
    fn new(wildcard: bool) -> Self {
        let incoming = Incoming::new(LONGEST_QUERY, wildcard);
        Self { incoming, out: Outgoing::new(), departing: Departing::default() }
    }
}

impl Listener {
    pub(super) fn new(server: Server, socket: UdpSocket, meaning: Meaning) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        // More than the system allows everybody is for root only.
        if setsockopt(&socket, sockopt::RcvBufForce, &WAITING_OCTETS).is_err() {
            setsockopt(&socket, sockopt::RcvBuf, &WAITING_OCTETS)?;
        }
        let wildcard = meaning.local.ip().is_unspecified();
        if wildcard && meaning.local.is_ipv4() {
            setsockopt(&socket, sockopt::Ipv4PacketInfo, &true)?;
        } else if wildcard {
            setsockopt(&socket, sockopt::Ipv6RecvPacketInfo, &true)?;
        }
        let udp = tokio::net::UdpSocket::from_std(socket)?;
        Ok(Self { server, socket: Arc::new(Socket::new(udp, wildcard)), meaning })
    }

    /// Serves until it shall stop, and then what has arrived already: if this was the last holder of the socket, it would
    /// go with it.
    pub(super) async fn run(self, mut stop: Stop) {
        let mut batch = Batch::new(self.socket.wildcard);
        loop {
            let udp = &self.socket.udp;
            let readable = tokio::select! {
                () = self.socket.filled.notified() => {
                    // Whoever hears an upstream now has more.
                    tokio::task::yield_now().await;
                    self.socket.send_ready(&self.server.0.counters);
                    continue;
                }
                readable = udp.readable() => readable,
                _ = &mut stop => break,
            };
            if let Err(error) = readable {
                return tracing::error!(%error, local = %self.meaning.local, "a DNS socket is lost");
            }
            for _ in 0..IN_A_ROW {
                match udp.try_io(Interest::READABLE, || self.take_batch(&mut batch)) {
                    Ok(()) => {}
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                    // An ICMP error about an earlier answer; nobody waits for it.
                    Err(error) => tracing::debug!(%error, local = %self.meaning.local, "DNS socket"),
                }
            }
            tokio::task::yield_now().await;
        }
        for _ in 0..AT_THE_END {
            match self.take_batch(&mut batch) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Ok(()) | Err(_) => tokio::task::yield_now().await,
            }
        }
        self.socket.keep_no_more(&self.server.0.counters);
    }

    /// Takes what is there, up to a batch. `WouldBlock` when that was all: what comes later wakes anew.
    fn take_batch(&self, batch: &mut Batch) -> io::Result<()> {
        let Batch { incoming, out, departing } = batch;
        let count = incoming.take(self.socket.udp.as_fd(), BATCH)?;
        let now = Instant::now();
        for (datagram, path) in incoming.datagrams() {
            if !datagram.whole {
                self.server.0.counters.too_long();
                continue;
            }
            if let Some(client) = self.take(datagram.octets, path, now, out) {
                self.server.answer_later(client, departing);
            }
        }
        departing.send();
        self.socket.send_all(&self.server.0.counters, out);
        if count < BATCH { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(()) }
    }

    /// Returns who has to wait.
    fn take(&self, message: &[u8], path: Path, now: Instant, out: &mut Outgoing) -> Option<Client> {
        let peer = socket_address(&path.to)?;
        let begin = out.room().len();
        match self.server.inquire(message, peer.ip(), self.meaning, now, out.room()) {
            Inquiry::Answered => {
                // No client takes less, so most queries need not be read again.
                if out.room().len() - begin > PLAIN_UDP_OCTETS.into() {
                    fit(&self.server, message, begin, out.room());
                }
                self.answer(begin, path, out);
                None
            }
            // Whatever was begun is no part of the answer before it.
            Inquiry::Silence => {
                out.room().truncate(begin);
                None
            }
            Inquiry::Waiting(waiting) => {
                out.room().truncate(begin);
                Some(Client { waiting, socket: Arc::clone(&self.socket), path })
            }
        }
    }

    /// Sends the answer with others, unless it has to leave from an address of its own.
    fn answer(&self, begin: usize, path: Path, out: &mut Outgoing) {
        if let From::V4(_) | From::V6(_) = path.from {
            if self.socket.send(&out.room()[begin..], path).is_err() {
                self.server.0.counters.unsent.count();
            }
            return out.room().truncate(begin);
        }
        out.add(begin, Some(path.to));
        if out.is_full() {
            self.socket.send_all(&self.server.0.counters, out);
        }
    }
}

impl Socket {
    fn new(udp: tokio::net::UdpSocket, wildcard: bool) -> Self {
        Self { udp, wildcard, ready: Mutex::new(Some(Outgoing::new())), filled: Notify::new() }
    }

    /// Sends an answer to a question that waited, with others that are ready now. Waits for nobody.
    pub(super) fn hand_out(&self, counters: &Counters, answer: &[u8], path: Path) {
        if let From::Bound = path.from
            && let Some(ready) = self.ready().as_mut()
        {
            let begin = ready.room().len();
            ready.room().extend_from_slice(answer);
            ready.add(begin, Some(path.to));
            if ready.is_full() {
                self.send_all(counters, ready);
            } else if begin == 0 {
                self.filled.notify_one();
            }
        } else if self.send(answer, path).is_err() {
            counters.unsent.count();
        }
    }

    fn send_ready(&self, counters: &Counters) {
        if let Some(ready) = self.ready().as_mut() {
            self.send_all(counters, ready);
        }
    }

    /// What is ready is sent, and what will be is sent when it is.
    fn keep_no_more(&self, counters: &Counters) {
        if let Some(mut ready) = self.ready().take() {
            self.send_all(counters, &mut ready);
        }
    }

    /// A full buffer is a client that asks again, not a socket that waits.
    fn send_all(&self, counters: &Counters, out: &mut Outgoing) {
        out.send(self.udp.as_fd(), |_, _| counters.unsent.count());
    }

    fn ready(&self) -> MutexGuard<'_, Option<Outgoing>> {
        self.ready.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn send(&self, answer: &[u8], path: Path) -> io::Result<()> {
        let slices = [io::IoSlice::new(answer)];
        let from: &[ControlMessage<'_>] = match &path.from {
            From::Bound => &[],
            From::V4(info) => &[ControlMessage::Ipv4PacketInfo(info)],
            From::V6(info) => &[ControlMessage::Ipv6PacketInfo(info)],
        };
        let send = || sendmsg(self.udp.as_raw_fd(), &slices, from, MsgFlags::MSG_DONTWAIT, Some(&path.to));
        match send() {
            // What is reported is an error about an earlier datagram to somebody else.
            Err(Errno::ECONNREFUSED) => send().map(drop).map_err(Into::into),
            sent => sent.map(drop).map_err(Into::into),
        }
    }
}

fn socket_address(address: &SockaddrStorage) -> Option<SocketAddr> {
    if let Some(v4) = address.as_sockaddr_in() {
        return Some(SocketAddr::from((v4.ip(), v4.port())));
    }
    address.as_sockaddr_in6().map(|v6| SocketAddr::from((v6.ip(), v6.port())))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn receive(client: &UdpSocket) -> io::Result<Vec<u8>> {
        let mut buffer = [0; 64];
        client.recv(&mut buffer).map(|length| buffer[..length].to_vec())
    }

    #[tokio::test]
    async fn answers_that_are_ready_leave_together_and_none_stays_behind() {
        let udp = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let client = UdpSocket::bind("127.0.0.1:0").unwrap();
        client.set_nonblocking(true).unwrap();
        let path = Path { to: SockaddrStorage::from(client.local_addr().unwrap()), from: From::Bound };
        let (socket, counters) = (Socket::new(udp, false), Counters::default());
        socket.hand_out(&counters, b"one", path);
        socket.hand_out(&counters, b"two", path);
        assert!(receive(&client).is_err(), "somebody may have more");
        // Once said, however many there are.
        tokio::time::timeout(Duration::from_secs(5), socket.filled.notified()).await.unwrap();
        socket.send_ready(&counters);
        assert_eq!([receive(&client).unwrap(), receive(&client).unwrap()], [b"one", b"two"]);
        // A batch that is full does not wait.
        (0..BATCH).for_each(|_| socket.hand_out(&counters, b"many", path));
        (0..BATCH).for_each(|_| assert_eq!(receive(&client).unwrap(), b"many"));
        // Nobody will send what is kept any more.
        socket.hand_out(&counters, b"last", path);
        socket.keep_no_more(&counters);
        assert_eq!(receive(&client).unwrap(), b"last");
        socket.hand_out(&counters, b"late", path);
        assert_eq!(receive(&client).unwrap(), b"late");
        assert_eq!(counters.unsent.value(), 0);
    }
}
