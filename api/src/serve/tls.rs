//! Where the API is served on a network: to clients whose certificate has a name that was agreed on; or to everybody, where
//! the routes themselves ask who it is.

use std::{io, net::TcpListener, sync::Arc};

use axum::{
    Router,
    extract::{Request, State},
    http::StatusCode,
    middleware::{self, Next},
    response::{IntoResponse, Response},
};
use nameward_tls::{Credentials, Incoming, Service};

use super::Caller;
use crate::Problem;

/// What the log calls it, and what is spoken.
pub const API: Service = Service { name: "the API", protocol: b"http/1.1" };

/// An address of a network that is listened at.
#[derive(Debug)]
pub struct TlsListener {
    listener: TcpListener,
    credentials: Arc<Credentials>,
    clients: Option<Arc<[String]>>,
}

impl TlsListener {
    /// For clients whose certificate has one of these names and is of the authority of `credentials`.
    pub fn for_clients(listener: TcpListener, credentials: Arc<Credentials>, names: Vec<String>) -> Self {
        Self { listener, credentials, clients: Some(names.into()) }
    }

    /// For routes that ask who it is.
    pub fn for_all(listener: TcpListener, credentials: Arc<Credentials>) -> Self {
        Self { listener, credentials, clients: None }
    }

    /// What is accepted, and the routes behind the question who it is.
    pub(super) fn open(self, routes: Router) -> io::Result<(Router, Incoming)> {
        let incoming = self.credentials.accept(self.listener)?;
        let routes = match self.clients {
            Some(clients) => routes.layer(middleware::from_fn_with_state(clients, check)),
            None => routes,
        };
        Ok((routes, incoming))
    }
}

/// Asked with each request: a certificate that was good when the connection began may not be any more.
async fn check(State(clients): State<Arc<[String]>>, mut request: Request, next: Next) -> Response {
    let peer = request.extensions().get::<Caller>().and_then(|caller| caller.peer.as_ref());
    let refused = |detail: String| Problem::new(StatusCode::FORBIDDEN, detail).into_response();
    let known = peer.filter(|peer| clients.iter().any(|name| peer.is(name)));
    match known.map(nameward_tls::Peer::check) {
        Some(Ok(())) => {
            if let Some(caller) = request.extensions_mut().get_mut::<Caller>() {
                caller.is_agreed = true;
            }
            next.run(request).await
        }
        Some(Err(error)) => refused(format!("the certificate is not good any more: {error}")),
        None => refused(format!("this answers to clients whose certificate is for {}", clients.join(" or "))),
    }
}
