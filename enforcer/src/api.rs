//! What the node's enforcer tells over HTTP, as JSON: endpoints, bindings, decisions, explanations. Read only.
//!
//! A unix socket made here can be opened by its owner and group only; there is no other authorisation.

use std::{fmt, io, net::IpAddr, os::unix::fs::PermissionsExt, path::Path, sync::Arc};

use axum::{
    Json, Router,
    extract::{Path as UrlPath, Query, State},
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::get,
    serve::Listener,
};
use nameward_policy::{Binding, Destination, Explanation, Name};
use serde::{Deserialize, Serialize};
use tokio::net::UnixListener;

use crate::{EndpointStatus, Enforcer, EnforcerError, decisions::Decision};

/// The routes.
pub fn router(enforcer: Enforcer) -> Router {
    Router::new()
        .route("/v1/endpoints", get(endpoints))
        .route("/v1/endpoints/{uid}", get(endpoint))
        .route("/v1/bindings", get(bindings))
        .route("/v1/decisions", get(decisions))
        .route("/v1/explain", get(explain))
        .route("/healthz", get(async || "ok\n"))
        .with_state(enforcer)
}

/// Serves the routes on any kind of socket until the process ends.
///
/// # Errors
/// When connections cannot be accepted any more.
pub async fn serve<L: Listener<Addr: fmt::Debug>>(enforcer: Enforcer, listener: L) -> io::Result<()> {
    axum::serve(listener, router(enforcer)).await
}

/// Opens a socket for [`serve`]. One that an earlier process left is replaced; must be called within a runtime.
///
/// # Errors
/// When the socket cannot be made.
pub fn listen(path: &Path) -> io::Result<UnixListener> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)?;
    }
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o660))?;
    Ok(listener)
}

/// A list, with room for what may come beside it.
#[derive(Debug, Serialize)]
struct Items<T> {
    items: Vec<T>,
}

/// A binding and whose it is.
#[derive(Debug, Serialize)]
struct OwnedBinding {
    endpoint: Arc<str>,
    #[serde(flatten)]
    binding: Binding,
}

/// An explanation, and the same in one line for people.
#[derive(Debug, Serialize)]
struct Explained {
    text: String,
    #[serde(flatten)]
    explanation: Explanation,
}

#[derive(Debug, Deserialize)]
struct OfEndpoint {
    endpoint: Option<String>,
}

#[derive(Debug, Deserialize)]
struct ExplainQuery {
    endpoint: String,
    destination: String,
    port: Option<u16>,
    protocol: Option<String>,
}

/// A refusal as JSON.
#[derive(Debug)]
struct Refusal(StatusCode, String);

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        #[derive(Serialize)]
        struct Body {
            error: String,
        }
        (self.0, Json(Body { error: self.1 })).into_response()
    }
}

impl From<EnforcerError> for Refusal {
    fn from(error: EnforcerError) -> Self {
        let status = match error {
            EnforcerError::NoSuchEndpoint { .. } => StatusCode::NOT_FOUND,
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Self(status, crate::endpoints::chain_text(&error))
    }
}

async fn endpoints(State(enforcer): State<Enforcer>) -> Result<Json<Items<EndpointStatus>>, Refusal> {
    Ok(Json(Items { items: enforcer.endpoints()? }))
}

async fn endpoint(
    State(enforcer): State<Enforcer>,
    UrlPath(uid): UrlPath<String>,
) -> Result<Json<EndpointStatus>, Refusal> {
    Ok(Json(enforcer.endpoint(&uid)?))
}

async fn bindings(
    State(enforcer): State<Enforcer>,
    Query(of): Query<OfEndpoint>,
) -> Result<Json<Items<OwnedBinding>>, Refusal> {
    let uids: Vec<Arc<str>> = match of.endpoint {
        Some(uid) => vec![uid.into()],
        None => enforcer.endpoints()?.into_iter().map(|status| status.uid).collect(),
    };
    let mut items = Vec::new();
    for uid in uids {
        let of_one = enforcer.bindings(&uid)?;
        items.extend(of_one.into_iter().map(|binding| OwnedBinding { endpoint: uid.clone(), binding }));
    }
    Ok(Json(Items { items }))
}

async fn decisions(
    State(enforcer): State<Enforcer>,
    Query(of): Query<OfEndpoint>,
) -> Json<Items<Arc<Decision>>> {
    let wanted =
        |decision: &Arc<Decision>| of.endpoint.as_deref().is_none_or(|uid| uid == &*decision.endpoint);
    Json(Items { items: enforcer.recent_decisions().into_iter().filter(wanted).collect() })
}

async fn explain(
    State(enforcer): State<Enforcer>,
    Query(query): Query<ExplainQuery>,
) -> Result<Json<Explained>, Refusal> {
    let bad = |text: String| Refusal(StatusCode::BAD_REQUEST, text);
    let destination = destination(&query.destination).map_err(bad)?;
    let protocol = protocol(query.protocol.as_deref().unwrap_or("tcp")).map_err(bad)?;
    let explained = enforcer.explain(&query.endpoint, &destination, protocol, query.port.unwrap_or(443))?;
    let told = |explanation: Explanation| Json(Explained { text: explanation.to_string(), explanation });
    explained.map(told).ok_or_else(|| {
        Refusal(
            StatusCode::CONFLICT,
            format!("endpoint {} has no rules yet: everything is denied", query.endpoint),
        )
    })
}

fn destination(text: &str) -> Result<Destination, String> {
    if let Ok(address) = text.parse::<IpAddr>() {
        return Ok(Destination::Address(address));
    }
    Name::from_input(text).map(Destination::Name).map_err(|error| format!("destination {text:?}: {error}"))
}

fn protocol(text: &str) -> Result<u8, String> {
    match text.to_ascii_lowercase().as_str() {
        "tcp" => Ok(6),
        "udp" => Ok(17),
        "sctp" => Ok(132),
        "icmp" => Ok(1),
        number => {
            number.parse().map_err(|_| format!("protocol {text:?}: write tcp, udp, sctp, icmp or a number"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn destinations_and_protocols_are_read() {
        assert_eq!(destination("2001:db8::1"), Ok(Destination::Address("2001:db8::1".parse().unwrap())));
        assert_eq!(destination("Example.COM."), Ok(Destination::Name(Name::parse("example.com").unwrap())));
        assert!(destination("no name").is_err());
        assert_eq!((protocol("TCP"), protocol("47")), (Ok(6), Ok(47)));
        assert!(protocol("tpc").unwrap_err().contains("write tcp"));
    }
}
