//! One question to one server without encryption: over UDP, and over TCP when the answer is cut or cannot be read.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use hickory_proto::op::Message;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::question::{Asked, Outstanding, Question};
use super::udp::UdpClient;
use crate::counters::Counters;

pub(super) async fn exchange(
    server: SocketAddr,
    udp: &UdpClient,
    question: &Question,
    outstanding: &Outstanding,
    counters: &Arc<Counters>,
) -> io::Result<Message> {
    let asked = question.ask(outstanding);
    let datagram = udp.ask(&asked, counters).await?;
    match Message::from_vec(&datagram) {
        Ok(message) if !message.metadata.truncation => Ok(message),
        Ok(_) | Err(_) => {
            let asked = question.ask(outstanding);
            let message = over_tcp(server, &asked).await?;
            Message::from_vec(&message).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
        }
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
