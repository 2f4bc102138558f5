//! `/v1/decisions`: what became of packets, the latest first; or, as an event stream, as it happens.

use std::{cmp::Reverse, sync::Arc};

use axum::{
    extract::{Query, State, rejection::QueryRejection},
    http::{HeaderMap, header},
    response::{IntoResponse, Response},
};
use serde::Deserialize;
use utoipa::IntoParams;

use super::{Site, answer::Wanted, query};
use crate::{
    LastSeen, Problem,
    filter::{self, DecisionFilter, EndpointFilter},
    page::Page,
    source::Followed,
    stream,
    types::{Decision, Keyed, List},
};

/// Which decisions.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct DecisionsQuery {
    /// Follow: `text/event-stream` from here on, as with `Accept: text/event-stream`.
    follow: Option<bool>,
    /// An endpoint's identifier.
    endpoint: Option<String>,
    /// Only those of a namespace.
    namespace: Option<String>,
    /// Only those of the workload of this name, in any namespace.
    pod: Option<String>,
    /// The name that the peer's address had: a name, `*.NAME` for all below it, or `*`.
    name: Option<String>,
    /// An address or a range of the peer.
    address: Option<String>,
    /// A policy that took part, as NAME or NAMESPACE/NAME.
    policy: Option<String>,
    /// `pass`, `deny`, `would-deny`; and what Audit policies would make of it, `staged-pass`, `staged-deny`. Several with
    /// commas: `pass,staged-deny` is what passes and would not.
    verdict: Option<String>,
    /// Words like `no-match`; several with commas.
    reason: Option<String>,
    /// `egress` or `ingress`.
    direction: Option<String>,
    /// Not before this time (RFC 3339).
    since: Option<String>,
    /// Before this time (RFC 3339).
    until: Option<String>,
    /// Items of a page.
    #[param(minimum = 1, maximum = 1000)]
    limit: Option<usize>,
    /// `next` of the page before.
    cursor: Option<String>,
    /// Only these fields of each item, with commas between.
    fields: Option<String>,
}

/// Decisions that are kept, the latest first; or the stream of those to come.
///
/// The stream has events `decision`, each with its identifier for `Last-Event-ID`, and `lost` with the number of
/// decisions that this reader will never see. A connection that was lost goes on where it ended, as far as the node
/// still remembers.
#[utoipa::path(get, path = "/v1/decisions", tag = "decisions", params(DecisionsQuery,
    ("Last-Event-ID" = Option<String>, Header, description = "Go on behind this event")), responses(
    (status = 200, description = "A page; a table for `Accept: text/plain`", content(
        (List<Decision> = "application/json"), (String = "text/plain"), (String = "text/event-stream"))),
    (status = 304, description = "As it was under the ETag in If-None-Match"),
    (status = 400, description = "A parameter cannot be understood", body = Problem, content_type = "application/problem+json"),
))]
pub(crate) async fn list(
    State(site): State<Site>,
    asked: Result<Query<DecisionsQuery>, QueryRejection>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let asked = query(asked)?;
    let filter = asked.filter()?;
    if asked.follow.unwrap_or_else(|| accepts_events(&headers)) {
        let last = headers.get("last-event-id").map(|value| value.to_str().unwrap_or_default());
        let last = last.map(LastSeen::read).transpose()?;
        return Ok(stream::follow(&*site.source, filter, last).into_response());
    }
    let page = Page::of::<Decision>(asked.limit, asked.cursor.as_deref())?;
    let wanted = Wanted::read::<Decision>(asked.fields.as_deref(), &headers)?;
    let (items, next) = collect(site.source.recent_decisions(), &filter, &page);
    wanted.answer(List::of_node(&site.node, items, next))
}

/// Whether a client wants the stream.
pub fn accepts_events(headers: &HeaderMap) -> bool {
    let accept = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok());
    accept.is_some_and(|accept| accept.split(',').any(|one| one.trim().starts_with("text/event-stream")))
}

fn collect(
    mut kept: Vec<Arc<Followed>>,
    filter: &DecisionFilter,
    page: &Page,
) -> (Vec<Decision>, Option<String>) {
    kept.retain(|one| filter.passes(one));
    // By time, and not by number: questions are told later than they were asked.
    kept.sort_unstable_by_key(|one| Reverse((one.at, one.sequence)));
    let is_behind = |one: &&Arc<Followed>| page.start.as_ref().is_none_or(|start| start.admits(&one.key()));
    let wanted = kept.iter().filter(is_behind);
    let mut items: Vec<Decision> = wanted.take(page.limit + 1).map(|one| Decision::clone(one)).collect();
    let next = page.cut(&mut items);
    (items, next)
}

impl DecisionsQuery {
    /// The filter, or what is wrong with it.
    pub fn filter(&self) -> Result<DecisionFilter, Problem> {
        Ok(DecisionFilter {
            endpoint: EndpointFilter {
                endpoint: self.endpoint.clone(),
                namespace: self.namespace.clone(),
                pod: self.pod.clone(),
            },
            name: filter::pattern(self.name.as_deref())?,
            address: filter::addresses(self.address.as_deref())?,
            policy: self.policy.clone(),
            verdicts: filter::verdicts(self.verdict.as_deref())?,
            reasons: filter::reasons(self.reason.as_deref())?,
            direction: filter::direction(self.direction.as_deref())?,
            since: filter::time("since", self.since.as_deref())?,
            until: filter::time("until", self.until.as_deref())?,
        })
    }
}
