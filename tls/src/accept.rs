//! The side that listens: handshakes, several at a time, and who is at the other end of a connection.

use std::collections::{HashMap, hash_map::Entry};
use std::io;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use rustls::client::verify_server_name;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_rustls::{TlsAcceptor, server::TlsStream};

use crate::{Credentials, HANDSHAKE_WITHIN, timed_out};

/// Handshakes at one time, of one address and of all: strangers can begin them. Who comes too often comes again later.
const HANDSHAKES_EACH: usize = 8;
const HANDSHAKES: usize = 512;
/// After an error of `accept`, such as no descriptors left.
const BREATH: Duration = Duration::from_millis(100);

/// Accepts until nobody takes connections any more.
pub(crate) async fn all(
    credentials: Arc<Credentials>,
    listener: TcpListener,
    accepted: mpsc::Sender<io::Result<Accepted>>,
) {
    let handshakes = Arc::new(Handshakes::default());
    let name = credentials.service.name;
    loop {
        let taken = tokio::select! {
            taken = listener.accept() => taken,
            () = accepted.closed() => return,
        };
        let (stream, peer) = match taken {
            Ok(taken) => taken,
            Err(error) => {
                tracing::warn!(%error, "{name} cannot take a connection");
                tokio::time::sleep(BREATH).await;
                continue;
            }
        };
        let Some(place) = Handshakes::begin(&handshakes, peer.ip()) else {
            tracing::debug!(%peer, "turned away from {name}: too many at a time");
            continue;
        };
        let (credentials, accepted) = (Arc::clone(&credentials), accepted.clone());
        tokio::spawn(async move {
            let shaken = timeout(HANDSHAKE_WITHIN, shake_hands(credentials, stream)).await;
            drop(place);
            match shaken.unwrap_or_else(|_| Err(timed_out())) {
                Ok(stream) => drop(accepted.send(Ok(stream)).await),
                Err(error) => tracing::warn!(%peer, %error, "turned away from {name}"),
            }
        });
    }
}

/// Handshakes that are not done yet, by the address they come from.
#[derive(Debug, Default)]
struct Handshakes(Mutex<HashMap<IpAddr, usize>>);

/// One of them, until it is dropped.
struct Handshake(Arc<Handshakes>, IpAddr);

impl Handshakes {
    fn begin(this: &Arc<Self>, from: IpAddr) -> Option<Handshake> {
        let mut all = this.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (total, own) = (all.values().sum::<usize>(), all.get(&from).copied().unwrap_or_default());
        if total >= HANDSHAKES || own >= HANDSHAKES_EACH {
            return None;
        }
        all.insert(from, own + 1);
        Some(Handshake(Arc::clone(this), from))
    }
}

impl Drop for Handshake {
    fn drop(&mut self) {
        let mut all = self.0.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Entry::Occupied(mut own) = all.entry(self.1) {
            *own.get_mut() -= 1;
            if *own.get() == 0 {
                own.remove();
            }
        }
    }
}

async fn shake_hands(credentials: Arc<Credentials>, stream: TcpStream) -> io::Result<Accepted> {
    stream.set_nodelay(true)?;
    let acceptor = TlsAcceptor::from(Arc::clone(&credentials.current().server));
    let stream = acceptor.accept(stream).await?;
    let chain = stream.get_ref().1.peer_certificates().unwrap_or_default();
    let chain: Arc<[_]> = chain.iter().cloned().map(CertificateDer::into_owned).collect();
    Ok(Accepted { stream, peer: Peer { chain, credentials } })
}

/// A connection whose handshake is done: where certificates are asked for, the peer has proven its own.
#[derive(Debug)]
pub struct Accepted {
    stream: TlsStream<TcpStream>,
    peer: Peer,
}

/// Who is at the other end.
#[derive(Clone, Debug)]
pub struct Peer {
    chain: Arc<[CertificateDer<'static>]>,
    credentials: Arc<Credentials>,
}

impl Peer {
    /// Whether its certificate is for this name.
    pub fn is(&self, name: &str) -> bool {
        let valid = || {
            let certificate = ParsedCertificate::try_from(self.chain.first()?).ok()?;
            verify_server_name(&certificate, &ServerName::try_from(name).ok()?).ok()
        };
        valid().is_some()
    }

    /// Whether its certificate is good now, by the authority that is in force now.
    ///
    /// # Errors
    /// Why not.
    pub fn check(&self) -> Result<(), rustls::Error> {
        let (first, rest) = self.chain.split_first().ok_or(rustls::Error::NoCertificatesPresented)?;
        let current = self.credentials.current();
        let both = current.both.as_ref().ok_or(rustls::Error::NoCertificatesPresented)?;
        both.verifier.verify_client_cert(first, rest, UnixTime::now()).map(drop)
    }
}

impl Accepted {
    /// Who is at the other end.
    pub fn peer(&self) -> &Peer {
        &self.peer
    }
}

impl AsyncRead for Accepted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Accepted {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buffer)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn handshakes_of_one_address_leave_room_for_others() {
        let (all, one) = (Arc::new(Handshakes::default()), IpAddr::from([192, 0, 2, 1]));
        let begun: Vec<_> = (0..HANDSHAKES).filter_map(|_| Handshakes::begin(&all, one)).collect();
        assert_eq!(begun.len(), HANDSHAKES_EACH);
        assert!(Handshakes::begin(&all, [192, 0, 2, 2].into()).is_some());
        drop(begun);
        assert!(all.0.lock().unwrap().is_empty());
        let many = (0..u32::MAX).map(|number| IpAddr::from(number.to_be_bytes())).take(HANDSHAKES + 9);
        assert_eq!(
            many.filter_map(|from| Handshakes::begin(&all, from)).collect::<Vec<_>>().len(),
            HANDSHAKES
        );
    }
}
