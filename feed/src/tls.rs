//! The feed over TCP: TLS 1.3, both sides with certificates of one authority, or nothing is said.
//!
//! What TLS itself needs is in `nameward-tls`; gRPC on it, and places on the network, are here. Which node a certificate
//! speaks for is asked there, and decided by the resolver.

use std::{
    io,
    net::{SocketAddr, TcpListener},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use hyper_util::rt::TokioIo;
use nameward_tls::Service;
pub use nameward_tls::{Credentials, Peer, ServerName, TlsError, TlsFiles, pem};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_stream::{Stream, StreamExt};
use tonic::transport::{Channel, Endpoint, server::Connected};

/// gRPC, under the name that the log has for it.
const FEED: Service = Service { name: "the feed", protocol: b"h2" };

/// A side that did not prove who it is.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The other side.
    #[error("no connection to {address}: {source}")]
    Connect {
        /// Who was asked.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// gRPC.
    #[error("the feed at {address} cannot be used: {source}")]
    Channel {
        /// Who was asked.
        address: SocketAddr,
        /// Why.
        source: tonic::transport::Error,
    },
}

/// Reads the files of one side of the feed, which must be good now.
///
/// # Errors
/// [`TlsError`].
pub fn credentials(files: TlsFiles) -> Result<Arc<Credentials>, TlsError> {
    Credentials::read(files, FEED)
}

/// Connects to a resolver that has to prove this name.
///
/// # Errors
/// [`ConnectError`].
pub async fn connect(
    credentials: &Credentials,
    address: SocketAddr,
    name: ServerName<'static>,
) -> Result<Channel, ConnectError> {
    let connected = credentials.connect(address, name).await;
    let stream = connected.map_err(|source| ConnectError::Connect { address, source })?;
    // One stream is there already: a second one is never asked for, the caller connects anew.
    let mut stream = Some(TokioIo::new(stream));
    let give = tower::service_fn(move |_| {
        let stream = stream.take();
        async move { stream.ok_or_else(|| io::Error::from(io::ErrorKind::NotConnected)) }
    });
    // The name is proven; this one is only what HTTP/2 wants to see.
    let channel = Endpoint::from_static("http://feed.nameward").connect_with_connector(give).await;
    channel.map_err(|source| ConnectError::Channel { address, source })
}

/// Connections of who has a certificate of our authority. Never ends.
///
/// # Errors
/// When the listener cannot be watched.
pub fn accept(
    credentials: Arc<Credentials>,
    listener: TcpListener,
) -> io::Result<impl Stream<Item = io::Result<Accepted>>> {
    Ok(credentials.accept(listener)?.map(|accepted| accepted.map(Accepted)))
}

/// A connection of a peer that has proven its certificate; [`Peer`] is an extension of each of its requests.
#[derive(Debug)]
pub struct Accepted(nameward_tls::Accepted);

impl Connected for Accepted {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        self.0.peer().clone()
    }
}

impl AsyncRead for Accepted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Accepted {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buffer)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

/// A place on the network where a resolver's feed is, as it is written: `tls://ADDR:PORT#NAME`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Remote {
    /// Where it is.
    pub address: SocketAddr,
    /// The name that it has to prove; its address where none was given.
    pub name: ServerName<'static>,
}

impl Remote {
    /// What a place on the network begins with.
    pub const SCHEME: &str = "tls://";

    /// Reads what follows [`SCHEME`](Self::SCHEME).
    ///
    /// # Errors
    /// What to write instead.
    pub fn read(text: &str) -> Result<Self, String> {
        let (address, name) =
            text.split_once('#').map_or((text, None), |(address, name)| (address, Some(name)));
        let address: SocketAddr = address.parse().map_err(|_| {
            String::from("write an address and a port, such as tls://192.0.2.1:9853#resolver.example")
        })?;
        let name = match name {
            Some(name) => ServerName::try_from(name.to_owned())
                .map_err(|_| format!("`{name}` is no name that a certificate can have"))?,
            None => ServerName::from(address.ip()),
        };
        Ok(Self { address, name })
    }
}

impl std::fmt::Display for Remote {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}{}#{}", Self::SCHEME, self.address, self.name.to_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_on_the_network_are_read() {
        let read = |text: &str| Remote::read(text).map(|remote| remote.to_string());
        assert_eq!(read("192.0.2.1:9853#r.example").unwrap(), "tls://192.0.2.1:9853#r.example");
        assert_eq!(read("[2001:db8::1]:9853").unwrap(), "tls://[2001:db8::1]:9853#2001:db8::1");
        assert!(read("192.0.2.1").unwrap_err().contains("a port"));
        assert!(read("192.0.2.1:9853#").unwrap_err().contains("no name"));
    }
}
