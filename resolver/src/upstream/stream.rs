//! A server over a stream, TCP (RFC 7766) or TLS (RFC 7858): one connection, kept while it is used, with many questions on it
//! at a time; its answers come in any order. Over TLS the server proves its name, or nothing is asked.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use futures::{StreamExt, stream};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep_until, timeout};

use super::question::{Asked, Outstanding, Question};
use super::reply::Reply;
use super::tls::Tls;
use crate::counters::Counters;

/// From the first packet to a stream, over TLS to a proven name.
const CONNECT_WITHIN: Duration = Duration::from_secs(2);
/// A connection without questions is closed after this time.
const IDLE: Duration = Duration::from_secs(10);
/// A connection with questions, from which nothing comes for this time, is lost.
const SILENCE: Duration = Duration::from_secs(2);
/// Another question on the connection has the same ID.
const TAKEN: io::ErrorKind = io::ErrorKind::AlreadyExists;
/// Questions on one connection at a time.
const MOST: usize = 4_096;

/// A server that is asked over a stream, encrypted or not.
#[derive(Debug)]
pub(super) struct StreamClient {
    address: SocketAddr,
    tls: Option<Tls>,
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

impl StreamClient {
    pub(super) fn new(address: SocketAddr, tls: Option<Tls>) -> Self {
        Self { address, tls, line: Mutex::new(None) }
    }

    pub(super) async fn exchange(
        &self,
        question: &Question,
        outstanding: &Outstanding,
        counters: &Counters,
    ) -> io::Result<Reply> {
        let (mut line, mut kept) = self.line();
        let ask = || match self.tls {
            Some(_) => question.ask_padded(outstanding),
            None => question.ask(outstanding),
        };
        let mut asked = ask();
        let answer = loop {
            match say(&line, &asked).await {
                Ok(answer) => break answer,
                Err(error) if error.kind() == TAKEN => asked = ask(),
                // The server may have closed it long ago.
                Err(_closed) if kept => (line, kept) = (self.another(&line), false),
                Err(error) => return Err(error),
            }
        };
        let invalid = |error| io::Error::new(io::ErrorKind::InvalidData, error);
        if !asked.is_answered_by(&answer) {
            counters.mismatched.count();
            return Err(invalid("the answer is not to the question".into()));
        }
        Reply::read(&answer, question).map_err(|error| invalid(error.to_string()))
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

async fn say(line: &Line, asked: &Asked) -> io::Result<Vec<u8>> {
    let (answer, answered) = oneshot::channel();
    let request = Request { id: asked.id(), message: asked.message.clone(), answer };
    line.say.send(request).await.map_err(|_| line.end())?;
    answered.await.map_err(|_| line.end())?
}

/// Connects, and serves questions until the connection is idle or lost.
async fn hold(
    address: SocketAddr,
    tls: Option<Tls>,
    mut requests: mpsc::Receiver<Request>,
    end: Arc<OnceLock<(io::ErrorKind, String)>>,
) {
    let connected = match timeout(CONNECT_WITHIN, connect(address, tls)).await {
        Ok(connected) => connected,
        Err(_) => Err(io::Error::new(
            io::ErrorKind::TimedOut,
            format!("no connection within {} ms", CONNECT_WITHIN.as_millis()),
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

/// A stream of messages in both directions.
trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

async fn connect(address: SocketAddr, tls: Option<Tls>) -> io::Result<Box<dyn Stream>> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    Ok(match tls {
        Some(tls) => Box::new(tls.shake_hands(stream).await?),
        None => Box::new(stream),
    })
}

struct Connection {
    writing: WriteHalf<Box<dyn Stream>>,
    reading: Option<ReadHalf<Box<dyn Stream>>>,
    waiting: HashMap<u16, Request>,
    patience: Instant,
}

impl Connection {
    fn new(stream: Box<dyn Stream>) -> Self {
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
        tracing::trace!("an answer that nobody waits for any more");
    }
}

/// Messages behind their lengths, until the stream ends.
fn messages(reading: impl AsyncRead + Unpin) -> impl futures::Stream<Item = io::Result<Vec<u8>>> {
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
