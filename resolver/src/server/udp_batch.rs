//! Datagrams by the batch: one system call takes what has arrived, one sends the answers.
//!
//! All room is made once. What is sent is never waited for: a full buffer is a client that asks again.
#![allow(
    unsafe_code,
    reason = "nix's recvmmsg allocates for each batch, and its sendmmsg does not tell that a part was sent"
)]

use std::{
    mem,
    net::{Ipv4Addr, SocketAddr},
    os::fd::{AsRawFd, BorrowedFd},
    ptr,
};

use nix::{errno::Errno, libc, sys::socket::SockaddrStorage};

/// Datagrams that one system call takes or sends.
pub(super) const BATCH: usize = 64;
/// The longest query that is read: longer ones are none (EDNS options are short). An odd number of cache lines, so that the
/// beginnings of a batch do not crowd into a few sets of a cache.
const LONGEST_QUERY: usize = 33 * 64;
/// CMSG_SPACE of `in6_pktinfo`, aligned for its header, and some.
type Control = [u64; 8];

/// Where an answer goes, and from where.
#[derive(Clone, Copy)]
pub(super) struct Path {
    pub(super) to: SockaddrStorage,
    pub(super) from: From,
}

/// The source of an answer.
#[derive(Clone, Copy)]
pub(super) enum From {
    /// What the socket is bound to.
    Bound,
    V4(libc::in_pktinfo),
    V6(libc::in6_pktinfo),
}

/// Room for a batch of queries.
pub(super) struct Incoming {
    octets: Vec<u8>,
    peers: Vec<SockaddrStorage>,
    controls: Vec<Control>,
    taken: Vec<Taken>,
    wildcard: bool,
}

struct Taken {
    octets: usize,
    whole: bool,
    from: From,
}

impl Incoming {
    /// `wildcard`: the socket is bound to all addresses, and the kernel says which one was meant.
    pub(super) fn new(wildcard: bool) -> Self {
        let nobody = SockaddrStorage::from(SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)));
        Self {
            octets: vec![0; BATCH * LONGEST_QUERY],
            peers: vec![nobody; BATCH],
            controls: vec![Control::default(); BATCH],
            taken: Vec::with_capacity(BATCH),
            wildcard,
        }
    }

    /// Takes what is there, up to a batch, and returns how many datagrams that are.
    pub(super) fn take(&mut self, socket: BorrowedFd<'_>) -> nix::Result<usize> {
        // SAFETY: zeroes are valid for these plain structures.
        let mut headers: [libc::mmsghdr; BATCH] = unsafe { mem::zeroed() };
        // SAFETY: as above.
        let mut parts: [libc::iovec; BATCH] = unsafe { mem::zeroed() };
        for (at, octets) in self.octets.chunks_exact_mut(LONGEST_QUERY).enumerate() {
            parts[at] = libc::iovec { iov_base: octets.as_mut_ptr().cast(), iov_len: octets.len() };
            let header = &mut headers[at].msg_hdr;
            header.msg_name = ptr::from_mut(&mut self.peers[at]).cast();
            header.msg_namelen = size_of::<SockaddrStorage>() as u32;
            header.msg_iov = &raw mut parts[at];
            header.msg_iovlen = 1;
            if self.wildcard {
                header.msg_control = self.controls[at].as_mut_ptr().cast();
                header.msg_controllen = size_of::<Control>();
            }
        }
        let (fd, most, flags) = (socket.as_raw_fd(), BATCH as u32, libc::MSG_DONTWAIT);
        // SAFETY: all headers are filled; the room that they point to lives until the call returns.
        let count = unsafe { libc::recvmmsg(fd, headers.as_mut_ptr(), most, flags, ptr::null_mut()) };
        let count = usize::try_from(count).map_err(|_| Errno::last())?;
        self.taken.clear();
        self.taken.extend(headers[..count].iter().map(|header| Taken {
            octets: header.msg_len as usize,
            whole: header.msg_hdr.msg_flags & libc::MSG_TRUNC == 0,
            from: if self.wildcard { asked_at(&header.msg_hdr) } else { From::Bound },
        }));
        Ok(count)
    }

    /// The datagrams that were taken last, and where their answers go. Nothing of one that is too long to be a query.
    pub(super) fn datagrams(&self) -> impl Iterator<Item = (Option<&[u8]>, Path)> {
        let rooms = self.octets.chunks_exact(LONGEST_QUERY).zip(&self.peers);
        self.taken.iter().zip(rooms).map(|(taken, (room, to))| {
            let octets = room.get(..taken.octets).filter(|_| taken.whole);
            (octets, Path { to: *to, from: taken.from })
        })
    }
}

