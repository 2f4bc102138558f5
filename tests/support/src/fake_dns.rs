//! A scripted name server for answers that no real one gives: late, malformed, lying, or none at all.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::{Context, Result};
use hickory_proto::{
    op::{Message, MessageType, ResponseCode},
    rr::{Name, RData, Record, RecordType},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream, UdpSocket},
    task::JoinSet,
};

/// How a question came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// In a datagram.
    Udp,
    /// In a stream, behind its length.
    Tcp,
}

/// A question as it arrived.
#[derive(Debug, Clone)]
pub struct Asked {
    /// The name in the letter case that was sent, with the final dot.
    pub name: String,
    /// The type asked for.
    pub kind: RecordType,
    /// How it came.
    pub transport: Transport,
    /// Who asked.
    pub from: SocketAddr,
    /// The whole message.
    pub message: Message,
}

/// What the script does with a question.
#[derive(Debug, Clone)]
pub enum Reply {
    /// These records, NOERROR; an empty list is NODATA.
    Records(Vec<Record>),
    /// Only a response code.
    Code(ResponseCode),
    /// An empty answer with the TC bit.
    Truncated,
    /// The given message with ID and question of the query put in.
    Message(Box<Message>),
    /// These very bytes.
    Bytes(Vec<u8>),
    /// Several messages in this order.
    Many(Vec<Self>),
    /// After a while.
    After(Duration, Box<Self>),
    /// Nothing, ever; a stream is closed.
    Silence,
}

/// One record with an address, for [`Reply::Records`].
///
/// # Panics
/// When `name` is not a domain name.
pub fn address_record(name: &str, ttl_seconds: u32, address: IpAddr) -> Record {
    let name = Name::from_ascii(name).unwrap_or_else(|error| panic!("{name}: {error}"));
    let data = match address {
        IpAddr::V4(address) => RData::A(address.into()),
        IpAddr::V6(address) => RData::AAAA(address.into()),
    };
    Record::from_rdata(name, ttl_seconds, data)
}

type Script = Arc<dyn Fn(&Asked) -> Reply + Send + Sync>;
type Log = Arc<Mutex<Vec<Asked>>>;

/// A server on UDP and TCP of one address; it ends when it is dropped.
#[derive(Debug)]
pub struct FakeDns {
    address: SocketAddr,
    asked: Log,
    _tasks: JoinSet<()>,
}

impl FakeDns {
    /// Serves on a free port of 127.0.0.1. `script` sees each question and says what happens.
    pub async fn start(script: impl Fn(&Asked) -> Reply + Send + Sync + 'static) -> Result<Self> {
        Self::start_at(SocketAddr::from(([127, 0, 0, 1], 0)), script).await
    }

