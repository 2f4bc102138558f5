//! Live TCP connections of a network namespace, by socket diagnostics (sock_diag(7)): which there are, and how to end
//! one. Says nothing about whose they are.

use std::{io, net::SocketAddr, path::Path};

use netlink_packet_sock_diag::{
    SockDiagMessage,
    constants::{AF_INET, AF_INET6, IPPROTO_SCTP, IPPROTO_TCP, SOCK_DESTROY},
    inet::{ExtensionFlags, InetRequest, InetResponse, SocketId, StateFlags},
};
use rtnetlink::{
    packet_core::{NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload, Nla},
    sys::{Socket, SocketAddr as Peer, protocols::NETLINK_SOCK_DIAG},
};

/// `INET_DIAG_CGROUP_ID` of `include/uapi/linux/inet_diag.h`.
const CGROUP_ID: u16 = 21;
/// The kernel fills its answers up to this much.
const BUFFER: usize = 64 << 10;

/// A connection over which data may still go, as the owner of its socket sees it.
#[derive(Clone, Debug)]
pub(crate) struct Connection {
    pub(crate) local: SocketAddr,
    pub(crate) remote: SocketAddr,
    /// The socket's cookie, as kernel programs know it.
    pub(crate) cookie: u64,
    /// cgroup v2 identifier of the socket; none where the kernel does not say.
    pub(crate) cgroup: Option<u64>,
    family: u8,
    protocol: u8,
    id: SocketId,
}

impl Connection {
    /// Whether it is the same socket with the same ends.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        (self.cookie, self.local, self.remote) == (other.cookie, other.local, other.remote)
    }
}

/// The connections of the calling thread's network namespace.
///
/// # Errors
/// When the kernel has no socket diagnostics, or does not answer.
pub(crate) fn live() -> io::Result<Vec<Connection>> {
    in_states(IPPROTO_TCP, live_states())
}

/// The same and all other sockets by which the kernel sends although nobody asks it to: what opens, what is about to be
/// over, connections of SCTP.
///
/// # Errors
/// As [`live`].
pub(crate) fn sending() -> io::Result<Vec<Connection>> {
    let states = live_states()
        | StateFlags::SYN_SENT
        | StateFlags::SYN_RECV
        | StateFlags::LISTEN
        | StateFlags::LAST_ACK
        | StateFlags::CLOSING;
    let mut found = in_states(IPPROTO_TCP, states)?;
    // To ask would load the protocol where nobody uses it.
    if Path::new("/proc/thread-self/net/sctp").exists() {
        found.extend(in_states(IPPROTO_SCTP, StateFlags::all())?);
    }
    Ok(found)
}

fn in_states(protocol: u8, states: StateFlags) -> io::Result<Vec<Connection>> {
    let socket = open()?;
    let mut found = Vec::new();
    for (family, id) in [(AF_INET, SocketId::new_v4()), (AF_INET6, SocketId::new_v6())] {
        ask(&socket, request(family, protocol, id, states.clone()), NLM_F_DUMP, None)?;
        read(&socket, |response| found.extend(connection(protocol, response)))?;
    }
    Ok(found)
}

/// Where one side has closed, the other may still send.
fn live_states() -> StateFlags {
    StateFlags::ESTABLISHED | StateFlags::CLOSE_WAIT | StateFlags::FIN_WAIT1 | StateFlags::FIN_WAIT2
}

/// Ends a connection of the calling thread's namespace: its owner gets an error, its peer a reset. False when it had
/// ended already, or the kernel cannot (`CONFIG_INET_DIAG_DESTROY`).
///
/// # Errors
/// When the kernel does not answer.
pub(crate) fn end(connection: &Connection) -> io::Result<bool> {
    let socket = open()?;
    let which = request(connection.family, connection.protocol, connection.id.clone(), live_states());
    ask(&socket, which, NLM_F_ACK, Some(SOCK_DESTROY))?;
    match read(&socket, |_| {}) {
        Ok(()) => Ok(true),
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::EOPNOTSUPP)) => Ok(false),
        Err(error) => Err(error),
    }
}

fn open() -> io::Result<Socket> {
    let mut socket = Socket::new(NETLINK_SOCK_DIAG)?;
    socket.bind_auto()?;
    socket.connect(&Peer::new(0, 0))?;
    Ok(socket)
}

fn request(family: u8, protocol: u8, socket_id: SocketId, states: StateFlags) -> InetRequest {
    InetRequest { family, protocol, extensions: ExtensionFlags::empty(), states, socket_id }
}

fn ask(socket: &Socket, request: InetRequest, flags: u16, kind: Option<u16>) -> io::Result<()> {
    let mut message = NetlinkMessage::from(SockDiagMessage::InetRequest(request));
    message.header.flags = NLM_F_REQUEST | flags;
    message.finalize();
    if let Some(kind) = kind {
        message.header.message_type = kind;
    }
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    socket.send(&bytes, 0).map(drop)
}

/// Reads the answers to one request, to their end.
fn read(socket: &Socket, mut each: impl FnMut(&InetResponse)) -> io::Result<()> {
    let mut buffer = vec![0; BUFFER];
    loop {
        let length = socket.recv(&mut &mut buffer[..], 0)?;
        let mut rest = &buffer[..length];
        while !rest.is_empty() {
            let message = NetlinkMessage::<SockDiagMessage>::deserialize(rest).map_err(io::Error::other)?;
            match message.payload {
                NetlinkPayload::InnerMessage(SockDiagMessage::InetResponse(response)) => each(&response),
                NetlinkPayload::Done(_) => return Ok(()),
                // An acknowledgement is an error of zero.
                NetlinkPayload::Error(error) if error.code.is_none() => return Ok(()),
                NetlinkPayload::Error(error) => return Err(error.to_io()),
                _ => {}
            }
            // Messages begin at multiples of four octets (netlink(7)).
            let taken = (message.header.length as usize).next_multiple_of(4);
            rest = rest.get(taken.max(4)..).unwrap_or_default();
        }
    }
}

fn connection(protocol: u8, response: &InetResponse) -> Option<Connection> {
    let header = &response.header;
    let id = &header.socket_id;
    let address = |address: std::net::IpAddr, port| SocketAddr::new(address.to_canonical(), port);
    let half = |at: usize| Some(u32::from_ne_bytes(id.cookie.get(at..at + 4)?.try_into().ok()?));
    let (low, high) = (half(0)?, half(4)?);
    Some(Connection {
        local: address(id.source_address, id.source_port),
        remote: address(id.destination_address, id.destination_port),
        cookie: u64::from(low) | u64::from(high) << 32,
        cgroup: response.nlas.iter().find(|one| one.kind() == CGROUP_ID).and_then(number),
        family: header.family,
        protocol,
        id: id.clone(),
    })
}

fn number(attribute: &impl Nla) -> Option<u64> {
    let mut bytes = [0; 8];
    (attribute.value_len() == bytes.len()).then(|| attribute.emit_value(&mut bytes))?;
    Some(u64::from_ne_bytes(bytes))
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn own_connections_are_found() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let listener = TcpListener::bind(address).unwrap();
            let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            let (local, remote) = (client.local_addr().unwrap(), client.peer_addr().unwrap());
            let all = live().unwrap();
            let found = all.iter().find(|one| one.local == local && one.remote == remote).unwrap();
            assert_ne!(found.cookie, 0);
            drop(client);
        }
    }
}
