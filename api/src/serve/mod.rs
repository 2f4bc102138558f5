//! Serves the routes on sockets, with bounds on what strangers can cost: connections, heads, and time.
//!
//! On a unix socket whoever may open it may read all, and [`Caller`] says who it is. A loopback address asks for a token,
//! except for health and readiness; another address is refused, because nothing protects the token there. On a network
//! there is TLS ([`TlsListener`]).

mod place;
mod tls;
mod token;

use std::{convert::Infallible, io, sync::Arc, time::Duration};

use axum::{Router, body::Body, extract::Request, response::Response};
use futures::StreamExt;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use nameward_tls::Peer;
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, UnixListener},
    sync::Semaphore,
};
use tokio_io_timeout::TimeoutStream;
use tower::ServiceExt;

pub use self::{
    place::{ApiListener, ApiPlace, listen},
    tls::{API, TlsListener},
    token::{OPEN, Token, TokenError},
};
use crate::{Site, router};

/// Connections at a time, where the process may have enough descriptors.
const CONNECTIONS: usize = 2_048;
/// Connections at a time in any case.
const FEWEST: usize = 64;
/// See [`Bounds::head_time`].
const HEAD_TIME: Duration = Duration::from_secs(15);
/// See [`Bounds::write_time`].
const WRITE_TIME: Duration = Duration::from_secs(30);
/// What a connection may buffer.
const BUFFER: usize = 32_768;
/// Wait before the next try when descriptors have run out.
const BREATH: Duration = Duration::from_millis(100);

/// What is said to one connection too many.
const TOO_MANY: &str = concat!(
    "HTTP/1.1 429 Too Many Requests\r\nContent-Type: application/problem+json\r\nRetry-After: 1\r\n",
    "Connection: close\r\nContent-Length: 141\r\n\r\n",
    r#"{"type":"about:blank","title":"Too Many Requests","status":429,"detail":"there are too many connections at this time; try again in a second"}"#,
);

/// Serves until the process ends.
///
/// # Errors
/// When connections cannot be accepted any more.
pub async fn serve(site: Site, listener: ApiListener) -> io::Result<()> {
    serve_routes(router(site), listener).await
}

/// Serves other routes in the same way.
///
/// # Errors
/// When connections cannot be accepted any more.
pub async fn serve_routes(routes: Router, listener: ApiListener) -> io::Result<()> {
    serve_within(Bounds::default(), routes, listener).await
}

/// What strangers can cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Connections at a time.
    pub connections: usize,
    /// A head is complete within this time; an idle connection ends after it.
    pub head_time: Duration,
    /// A reader takes something within this time.
    pub write_time: Duration,
}

impl Default for Bounds {
    fn default() -> Self {
        Self { connections: connections(), head_time: HEAD_TIME, write_time: WRITE_TIME }
    }
}

/// Serves within bounds.
///
/// # Errors
/// When connections cannot be accepted any more.
pub async fn serve_within(bounds: Bounds, routes: Router, listener: ApiListener) -> io::Result<()> {
    match listener {
        ApiListener::Unix(listener) => accept(&routes, UnixListener::from_std(listener)?, bounds).await,
        ApiListener::Address(listener, token) => {
            accept(&token.guard(routes), TcpListener::from_std(listener)?, bounds).await
        }
        ApiListener::Tls(listener) => {
            let (routes, incoming) = listener.open(routes)?;
            accept(&routes, incoming, bounds).await
        }
    }
}

/// A quarter of the descriptors that this process may have: the rest is for the kernel's maps.
fn connections() -> usize {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    let quarter = limit.map_or(CONNECTIONS, |limit| usize::try_from(limit / 4).unwrap_or(CONNECTIONS));
    quarter.clamp(FEWEST, CONNECTIONS)
}

/// Who is at the other end, as the kernel or a certificate says.
#[derive(Clone, Debug, Default)]
pub struct Caller {
    /// The user that opened a unix socket, as our user namespace knows it; none over TCP.
    uid: Option<u32>,
    /// Who connected over TLS.
    peer: Option<Peer>,
    /// Whether its certificate is of one of the clients that were agreed on.
    is_agreed: bool,
}