/// The address that a datagram was sent to, as the source of its answer.
fn asked_at(header: &libc::msghdr) -> From {
    // SAFETY: the kernel has filled the control buffer, which still lives, and said how much of it.
    let Some(control) = (unsafe { libc::CMSG_FIRSTHDR(header).as_ref() }) else { return From::Bound };
    // SAFETY: the data behind this header is within the same buffer.
    let data = unsafe { libc::CMSG_DATA(control) };
    match (control.cmsg_level, control.cmsg_type) {
        (libc::IPPROTO_IP, libc::IP_PKTINFO) => {
            // SAFETY: data of this type is an in_pktinfo (ip(7)).
            let info = unsafe { data.cast::<libc::in_pktinfo>().read_unaligned() };
            From::V4(libc::in_pktinfo {
                ipi_ifindex: 0,
                ipi_spec_dst: info.ipi_addr,
                ipi_addr: info.ipi_addr,
            })
        }
        (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) => {
            // SAFETY: data of this type is an in6_pktinfo (ipv6(7)).
            From::V6(unsafe { data.cast::<libc::in6_pktinfo>().read_unaligned() })
        }
        _ => From::Bound,
    }
}

/// Answers that wait to be sent together, to whom.
pub(super) struct Outgoing {
    octets: Vec<u8>,
    answers: Vec<Answer>,
}

struct Answer {
    from: usize,
    to: SockaddrStorage,
}

impl Outgoing {
    pub(super) fn new() -> Self {
        Self { octets: Vec::with_capacity(BATCH * 512), answers: Vec::with_capacity(BATCH) }
    }

    /// Where the next answer is written to, behind those that are there.
    pub(super) fn room(&mut self) -> &mut Vec<u8> {
        &mut self.octets
    }

    /// What was written from here on is an answer.
    pub(super) fn add(&mut self, from: usize, to: SockaddrStorage) {
        self.answers.push(Answer { from, to });
    }

    pub(super) fn is_full(&self) -> bool {
        self.answers.len() >= BATCH
    }

    /// Sends all, and returns how many could not be.
    pub(super) fn send(&mut self, socket: BorrowedFd<'_>) -> usize {
        let (mut unsent, mut at) = (0, 0);
        while at < self.answers.len() {
            match self.send_some(socket, at) {
                Ok(sent) => at += sent,
                // What is reported is an error about an earlier datagram to somebody else; it is reported once.
                Err(Errno::ECONNREFUSED | Errno::EINTR) => {}
                Err(_) => {
                    unsent += 1;
                    at += 1;
                }
            }
        }
        self.answers.clear();
        self.octets.clear();
        unsent
    }

    fn send_some(&mut self, socket: BorrowedFd<'_>, begin: usize) -> nix::Result<usize> {
        let count = (self.answers.len() - begin).min(BATCH);
        // SAFETY: zeroes are valid for these plain structures.
        let mut headers: [libc::mmsghdr; BATCH] = unsafe { mem::zeroed() };
        // SAFETY: as above.
        let mut parts: [libc::iovec; BATCH] = unsafe { mem::zeroed() };
        for place in 0..count {
            let answer = &self.answers[begin + place];
            let next = self.answers.get(begin + place + 1);
            let octets = &self.octets[answer.from..next.map_or(self.octets.len(), |next| next.from)];
            // The kernel reads through these pointers only.
            parts[place] = libc::iovec { iov_base: octets.as_ptr().cast_mut().cast(), iov_len: octets.len() };
            let header = &mut headers[place].msg_hdr;
            header.msg_name = ptr::from_ref(&answer.to).cast_mut().cast();
            header.msg_namelen = nix::sys::socket::SockaddrLike::len(&answer.to);
            header.msg_iov = &raw mut parts[place];
            header.msg_iovlen = 1;
        }
        // SAFETY: `count` headers are filled; addresses, parts and octets they point to live until the call returns.
        let sent = unsafe {
            libc::sendmmsg(socket.as_raw_fd(), headers.as_mut_ptr(), count as u32, libc::MSG_DONTWAIT)
        };
        usize::try_from(sent).map_err(|_| Errno::last())
    }
}

