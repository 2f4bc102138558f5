//! Asks an API: lists page by page, single answers, and the stream of decisions.

use std::{
    collections::VecDeque,
    io,
    net::SocketAddr,
    path::{Path, PathBuf},
    str::FromStr,
    time::Duration,
};

use http_body_util::{BodyExt, Empty};
use hyper::{
    Request, Response, StatusCode,
    body::{Bytes, Incoming},
    client::conn::http1,
    header,
    http::request,
};
use hyper_util::rt::TokioIo;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::de::DeserializeOwned;
use thiserror::Error;
use tokio::net::{TcpStream, UnixStream};

use crate::{
    Problem, page,
    serve::{ApiPlace, Token, TokenError},
    types::{Decision, List},
};

/// What stands in a query's value as it is (RFC 3986 2.3, and what reads better so).
const PLAIN: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~')
    .remove(b'/')
    .remove(b',')
    .remove(b':');
/// An answer that takes longer is none.
const PATIENCE: Duration = Duration::from_secs(20);
/// An answer that is larger is none of ours.
const LARGEST: usize = 64 << 20;

/// Whom to ask.
#[derive(Clone, Debug)]
pub struct Client {
    place: ApiPlace,
    token: Option<Token>,
}

/// Why there is no answer.
#[derive(Debug, Error)]
pub enum ClientError {
    /// Nobody listens there, or we may not speak to them.
    #[error("{place} does not answer: {}", hint(.source))]
    Connect {
        /// Where.
        place: ApiPlace,
        /// Cause.
        source: io::Error,
    },
    /// The conversation broke off.
    #[error("{place}: the conversation broke off")]
    Broken {
        /// Where.
        place: ApiPlace,
        /// Cause.
        source: hyper::Error,
    },
    /// Too slow.
    #[error("{0} does not answer within {seconds} s", seconds = PATIENCE.as_secs())]
    Slow(ApiPlace),
    /// The API says no.
    #[error("{}", .0.detail)]
    Refused(Problem),
    /// The answer is not what it should be: another version, or another server.
    #[error("{place} answers what this version does not understand ({what})")]
    Strange {
        /// Where.
        place: ApiPlace,
        /// What was expected.
        what: String,
    },
    /// The token.
    #[error(transparent)]
    Token(#[from] TokenError),
}

fn hint(error: &io::Error) -> String {
    let next = match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
            "; is nameward-enforcer running with --api? Name another place with --api unix:PATH or --api ADDR:PORT"
        }
        io::ErrorKind::PermissionDenied => "; only root and the socket's group may ask: try sudo",
        _ => "",
    };
    format!("{error}{next}")
}

impl Client {
    /// At a place; an address needs the file of its token.
    ///
    /// # Errors
    /// [`ClientError::Token`].
    pub fn new(place: ApiPlace, token_file: Option<&Path>) -> Result<Self, ClientError> {
        Ok(Self { place, token: token_file.map(Token::read).transpose()? })
    }

