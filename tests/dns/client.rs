//! A workload's stub resolver, and what can be read from answers.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use hickory_proto::{
    op::{Edns, Message, MessageType, OpCode, Query},
    rr::{Name, RData, RecordType, rdata::opt::EdnsOption},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpStream, UdpSocket},
    time::timeout,
};

/// Longer than the server may take (A8).
const PATIENCE: Duration = Duration::from_secs(15);

/// One who asks at an address.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Client {
    pub(crate) server: SocketAddr,
}

/// A query with EDNS.
pub(crate) fn query(name: &str, kind: RecordType) -> Message {
    let mut message = plain_query(name, kind);
    let mut edns = Edns::new();
    edns.set_max_payload(1232);
    message.set_edns(edns);
    message
}

/// A query without EDNS.
pub(crate) fn plain_query(name: &str, kind: RecordType) -> Message {
    let mut message = Message::new(0x4e57, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(format!("{name}.")).unwrap(), kind));
    message
}

pub(crate) fn addresses(answer: &Message) -> Vec<IpAddr> {
    let address = |data: &RData| match data {
        RData::A(a) => Some(IpAddr::from(a.0)),
        RData::AAAA(aaaa) => Some(IpAddr::from(aaaa.0)),
        _ => None,
    };
    answer.answers.iter().filter_map(|record| address(&record.data)).collect()
}

/// Code and text of the Extended DNS Error.
pub(crate) fn why(answer: &Message) -> Option<(u16, String)> {
    let options = answer.edns.as_ref()?.options();
    options.as_ref().iter().find_map(|(_, option)| match option {
        EdnsOption::Unknown(15, data) => {
            let code = u16::from_be_bytes([data[0], data[1]]);
            Some((code, String::from_utf8(data[2..].to_vec()).unwrap()))
        }
        _ => None,
    })
}

impl Client {
    /// The answer to an A question.
    pub(crate) async fn ask(&self, name: &str) -> Message {
        self.send(&query(name, RecordType::A)).await
    }

    /// The answer to a question of any type.
    pub(crate) async fn ask_for(&self, name: &str, kind: RecordType) -> Message {
        self.send(&query(name, kind)).await
    }

    /// The answer over UDP.
    pub(crate) async fn send(&self, question: &Message) -> Message {
        Message::from_vec(&self.send_octets(&question.to_vec().unwrap()).await).unwrap()
    }

    /// The answer over UDP, as it came.
    pub(crate) async fn send_octets(&self, question: &[u8]) -> Vec<u8> {
        let socket = self.socket().await;
        socket.send(question).await.unwrap();
        receive(&socket, PATIENCE).await.expect("no answer over UDP")
    }

    /// A socket that is connected with the server.
    pub(crate) async fn socket(&self) -> UdpSocket {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        socket.connect(self.server).await.unwrap();
        socket
    }

    /// The answer over TCP.
    pub(crate) async fn ask_tcp(&self, question: &Message) -> Message {
        let mut stream = self.connect().await;
        write(&mut stream, question).await;
        read(&mut stream).await
    }

    pub(crate) async fn connect(&self) -> TcpStream {
        timeout(PATIENCE, TcpStream::connect(self.server)).await.expect("no connection").unwrap()
    }
}

/// A datagram, if one comes in time.
pub(crate) async fn receive(socket: &UdpSocket, patience: Duration) -> Option<Vec<u8>> {
    let mut buffer = vec![0; 65_535];
    let length = timeout(patience, socket.recv(&mut buffer)).await.ok()?.unwrap();
    buffer.truncate(length);
    Some(buffer)
}

pub(crate) async fn write(stream: &mut TcpStream, question: &Message) {
    let octets = question.to_vec().unwrap();
    let length = u16::try_from(octets.len()).unwrap().to_be_bytes();
    stream.write_all(&[&length[..], &octets].concat()).await.unwrap();
}

pub(crate) async fn read(stream: &mut TcpStream) -> Message {
    let reading = async {
        let mut octets = vec![0; stream.read_u16().await.unwrap().into()];
        stream.read_exact(&mut octets).await.unwrap();
        octets
    };
    Message::from_vec(&timeout(PATIENCE, reading).await.expect("no answer over TCP")).unwrap()
}
