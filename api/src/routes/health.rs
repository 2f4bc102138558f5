//! Health, readiness and metrics.

use axum::{
    extract::State,
    http::{StatusCode, header::CONTENT_TYPE},
    response::{IntoResponse, Response},
};

use super::{Site, reading};
use crate::Problem;

/// The process serves.
#[utoipa::path(get, path = "/healthz", tag = "health", security(()), responses(
    (status = 200, description = "`ok`", body = String, content_type = "text/plain"),
))]
pub async fn alive() -> &'static str {
    "ok\n"
}

/// Whether everything is as wanted; what is pending otherwise, a line each.
#[utoipa::path(get, path = "/readyz", tag = "health", security(()), responses(
    (status = 200, description = "`ready`", body = String, content_type = "text/plain"),
    (status = 503, description = "What is pending, a line each", body = String, content_type = "text/plain"),
))]
pub(crate) async fn ready(State(site): State<Site>) -> Response {
    readiness(&site.source.not_ready())
}

/// The answer when this is pending.
pub fn readiness(reasons: &[String]) -> Response {
    if reasons.is_empty() {
        return "ready\n".into_response();
    }
    let lines: String = reasons.iter().map(|reason| crate::table::printable(reason) + "\n").collect();
    (StatusCode::SERVICE_UNAVAILABLE, lines).into_response()
}

/// Metrics for Prometheus.
#[utoipa::path(get, path = "/metrics", tag = "health", responses(
    (status = 200, description = "All metrics; docs/metrics.md lists them", body = String, content_type = "application/openmetrics-text"),
    (status = 500, description = "Counters cannot be read", body = Problem, content_type = "application/problem+json"),
))]
pub(crate) async fn metrics(State(site): State<Site>) -> Result<Response, Problem> {
    let source = site.source.clone();
    let (text, media_type) = reading(move || source.metrics()).await?;
    Ok(([(CONTENT_TYPE, media_type)], text).into_response())
}