    /// A whole list, page by page, up to `most` items.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn list<T: DeserializeOwned>(
        &self,
        path: &str,
        query: &[(&str, String)],
        most: usize,
    ) -> Result<Vec<T>, ClientError> {
        let mut items: Vec<T> = Vec::new();
        let mut cursor = None;
        loop {
            let mut query = query.to_vec();
            query.push(("limit", most.saturating_sub(items.len()).clamp(1, page::MAX).to_string()));
            query.extend(cursor.map(|cursor| ("cursor", cursor)));
            let list: List<T> = self.get(path, &query).await?;
            items.extend(list.items);
            match list.next {
                Some(next) if items.len() < most => cursor = Some(next),
                _ => break,
            }
        }
        items.truncate(most);
        Ok(items)
    }

    /// One answer.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn get<T: DeserializeOwned>(
        &self,
        path: &str,
        query: &[(&str, String)],
    ) -> Result<T, ClientError> {
        self.read(&self.bytes(path, query).await?)
    }

    /// One answer as it is.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn bytes(&self, path: &str, query: &[(&str, String)]) -> Result<Bytes, ClientError> {
        self.body(Request::get(address(path, query))).await
    }

    /// Follows decisions.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn follow(&self, query: &[(&str, String)], last: Option<&str>) -> Result<Events, ClientError> {
        let request = Request::get(address("/v1/decisions", query));
        let mut request = request.header(header::ACCEPT, "text/event-stream");
        if let Some(last) = last {
            request = request.header("last-event-id", last);
        }
        let response = tokio::time::timeout(PATIENCE, self.ask(request)).await;
        let response = response.map_err(|_| ClientError::Slow(self.place.clone()))??;
        Ok(Events { body: response.into_body(), parser: Parser::default(), place: self.place.clone() })
    }

    /// Takes back what is at a path; gives the answer.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn delete<T: DeserializeOwned>(
        &self,
        path: &str,
        query: &[(&str, String)],
    ) -> Result<T, ClientError> {
        self.read(&self.body(Request::delete(address(path, query))).await?)
    }

    /// Asks for JSON, and waits for the whole of it.
    async fn body(&self, request: request::Builder) -> Result<Bytes, ClientError> {
        let whole = async {
            let response = self.ask(request.header(header::ACCEPT, "application/json")).await?;
            self.whole(response).await
        };
        tokio::time::timeout(PATIENCE, whole).await.map_err(|_| ClientError::Slow(self.place.clone()))?
    }

    fn read<T: DeserializeOwned>(&self, body: &[u8]) -> Result<T, ClientError> {
        serde_json::from_slice(body).map_err(|error| self.strange(&error.to_string()))
    }

    async fn ask(&self, mut request: request::Builder) -> Result<Response<Incoming>, ClientError> {
        request = request.header(header::HOST, "localhost");
        if let Some(token) = &self.token {
            request = request.header(header::AUTHORIZATION, format!("Bearer {}", token.as_str()));
        }
        let request = request.body(Empty::new()).map_err(|error| self.strange(&error.to_string()))?;
        let response = match &self.place {
            ApiPlace::Unix(path) => self.exchange(UnixStream::connect(path).await, request).await?,
            ApiPlace::Address(address) => self.exchange(TcpStream::connect(address).await, request).await?,
        };
        if response.status() == StatusCode::OK {
            return Ok(response);
        }
        let status = response.status();
        let body = self.whole(response).await?;
        let problem = serde_json::from_slice(&body);
        Err(problem.map_or_else(|_| self.strange(&status.to_string()), ClientError::Refused))
    }

    async fn exchange<S>(
        &self,
        stream: io::Result<S>,
        request: Request<Empty<Bytes>>,
    ) -> Result<Response<Incoming>, ClientError>
    where
        S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + Unpin + 'static,
    {
        let failed = |source| ClientError::Connect { place: self.place.clone(), source };
        let stream = stream.map_err(failed)?;
        let (mut sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(|source| self.broken(source))?;
        // Ends with the answer's body.
        tokio::spawn(connection);
        sender.send_request(request).await.map_err(|source| self.broken(source))
    }

    async fn whole(&self, response: Response<Incoming>) -> Result<Bytes, ClientError> {
        let body = http_body_util::Limited::new(response.into_body(), LARGEST);
        let body = body.collect().await.map_err(|error| self.strange(&error.to_string()))?;
        Ok(body.to_bytes())
    }

    fn broken(&self, source: hyper::Error) -> ClientError {
        ClientError::Broken { place: self.place.clone(), source }
    }

    fn strange(&self, what: &str) -> ClientError {
        ClientError::Strange { place: self.place.clone(), what: what.into() }
    }
}

/// A path with its query, as a request has it.
pub fn address(path: &str, query: &[(&str, String)]) -> String {
    let pairs: Vec<String> =
        query.iter().map(|(name, value)| format!("{name}={}", utf8_percent_encode(value, PLAIN))).collect();
    let path = utf8_percent_encode(path, PLAIN);
    if pairs.is_empty() { path.to_string() } else { format!("{path}?{}", pairs.join("&")) }
}

/// What the stream says.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// A decision, and its identifier for the next time.
    Decision(Box<Decision>, String),
    /// So many decisions will never be seen.
    Lost(u64),
}

/// The stream of decisions.
#[derive(Debug)]
pub struct Events {
    body: Incoming,
    parser: Parser,
    place: ApiPlace,
}

impl Events {
    /// The next event; none when the stream has ended.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn next(&mut self) -> Result<Option<Event>, ClientError> {
        loop {
            if let Some(raw) = self.parser.ready.pop_front() {
                match raw.read() {
                    Some(event) => return Ok(Some(event)),
                    // Kinds that later versions may have.
                    None => continue,
                }
            }
            let Some(frame) = self.body.frame().await else { return Ok(None) };
            let frame = frame.map_err(|source| ClientError::Broken { place: self.place.clone(), source })?;
            if let Some(data) = frame.data_ref() {
                self.parser.push(data);
            }
        }
    }
}

/// An event as it came.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Raw {
    /// Of this event, or of the last one that had one.
    pub id: String,
    /// What it is; empty where nothing was said.
    pub kind: String,
    /// Empty where only the identifier moves on.
    pub data: String,
}

