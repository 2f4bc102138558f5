//! The hand-over of DNS sockets from the enforcer, which opens them where only its own link reaches, to a
//! resolver (SCM_RIGHTS). A message holds one line for each of its sockets and their descriptors, in the same order;
//! where one message is not enough, its first line says how many sockets follow.
//!
//! The sockets stay open at the enforcer too: questions wait in them while a resolver restarts.

use std::io::{IoSlice, IoSliceMut};
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;

use nix::cmsg_space;
use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, recvmsg, sendmsg};

/// Sockets in one message (SCM_MAX_FD of Linux is 253).
const IN_ONE_MESSAGE: usize = 64;

/// Sockets in one hand-over at most.
pub const MOST: usize = 8_192;

/// UDP, or a listening TCP socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// A bound UDP socket.
    Udp,
    /// A listening TCP socket.
    Tcp,
}

/// A DNS socket and what a query at it means.
#[derive(Debug)]
pub struct DnsSocket {
    /// Its kind.
    pub transport: Transport,
    /// The server that the workload meant; none = any untrusted one.
    pub server: Option<SocketAddr>,
    /// The socket.
    pub socket: OwnedFd,
}

/// A hand-over that failed.
#[derive(Debug, thiserror::Error)]
pub enum HandOverError {
    /// A system call.
    #[error("cannot {operation} DNS sockets: {source}")]
    System {
        /// What was tried.
        operation: &'static str,
        /// The kernel's answer.
        source: nix::Error,
    },
    /// The message is not one of ours.
    #[error(
        "malformed hand-over of DNS sockets: {0}; resolver and enforcer must be of neighbouring versions"
    )]
    Malformed(&'static str),
    /// The other side closed the connection first.
    #[error("the hand-over of DNS sockets ended before it was complete")]
    Closed,
}

/// Sends all sockets. `number` is what the enforcer says in `Hello.sockets`.
pub fn send(stream: &UnixStream, number: u64, sockets: &[DnsSocket]) -> Result<(), HandOverError> {
    if sockets.len() > MOST {
        return Err(HandOverError::Malformed("more sockets than one hand-over holds"));
    }
    let mut left = sockets.len();
    // An empty hand-over is a message, too.
    let mut parts = sockets.chunks(IN_ONE_MESSAGE);
    loop {
        let part = parts.next().unwrap_or_default();
        left -= part.len();
        send_part(stream, number, part, left)?;
        if left == 0 {
            return Ok(());
        }
    }
}

fn send_part(
    stream: &UnixStream,
    number: u64,
    sockets: &[DnsSocket],
    left: usize,
) -> Result<(), HandOverError> {
    let mut text = if left == 0 { format!("{number}\n") } else { format!("{number} {left}\n") };
    sockets.iter().for_each(|socket| text.push_str(&line(socket)));
    text.push('\n');
    let descriptors: Vec<RawFd> = sockets.iter().map(|s| s.socket.as_raw_fd()).collect();
    let rights = [ControlMessage::ScmRights(&descriptors)];
    let control = if descriptors.is_empty() { &[][..] } else { &rights[..] };
    let sent = sendmsg::<()>(
        stream.as_raw_fd(),
        &[IoSlice::new(text.as_bytes())],
        control,
        MsgFlags::MSG_NOSIGNAL,
        None,
    )
    .map_err(|source| HandOverError::System { operation: "send", source })?;
    if sent != text.len() { Err(HandOverError::Malformed("sent in part")) } else { Ok(()) }
}

/// Receives one hand-over: its number and the sockets. Blocks until it is there.
pub fn receive(stream: &UnixStream) -> Result<(u64, Vec<DnsSocket>), HandOverError> {
    let mut sockets = Vec::new();
    loop {
        let mut text = [0_u8; 8192];
        let mut control = cmsg_space!([RawFd; IN_ONE_MESSAGE]);
        // The kernel ends a read behind the data that descriptors came with: one read is one message.
        let (length, descriptors) = receive_raw(stream, &mut text, &mut control)?;
        if length == 0 {
            return Err(HandOverError::Closed);
        }
        let text = std::str::from_utf8(&text[..length]).map_err(|_| HandOverError::Malformed("not text"))?;
        let part = parse(text, descriptors)?;
        sockets.extend(part.sockets);
        if part.left == 0 {
            return Ok((part.number, sockets));
        }
        if sockets.len() > MOST {
            return Err(HandOverError::Malformed("more sockets than one hand-over holds"));
        }
    }
}

/// One message of a hand-over.
#[derive(Debug)]
struct Part {
    number: u64,
    left: usize,
    sockets: Vec<DnsSocket>,
}

#[allow(unsafe_code, reason = "descriptors arrive as numbers")]
fn receive_raw(
    stream: &UnixStream,
    text: &mut [u8],
    control: &mut [u8],
) -> Result<(usize, Vec<OwnedFd>), HandOverError> {
    let system = |source| HandOverError::System { operation: "receive", source };
    let mut buffers = [IoSliceMut::new(text)];
    let message = recvmsg::<()>(stream.as_raw_fd(), &mut buffers, Some(control), MsgFlags::MSG_CMSG_CLOEXEC)
        .map_err(system)?;
    let mut descriptors = Vec::new();
    for part in message.cmsgs().map_err(system)? {
        if let ControlMessageOwned::ScmRights(numbers) = part {
            // SAFETY: the kernel has just made these descriptors for this process; nobody else owns them.
            descriptors.extend(numbers.into_iter().map(|number| unsafe { OwnedFd::from_raw_fd(number) }));
        }
    }
    if message.flags.contains(MsgFlags::MSG_CTRUNC) {
        return Err(HandOverError::Malformed("descriptors were cut off"));
    }
    Ok((message.bytes, descriptors))
}

