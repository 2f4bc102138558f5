//! One question to one server without encryption: UDP from a port of its own, TCP when the answer is cut or cannot
//! be read.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use hickory_proto::op::Message;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};

use super::question::{Asked, Outstanding, Question};
use crate::counters::Counters;

/// The largest datagram we read. We say 1232; some servers send more.
const LARGEST_DATAGRAM: usize = 4096;

pub(super) async fn exchange(
    server: SocketAddr,
    question: &Question,
    outstanding: &Outstanding,
    counters: &Counters,
) -> io::Result<Message> {
    let asked = question.ask(outstanding);
    let datagram = over_udp(server, &asked, counters).await?;
    match Message::from_vec(&datagram) {
        Ok(message) if !message.metadata.truncation => Ok(message),
        Ok(_) | Err(_) => {
            let asked = question.ask(outstanding);
            let message = over_tcp(server, &asked).await?;
            Message::from_vec(&message).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
        }
    }
}

/// The socket is connected: the kernel drops what other servers and ports send (A9).
async fn over_udp(server: SocketAddr, asked: &Asked<'_>, counters: &Counters) -> io::Result<Vec<u8>> {
    let any: SocketAddr = match server {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let socket = UdpSocket::bind(any).await?;
    socket.connect(server).await?;
    socket.send(&asked.message).await?;
    let mut buffer = vec![0; LARGEST_DATAGRAM];
    loop {
        let length = socket.recv(&mut buffer).await?;
        if asked.is_answered_by(&buffer[..length]) {
            buffer.truncate(length);
            return Ok(buffer);
        }
        counters.mismatched.count();
    }
}

async fn over_tcp(server: SocketAddr, asked: &Asked<'_>) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(server).await?;
    stream.set_nodelay(true)?;
    let length = u16::try_from(asked.message.len()).map_err(io::Error::other)?;
    stream.write_all(&[&length.to_be_bytes()[..], &asked.message].concat()).await?;
    let length = stream.read_u16().await?;
    let mut message = vec![0; length.into()];
    stream.read_exact(&mut message).await?;
    if asked.is_answered_by(&message) {
        Ok(message)
    } else {
        Err(io::Error::new(io::ErrorKind::InvalidData, "the answer over TCP is not to the question"))
    }
}