#[cfg(test)]
mod tests {
    use std::{net::UdpSocket, os::fd::AsFd, time::Duration};

    use nix::sys::socket::{setsockopt, sockopt};

    use super::*;

    fn address_of(socket: &UdpSocket) -> SockaddrStorage {
        SockaddrStorage::from(socket.local_addr().unwrap())
    }

    #[test]
    fn each_answer_goes_to_whom_it_is_for() {
        let sockets: Vec<_> = (0..3).map(|_| UdpSocket::bind("127.0.0.1:0").unwrap()).collect();
        let sender = UdpSocket::bind("127.0.0.1:0").unwrap();
        let mut out = Outgoing::new();
        // More than one call sends, of different lengths.
        for number in 0..BATCH + 8 {
            let begin = out.room().len();
            out.room().extend(vec![number as u8; 1 + number % 7]);
            out.add(begin, address_of(&sockets[number % 3]));
        }
        assert!(out.is_full());
        assert_eq!(out.send(sender.as_fd()), 0);
        assert!(!out.is_full() && out.room().is_empty());
        let mut buffer = [0; 64];
        for number in 0..BATCH + 8 {
            let socket = &sockets[number % 3];
            socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
            let length = socket.recv(&mut buffer).unwrap();
            assert_eq!(buffer[..length], vec![number as u8; 1 + number % 7], "answer {number}");
        }
    }

    #[test]
    fn datagrams_are_taken_by_the_batch_with_whom_and_what_they_meant() {
        let server = UdpSocket::bind("0.0.0.0:0").unwrap();
        setsockopt(&server, sockopt::Ipv4PacketInfo, &true).unwrap();
        let client = UdpSocket::bind("127.0.0.2:0").unwrap();
        client.connect(("127.0.0.3", server.local_addr().unwrap().port())).unwrap();
        // More than a batch, of different lengths.
        for number in 0..BATCH + 3 {
            client.send(&vec![number as u8; number]).unwrap();
        }
        client.send(&vec![0; LONGEST_QUERY + 1]).unwrap();
        let (mut incoming, mut seen) = (Incoming::new(true), 0);
        for expected in [BATCH, 4] {
            assert_eq!(incoming.take(server.as_fd()), Ok(expected));
            for (octets, path) in incoming.datagrams() {
                let whole = vec![seen as u8; seen];
                assert_eq!(octets, (seen < BATCH + 3).then_some(&whole[..]), "datagram {seen}");
                assert_eq!(path.to, address_of(&client));
                let From::V4(info) = path.from else { panic!("no address") };
                assert_eq!(info.ipi_spec_dst.s_addr, u32::from_ne_bytes([127, 0, 0, 3]));
                seen += 1;
            }
        }
        assert_eq!(incoming.take(server.as_fd()), Err(Errno::EAGAIN));
    }

    #[test]
    fn what_cannot_be_sent_is_counted_and_holds_up_nothing() {
        let (sender, receiver) =
            (UdpSocket::bind("127.0.0.1:0").unwrap(), UdpSocket::bind("127.0.0.1:0").unwrap());
        let nowhere: std::net::SocketAddr = "255.255.255.255:53".parse().unwrap();
        let mut out = Outgoing::new();
        for to in [address_of(&receiver), SockaddrStorage::from(nowhere), address_of(&receiver)] {
            let begin = out.room().len();
            out.room().extend(*b"answer");
            out.add(begin, to);
        }
        assert_eq!(out.send(sender.as_fd()), 1, "broadcast is not permitted");
        receiver.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        let mut buffer = [0; 64];
        for _ in 0..2 {
            assert_eq!(receiver.recv(&mut buffer).unwrap(), 6);
        }
    }
}
