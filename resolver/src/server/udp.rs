//! DNS over UDP: datagrams are taken and answered in batches; questions that wait are answered when they are ready.

use std::{
    io,
    net::{SocketAddr, UdpSocket},
    os::fd::{AsFd, AsRawFd},
    sync::Arc,
    time::Instant,
};

use nix::{
    errno::Errno,
    sys::socket::{ControlMessage, MsgFlags, SockaddrStorage, sendmsg, setsockopt, sockopt},
};
use tokio::io::Interest;

use super::{
    Meaning, Server, Stop,
    asking::Client,
    inquiry::{Inquiry, fit},
    udp_batch::{BATCH, From, Incoming, Outgoing, Path},
};
use crate::wire::PLAIN_UDP_OCTETS;

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
        Ok(Self { server, socket: Arc::new(Socket { udp, wildcard }), meaning })
    }

    /// Serves until it shall stop, and then what has arrived already: if this was the last holder of the socket, it would
    /// go with it.
    pub(super) async fn run(self, mut stop: Stop) {
        let (mut incoming, mut out) = (Incoming::new(self.socket.wildcard), Outgoing::new());
        loop {
            let udp = &self.socket.udp;
            let readable = tokio::select! {
                readable = udp.readable() => readable,
                _ = &mut stop => break,
            };
            if let Err(error) = readable {
                return tracing::error!(%error, local = %self.meaning.local, "a DNS socket is lost");
            }
            for _ in 0..IN_A_ROW {
                match udp.try_io(Interest::READABLE, || self.take_batch(&mut incoming, &mut out)) {
                    Ok(()) => {}
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                    // An ICMP error about an earlier answer; nobody waits for it.
                    Err(error) => tracing::debug!(%error, local = %self.meaning.local, "DNS socket"),
                }
            }
            tokio::task::yield_now().await;
        }
        for _ in 0..AT_THE_END {
            match self.take_batch(&mut incoming, &mut out) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Ok(()) | Err(_) => tokio::task::yield_now().await,
            }
        }
    }

    /// Takes what is there, up to a batch. `WouldBlock` when that was all: what comes later wakes anew.
    fn take_batch(&self, incoming: &mut Incoming, out: &mut Outgoing) -> io::Result<()> {
        let count = incoming.take(self.socket.udp.as_fd())?;
        let now = Instant::now();
        for (message, path) in incoming.datagrams() {
            match message {
                Some(message) => self.take(message, path, now, out),
                None => self.server.0.counters.too_long(),
            }
        }
        self.send(out);
        if count < BATCH { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(()) }
    }

    fn take(&self, message: &[u8], path: Path, now: Instant, out: &mut Outgoing) {
        let Some(peer) = socket_address(&path.to) else { return };
        let begin = out.room().len();
        match self.server.inquire(message, peer.ip(), self.meaning, now, out.room()) {
            Inquiry::Answered => {
                // No client takes less, so most queries need not be read again.
                if out.room().len() - begin > PLAIN_UDP_OCTETS.into() {
                    fit(&self.server, message, begin, out.room());
                }
                self.answer(begin, path, out);
            }
            // Whatever was begun is no part of the answer before it.
            Inquiry::Silence => out.room().truncate(begin),
            Inquiry::Waiting(waiting) => {
                out.room().truncate(begin);
                self.server.answer_later(Client { waiting, socket: Arc::clone(&self.socket), path });
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
        out.add(begin, path.to);
        if out.is_full() {
            self.send(out);
        }
    }

    /// A full buffer is a client that asks again, not a socket that waits.
    fn send(&self, out: &mut Outgoing) {
        let unsent = out.send(self.socket.udp.as_fd());
        self.server.0.counters.unsent.add(u64::try_from(unsent).unwrap_or(u64::MAX));
    }
}

impl Socket {
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

    pub(super) async fn send_when_possible(&self, server: &Server, answer: &[u8], path: Path) {
        let sent = self.udp.async_io(Interest::WRITABLE, || self.send(answer, path)).await;
        if let Err(error) = sent {
            server.0.counters.unsent.count();
            tracing::debug!(%error, "an answer could not be sent");
        }
    }
}

fn socket_address(address: &SockaddrStorage) -> Option<SocketAddr> {
    if let Some(v4) = address.as_sockaddr_in() {
        return Some(SocketAddr::from((v4.ip(), v4.port())));
    }
    address.as_sockaddr_in6().map(|v6| SocketAddr::from((v6.ip(), v6.port())))
}
