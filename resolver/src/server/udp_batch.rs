//! Datagrams by the batch: one system call takes what has arrived, one sends the answers.
//!
//! All room is made once. What is sent is never waited for: a full buffer is a client that asks again.
#![allow(unsafe_code, reason = "sendmmsg(2) sends a part of a batch, which nix's wrapper does not tell")]

use std::{
    mem,
    os::fd::{AsRawFd, BorrowedFd},
    ptr,
};

use nix::{errno::Errno, libc, sys::socket::SockaddrStorage};

/// Answers that one system call sends.
pub(super) const BATCH: usize = 64;

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
