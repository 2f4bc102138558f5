//! The hand-over of DNS sockets from the enforcer, which opens them where only its own link reaches, to a
//! resolver (SCM_RIGHTS). One message holds one line for each socket and its descriptor, in the same order.
//!
//! The sockets stay open at the enforcer too: questions wait in them while a resolver restarts.

use std::io::{IoSlice, IoSliceMut};
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;

use nix::cmsg_space;
use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, recvmsg, sendmsg};

/// Sockets in one hand-over at most (SCM_MAX_FD of Linux is 253).
pub const MOST: usize = 64;

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
}

/// Sends all sockets in one message. `number` is what the enforcer says in `Hello.sockets`.
pub fn send(stream: &UnixStream, number: u64, sockets: &[DnsSocket]) -> Result<(), HandOverError> {
    if sockets.len() > MOST {
        return Err(HandOverError::Malformed("more sockets than one message holds"));
    }
    let mut text = format!("{number}\n");
    for socket in sockets {
        text.push_str(&line(socket));
    }
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
    let mut text = [0_u8; 8192];
    let mut control = cmsg_space!([RawFd; MOST]);
    let (length, descriptors) = receive_raw(stream, &mut text, &mut control)?;
    let text = std::str::from_utf8(&text[..length]).map_err(|_| HandOverError::Malformed("not text"))?;
    parse(text, descriptors)
}

#[allow(unsafe_code, reason = "descriptors arrive as numbers")]
fn receive_raw(
    stream: &UnixStream,
    text: &mut [u8],
    control: &mut Vec<u8>,
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

fn parse(text: &str, descriptors: Vec<OwnedFd>) -> Result<(u64, Vec<DnsSocket>), HandOverError> {
    let body = text.strip_suffix("\n\n").ok_or(HandOverError::Malformed("cut off"))?;
    let mut lines = body.lines();
    let number = lines.next().and_then(|n| n.parse().ok()).ok_or(HandOverError::Malformed("no number"))?;
    let lines: Vec<&str> = lines.collect();
    if lines.len() != descriptors.len() {
        return Err(HandOverError::Malformed("as many lines as descriptors were expected"));
    }
    let sockets = lines.into_iter().zip(descriptors).map(|(line, socket)| {
        let (transport, server) = parse_line(line)?;
        Ok(DnsSocket { transport, server, socket })
    });
    Ok((number, sockets.collect::<Result<_, _>>()?))
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
    fn malformed_text_is_refused() {
        for text in ["", "7", "7\n", "x\n\n", "7\nudp -\n\n"] {
            assert!(parse(text, Vec::new()).is_err(), "{text:?}");
        }
        for line in ["", "udp", "icmp -", "udp 1.2.3.4"] {
            assert!(parse_line(line).is_err(), "{line:?}");
        }
        assert_eq!(parse("7\n\n", Vec::new()).unwrap().0, 7);
    }
}
