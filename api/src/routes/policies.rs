//! `/v1/policies`: what is in force; `/v1/suggestions`: what was tried that nothing allows.

use axum::{
    extract::{Query, State, rejection::QueryRejection},
    http::HeaderMap,
    response::Response,
};
use nameward_policy::Name;
use serde::Deserialize;
use utoipa::IntoParams;

use super::{Site, answer::Wanted, query, reading};
use crate::{
    Problem,
    filter::{DecisionFilter, EndpointFilter, is_policy_named, time},
    page::Page,
    suggest::suggest,
    types::{List, PolicyStatus, Suggestion},
};

/// Which policies.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct PoliciesQuery {
    /// A policy, as NAME or NAMESPACE/NAME.
    policy: Option<String>,
    /// Only those of a namespace.
    namespace: Option<String>,
    /// Only those that bind this endpoint.
    endpoint: Option<String>,
    /// Items of a page.
    #[param(minimum = 1, maximum = 1000)]
    limit: Option<usize>,
    /// `next` of the page before.
    cursor: Option<String>,
    /// Only these fields of each item, with commas between.
    fields: Option<String>,
}

/// Policies that bind an endpoint of this node, by kind, namespace and name.
#[utoipa::path(get, path = "/v1/policies", tag = "policies", params(PoliciesQuery), responses(
    (status = 200, description = "A page; a table for `Accept: text/plain`", body = List<PolicyStatus>),
    (status = 304, description = "As it was under the ETag in If-None-Match"),
    (status = 400, description = "A parameter cannot be understood", body = Problem, content_type = "application/problem+json"),
))]
pub(crate) async fn list(
    State(site): State<Site>,
    asked: Result<Query<PoliciesQuery>, QueryRejection>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let asked = query(asked)?;
    let page = Page::of::<PolicyStatus>(asked.limit, asked.cursor.as_deref())?;
    let wanted = Wanted::read::<PolicyStatus>(asked.fields.as_deref(), &headers)?;
    let source = site.source.clone();
    let mut items = reading(move || Ok(source.policies())).await?;
    items.retain(|one| {
        asked.policy.as_deref().is_none_or(|wanted| is_policy_named(one, wanted))
            && asked.namespace.as_deref().is_none_or(|wanted| one.namespace == wanted)
            && asked.endpoint.as_ref().is_none_or(|wanted| one.endpoints.contains(wanted))
    });
    let next = page.take(&mut items);
    wanted.answer(List::of_node(&site.node, items, next))
}

/// For whom.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct SuggestionsQuery {
    /// An endpoint's identifier.
    endpoint: Option<String>,
    /// Only those of a namespace.
    namespace: Option<String>,
    /// Only what was tried since this time (RFC 3339).
    since: Option<String>,
}

/// What endpoints tried that no rule allows, from the decisions that are kept. What a deny forbids is not suggested.
#[utoipa::path(get, path = "/v1/suggestions", tag = "policies", params(SuggestionsQuery), responses(
    (status = 200, description = "By endpoint; a table for `Accept: text/plain`", body = List<Suggestion>),
    (status = 304, description = "As it was under the ETag in If-None-Match"),
    (status = 400, description = "A parameter cannot be understood", body = Problem, content_type = "application/problem+json"),
))]
pub(crate) async fn suggestions(
    State(site): State<Site>,
    asked: Result<Query<SuggestionsQuery>, QueryRejection>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let asked = query(asked)?;
    let wanted = Wanted::read::<Suggestion>(None, &headers)?;
    let filter = DecisionFilter {
        endpoint: EndpointFilter { endpoint: asked.endpoint, namespace: asked.namespace, pod: None },
        since: time("since", asked.since.as_deref())?,
        ..DecisionFilter::default()
    };
    let kept = site.source.recent_decisions();
    let forbids = |uid: &str, name: &Name| site.source.forbids(uid, name);
    let items = suggest(kept.iter().map(|one| &***one).filter(|one| filter.passes(one)), forbids);
    wanted.answer(List::of_node(&site.node, items, None))
}
