//! `/v1/subjects`: what policies look at, and the objects that select it.

use std::{collections::HashMap, sync::Arc};

use axum::{
    extract::{Query, State, rejection::QueryRejection},
    http::HeaderMap,
    response::Response,
};
use serde::Deserialize;
use utoipa::IntoParams;

use super::{Site, answer::Wanted, query, reading};
use crate::{
    Problem,
    filter::EndpointFilter,
    page::Page,
    types::{List, SubjectStatus},
};

/// Which endpoints.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct SubjectsQuery {
    /// An endpoint's identifier or name.
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

/// Endpoints as policies see them, by identifier: labels, and the objects that rules are compiled from, also those in Audit
/// mode and those without rules. For `nameward run`, which has no selectors, there are none.
#[utoipa::path(get, path = "/v1/subjects", tag = "policies", params(SubjectsQuery), responses(
    (status = 200, description = "A page; a table for `Accept: text/plain`", body = List<SubjectStatus>),
    (status = 304, description = "As it was under the ETag in If-None-Match"),
    (status = 400, description = "A parameter cannot be understood", body = Problem, content_type = "application/problem+json"),
))]
pub(crate) async fn list(
    State(site): State<Site>,
    asked: Result<Query<SubjectsQuery>, QueryRejection>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let asked = query(asked)?;
    let page = Page::of::<SubjectStatus>(asked.limit, asked.cursor.as_deref())?;
    let wanted = Wanted::read::<SubjectStatus>(asked.fields.as_deref(), &headers)?;
    let filter = EndpointFilter { endpoint: asked.endpoint, namespace: asked.namespace, pod: asked.pod };
    let source = site.source.clone();
    let (mut items, named) = reading(move || Ok((source.subjects(), source.endpoint_names()))).await?;
    let named: HashMap<Arc<str>, String> = named.into_iter().collect();
    let is_meant = |uid: &Arc<str>| filter.passes(uid, named.get(uid).map_or(uid, String::as_str));
    items.retain(|one| is_meant(&one.endpoint));
    let next = page.take(&mut items);
    wanted.answer(List::of_node(&site.node, items, next))
}
