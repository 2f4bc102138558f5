//! One node's API, asked over TLS. Connections are kept for the next question.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
};

use http_body_util::{BodyExt, Empty, Limited};
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Bytes, Incoming},
    client::conn::http1::{self, SendRequest},
    header,
};
use hyper_util::rt::TokioIo;
use nameward_api::Problem;
use nameward_tls::{Credentials, ServerName};
use serde::de::DeserializeOwned;
use tokio::sync::Semaphore;

/// Connections that wait for the next question.
const IDLE: usize = 4;
/// Handshakes at a time: a node turns away whoever begins too many.
const HANDSHAKES: usize = 4;
/// An answer of a node that is larger is none of ours.
const LARGEST: usize = 16 << 20;

/// Where a node's API is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodePlace {
    /// Its address.
    pub address: SocketAddr,
    /// The name that it has to prove.
    pub name: ServerName<'static>,
}

/// A node that can be asked.
pub struct Node {
    name: Arc<str>,
    place: NodePlace,
    credentials: Arc<Credentials>,
    idle: Mutex<Vec<Connection>>,
    handshakes: Semaphore,
}

/// A connection, made with the certificates of this number.
struct Connection {
    number: u64,
    sender: SendRequest<Empty<Bytes>>,
}

/// Why a node has no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Trouble {
    /// It says nothing that could be used.
    Silent(String),
    /// It says that the question is wrong.
    Refused(Problem),
}

impl std::fmt::Debug for Node {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Node").field("name", &self.name).field("place", &self.place).finish_non_exhaustive()
    }
}

impl Node {
    /// At a place; nothing is connected yet.
    pub fn new(name: Arc<str>, place: NodePlace, credentials: Arc<Credentials>) -> Arc<Self> {
        Arc::new(Self {
            name,
            place,
            credentials,
            idle: Mutex::default(),
            handshakes: Semaphore::new(HANDSHAKES),
        })
    }

    /// What it is called.
    pub fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// Where it is.
    pub fn place(&self) -> &NodePlace {
        &self.place
    }

    /// One answer.
    pub(crate) async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, Trouble> {
        self.exchange(Method::GET, path).await
    }

    /// What became of taking something back.
    pub(crate) async fn delete<T: DeserializeOwned>(&self, path: &str) -> Result<T, Trouble> {
        self.exchange(Method::DELETE, path).await
    }

    async fn exchange<T: DeserializeOwned>(&self, method: Method, path: &str) -> Result<T, Trouble> {
        let json = [(header::ACCEPT, "application/json")];
        let (response, connection) = self.ask(method, path, &json).await?;
        let body = whole(response).await?;
        self.keep(connection);
        serde_json::from_slice(&body).map_err(|error| strange(&error))
    }

    /// An answer that goes on.
    pub(crate) async fn follow(&self, path: &str, last: Option<&str>) -> Result<Incoming, Trouble> {
        let mut headers = vec![(header::ACCEPT, "text/event-stream")];
        headers.extend(last.map(|last| (header::HeaderName::from_static("last-event-id"), last)));
        Ok(self.ask(Method::GET, path, &headers).await?.0.into_body())
    }

    async fn ask(
        &self,
        method: Method,
        path: &str,
        headers: &[(header::HeaderName, &str)],
    ) -> Result<(Response<Incoming>, Connection), Trouble> {
        let request = || {
            let mut request =
                Request::builder().method(method.clone()).uri(path).header(header::HOST, "node");
            for (name, value) in headers {
                request = request.header(name, *value);
            }
            request.body(Empty::new()).map_err(|error| strange(&error))
        };
        // One that was kept may have been closed by now; the question is then asked on a new one.
        if let Some(mut connection) = self.kept()
            && connection.sender.ready().await.is_ok()
            && let Ok(response) = connection.sender.send_request(request()?).await
        {
            return Ok((good(response).await?, connection));
        }
        let mut connection = self.connect().await?;
        let sent = connection.sender.send_request(request()?).await;
        let response =
            sent.map_err(|error| Trouble::Silent(format!("the conversation broke off: {error}")))?;
        Ok((good(response).await?, connection))
    }

    async fn connect(&self) -> Result<Connection, Trouble> {
        let turn = self.handshakes.acquire().await;
        let number = self.credentials.number();
        let stream = self.credentials.connect(self.place.address, self.place.name.clone()).await;
        drop(turn);
        let stream = stream.map_err(|error| Trouble::Silent(format!("no connection: {error}")))?;
        let shaken = http1::handshake(TokioIo::new(stream)).await;
        let (sender, connection) = shaken.map_err(|error| Trouble::Silent(format!("no HTTP: {error}")))?;
        // Ends with the last sender and the last answer's body.
        tokio::spawn(connection);
        Ok(Connection { number, sender })
    }

    fn kept(&self) -> Option<Connection> {
        let number = self.credentials.number();
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        idle.retain(|one| one.number == number && !one.sender.is_closed());
        idle.pop()
    }

    fn keep(&self, connection: Connection) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < IDLE {
            idle.push(connection);
        }
    }
}

/// The answer, when it is one. What concerns the question is passed on to whoever asked.
async fn good(response: Response<Incoming>) -> Result<Response<Incoming>, Trouble> {
    let status = response.status();
    if status == StatusCode::OK {
        return Ok(response);
    }
    let body = whole(response).await?;
    match (status, serde_json::from_slice::<Problem>(&body)) {
        (StatusCode::BAD_REQUEST | StatusCode::NOT_FOUND | StatusCode::CONFLICT, Ok(problem)) => {
            Err(Trouble::Refused(problem))
        }
        (_, Ok(problem)) => Err(Trouble::Silent(format!("{status}: {}", problem.detail))),
        (_, Err(_)) => Err(Trouble::Silent(status.to_string())),
    }
}

async fn whole(response: Response<Incoming>) -> Result<Bytes, Trouble> {
    let body = Limited::new(response.into_body(), LARGEST).collect().await;
    body.map(|body| body.to_bytes()).map_err(|error| strange(&error))
}

fn strange(error: &dyn std::fmt::Display) -> Trouble {
    Trouble::Silent(format!("its answer is not understood: {error}"))
}
