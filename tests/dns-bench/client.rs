//! A load client that is faster than the servers: one socket, batches of system calls, many source addresses.
//!
//! Each question has a place in the window, and its ID names the place. A place whose answer does not come is given to
//! another question after a while, and the question counts as lost.
#![allow(unsafe_code, reason = "sendmmsg with a source address for each message has no safe wrapper")]

use std::{
    io, mem,
    net::{Ipv4Addr, SocketAddrV4, UdpSocket},
    os::fd::{AsFd, AsRawFd},
    ptr,
    time::{Duration, Instant},
};

use nix::{
    libc,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::socket::{setsockopt, sockopt},
};

/// Messages in a system call.
const BATCH: usize = 64;
/// The largest window; IDs have as many bits to spare as tell a place's questions apart.
pub(crate) const WINDOW: usize = 1_024;
/// A question is lost after this.
const LOST_AFTER: Duration = Duration::from_millis(100);
/// Octets that may wait in the socket.
const SOCKET_OCTETS: usize = 8 << 20;
const LONGEST: usize = 1_500;
/// Between looks for lost questions.
const LOOK_AFTER: Duration = Duration::from_millis(20);

/// What to send, to whom, how fast, for how long.
pub(crate) struct Load {
    pub(crate) target: SocketAddrV4,
    pub(crate) window: usize,
    /// Questions a second; as many as are answered, if none.
    pub(crate) pace: Option<f64>,
    pub(crate) time: Duration,
}

/// What came of it.
#[derive(Debug, Default)]
pub(crate) struct Done {
    pub(crate) answers: u64,
    pub(crate) lost: u64,
    /// Answers that do not say NOERROR with a record.
    pub(crate) wrong: u64,
    pub(crate) elapsed: Duration,
    /// Nanoseconds from question to answer.
    pub(crate) latencies: Vec<u32>,
}

/// The client; it asks from any address of its network namespace.
pub(crate) struct Client {
    socket: UdpSocket,
    slots: Vec<Slot>,
    free: Vec<u16>,
}

#[derive(Clone, Copy, Default)]
struct Slot {
    id: u16,
    sent_at: Option<Instant>,
}

/// Writes the next question and says from where it is sent; nothing is left to ask if none.
pub(crate) type Next<'a> = &'a mut dyn FnMut(&mut Vec<u8>) -> Option<Ipv4Addr>;

impl Client {
    /// Must be called in the network namespace.
    pub(crate) fn new() -> io::Result<Self> {
        let socket = UdpSocket::bind("0.0.0.0:0")?;
        setsockopt(&socket, sockopt::SndBufForce, &SOCKET_OCTETS)?;
        setsockopt(&socket, sockopt::RcvBufForce, &SOCKET_OCTETS)?;
        let slots = (0..WINDOW as u16).map(|id| Slot { id, sent_at: None }).collect();
        Ok(Self { socket, slots, free: Vec::new() })
    }

    /// Asks until the time is over or nothing is left to ask.
    pub(crate) fn run(&mut self, load: &Load, next: Next<'_>) -> io::Result<Done> {
        self.begin(load.window);
        let (mut out, mut into) = (Outgoing::new(load.target), Incoming::new());
        let (mut done, begun) = (Done::default(), Instant::now());
        let (mut sent, mut more, mut looked) = (0_u64, true, begun);
        loop {
            let now = Instant::now();
            more &= now - begun < load.time;
            let due = load.pace.map_or(usize::MAX, |pace| {
                ((now - begun).as_secs_f64() * pace) as usize - usize::try_from(sent).unwrap_or(0)
            });
            if more && (load.pace.is_some() || self.free.len() >= BATCH.min(load.window)) {
                let (count, left) = self.fill(&mut out, due.min(BATCH), next);
                more &= left;
                sent += count as u64;
                self.send(&mut out, count)?;
            }
            let waiting = load.window - self.free.len();
            if !more && waiting == 0 {
                break;
            }
            if !self.receive(&mut into, &mut done)? && (load.pace.is_none() || !more) {
                self.wait()?;
            }
            if now - looked > LOOK_AFTER {
                looked = now;
                done.lost += self.give_up(now);
            }
        }
        done.elapsed = begun.elapsed();
        Ok(done)
    }