    /// Serves at an address; port 0 means a free one.
    pub async fn start_at(
        address: SocketAddr,
        script: impl Fn(&Asked) -> Reply + Send + Sync + 'static,
    ) -> Result<Self> {
        let (udp, tcp) = bind_both(address).await.with_context(|| format!("fake DNS at {address}"))?;
        let address = udp.local_addr()?;
        let (asked, script): (Log, Script) = (Log::default(), Arc::new(script));
        let mut tasks = JoinSet::new();
        tasks.spawn(serve_udp(Arc::new(udp), Arc::clone(&script), Arc::clone(&asked)));
        tasks.spawn(serve_tcp(tcp, script, Arc::clone(&asked)));
        Ok(Self { address, asked, _tasks: tasks })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Every question so far.
    pub fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// How often a name was asked for, in any letter case, with or without the final dot.
    pub fn count(&self, name: &str) -> usize {
        let same = |asked: &&Asked| {
            asked.name.trim_end_matches('.').eq_ignore_ascii_case(name.trim_end_matches('.'))
        };
        self.asked().iter().filter(same).count()
    }
}

/// A UDP and a TCP socket on one port, also where the port is to be found first.
async fn bind_both(address: SocketAddr) -> io::Result<(UdpSocket, TcpListener)> {
    let mut last = io::Error::other("no free port");
    for _ in 0..20 {
        let udp = UdpSocket::bind(address).await?;
        match TcpListener::bind(udp.local_addr()?).await {
            Ok(tcp) => return Ok((udp, tcp)),
            Err(error) if address.port() != 0 => return Err(error),
            Err(error) => last = error,
        }
    }
    Err(last)
}

async fn serve_udp(socket: Arc<UdpSocket>, script: Script, log: Log) {
    let mut tasks = JoinSet::new();
    let mut buffer = vec![0; 65_535];
    // An error here is an earlier answer that its client refused, which is the client's affair.
    loop {
        let Ok((length, from)) = socket.recv_from(&mut buffer).await else { continue };
        let Some(asked) = read(&buffer[..length], Transport::Udp, from) else { continue };
        let (reply, socket) = (note(&script, &log, &asked), Arc::clone(&socket));
        tasks.spawn(async move {
            for message in messages(&asked, reply).await {
                drop(socket.send_to(&message, from).await);
            }
        });
        while tasks.try_join_next().is_some() {}
    }
}

async fn serve_tcp(listener: TcpListener, script: Script, log: Log) {
    let mut tasks = JoinSet::new();
    while let Ok((stream, from)) = listener.accept().await {
        let (script, log) = (Arc::clone(&script), Arc::clone(&log));
        tasks.spawn(async move { drop(serve_stream(stream, from, &script, &log).await) });
    }
}

async fn serve_stream(mut stream: TcpStream, from: SocketAddr, script: &Script, log: &Log) -> io::Result<()> {
    loop {
        let mut message = vec![0; usize::from(stream.read_u16().await?)];
        stream.read_exact(&mut message).await?;
        let Some(asked) = read(&message, Transport::Tcp, from) else { return Ok(()) };
        let messages = messages(&asked, note(script, log, &asked)).await;
        if messages.is_empty() {
            return Ok(());
        }
        for message in messages {
            let length = u16::try_from(message.len()).map_err(io::Error::other)?;
            stream.write_all(&[&length.to_be_bytes()[..], &message].concat()).await?;
        }
    }
}

fn read(bytes: &[u8], transport: Transport, from: SocketAddr) -> Option<Asked> {
    let message = Message::from_vec(bytes).ok()?;
    let question = message.queries.first()?;
    Some(Asked { name: question.name().to_ascii(), kind: question.query_type(), transport, from, message })
}

fn note(script: &Script, log: &Log, asked: &Asked) -> Reply {
    log.lock().unwrap_or_else(PoisonError::into_inner).push(asked.clone());
    script(asked)
}

async fn messages(asked: &Asked, reply: Reply) -> Vec<Vec<u8>> {
    let mut answer = response(&asked.message);
    match reply {
        Reply::Records(records) => answer.answers = records,
        Reply::Code(code) => answer.metadata.response_code = code,
        Reply::Truncated => answer.metadata.truncation = true,
        Reply::Message(message) => {
            answer = *message;
            answer.metadata.id = asked.message.metadata.id;
            answer.queries.clone_from(&asked.message.queries);
        }
        Reply::Bytes(bytes) => return vec![bytes],
        Reply::Silence => return Vec::new(),
        Reply::Many(replies) => {
            let mut all = Vec::new();
            for reply in replies {
                all.extend(Box::pin(messages(asked, reply)).await);
            }
            return all;
        }
        Reply::After(wait, reply) => {
            tokio::time::sleep(wait).await;
            return Box::pin(messages(asked, *reply)).await;
        }
    }
    vec![answer.to_vec().unwrap_or_else(|error| panic!("a script's answer cannot be written: {error}"))]
}

fn response(query: &Message) -> Message {
    let mut answer = Message::new(query.metadata.id, MessageType::Response, query.metadata.op_code);
    answer.metadata.recursion_desired = query.metadata.recursion_desired;
    answer.metadata.recursion_available = true;
    answer.queries.clone_from(&query.queries);
    answer.edns.clone_from(&query.edns);
    answer
}

#[cfg(test)]
mod tests {
    use hickory_proto::op::{OpCode, Query};

    use super::*;

    fn question(name: &str) -> Message {
        let mut message = Message::new(7, MessageType::Query, OpCode::Query);
        message.add_query(Query::query(Name::from_ascii(name).unwrap(), RecordType::A));
        message
    }

    async fn ask_udp(server: &FakeDns, name: &str) -> Vec<u8> {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        socket.send_to(&question(name).to_vec().unwrap(), server.address()).await.unwrap();
        let mut buffer = vec![0; 512];
        let length = socket.recv(&mut buffer).await.unwrap();
        buffer.truncate(length);
        buffer
    }

    #[tokio::test]
    async fn the_script_decides_and_questions_are_counted() {
        let server = FakeDns::start(|asked| match asked.name.as_str() {
            "a.example." => Reply::Records(vec![address_record("a.example.", 60, [198, 51, 100, 1].into())]),
            "bytes.example." => Reply::After(Duration::from_millis(1), Box::new(Reply::Bytes(vec![1, 2, 3]))),
            _ => Reply::Code(ResponseCode::NXDomain),
        });
        let server = server.await.unwrap();
        let answer = Message::from_vec(&ask_udp(&server, "a.example.").await).unwrap();
        assert_eq!((answer.metadata.id, answer.answers.len()), (7, 1));
        assert_eq!(ask_udp(&server, "bytes.example.").await, [1, 2, 3]);
        let answer = Message::from_vec(&ask_udp(&server, "b.example.").await).unwrap();
        assert_eq!(answer.metadata.response_code, ResponseCode::NXDomain);
        assert_eq!(server.count("A.example"), 1);
        assert_eq!(server.asked().len(), 3);
    }

    #[tokio::test]
    async fn streams_carry_several_questions() {
        let server = FakeDns::start(|_| Reply::Truncated).await.unwrap();
        let mut stream = TcpStream::connect(server.address()).await.unwrap();
        for name in ["a.example.", "b.example."] {
            let message = question(name).to_vec().unwrap();
            stream.write_u16(message.len().try_into().unwrap()).await.unwrap();
            stream.write_all(&message).await.unwrap();
            let mut answer = vec![0; usize::from(stream.read_u16().await.unwrap())];
            stream.read_exact(&mut answer).await.unwrap();
            assert!(Message::from_vec(&answer).unwrap().metadata.truncation);
        }
        assert!(server.asked().iter().all(|asked| asked.transport == Transport::Tcp));
    }
}