impl Caller {
    /// Whether it is root. Who is root of a user namespace of its own is not.
    fn is_root(&self) -> bool {
        self.uid == Some(0)
    }

    /// Whether it may change something: root, or a client that was agreed on, which has asked who may.
    pub(crate) fn may_change(&self) -> bool {
        self.is_root() || self.is_agreed
    }
}

/// Where connections come from.
trait Accept {
    type Stream: AsyncRead + AsyncWrite + Send + Unpin + 'static;
    async fn accept(&mut self) -> io::Result<(Self::Stream, Caller)>;
}

impl Accept for UnixListener {
    type Stream = tokio::net::UnixStream;

    async fn accept(&mut self) -> io::Result<(Self::Stream, Caller)> {
        let (stream, _) = Self::accept(self).await?;
        // Credentials that cannot be read are nobody's.
        let uid = stream.peer_cred().ok().map(|peer| peer.uid());
        Ok((stream, Caller { uid, ..Caller::default() }))
    }
}

impl Accept for TcpListener {
    type Stream = tokio::net::TcpStream;

    async fn accept(&mut self) -> io::Result<(Self::Stream, Caller)> {
        let (stream, _) = Self::accept(self).await?;
        stream.set_nodelay(true)?;
        Ok((stream, Caller::default()))
    }
}

impl Accept for nameward_tls::Incoming {
    type Stream = nameward_tls::Accepted;

    async fn accept(&mut self) -> io::Result<(Self::Stream, Caller)> {
        let ended = || io::Error::other("nobody listens any more");
        let stream = self.next().await.ok_or_else(ended)??;
        let peer = Some(stream.peer().clone());
        Ok((stream, Caller { peer, ..Caller::default() }))
    }
}

async fn accept<L: Accept>(routes: &Router, mut listener: L, bounds: Bounds) -> io::Result<()> {
    let room = Arc::new(Semaphore::new(bounds.connections));
    loop {
        let (stream, caller) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "a connection to the API was not accepted");
                tokio::time::sleep(BREATH).await;
                continue;
            }
        };
        match Arc::clone(&room).try_acquire_owned() {
            Ok(permit) => {
                let routes = routes.clone();
                tokio::spawn(async move {
                    converse(routes, stream, caller, bounds).await;
                    drop(permit);
                });
            }
            Err(_) => refuse(stream).await,
        }
    }
}

/// An empty socket takes so few bytes at once; one that does not is of no interest.
async fn refuse<S: AsyncWrite + Unpin>(mut stream: S) {
    let said = async {
        stream.write_all(TOO_MANY.as_bytes()).await?;
        stream.shutdown().await
    };
    if !matches!(tokio::time::timeout(BREATH, said).await, Ok(Ok(()))) {
        tracing::trace!("one connection too many did not wait for the answer");
    }
}

async fn converse<S>(routes: Router, stream: S, caller: Caller, bounds: Bounds)
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let mut stream = TimeoutStream::new(stream);
    stream.set_write_timeout(Some(bounds.write_time));
    let stream = TokioIo::new(Box::pin(stream));
    let answer = service_fn(move |request: hyper::Request<Incoming>| {
        let (routes, caller) = (routes.clone(), caller.clone());
        async move {
            let mut request = request.map(Body::new);
            request.extensions_mut().insert(caller);
            answer(routes, request).await
        }
    });
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(bounds.head_time).max_buf_size(BUFFER);
    if let Err(error) = http.serve_connection(stream, answer).await {
        tracing::debug!(%error, "a conversation over the API broke off");
    }
}

async fn answer(routes: Router, request: Request) -> Result<Response, Infallible> {
    routes.oneshot(request).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_canned_refusal_is_whole() {
        let (head, body) = TOO_MANY.split_once("\r\n\r\n").unwrap();
        assert!(head.contains(&format!("Content-Length: {}", body.len())), "{}", body.len());
        let problem: crate::Problem = serde_json::from_str(body).unwrap();
        assert_eq!(problem.status, 429);
    }
}