fn line(socket: &DnsSocket) -> String {
    let transport = match socket.transport {
        Transport::Udp => "udp",
        Transport::Tcp => "tcp",
    };
    match socket.server {
        Some(server) => format!("{transport} {server}\n"),
        None => format!("{transport} -\n"),
    }
}

fn parse(text: &str, descriptors: Vec<OwnedFd>) -> Result<Part, HandOverError> {
    let body = text.strip_suffix("\n\n").ok_or(HandOverError::Malformed("cut off"))?;
    let mut lines = body.lines();
    let (number, left) = lines.next().and_then(parse_head).ok_or(HandOverError::Malformed("no number"))?;
    let lines: Vec<&str> = lines.collect();
    if lines.len() != descriptors.len() {
        return Err(HandOverError::Malformed("as many lines as descriptors were expected"));
    }
    let sockets = lines.into_iter().zip(descriptors).map(|(line, socket)| {
        let (transport, server) = parse_line(line)?;
        Ok(DnsSocket { transport, server, socket })
    });
    Ok(Part { number, left, sockets: sockets.collect::<Result<_, _>>()? })
}

/// Number of the hand-over, and sockets that follow in further messages.
fn parse_head(line: &str) -> Option<(u64, usize)> {
    let (number, left) = line.split_once(' ').unwrap_or((line, "0"));
    Some((number.parse().ok()?, left.parse().ok()?))
}

fn parse_line(line: &str) -> Result<(Transport, Option<SocketAddr>), HandOverError> {
    let (transport, server) = line.split_once(' ').ok_or(HandOverError::Malformed("no server in a line"))?;
    let transport = match transport {
        "udp" => Transport::Udp,
        "tcp" => Transport::Tcp,
        _ => return Err(HandOverError::Malformed("unknown transport")),
    };
    let server = match server {
        "-" => None,
        server => Some(server.parse().map_err(|_| HandOverError::Malformed("unknown server address"))?),
    };
    Ok((transport, server))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, UdpSocket};

    #[test]
    fn sockets_arrive_with_their_meaning() {
        let (here, there) = UnixStream::pair().unwrap();
        let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
        let address = udp.local_addr().unwrap();
        let server: SocketAddr = "[2001:db8::1]:53".parse().unwrap();
        let sockets = [
            DnsSocket { transport: Transport::Udp, server: Some(server), socket: udp.into() },
            DnsSocket {
                transport: Transport::Tcp,
                server: None,
                socket: TcpListener::bind("127.0.0.1:0").unwrap().into(),
            },
        ];
        send(&here, 7, &sockets).unwrap();
        let (number, mut received) = receive(&there).unwrap();
        assert_eq!((number, received.len()), (7, 2));
        assert_eq!((received[1].transport, received[1].server), (Transport::Tcp, None));
        let first = received.swap_remove(0);
        assert_eq!((first.transport, first.server), (Transport::Udp, Some(server)));
        assert_eq!(UdpSocket::from(first.socket).local_addr().unwrap(), address);
    }

    #[test]
    fn many_sockets_arrive_in_order() {
        let (here, there) = UnixStream::pair().unwrap();
        let bind = |_| UdpSocket::bind("127.0.0.1:0").unwrap();
        let bound: Vec<UdpSocket> = (0..IN_ONE_MESSAGE * 2 + 3).map(bind).collect();
        let sockets: Vec<DnsSocket> = bound
            .iter()
            .map(|udp| DnsSocket {
                transport: Transport::Udp,
                server: None,
                socket: udp.try_clone().unwrap().into(),
            })
            .collect();
        let sending = std::thread::spawn(move || send(&here, 9, &sockets).unwrap());
        let (number, received) = receive(&there).unwrap();
        sending.join().unwrap();
        assert_eq!((number, received.len()), (9, bound.len()));
        for (udp, socket) in bound.iter().zip(received) {
            assert_eq!(UdpSocket::from(socket.socket).local_addr().unwrap(), udp.local_addr().unwrap());
        }
    }

    #[test]
    fn an_empty_hand_over_is_one() {
        let (here, there) = UnixStream::pair().unwrap();
        send(&here, 3, &[]).unwrap();
        let (number, received) = receive(&there).unwrap();
        assert_eq!((number, received.len()), (3, 0));
    }

    #[test]
    fn a_connection_that_says_nothing_is_closed() {
        let (here, there) = UnixStream::pair().unwrap();
        drop(here);
        assert!(matches!(receive(&there), Err(HandOverError::Closed)));
    }

    #[test]
    fn malformed_text_is_refused() {
        for text in ["", "7", "7\n", "x\n\n", "7 x\n\n", "7\nudp -\n\n"] {
            assert!(parse(text, Vec::new()).is_err(), "{text:?}");
        }
        for line in ["", "udp", "icmp -", "udp 1.2.3.4"] {
            assert!(parse_line(line).is_err(), "{line:?}");
        }
        assert_eq!(parse("7 4\n\n", Vec::new()).map(|part| (part.number, part.left)).unwrap(), (7, 4));
    }
}
