//! DNS over TLS (RFC 7858): one connection to a server, kept while it is used, with many questions on it at a time;
//! its answers come in any order. The server proves its name, or nothing is asked.
//!
//! Who is trusted to vouch for names is read once, at the start.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use futures::{Stream, StreamExt, stream};
use hickory_proto::op::Message;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep_until, timeout};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::question::{Asked, Outstanding, Question};
use crate::counters::Counters;

/// Application protocol of DNS over TLS (RFC 7858 has none; servers of several protocols on one port ask for it).
const PROTOCOL: &[u8] = b"dot";
/// From the first packet to a proven name.
const CONNECT_WITHIN: Duration = Duration::from_secs(2);
/// A connection without questions is closed after this time.
const IDLE: Duration = Duration::from_secs(10);
/// A connection with questions, from which nothing comes for this time, is lost.
const SILENCE: Duration = Duration::from_secs(2);
/// Another question on the connection has the same ID.
const TAKEN: io::ErrorKind = io::ErrorKind::AlreadyExists;
/// Questions on one connection at a time.
const MOST: usize = 4_096;

/// Who may vouch for the names of servers. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Trust(Arc<ClientConfig>);

/// What DNS over TLS needs beside an address.
#[derive(Clone, Debug)]
pub struct Tls {
    /// The name that the server has to prove.
    pub name: ServerName<'static>,
    /// Who vouches for it.
    pub trust: Trust,
}

/// No certificates to trust.
#[derive(Debug, Error)]
pub enum TrustError {
    /// The system's own.
    #[error(
        "this system trusts no certificate authority ({detail}): install the package ca-certificates, or name a file \
         with --upstream-ca"
    )]
    System {
        /// What was wrong with those that could not be read.
        detail: String,
    },
    /// A file.
    #[error("cannot read certificates of {path}: {detail}; it has to hold at least one in PEM form")]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        detail: String,
    },
    /// TLS itself.
    #[error("TLS cannot be used: {0}")]
    Tls(#[from] rustls::Error),
}

impl Trust {
    /// Those that the system trusts.
    ///
    /// # Errors
    /// [`TrustError`].
    pub fn of_system() -> Result<Self, TrustError> {
        let found = rustls_native_certs::load_native_certs();
        let mut roots = RootCertStore::empty();
        let (added, _) = roots.add_parsable_certificates(found.certs);
        if added == 0 {
            let detail = found.errors.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
            return Err(TrustError::System { detail });
        }
        Self::new(roots)
    }

    /// Those of a file, and nobody else.
    ///
    /// # Errors
    /// [`TrustError`].
    pub fn of_file(path: &Path) -> Result<Self, TrustError> {
        let failed = |detail: String| TrustError::File { path: path.to_owned(), detail };
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_file_iter(path).map_err(|error| failed(error.to_string()))? {
            let certificate = certificate.map_err(|error| failed(error.to_string()))?;
            roots.add(certificate).map_err(|error| failed(error.to_string()))?;
        }
        if roots.is_empty() {
            return Err(failed("there is none".into()));
        }
        Self::new(roots)
    }

    fn new(roots: RootCertStore) -> Result<Self, TrustError> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
        let mut config = config.with_root_certificates(roots).with_no_client_auth();
        config.alpn_protocols = vec![PROTOCOL.to_vec()];
        Ok(Self(Arc::new(config)))
    }
}

/// A server that is asked over TLS.
#[derive(Debug)]
pub(super) struct TlsClient {
    address: SocketAddr,
    tls: Tls,
    line: Mutex<Option<Line>>,
}

/// The way to the task that holds a connection.
#[derive(Clone, Debug)]
struct Line {
    say: mpsc::Sender<Request>,
    /// Why it ended; set before `say` is closed.
    end: Arc<OnceLock<(io::ErrorKind, String)>>,
}

impl Line {
    fn end(&self) -> io::Error {
        match self.end.get() {
            Some((kind, why)) => io::Error::new(*kind, why.clone()),
            None => io::Error::new(io::ErrorKind::ConnectionAborted, "the connection was closed"),
        }
    }
}

#[derive(Debug)]
struct Request {
    id: u16,
    message: Vec<u8>,
    answer: oneshot::Sender<io::Result<Vec<u8>>>,
}

impl TlsClient {
    pub(super) fn new(address: SocketAddr, tls: Tls) -> Self {
        Self { address, tls, line: Mutex::new(None) }
    }

    pub(super) async fn exchange(
        &self,
        question: &Question,
        outstanding: &Outstanding,
        counters: &Counters,
    ) -> io::Result<Message> {
        let (mut line, mut kept) = self.line();
        let mut asked = question.ask_padded(outstanding);
        let answer = loop {
            match say(&line, &asked).await {
                Ok(answer) => break answer,
                Err(error) if error.kind() == TAKEN => asked = question.ask_padded(outstanding),
                // The server may have closed it long ago.
                Err(_closed) if kept => (line, kept) = (self.another(&line), false),
                Err(error) => return Err(error),
            }
        };
        let invalid = |error| io::Error::new(io::ErrorKind::InvalidData, error);
        if !asked.is_answered_by(&answer) {
            counters.mismatched.count();
            return Err(invalid("the answer over TLS is not to the question".into()));
        }
        Message::from_vec(&answer).map_err(|error| invalid(error.to_string()))
    }

    /// A connection, and whether it was there before.
    fn line(&self) -> (Line, bool) {
        let mut line = self.line.lock().unwrap_or_else(PoisonError::into_inner);
        match &*line {
            Some(open) if !open.say.is_closed() => (open.clone(), true),
            Some(_) | None => (line.insert(self.open()).clone(), false),
        }
    }

