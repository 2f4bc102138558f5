//! `/v1/endpoints`: who is guarded, and how.

use std::sync::Arc;

use axum::{
    Json,
    extract::{Path, Query, State, rejection::QueryRejection},
    http::{HeaderMap, StatusCode},
    response::Response,
};
use serde::Deserialize;
use utoipa::IntoParams;

use super::{Site, answer::Wanted, query, reading};
use crate::{
    Problem, Source,
    filter::EndpointFilter,
    page::Page,
    types::{EndpointStatus, List},
};

/// Which endpoints.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct EndpointsQuery {
    /// An identifier or a name.
    endpoint: Option<String>,
    /// Only those of a namespace.
    namespace: Option<String>,
    /// Only the workload of this name, in any namespace.
    pod: Option<String>,
    /// Items of a page.
    #[param(minimum = 1, maximum = 1000)]
    limit: Option<usize>,
    /// `next` of the page before.
    cursor: Option<String>,
    /// Only these fields of each item, with commas between.
    fields: Option<String>,
}

/// Endpoints of this node, by identifier.
#[utoipa::path(get, path = "/v1/endpoints", tag = "state", params(EndpointsQuery), responses(
    (status = 200, description = "A page; a table for `Accept: text/plain`", body = List<EndpointStatus>),
    (status = 304, description = "As it was under the ETag in If-None-Match"),
    (status = 400, description = "A parameter cannot be understood", body = Problem, content_type = "application/problem+json"),
))]
pub(crate) async fn list(
    State(site): State<Site>,
    asked: Result<Query<EndpointsQuery>, QueryRejection>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let asked = query(asked)?;
    let page = Page::of::<EndpointStatus>(asked.limit, asked.cursor.as_deref())?;
    let wanted = Wanted::read::<EndpointStatus>(asked.fields.as_deref(), &headers)?;
    let filter = EndpointFilter { endpoint: asked.endpoint, namespace: asked.namespace, pod: asked.pod };
    let source = site.source.clone();
    let mut items = reading(move || source.endpoints()).await?;
    items.retain(|one| filter.passes_status(one));
    let next = page.take(&mut items);
    wanted.answer(List::of_node(&site.node, items, next))
}

/// One endpoint.
#[utoipa::path(get, path = "/v1/endpoints/{uid}", tag = "state",
    params(("uid" = String, Path, description = "Its identifier or name; a slash in it may stand as it is", example = "ci/runner")),
    responses(
        (status = 200, description = "The endpoint", body = EndpointStatus),
        (status = 404, description = "There is none", body = Problem, content_type = "application/problem+json"),
        (status = 409, description = "Several have this name", body = Problem, content_type = "application/problem+json"),
    ))]
pub(crate) async fn one(
    State(site): State<Site>,
    Path(uid): Path<String>,
) -> Result<Json<EndpointStatus>, Problem> {
    let source = site.source.clone();
    let uid = uid_of(&*source, &uid)?;
    Ok(Json(reading(move || source.endpoint(&uid)).await?))
}

/// The identifier of the endpoint that somebody calls by it or by its name. What nobody knows is left as it is: it may be
/// wanted and not attached yet.
pub(super) fn uid_of(source: &dyn Source, called: &str) -> Result<Arc<str>, Problem> {
    let named = source.endpoint_names();
    if named.iter().any(|(uid, _)| **uid == *called) {
        return Ok(called.into());
    }
    let mut found = named.into_iter().filter(|(_, name)| name == called).map(|(uid, _)| uid);
    match (found.next(), found.next()) {
        (Some(one), None) => Ok(one),
        (None, _) => Ok(called.into()),
        (Some(one), Some(other)) => {
            let detail = format!(
                "{called} is the name of {one} and of {other}, among others perhaps: ask for one of them"
            );
            Err(Problem::new(StatusCode::CONFLICT, detail))
        }
    }
}
