//! Datagrams by the batch: one system call takes what has arrived, one sends what is ready.
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
pub(crate) const BATCH: usize = 64;
/// CMSG_SPACE of `in6_pktinfo`, aligned for its header, and some.
type Control = [u64; 8];

/// Where an answer goes, and from where.
#[derive(Clone, Copy)]
pub(crate) struct Path {
    pub(crate) to: SockaddrStorage,
    pub(crate) from: From,
}

/// The source of an answer.
#[derive(Clone, Copy)]
pub(crate) enum From {
    /// What the socket is bound to.
    Bound,
    V4(libc::in_pktinfo),
    V6(libc::in6_pktinfo),
}

/// Room for a batch of datagrams.
pub(crate) struct Incoming {
    octets: Vec<u8>,
    longest: usize,
    peers: Vec<SockaddrStorage>,
    controls: Vec<Control>,
    taken: Vec<Taken>,
    wildcard: bool,
}

/// What came, or its beginning.
pub(crate) struct Datagram<'a> {
    pub(crate) octets: &'a [u8],
    pub(crate) whole: bool,
}

struct Taken {
    octets: usize,
    whole: bool,
    from: From,
}

impl Incoming {
    /// For datagrams of at most `longest` octets: best an odd number of cache lines, so that the beginnings of a batch do not
    /// crowd into a few sets of a cache. `wildcard`: the socket is bound to all addresses, and the kernel says which one was
    /// meant.
    pub(crate) fn new(longest: usize, wildcard: bool) -> Self {
        let nobody = SockaddrStorage::from(SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)));
        Self {
            octets: vec![0; BATCH * longest],
            longest,
            peers: vec![nobody; BATCH],
            controls: vec![Control::default(); BATCH],
            taken: Vec::with_capacity(BATCH),
            wildcard,
        }
    }

    /// Takes what is there, up to `most` and up to a batch, and returns how many datagrams that are.
    pub(crate) fn take(&mut self, socket: BorrowedFd<'_>, most: usize) -> nix::Result<usize> {
        let most = most.min(BATCH);
        self.taken.clear();
        // SAFETY: zeroes are valid for these plain structures.
        let mut headers: [libc::mmsghdr; BATCH] = unsafe { mem::zeroed() };
        // SAFETY: as above.
        let mut parts: [libc::iovec; BATCH] = unsafe { mem::zeroed() };
        for (at, octets) in self.octets.chunks_exact_mut(self.longest).enumerate().take(most) {
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
        let (fd, most, flags) = (socket.as_raw_fd(), most as u32, libc::MSG_DONTWAIT);
        // SAFETY: `most` headers are filled; the room that they point to lives until the call returns.
        let count = unsafe { libc::recvmmsg(fd, headers.as_mut_ptr(), most, flags, ptr::null_mut()) };
        let count = usize::try_from(count).map_err(|_| Errno::last())?;
        self.taken.extend(headers[..count].iter().map(|header| Taken {
            octets: header.msg_len as usize,
            whole: header.msg_hdr.msg_flags & libc::MSG_TRUNC == 0,
            from: if self.wildcard { asked_at(&header.msg_hdr) } else { From::Bound },
        }));
        Ok(count)
    }

    /// The datagrams that were taken last, and where their answers go.
    pub(crate) fn datagrams(&self) -> impl Iterator<Item = (Datagram<'_>, Path)> {
        let rooms = self.octets.chunks_exact(self.longest).zip(&self.peers);
        self.taken.iter().zip(rooms).map(|(taken, (room, to))| {
            let octets = room.get(..taken.octets).unwrap_or(room);
            (Datagram { octets, whole: taken.whole }, Path { to: *to, from: taken.from })
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

/// Messages that wait to be sent together, to whom.
#[derive(Debug, Default)]
pub(crate) struct Outgoing {
    octets: Vec<u8>,
    messages: Vec<Message>,
}

#[derive(Debug)]
struct Message {
    from: usize,
    /// None: the socket is connected.
    to: Option<SockaddrStorage>,
}

impl Outgoing {
    /// With room for a batch.
    pub(crate) fn new() -> Self {
        Self { octets: Vec::with_capacity(BATCH * 512), messages: Vec::with_capacity(BATCH) }
    }

    /// Where the next message is written to, behind those that are there.
    pub(crate) fn room(&mut self) -> &mut Vec<u8> {
        &mut self.octets
    }

    /// What was written from here on is a message.
    pub(crate) fn add(&mut self, from: usize, to: Option<SockaddrStorage>) {
        self.messages.push(Message { from, to });
    }

    pub(crate) fn is_full(&self) -> bool {
        self.messages.len() >= BATCH
    }

    /// Sends all. `unsent` is told which could not be, by its number, and why.
    pub(crate) fn send(&mut self, socket: BorrowedFd<'_>, mut unsent: impl FnMut(usize, Errno)) {
        let mut at = 0;
        while at < self.messages.len() {
            match self.send_some(socket, at) {
                Ok(sent) => at += sent,
                // What is reported is an error about an earlier datagram; it is reported once.
                Err(Errno::ECONNREFUSED | Errno::EINTR) => {}
                Err(error) => {
                    unsent(at, error);
                    at += 1;
                }
            }
        }
        self.messages.clear();
        self.octets.clear();
    }

    fn send_some(&mut self, socket: BorrowedFd<'_>, begin: usize) -> nix::Result<usize> {
        let count = (self.messages.len() - begin).min(BATCH);
        // SAFETY: zeroes are valid for these plain structures.
        let mut headers: [libc::mmsghdr; BATCH] = unsafe { mem::zeroed() };
        // SAFETY: as above.
        let mut parts: [libc::iovec; BATCH] = unsafe { mem::zeroed() };
        for place in 0..count {
            let message = &self.messages[begin + place];
            let next = self.messages.get(begin + place + 1);
            let octets = &self.octets[message.from..next.map_or(self.octets.len(), |next| next.from)];
            // The kernel reads through these pointers only.
            parts[place] = libc::iovec { iov_base: octets.as_ptr().cast_mut().cast(), iov_len: octets.len() };
            let header = &mut headers[place].msg_hdr;
            if let Some(to) = &message.to {
                header.msg_name = ptr::from_ref(to).cast_mut().cast();
                header.msg_namelen = nix::sys::socket::SockaddrLike::len(to);
            }
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

    const LONGEST: usize = 3 * 64;

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
            out.add(begin, Some(address_of(&sockets[number % 3])));
        }
        assert!(out.is_full());
        out.send(sender.as_fd(), |at, error| panic!("{at}: {error}"));
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
        client.send(&[7; LONGEST + 1]).unwrap();
        let (mut incoming, mut seen) = (Incoming::new(LONGEST, true), 0);
        for (most, expected) in [(1, 1), (usize::MAX, BATCH), (BATCH, 3)] {
            assert_eq!(incoming.take(server.as_fd(), most), Ok(expected));
            for (datagram, path) in incoming.datagrams() {
                let is_whole = seen < BATCH + 3;
                let octets = if is_whole { vec![seen as u8; seen] } else { vec![7; LONGEST] };
                assert_eq!((datagram.octets, datagram.whole), (&octets[..], is_whole), "datagram {seen}");
                assert_eq!(path.to, address_of(&client));
                let From::V4(info) = path.from else { panic!("no address") };
                assert_eq!(info.ipi_spec_dst.s_addr, u32::from_ne_bytes([127, 0, 0, 3]));
                seen += 1;
            }
        }
        assert_eq!(incoming.take(server.as_fd(), BATCH), Err(Errno::EAGAIN));
        assert_eq!(incoming.datagrams().count(), 0);
    }

    #[test]
    fn what_cannot_be_sent_is_told_and_holds_up_nothing() {
        let (sender, receiver) =
            (UdpSocket::bind("127.0.0.1:0").unwrap(), UdpSocket::bind("127.0.0.1:0").unwrap());
        let nowhere: std::net::SocketAddr = "255.255.255.255:53".parse().unwrap();
        let mut out = Outgoing::new();
        for to in [address_of(&receiver), SockaddrStorage::from(nowhere), address_of(&receiver)] {
            let begin = out.room().len();
            out.room().extend(*b"answer");
            out.add(begin, Some(to));
        }
        let mut unsent = Vec::new();
        out.send(sender.as_fd(), |at, error| unsent.push((at, error)));
        assert_eq!(unsent, [(1, Errno::EACCES)], "broadcast is not permitted");
        receiver.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        let mut buffer = [0; 64];
        for _ in 0..2 {
            assert_eq!(receiver.recv(&mut buffer).unwrap(), 6);
        }
    }
}