    /// A connection that is not `lost`, which several questions may find at the same time.
    fn another(&self, lost: &Line) -> Line {
        let mut line = self.line.lock().unwrap_or_else(PoisonError::into_inner);
        match &*line {
            Some(open) if !open.say.is_closed() && !open.say.same_channel(&lost.say) => open.clone(),
            Some(_) | None => line.insert(self.open()).clone(),
        }
    }

    fn open(&self) -> Line {
        let (say, requests) = mpsc::channel(MOST);
        let line = Line { say, end: Arc::default() };
        tokio::spawn(hold(self.address, self.tls.clone(), requests, Arc::clone(&line.end)));
        line
    }
}

async fn say(line: &Line, asked: &Asked<'_>) -> io::Result<Vec<u8>> {
    let (answer, answered) = oneshot::channel();
    let request = Request { id: asked.id(), message: asked.message.clone(), answer };
    line.say.send(request).await.map_err(|_| line.end())?;
    answered.await.map_err(|_| line.end())?
}

/// Connects, and serves questions until the connection is idle or lost.
async fn hold(
    address: SocketAddr,
    tls: Tls,
    mut requests: mpsc::Receiver<Request>,
    end: Arc<OnceLock<(io::ErrorKind, String)>>,
) {
    let connected = match timeout(CONNECT_WITHIN, connect(address, tls)).await {
        Ok(connected) => connected,
        Err(_) => Err(io::Error::new(
            io::ErrorKind::TimedOut,
            format!("no TLS connection within {} ms", CONNECT_WITHIN.as_millis()),
        )),
    };
    let error = match connected {
        Ok(stream) => Connection::new(stream).serve(&mut requests).await,
        Err(error) => error,
    };
    end.get_or_init(|| (error.kind(), error.to_string()));
    requests.close();
    while let Some(request) = requests.recv().await {
        answer(request, Err(io::Error::new(error.kind(), error.to_string())));
    }
}

async fn connect(address: SocketAddr, tls: Tls) -> io::Result<TlsStream<TcpStream>> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    TlsConnector::from(tls.trust.0).connect(tls.name, stream).await
}

struct Connection {
    writing: WriteHalf<TlsStream<TcpStream>>,
    reading: Option<ReadHalf<TlsStream<TcpStream>>>,
    waiting: HashMap<u16, Request>,
    patience: Instant,
}

impl Connection {
    fn new(stream: TlsStream<TcpStream>) -> Self {
        let (reading, writing) = tokio::io::split(stream);
        let patience = Instant::now() + IDLE;
        Self { writing, reading: Some(reading), waiting: HashMap::new(), patience }
    }

    /// Returns why it ended; those who wait hear the same.
    async fn serve(mut self, requests: &mut mpsc::Receiver<Request>) -> io::Error {
        let Some(reading) = self.reading.take() else { return io::ErrorKind::NotConnected.into() };
        let mut answers = Box::pin(messages(reading));
        let error = loop {
            let done = tokio::select! {
                Some(request) = requests.recv(), if self.waiting.len() < MOST => self.ask(request).await,
                message = answers.next() => self.hear(message),
                () = sleep_until(self.patience) => Err(io::Error::new(io::ErrorKind::TimedOut, "the server is silent")),
                else => Err(io::ErrorKind::ConnectionAborted.into()),
            };
            if let Err(error) = done {
                break error;
            }
        };
        for (_, request) in self.waiting.drain() {
            answer(request, Err(io::Error::new(error.kind(), error.to_string())));
        }
        error
    }

    async fn ask(&mut self, request: Request) -> io::Result<()> {
        // Who was faster elsewhere does not wait any more.
        self.waiting.retain(|_, waiting| !waiting.answer.is_closed());
        if self.waiting.contains_key(&request.id) {
            answer(request, Err(TAKEN.into()));
            return Ok(());
        }
        let length = u16::try_from(request.message.len()).map_err(io::Error::other)?;
        let framed = [&length.to_be_bytes()[..], &request.message].concat();
        if self.waiting.is_empty() {
            self.patience = Instant::now() + SILENCE;
        }
        self.waiting.insert(request.id, request);
        let write = async {
            self.writing.write_all(&framed).await?;
            self.writing.flush().await
        };
        timeout(SILENCE, write).await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
    }

    fn hear(&mut self, message: Option<io::Result<Vec<u8>>>) -> io::Result<()> {
        let message = message.unwrap_or_else(|| Err(io::ErrorKind::UnexpectedEof.into()))?;
        let id = message.get(..2).map(|id| u16::from_be_bytes([id[0], id[1]]));
        if let Some(request) = id.and_then(|id| self.waiting.remove(&id)) {
            answer(request, Ok(message));
        }
        self.patience = Instant::now() + if self.waiting.is_empty() { IDLE } else { SILENCE };
        Ok(())
    }
}

fn answer(request: Request, answer: io::Result<Vec<u8>>) {
    if request.answer.send(answer).is_err() {
        tracing::trace!("an answer over TLS that nobody waits for any more");
    }
}

/// Messages behind their lengths, until the stream ends.
fn messages(reading: impl AsyncRead + Unpin) -> impl Stream<Item = io::Result<Vec<u8>>> {
    stream::try_unfold(reading, async |mut reading| {
        let length = match reading.read_u16().await {
            Ok(length) => length,
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
            Err(error) => return Err(error),
        };
        let mut message = vec![0; length.into()];
        reading.read_exact(&mut message).await?;
        Ok(Some((message, reading)))
    })
}
