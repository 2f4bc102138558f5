//! One question to one server without encryption: over UDP, and over TCP when the answer is cut or cannot be read.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::First;
use super::question::{Asked, Outstanding, Question};
use super::reply::Reply;
use super::udp::UdpClient;
use crate::counters::Counters;

pub(super) async fn exchange(
    server: SocketAddr,
    udp: &UdpClient,
    question: &Question,
    outstanding: &Outstanding,
    counters: &Arc<Counters>,
    begun: Option<First>,
) -> io::Result<Reply> {
    let datagram = match begun {
        None => udp.ask(question.ask(outstanding), counters).await?,
        Some(First::Heard(heard)) => heard?,
        Some(First::Slow(place)) => place.answer().await?,
    };
    if let Some(reply) = read(&datagram, question) {
        return Ok(reply);
    }
    let asked = question.ask(outstanding);
    let message = over_tcp(server, &asked).await?;
    Reply::read(&message, question).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}

/// None: it has to be asked over TCP.
pub(super) fn read(datagram: &[u8], question: &Question) -> Option<Reply> {
    let is_cut = datagram.get(2).is_none_or(|octet| octet & 2 != 0);
    (!is_cut).then(|| Reply::read(datagram, question).ok()).flatten()
}

async fn over_tcp(server: SocketAddr, asked: &Asked) -> io::Result<Vec<u8>> {
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
