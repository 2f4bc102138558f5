//! DNS over UDP: datagrams are taken and answered in batches; questions that wait are answered when they are ready.

use std::{
    io::{self, IoSliceMut},
    net::{SocketAddr, UdpSocket},
    os::fd::{AsFd, AsRawFd},
    sync::Arc,
};

use nix::{
    cmsg_space,
    errno::Errno,
    libc,
    sys::socket::{
        ControlMessage, ControlMessageOwned, MsgFlags, MultiHeaders, SockaddrStorage, recvmmsg, sendmsg,
        setsockopt, sockopt,
    },
};
use tokio::io::Interest;

use super::{
    Meaning, Server, Stop,
    inquiry::{Inquiry, Waiting, fit},
    udp_batch::{BATCH, Outgoing},
};
use crate::wire::PLAIN_UDP_OCTETS;

/// The longest query that is read: longer ones are none (EDNS options are short).
const LONGEST_QUERY: usize = 2_048;
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
struct Socket {
    udp: tokio::net::UdpSocket,
    /// Bound to all addresses: the kernel has to say which one was meant, and be told again.
    wildcard: bool,
}

/// Where an answer goes, and from where.
#[derive(Clone, Copy)]
struct Path {
    to: SockaddrStorage,
    from: From,
}

#[derive(Clone, Copy)]
enum From {
    Bound,
    V4(libc::in_pktinfo),
    V6(libc::in6_pktinfo),
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
        let (mut buffer, mut out) = (vec![0; BATCH * LONGEST_QUERY], Outgoing::new());
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
                match udp.try_io(Interest::READABLE, || self.take_batch(&mut buffer, &mut out)) {
                    Ok(()) => {}
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                    // An ICMP error about an earlier answer; nobody waits for it.
                    Err(error) => tracing::debug!(%error, local = %self.meaning.local, "DNS socket"),
                }
            }
            tokio::task::yield_now().await;
        }
        for _ in 0..AT_THE_END {
            match self.take_batch(&mut buffer, &mut out) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Ok(()) | Err(_) => tokio::task::yield_now().await,
            }
        }
    }

    /// Takes what is there, up to a batch. `WouldBlock` when nothing is.
    fn take_batch(&self, buffer: &mut [u8], out: &mut Outgoing) -> io::Result<()> {
        let control = self.socket.wildcard.then(|| cmsg_space!(libc::in_pktinfo, libc::in6_pktinfo));
        let mut headers = MultiHeaders::<SockaddrStorage>::preallocate(BATCH, control);
        let mut slices: Vec<[IoSliceMut<'_>; 1]> =
            buffer.chunks_mut(LONGEST_QUERY).map(|chunk| [IoSliceMut::new(chunk)]).collect();
        let fd = self.socket.udp.as_raw_fd();
        let received = recvmmsg(fd, &mut headers, slices.iter_mut(), MsgFlags::MSG_DONTWAIT, None)?;
        for datagram in received {
            let Some(to) = datagram.address else { continue };
            let from = if self.socket.wildcard { asked_at(datagram.cmsgs()) } else { From::Bound };
            let whole = !datagram.flags.contains(MsgFlags::MSG_TRUNC);
            if let (Some(message), true) = (datagram.iovs().next(), whole) {
                self.take(message, Path { to, from }, out);
            }
        }
        self.send(out);
        Ok(())
    }

    fn take(&self, message: &[u8], path: Path, out: &mut Outgoing) {
        let Some(peer) = socket_address(&path.to) else { return };
        let begin = out.room().len();
        match self.server.inquire(message, peer.ip(), self.meaning, out.room()) {
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
                self.answer_later(waiting, path);
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

    fn answer_later(&self, waiting: Box<Waiting>, path: Path) {
        let (server, socket) = (self.server.clone(), self.socket.clone());
        tokio::spawn(async move {
            let mut answer = server.resolve(&waiting).await;
            fit(&server, &waiting.message, 0, &mut answer);
            socket.send_when_possible(&server, &answer, path).await;
        });
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

    async fn send_when_possible(&self, server: &Server, answer: &[u8], path: Path) {
        let sent = self.udp.async_io(Interest::WRITABLE, || self.send(answer, path)).await;
        if let Err(error) = sent {
            server.0.counters.unsent.count();
            tracing::debug!(%error, "an answer could not be sent");
        }
    }
}

/// The address that a datagram was sent to, as the source of its answer.
fn asked_at(control: nix::Result<nix::sys::socket::CmsgIterator<'_>>) -> From {
    let Ok(messages) = control else { return From::Bound };
    for message in messages {
        match message {
            ControlMessageOwned::Ipv4PacketInfo(info) => {
                let source =
                    libc::in_pktinfo { ipi_ifindex: 0, ipi_spec_dst: info.ipi_addr, ipi_addr: info.ipi_addr };
                return From::V4(source);
            }
            ControlMessageOwned::Ipv6PacketInfo(info) => return From::V6(info),
            _ => {}
        }
    }
    From::Bound
}

fn socket_address(address: &SockaddrStorage) -> Option<SocketAddr> {
    if let Some(v4) = address.as_sockaddr_in() {
        return Some(SocketAddr::from((v4.ip(), v4.port())));
    }
    address.as_sockaddr_in6().map(|v6| SocketAddr::from((v6.ip(), v6.port())))
}
