//! DNS over TCP (RFC 7766): several questions on one connection, answered in the order in which they are ready.
//!
//! Connections are bounded for each endpoint and for all together; who is idle, or does not read, is let go.

use std::{
    io,
    net::SocketAddr,
    time::{Duration, Instant},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, BufReader},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::{mpsc, watch},
    time::timeout,
};

use super::{Meaning, OnItsWay, Server, Stop, inquiry::Inquiry};

/// How long a connection may be silent.
const IDLE: Duration = Duration::from_secs(10);
/// How long an answer may wait to be read.
const UNREAD: Duration = Duration::from_secs(5);
/// Answers of one connection that wait to be written.
const ANSWERS: usize = 32;
/// Connections of one endpoint at one time.
const EACH: usize = 64;
/// Connections accepted at the end: as many as may wait.
const AT_THE_END: usize = 1_024;
/// How long a connection may be silent when the server is closing.
const LAST_WORDS: Duration = Duration::from_millis(500);
/// Rest after a failure to accept, so that a lack of descriptors does not spin.
const BREATH: Duration = Duration::from_millis(50);

/// Accepts connections until it shall stop, and then those that wait already.
pub(super) async fn run(server: Server, listener: TcpListener, meaning: Meaning, mut stop: Stop) {
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = &mut stop => break,
        };
        match accepted {
            Ok((stream, peer)) => accept(&server, stream, peer, meaning),
            Err(error) => {
                tracing::warn!(%error, local = %meaning.local, "cannot accept a DNS connection");
                tokio::time::sleep(BREATH).await;
            }
        }
    }
    let Ok(listener) = listener.into_std() else { return };
    for _ in 0..AT_THE_END {
        let Ok((stream, peer)) = listener.accept() else { return };
        if stream.set_nonblocking(true).is_ok()
            && let Ok(stream) = TcpStream::from_std(stream)
        {
            accept(&server, stream, peer, meaning);
        }
    }
}

fn accept(server: &Server, stream: TcpStream, peer: SocketAddr, meaning: Meaning) {
    let Ok(permit) = server.0.connections.clone().try_acquire_owned() else {
        server.0.counters.limit.count();
        return;
    };
    // All strangers together have as many as one endpoint; a forwarder asks for many.
    let forwards = server.forwards(peer.ip());
    let place = match server.0.endpoints.who(meaning.local, peer.ip(), None) {
        _ if forwards => None,
        Some(endpoint) => endpoint.limits.connect(EACH),
        None => server.0.strangers.connect(EACH),
    };
    if place.is_none() && !forwards {
        server.0.counters.limit.count();
        return;
    }
    let server = server.clone();
    tokio::spawn(async move {
        let _held = (permit, place, OnItsWay::new(&server));
        // Where the workload's address was translated, the connection's own local address says more.
        let local = stream.local_addr().unwrap_or(meaning.local);
        if let Err(error) = serve(server, stream, peer, Meaning { local, ..meaning }).await {
            tracing::debug!(%error, "a DNS connection ended");
        }
    });
}

async fn serve(server: Server, stream: TcpStream, peer: SocketAddr, meaning: Meaning) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let (reading, writing) = stream.into_split();
    let (answers, waiting) = mpsc::channel(ANSWERS);
    let writer = tokio::spawn(write(writing, waiting));
    let result = read(&server, reading, peer, meaning, answers).await;
    // Questions that are on their way keep the channel open: the writer ends after the last answer.
    match writer.await {
        Ok(written) => result.and(written),
        Err(error) => Err(io::Error::other(error)),
    }
}

async fn read(
    server: &Server,
    reading: OwnedReadHalf,
    peer: SocketAddr,
    meaning: Meaning,
    answers: mpsc::Sender<Vec<u8>>,
) -> io::Result<()> {
    let mut reading = BufReader::new(reading);
    let mut closing = server.0.closing.subscribe();
    loop {
        let message = tokio::select! {
            message = timeout(IDLE, read_message(&mut reading)) => message,
            () = silent_while_closing(&mut closing) => return Ok(()),
        };
        let message = match message {
            Ok(Ok(message)) => message,
            Ok(Err(error)) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
            Ok(Err(error)) => return Err(error),
            Err(_idle) => return Ok(()),
        };
        let mut answer = Vec::new();
        match server.inquire(&message, peer.ip(), meaning, Instant::now(), &mut answer) {
            Inquiry::Answered => {
                if answers.send(answer).await.is_err() {
                    return Ok(());
                }
            }
            // RFC 7766, section 8: who sends what is no query is not talked to any longer.
            Inquiry::Silence => return Ok(()),
            Inquiry::Waiting(question) => {
                let (server, answers) = (server.clone(), answers.clone());
                tokio::spawn(async move {
                    let answer = server.resolve(&question).await;
                    if answers.send(answer).await.is_err() {
                        server.0.counters.unsent.count();
                    }
                });
            }
        }
    }
}

/// Ends some time after the server has begun to close.
async fn silent_while_closing(closing: &mut watch::Receiver<bool>) {
    if closing.wait_for(|closing| *closing).await.is_err() {
        std::future::pending::<()>().await;
    }
    tokio::time::sleep(LAST_WORDS).await;
}

async fn read_message(reading: &mut BufReader<OwnedReadHalf>) -> io::Result<Vec<u8>> {
    let length = reading.read_u16().await?;
    let mut message = vec![0; length.into()];
    reading.read_exact(&mut message).await?;
    Ok(message)
}

async fn write(mut writing: OwnedWriteHalf, mut answers: mpsc::Receiver<Vec<u8>>) -> io::Result<()> {
    while let Some(answer) = answers.recv().await {
        let Ok(length) = u16::try_from(answer.len()) else { continue };
        let framed = [&length.to_be_bytes()[..], &answer].concat();
        match timeout(UNREAD, writing.write_all(&framed)).await {
            Ok(written) => written?,
            Err(_unread) => return Err(io::Error::new(io::ErrorKind::TimedOut, "answers are not read")),
        }
    }
    writing.shutdown().await
}