impl Raw {
    fn read(self) -> Option<Event> {
        #[derive(serde::Deserialize)]
        struct Lost {
            count: u64,
        }
        match self.kind.as_str() {
            "decision" => Some(Event::Decision(serde_json::from_str(&self.data).ok()?, self.id)),
            "lost" => serde_json::from_str::<Lost>(&self.data).ok().map(|lost| Event::Lost(lost.count)),
            _ => None,
        }
    }
}

/// Lines to events, whatever the pieces they come in.
#[derive(Debug, Default)]
pub struct Parser {
    line: Vec<u8>,
    event: Raw,
    /// Whether the event has an identifier of its own.
    is_named: bool,
    /// Events that are complete.
    pub ready: VecDeque<Raw>,
}

impl Parser {
    /// Takes what has come.
    pub fn push(&mut self, data: &[u8]) {
        for byte in data {
            if *byte == b'\n' {
                let line = std::mem::take(&mut self.line);
                self.take(String::from_utf8_lossy(&line).trim_end_matches('\r'));
            } else if self.line.len() < LARGEST {
                self.line.push(*byte);
            }
        }
    }

    fn take(&mut self, line: &str) {
        if line.is_empty() {
            let event = std::mem::take(&mut self.event);
            // An identifier holds until another one comes.
            event.id.clone_into(&mut self.event.id);
            if std::mem::take(&mut self.is_named) || !event.data.is_empty() {
                self.ready.push_back(event);
            }
            return;
        }
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "id" => {
                value.clone_into(&mut self.event.id);
                self.is_named = true;
            }
            "event" => value.clone_into(&mut self.event.kind),
            "data" => value.clone_into(&mut self.event.data),
            _ => {}
        }
    }
}

/// Where the API is when nobody says: the socket of a running system.
pub fn usual_place() -> ApiPlace {
    ApiPlace::Unix(PathBuf::from("/run/nameward/api.sock"))
}

/// A destination as people write it: a name or an address, with or without a port; IPv6 with a port in brackets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// The name or address.
    pub destination: String,
    /// The port.
    pub port: Option<u16>,
}

impl FromStr for Target {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let whole = |destination: &str| Self { destination: destination.into(), port: None };
        if text.parse::<std::net::IpAddr>().is_ok() {
            return Ok(whole(text));
        }
        if let Ok(address) = text.parse::<SocketAddr>() {
            return Ok(Self { destination: address.ip().to_string(), port: Some(address.port()) });
        }
        match text.rsplit_once(':') {
            None => Ok(whole(text)),
            Some((destination, port)) => {
                let port = port
                    .parse()
                    .map_err(|_| format!("{port:?} is no port; write NAME:PORT or [IPV6]:PORT"))?;
                Ok(Self { destination: destination.into(), port: Some(port) })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_come_in_pieces() {
        let mut parser = Parser::default();
        let text = ": following\n\nid: 1-7\nevent: decision\ndata: {\"a\":1}\n\nevent: lost\r\ndata: {\"count\":3}\r\n\r\n:\n\nid: 1-9\n\n";
        for piece in text.as_bytes().chunks(3) {
            parser.push(piece);
        }
        let kinds: Vec<_> = parser.ready.iter().map(|raw| (raw.kind.as_str(), raw.id.as_str())).collect();
        assert_eq!(kinds, [("decision", "1-7"), ("lost", "1-7"), ("", "1-9")]);
        assert_eq!(parser.ready[1].clone().read(), Some(Event::Lost(3)));
        assert_eq!(parser.ready[2].clone().read(), None);
    }

    #[test]
    fn targets_are_read() {
        let target = |text: &str| text.parse::<Target>().map(|target| (target.destination, target.port));
        assert_eq!(target("a.example"), Ok(("a.example".into(), None)));
        assert_eq!(target("a.example:80"), Ok(("a.example".into(), Some(80))));
        assert_eq!(target("2001:db8::1"), Ok(("2001:db8::1".into(), None)));
        assert_eq!(target("[2001:db8::1]:80"), Ok(("2001:db8::1".into(), Some(80))));
        assert!(target("a.example:x").unwrap_err().contains("no port"));
    }

    #[test]
    fn queries_are_data() {
        let query = [("endpoint", "ci/a b".to_owned()), ("name", "a&x=\u{e4}\r\nb".to_owned())];
        assert_eq!(
            address("/v1/bindings", &query),
            "/v1/bindings?endpoint=ci/a%20b&name=a%26x%3D%C3%A4%0D%0Ab"
        );
    }
}
