//! The resolver's end of the feed: a unix socket in the folder where enforcers look, or a TLS port for those of other
//! nodes, and one stream for each of them. Who comes over the network speaks for the node of its certificate only, hands
//! no DNS sockets over, and its endpoints are known by what a trusted forwarder says.
//!
//! Gives the endpoints that enforcers announce to [`Endpoints`](crate::endpoints::Endpoints), their DNS sockets to a [`SocketTaker`], and is
//! the [`Grantor`](crate::grants::Grantor) that asks them ([`Enforcers`]). An enforcer that is away keeps its
//! endpoints; its next snapshot replaces them. What a query means is not known here.

mod convert;
mod enforcers;
mod everyone;
mod gathering;
mod hand_over;
mod link;
mod refused;
mod session;
mod sockets;

use std::{net::TcpListener, pin::Pin, sync::Arc};

use futures::Stream;
use nameward_feed::{
    proto::{
        FromEnforcer, FromResolver,
        feed_server::{Feed, FeedServer as Service},
    },
    sockets::DnsSocket,
    tls::{self, Credentials, Peer},
};
use nameward_policy::Name;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming, transport::Server};

pub use self::enforcers::Enforcers;
pub use self::sockets::{FeedSockets, FeedSocketsError};

use self::{convert::SharedRules, hand_over::HandOvers, session::Session};

/// Messages to one enforcer that it has not read yet; it is not given more grants then.
const OUTGOING: usize = 8_192;
/// Streams on one connection: a new one begins while the old one ends.
const STREAMS: u32 = 4;
/// Rules of a large endpoint are some megabytes.
const LARGEST_MESSAGE: usize = 64 << 20;

/// Serves the DNS sockets that enforcers hand over, from answers that it shares among all endpoints.
pub trait SocketTaker: Send + Sync + 'static {
    /// Serves these instead of all that this enforcer handed over before.
    fn replace(&self, node: &str, sockets: Vec<DnsSocket>);
    /// Lets go of those at these local ports: their endpoint is gone.
    fn let_go(&self, node: &str, ports: &[u16]);
    /// Forgets what upstreams said of these names.
    fn forget(&self, names: &[Name]) {
        tracing::trace!(names = names.len(), "nothing is shared");
    }
}

/// The feed of one resolver.
#[derive(Clone)]
pub struct FeedServer {
    enforcers: Arc<Enforcers>,
    hand_overs: Arc<HandOvers>,
    rules: Arc<SharedRules>,
    taker: Arc<dyn SocketTaker>,
}

impl std::fmt::Debug for FeedServer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FeedServer").field("enforcers", &self.enforcers).finish_non_exhaustive()
    }
}

impl FeedServer {
    /// Announces to `enforcers` who connects; sockets go to `taker`.
    pub fn new(enforcers: Arc<Enforcers>, taker: Arc<dyn SocketTaker>) -> Self {
        Self { enforcers, hand_overs: Arc::default(), rules: Arc::default(), taker }
    }

    /// Serves until something fails; the files of the sockets go with it.
    ///
    /// # Errors
    /// [`FeedSocketsError`].
    pub async fn serve(self, sockets: FeedSockets) -> Result<(), FeedSocketsError> {
        let (feed, hand_over, _files) = sockets.into_parts()?;
        let receiving = Arc::clone(&self.hand_overs).receive_all(hand_over);
        let serving = builder().add_service(self.service()).serve_with_incoming(sockets::accept(feed));
        tokio::select! {
            result = serving => result.map_err(FeedSocketsError::Serve),
            () = receiving => Ok(()),
        }
    }

    /// Serves enforcers that have a certificate, until something fails.
    ///
    /// # Errors
    /// [`FeedSocketsError`].
    pub async fn serve_far(
        self,
        listener: TcpListener,
        credentials: Arc<Credentials>,
    ) -> Result<(), FeedSocketsError> {
        let accepted = tls::accept(credentials, listener)?;
        let serving = builder().add_service(self.service()).serve_with_incoming(accepted);
        serving.await.map_err(FeedSocketsError::Serve)
    }

    fn service(self) -> Service<Self> {
        Service::new(self).max_decoding_message_size(LARGEST_MESSAGE)
    }
}

/// One enforcer needs one stream; more at a time are nobody's.
fn builder() -> Server {
    Server::builder().max_concurrent_streams(STREAMS)
}

#[tonic::async_trait]
impl Feed for FeedServer {
    type EnforceStream = Pin<Box<dyn Stream<Item = Result<FromResolver, Status>> + Send>>;

    async fn enforce(
        &self,
        request: Request<Streaming<FromEnforcer>>,
    ) -> Result<Response<Self::EnforceStream>, Status> {
        let (say, outgoing) = mpsc::channel(OUTGOING);
        let peer = request.extensions().get::<Peer>().cloned();
        let session = Session::new(self.clone(), say, peer);
        tokio::spawn(session.run(request.into_inner()));
        Ok(Response::new(Box::pin(ReceiverStream::new(outgoing))))
    }
}

#[cfg(test)]
mod tests;
