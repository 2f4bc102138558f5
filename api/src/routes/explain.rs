//! `/v1/explain`: would a new connection pass, and why.

use axum::{
    Json,
    extract::{Query, State, rejection::QueryRejection},
};
use serde::Deserialize;
use utoipa::IntoParams;

use super::{Site, endpoints::uid_of, query};
use crate::{Problem, filter, types::Explained};

/// Which connection.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct ExplainQuery {
    /// The endpoint's identifier or name.
    #[param(example = "ci/runner")]
    endpoint: String,
    /// A name or an address.
    #[param(example = "registry.example.com")]
    destination: String,
    /// The port; 443 when it is left out.
    port: Option<u16>,
    /// tcp, udp, sctp, icmp or a number; tcp when it is left out.
    protocol: Option<String>,
}

/// Would a new connection pass, and why. Live connections may go on where new ones are denied.
#[utoipa::path(get, path = "/v1/explain", tag = "state", params(ExplainQuery), responses(
    (status = 200, description = "The explanation", body = Explained),
    (status = 400, description = "A parameter cannot be understood", body = Problem, content_type = "application/problem+json"),
    (status = 404, description = "There is no such endpoint", body = Problem, content_type = "application/problem+json"),
    (status = 409, description = "The endpoint has no rules yet: everything is denied; or several have this name", body = Problem, content_type = "application/problem+json"),
))]
pub(crate) async fn explain(
    State(site): State<Site>,
    asked: Result<Query<ExplainQuery>, QueryRejection>,
) -> Result<Json<Explained>, Problem> {
    let asked = query(asked)?;
    let destination = filter::destination(&asked.destination)?;
    let protocol =
        filter::protocol(asked.protocol.as_deref().filter(|text| !text.is_empty()).unwrap_or("tcp"))?;
    // Tables in memory only: nothing here waits.
    let uid = uid_of(&*site.source, &asked.endpoint)?;
    Ok(Json(site.source.explain(&uid, &destination, protocol, asked.port.unwrap_or(443))?))
}