    fn begin(&mut self, window: usize) {
        self.slots.iter_mut().for_each(|slot| slot.sent_at = None);
        self.free = (0..window as u16).collect();
    }

    fn fill(&mut self, out: &mut Outgoing, most: usize, next: Next<'_>) -> (usize, bool) {
        let now = Instant::now();
        let mut count = 0;
        while count < most && !self.free.is_empty() {
            out.messages[count].clear();
            let Some(source) = next(&mut out.messages[count]) else { return (count, false) };
            let Some(place) = self.free.pop() else { break };
            let slot = &mut self.slots[usize::from(place)];
            slot.id = slot.id.wrapping_add(WINDOW as u16);
            slot.sent_at = Some(now);
            out.messages[count][..2].copy_from_slice(&slot.id.to_be_bytes());
            out.sources[count] = source;
            count += 1;
        }
        (count, true)
    }

    /// What the socket does not take is lost.
    fn send(&mut self, out: &mut Outgoing, count: usize) -> io::Result<()> {
        if count == 0 {
            return Ok(());
        }
        match out.send(&self.socket, count) {
            Ok(_) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Whether anything was there.
    fn receive(&mut self, into: &mut Incoming, done: &mut Done) -> io::Result<bool> {
        let count = match into.receive(&self.socket) {
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
            Err(error) => return Err(error),
        };
        let now = Instant::now();
        for answer in into.answers(count) {
            let [a, b, flags, code, _, _, records_high, records_low, ..] = *answer else { continue };
            let id = u16::from_be_bytes([a, b]);
            let place = id % WINDOW as u16;
            let slot = &mut self.slots[usize::from(place)];
            if slot.id != id || flags & 0x80 == 0 {
                continue;
            }
            let Some(sent_at) = slot.sent_at.take() else { continue };
            self.free.push(place);
            done.answers += 1;
            done.wrong += u64::from(code & 0xf != 0 || (records_high, records_low) == (0, 0));
            done.latencies.push(u32::try_from((now - sent_at).as_nanos()).unwrap_or(u32::MAX));
        }
        Ok(true)
    }

    fn wait(&self) -> io::Result<()> {
        let mut ready = [PollFd::new(self.socket.as_fd(), PollFlags::POLLIN)];
        poll(&mut ready, PollTimeout::from(5_u8))?;
        Ok(())
    }

    fn give_up(&mut self, now: Instant) -> u64 {
        let mut lost = 0;
        for (place, slot) in (0..).zip(&mut self.slots) {
            if slot.sent_at.take_if(|at| now.duration_since(*at) > LOST_AFTER).is_some() {
                self.free.push(place);
                lost += 1;
            }
        }
        lost
    }
}

/// Messages to send, with what the kernel wants to know of them.
struct Outgoing {
    target: libc::sockaddr_in,
    messages: Vec<Vec<u8>>,
    sources: [Ipv4Addr; BATCH],
    control: Vec<[u64; 4]>,
}

impl Outgoing {
    fn new(target: SocketAddrV4) -> Self {
        let target = libc::sockaddr_in {
            sin_family: libc::AF_INET as u16,
            sin_port: target.port().to_be(),
            sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes(target.ip().octets()) },
            sin_zero: [0; 8],
        };
        let messages = vec![Vec::new(); BATCH];
        Self { target, messages, sources: [Ipv4Addr::LOCALHOST; BATCH], control: vec![[0; 4]; BATCH] }
    }

    fn send(&mut self, socket: &UdpSocket, count: usize) -> io::Result<usize> {
        // SAFETY: zeroes are valid for these plain structures.
        let mut headers: [libc::mmsghdr; BATCH] = unsafe { mem::zeroed() };
        // SAFETY: as above.
        let mut parts: [libc::iovec; BATCH] = unsafe { mem::zeroed() };
        for at in 0..count {
            let message = &mut self.messages[at];
            parts[at] = libc::iovec { iov_base: message.as_mut_ptr().cast(), iov_len: message.len() };
            let header = &mut headers[at].msg_hdr;
            header.msg_name = ptr::from_mut(&mut self.target).cast();
            header.msg_namelen = size_of::<libc::sockaddr_in>() as u32;
            header.msg_iov = &raw mut parts[at];
            header.msg_iovlen = 1;
            header.msg_control = self.control[at].as_mut_ptr().cast();
            header.msg_controllen = size_of::<[u64; 4]>();
            write_source(header, self.sources[at]);
        }
        // SAFETY: `count` headers are filled, and all they point to lives until the call returns.
        let sent = unsafe {
            libc::sendmmsg(socket.as_raw_fd(), headers.as_mut_ptr(), count as u32, libc::MSG_DONTWAIT)
        };
        usize::try_from(sent).map_err(|_| io::Error::last_os_error())
    }
}

/// ip(7): `IP_PKTINFO` with `ipi_spec_dst` sets the source of one message.
fn write_source(header: &mut libc::msghdr, source: Ipv4Addr) {
    let spec = libc::in_addr { s_addr: u32::from_ne_bytes(source.octets()) };
    let info = libc::in_pktinfo { ipi_ifindex: 0, ipi_spec_dst: spec, ipi_addr: libc::in_addr { s_addr: 0 } };
    // SAFETY: the control buffer has 32 octets, aligned to 8: CMSG_SPACE of an in_pktinfo. The first header lies within.
    unsafe {
        let control = libc::CMSG_FIRSTHDR(header);
        (*control).cmsg_level = libc::IPPROTO_IP;
        (*control).cmsg_type = libc::IP_PKTINFO;
        (*control).cmsg_len = libc::CMSG_LEN(size_of::<libc::in_pktinfo>() as u32) as usize;
        libc::CMSG_DATA(control).cast::<libc::in_pktinfo>().write_unaligned(info);
    }
}

/// Room for a batch of answers.
struct Incoming {
    room: Vec<u8>,
    lengths: [usize; BATCH],
}

impl Incoming {
    fn new() -> Self {
        Self { room: vec![0; BATCH * LONGEST], lengths: [0; BATCH] }
    }

