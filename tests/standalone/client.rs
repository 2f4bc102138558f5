//! A DNS client that chooses its own address.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use hickory_proto::{
    op::{Edns, Message, MessageType, OpCode, Query, ResponseCode},
    rr::{Name, RData, RecordType, rdata::opt::EdnsOption},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream, UdpSocket},
};

/// Longer than the resolver may take (A8).
const PATIENCE: Duration = Duration::from_secs(6);
/// CoreDNS's `rewrite edns0 local set 0xffee {client_ip}`.
const CLIENT_ADDRESS: u16 = 0xffee;

/// One who asks.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Client {
    pub(crate) from: IpAddr,
    pub(crate) server: SocketAddr,
}

/// What an answer says.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) code: ResponseCode,
    pub(crate) addresses: Vec<IpAddr>,
    pub(crate) ttls: Vec<u32>,
    /// The text of the Extended DNS Error; empty without one.
    pub(crate) why: String,
}

impl Client {
    pub(crate) fn new(from: &str, server: SocketAddr) -> Self {
        Self { from: from.parse().unwrap(), server }
    }

    /// The answer over UDP; none when there is none in time.
    pub(crate) async fn try_ask(&self, name: &str, patience: Duration) -> Option<Answer> {
        self.exchange(&question(name, None), patience).await
    }

    /// The answer over UDP.
    pub(crate) async fn ask(&self, name: &str) -> Answer {
        self.try_ask(name, PATIENCE).await.unwrap_or_else(|| panic!("no answer for {name}"))
    }

    /// The answer over UDP to a forwarder that asks for `client`.
    pub(crate) async fn ask_for(&self, client: IpAddr, name: &str) -> Answer {
        self.exchange(&question(name, Some(client)), PATIENCE).await.unwrap()
    }

    /// The answer over TCP.
    pub(crate) async fn ask_tcp(&self, name: &str) -> Answer {
        tokio::time::timeout(PATIENCE, self.try_ask_tcp(name))
            .await
            .unwrap()
            .expect("a connection that ended")
    }

    /// The answer over TCP; none when the connection ends before.
    pub(crate) async fn try_ask_tcp(&self, name: &str) -> Option<Answer> {
        let socket = if self.from.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }.unwrap();
        socket.bind((self.from, 0).into()).unwrap();
        self.ask_on(&mut socket.connect(self.server).await.ok()?, name).await
    }

    /// The answer on a connection; none when it ends before.
    pub(crate) async fn ask_on(&self, stream: &mut TcpStream, name: &str) -> Option<Answer> {
        let message = question(name, None).to_vec().unwrap();
        let framed = [&u16::try_from(message.len()).unwrap().to_be_bytes()[..], &message].concat();
        stream.write_all(&framed).await.ok()?;
        let mut buffer = vec![0; stream.read_u16().await.ok()?.into()];
        stream.read_exact(&mut buffer).await.ok()?;
        Some(read(&buffer))
    }

    async fn exchange(&self, question: &Message, patience: Duration) -> Option<Answer> {
        let socket = UdpSocket::bind((self.from, 0)).await.unwrap();
        socket.connect(self.server).await.unwrap();
        socket.send(&question.to_vec().unwrap()).await.unwrap();
        let mut buffer = vec![0; 4096];
        let received = tokio::time::timeout(patience, socket.recv(&mut buffer)).await.ok()?;
        let answer = read(&buffer[..received.unwrap()]);
        Some(answer)
    }
}

fn question(name: &str, client: Option<IpAddr>) -> Message {
    let mut message = Message::new(rand_id(), MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(format!("{name}.")).unwrap(), RecordType::A));
    let mut edns = Edns::new();
    edns.set_max_payload(1232);
    if let Some(client) = client {
        let octets = match client {
            IpAddr::V4(v4) => v4.octets().to_vec(),
            IpAddr::V6(v6) => v6.octets().to_vec(),
        };
        edns.options_mut().insert(EdnsOption::Unknown(CLIENT_ADDRESS, octets));
    }
    message.set_edns(edns);
    message
}

/// Each socket asks once: any number does.
fn rand_id() -> u16 {
    0x4e57
}

fn read(octets: &[u8]) -> Answer {
    let message = Message::from_vec(octets).unwrap();
    assert_eq!(message.metadata.id, rand_id());
    let address = |data: &RData| match data {
        RData::A(a) => Some(IpAddr::from(a.0)),
        RData::AAAA(aaaa) => Some(IpAddr::from(aaaa.0)),
        _ => None,
    };
    Answer {
        code: message.metadata.response_code,
        addresses: message.answers.iter().filter_map(|record| address(&record.data)).collect(),
        ttls: message.answers.iter().map(|record| record.ttl).collect(),
        why: message.edns.as_ref().map(extended_error).unwrap_or_default(),
    }
}

fn extended_error(edns: &Edns) -> String {
    let text = edns.options().as_ref().iter().find_map(|(_, option)| match option {
        EdnsOption::Unknown(15, data) => data.get(2..),
        _ => None,
    });
    text.map(|text| String::from_utf8_lossy(text).into_owned()).unwrap_or_default()
}
