//! `/v1/bindings`: which name gave which addresses to whom, until when, and by which rule.

use std::ops::Bound;

use axum::{
    extract::{Query, State, rejection::QueryRejection},
    http::HeaderMap,
    response::Response,
};
use serde::Deserialize;
use utoipa::IntoParams;

use super::{Site, answer::Wanted, query, reading};
use crate::{
    Problem, Source, SourceError,
    filter::{self, BindingFilter, EndpointFilter},
    page::{Page, Start},
    types::{BindingStatus, List},
};

/// Which bindings.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct BindingsQuery {
    /// An endpoint's identifier or name.
    endpoint: Option<String>,
    /// Only those of a namespace.
    namespace: Option<String>,
    /// Only those of the workload of this name, in any namespace.
    pod: Option<String>,
    /// A name, `*.NAME` for all below it, or `*`.
    #[param(example = "*.example.com")]
    name: Option<String>,
    /// An address or a range that the name gave.
    #[param(example = "198.51.100.0/24")]
    address: Option<String>,
    /// A policy that allows the name, as NAME or NAMESPACE/NAME.
    policy: Option<String>,
    /// Whether new connections may use it: true or false.
    live: Option<bool>,
    /// Items of a page.
    #[param(minimum = 1, maximum = 1000)]
    limit: Option<usize>,
    /// `next` of the page before.
    cursor: Option<String>,
    /// Only these fields of each item, with commas between.
    fields: Option<String>,
}

/// Names with their addresses, by endpoint and name; lapsed ones are remembered for an hour.
#[utoipa::path(get, path = "/v1/bindings", tag = "state", params(BindingsQuery), responses(
    (status = 200, description = "A page; a table for `Accept: text/plain`", body = List<BindingStatus>),
    (status = 304, description = "As it was under the ETag in If-None-Match"),
    (status = 400, description = "A parameter cannot be understood", body = Problem, content_type = "application/problem+json"),
    (status = 404, description = "There is no such endpoint", body = Problem, content_type = "application/problem+json"),
))]
pub(crate) async fn list(
    State(site): State<Site>,
    asked: Result<Query<BindingsQuery>, QueryRejection>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let asked = query(asked)?;
    let page = Page::of::<BindingStatus>(asked.limit, asked.cursor.as_deref())?;
    let wanted = Wanted::read::<BindingStatus>(asked.fields.as_deref(), &headers)?;
    let endpoints = EndpointFilter { endpoint: asked.endpoint, namespace: asked.namespace, pod: asked.pod };
    let filter = BindingFilter {
        name: filter::pattern(asked.name.as_deref())?,
        address: filter::addresses(asked.address.as_deref())?,
        policy: asked.policy,
        live: asked.live,
    };
    let source = site.source.clone();
    let (items, next) = reading(move || collect(&*source, &endpoints, &filter, &page)).await?;
    wanted.answer(List::of_node(&site.node, items, next))
}

/// One page, and the cursor of what follows.
pub(super) fn collect(
    source: &dyn Source,
    endpoints: &EndpointFilter,
    filter: &BindingFilter,
    page: &Page,
) -> Result<(Vec<BindingStatus>, Option<String>), SourceError> {
    let named = source.endpoint_names();
    if let Some(wanted) = &endpoints.endpoint
        && !named.iter().any(|(uid, name)| endpoints.passes(uid, name))
    {
        return Err(SourceError::NoSuchEndpoint(wanted.clone()));
    }
    let start = page.start.as_ref().map(start).transpose()?;
    let mut items = Vec::new();
    for (uid, name) in named.iter().filter(|(uid, name)| endpoints.passes(uid, name)) {
        let first = match start {
            Some((begin, _)) if **uid < *begin => continue,
            Some((begin, first)) if **uid == *begin => first,
            _ => Bound::Unbounded,
        };
        // One more than fits says whether there is a next page.
        let room = page.limit + 1 - items.len();
        match source.bindings(uid, filter, first, room) {
            Ok(more) => items.extend(more),
            // Removed since the names were read.
            Err(SourceError::NoSuchEndpoint(_)) => tracing::trace!(endpoint = name, "removed meanwhile"),
            Err(error) => return Err(error),
        }
        if items.len() > page.limit {
            break;
        }
    }
    let next = page.cut(&mut items);
    Ok((items, next))
}

/// The endpoint that a page begins with, and the first of its names.
fn start(start: &Start) -> Result<(&str, Bound<&str>), SourceError> {
    let [endpoint, name] = start.key() else {
        return Err(SourceError::Failed("a cursor of another list".into()));
    };
    let name = match start {
        Start::After(_) => Bound::Excluded(name.as_str()),
        Start::From(_) => Bound::Included(name.as_str()),
    };
    Ok((endpoint, name))
}