    fn receive(&mut self, socket: &UdpSocket) -> io::Result<usize> {
        // SAFETY: zeroes are valid for these plain structures.
        let mut headers: [libc::mmsghdr; BATCH] = unsafe { mem::zeroed() };
        // SAFETY: as above.
        let mut parts: [libc::iovec; BATCH] = unsafe { mem::zeroed() };
        for (at, room) in self.room.chunks_exact_mut(LONGEST).enumerate() {
            parts[at] = libc::iovec { iov_base: room.as_mut_ptr().cast(), iov_len: room.len() };
            headers[at].msg_hdr.msg_iov = &raw mut parts[at];
            headers[at].msg_hdr.msg_iovlen = 1;
        }
        // SAFETY: all headers are filled, and all they point to lives until the call returns.
        let got = unsafe {
            let most = BATCH as u32;
            libc::recvmmsg(
                socket.as_raw_fd(),
                headers.as_mut_ptr(),
                most,
                libc::MSG_DONTWAIT,
                ptr::null_mut(),
            )
        };
        let count = usize::try_from(got).map_err(|_| io::Error::last_os_error())?;
        for (length, header) in self.lengths.iter_mut().zip(&headers[..count]) {
            *length = header.msg_len as usize;
        }
        Ok(count)
    }

    fn answers(&self, count: usize) -> impl Iterator<Item = &[u8]> {
        self.room.chunks_exact(LONGEST).zip(self.lengths).take(count).map(|(room, length)| &room[..length])
    }
}
