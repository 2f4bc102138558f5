//! `/v1/traffic`: packets and bytes of live connections, by name.

use axum::{
    extract::{Query, State, rejection::QueryRejection},
    http::HeaderMap,
    response::Response,
};
use serde::Deserialize;
use utoipa::IntoParams;

use super::{Site, answer::Wanted, query, reading};
use crate::{
    Problem, SourceError,
    filter::EndpointFilter,
    page::Page,
    types::{List, TrafficStatus},
};

/// Whose traffic.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct TrafficQuery {
    /// An endpoint's identifier or name.
    endpoint: Option<String>,
    /// Only that of a namespace.
    namespace: Option<String>,
    /// Only that of the workload of this name, in any namespace.
    pod: Option<String>,
    /// Items of a page.
    #[param(minimum = 1, maximum = 1000)]
    limit: Option<usize>,
    /// `next` of the page before.
    cursor: Option<String>,
    /// Only these fields of each item, with commas between.
    fields: Option<String>,
}

/// Packets and bytes of the connections that are live now, by endpoint and name.
#[utoipa::path(get, path = "/v1/traffic", tag = "state", params(TrafficQuery), responses(
    (status = 200, description = "A page; a table for `Accept: text/plain`", body = List<TrafficStatus>),
    (status = 304, description = "As it was under the ETag in If-None-Match"),
    (status = 400, description = "A parameter cannot be understood", body = Problem, content_type = "application/problem+json"),
))]
pub(crate) async fn list(
    State(site): State<Site>,
    asked: Result<Query<TrafficQuery>, QueryRejection>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let asked = query(asked)?;
    let page = Page::of::<TrafficStatus>(asked.limit, asked.cursor.as_deref())?;
    let wanted = Wanted::read::<TrafficStatus>(asked.fields.as_deref(), &headers)?;
    let filter = EndpointFilter { endpoint: asked.endpoint, namespace: asked.namespace, pod: asked.pod };
    let source = site.source.clone();
    let mut items = reading(move || {
        let mut items = Vec::new();
        for (uid, _) in source.endpoint_names().iter().filter(|(uid, name)| filter.passes(uid, name)) {
            match source.traffic(uid) {
                Ok(more) => items.extend(more),
                Err(SourceError::NoSuchEndpoint(_)) => {
                    tracing::trace!(endpoint = &**uid, "removed meanwhile")
                }
                Err(error) => return Err(error),
            }
        }
        Ok(items)
    })
    .await?;
    let next = page.take(&mut items);
    wanted.answer(List::of_node(&site.node, items, next))
}
