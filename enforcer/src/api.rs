//! What the node's enforcer tells over HTTP: endpoints, bindings, decisions and explanations as JSON, its health, and
//! metrics for Prometheus. Read only; who may open the socket may read all of it.

mod metrics;
mod socket;

use std::{fmt, io, net::IpAddr, sync::Arc};

use axum::{
    Json, Router,
    extract::{Path as UrlPath, Query, State, rejection::QueryRejection},
    http::{StatusCode, Uri, header::CONTENT_TYPE},
    response::{IntoResponse, Response},
    routing::get,
    serve::Listener,
};
use nameward_policy::{Destination, Explanation, Name};
use serde::{Deserialize, Serialize};

pub use self::socket::{ApiListener, ApiPlace, listen};
use crate::{BindingStatus, EndpointStatus, Enforcer, EnforcerError, decisions::Decision};

/// All that can be asked for, for those who asked for something else.
const PATHS: &str =
    "/v1/endpoints, /v1/endpoints/UID, /v1/bindings, /v1/decisions, /v1/explain, /healthz, /readyz, /metrics";

/// The routes.
pub fn router(enforcer: Enforcer) -> Router {
    Router::new()
        .route("/v1/endpoints", get(endpoints))
        // Identifiers are NAMESPACE/NAME as a rule.
        .route("/v1/endpoints/{*uid}", get(endpoint))
        .route("/v1/bindings", get(bindings))
        .route("/v1/decisions", get(decisions))
        .route("/v1/explain", get(explain))
        .route("/healthz", get(async || "ok\n"))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
        .fallback(unknown_path)
        .method_not_allowed_fallback(read_only)
        .with_state(enforcer)
}

/// Serves the routes on any kind of socket until the process ends.
///
/// # Errors
/// When connections cannot be accepted any more.
pub async fn serve<L: Listener<Addr: fmt::Debug>>(enforcer: Enforcer, listener: L) -> io::Result<()> {
    axum::serve(listener, router(enforcer)).await
}

/// Serves at a place of the command line.
///
/// # Errors
/// When connections cannot be accepted any more.
pub async fn serve_at(enforcer: Enforcer, listener: ApiListener) -> io::Result<()> {
    match listener {
        ApiListener::Unix(listener) => serve(enforcer, listener).await,
        ApiListener::Address(listener) => serve(enforcer, listener).await,
    }
}

/// A list, with room for what may come beside it.
#[derive(Debug, Serialize)]
struct Items<T> {
    items: Vec<T>,
}

/// An explanation, and the same in one line for people.
#[derive(Debug, Serialize)]
struct Explained {
    text: String,
    #[serde(flatten)]
    explanation: Explanation,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct OfEndpoint {
    endpoint: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
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

/// What follows `?`, or a refusal that says what is wrong with it.
fn query<T>(query: Result<Query<T>, QueryRejection>) -> Result<T, Refusal> {
    query.map(|Query(value)| value).map_err(|error| Refusal(StatusCode::BAD_REQUEST, error.body_text()))
}

/// Does what reads maps of the kernel beside the tasks that must not wait.
async fn reading<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, EnforcerError> + Send + 'static,
) -> Result<T, Refusal> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => Ok(result?),
        Err(error) => Err(EnforcerError::Stopped(error).into()),
    }
}

async fn unknown_path(uri: Uri) -> Refusal {
    Refusal(StatusCode::NOT_FOUND, format!("there is nothing at {}; ask for one of {PATHS}", uri.path()))
}

async fn read_only() -> Refusal {
    Refusal(StatusCode::METHOD_NOT_ALLOWED, "this API only tells: use GET".into())
}

async fn ready(State(enforcer): State<Enforcer>) -> Response {
    let reasons = enforcer.not_ready();
    if reasons.is_empty() {
        return "ready\n".into_response();
    }
    (StatusCode::SERVICE_UNAVAILABLE, reasons.join("\n") + "\n").into_response()
}

async fn metrics(State(enforcer): State<Enforcer>) -> Result<Response, Refusal> {
    let text = reading(move || metrics::page(&enforcer)).await?;
    Ok(([(CONTENT_TYPE, metrics::FORMAT)], text).into_response())
}

async fn endpoints(State(enforcer): State<Enforcer>) -> Result<Json<Items<EndpointStatus>>, Refusal> {
    Ok(Json(Items { items: reading(move || enforcer.endpoints()).await? }))
}

async fn endpoint(
    State(enforcer): State<Enforcer>,
    UrlPath(uid): UrlPath<String>,
) -> Result<Json<EndpointStatus>, Refusal> {
    Ok(Json(reading(move || enforcer.endpoint(&uid)).await?))
}

async fn bindings(
    State(enforcer): State<Enforcer>,
    of: Result<Query<OfEndpoint>, QueryRejection>,
) -> Result<Json<Items<BindingStatus>>, Refusal> {
    let items = match query(of)?.endpoint {
        Some(uid) => enforcer.binding_statuses(&uid)?,
        None => enforcer.all_binding_statuses(),
    };
    Ok(Json(Items { items }))
}

async fn decisions(
    State(enforcer): State<Enforcer>,
    of: Result<Query<OfEndpoint>, QueryRejection>,
) -> Result<Json<Items<Arc<Decision>>>, Refusal> {
    let of = query(of)?.endpoint;
    let wanted = |decision: &Arc<Decision>| of.as_deref().is_none_or(|uid| uid == &*decision.endpoint);
    Ok(Json(Items { items: enforcer.recent_decisions().into_iter().filter(wanted).collect() }))
}

async fn explain(
    State(enforcer): State<Enforcer>,
    asked: Result<Query<ExplainQuery>, QueryRejection>,
) -> Result<Json<Explained>, Refusal> {
    let query = query(asked)?;
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
