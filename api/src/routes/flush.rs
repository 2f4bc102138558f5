//! `DELETE /v1/bindings`: takes bindings back. For root, over a unix socket; for nameward-api, which has asked who may; and for
//! nobody else.

use std::{collections::BTreeMap, sync::Arc};

use axum::{
    Extension, Json,
    extract::{Query, State, rejection::QueryRejection},
    http::StatusCode,
};
use nameward_policy::Name;
use serde::Deserialize;
use utoipa::IntoParams;

use super::{Site, bindings::collect, query, reading};
use crate::{
    Problem, SourceError,
    filter::{self, BindingFilter, EndpointFilter},
    page::Page,
    serve::Caller,
    types::{BindingStatus, Flushed},
};

/// Which bindings: `name` or `address` is needed.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct FlushQuery {
    /// An endpoint's identifier or name.
    endpoint: Option<String>,
    /// Only those of a namespace.
    namespace: Option<String>,
    /// Only those of the workload of this name, in any namespace.
    pod: Option<String>,
    /// A name, `*.NAME` for all below it, or `*` for all.
    #[param(example = "*.example.com")]
    name: Option<String>,
    /// An address or a range: names that gave it, with all their addresses.
    #[param(example = "198.51.100.7")]
    address: Option<String>,
    /// So many bindings at one go.
    #[param(minimum = 1, maximum = 1000)]
    limit: Option<usize>,
    /// `next` of the answer before.
    cursor: Option<String>,
}

/// Takes bindings back: new connections under these names need a new answer, for which servers are asked anew. Live
/// connections go on. Only root may, over the unix socket of an enforcer; in a cluster who may `delete` egressbindings of
/// live.nameward.io, over nameward-api.
#[utoipa::path(delete, path = "/v1/bindings", tag = "state", params(FlushQuery), responses(
    (status = 200, description = "What was taken back", body = Flushed),
    (status = 400, description = "A parameter cannot be understood", body = Problem, content_type = "application/problem+json"),
    (status = 403, description = "Not root, or not over a unix socket", body = Problem, content_type = "application/problem+json"),
    (status = 404, description = "There is no such endpoint", body = Problem, content_type = "application/problem+json"),
    (status = 405, description = "Nothing can be changed here: `nameward run`", body = Problem, content_type = "application/problem+json"),
))]
pub(crate) async fn flush(
    State(site): State<Site>,
    caller: Option<Extension<Caller>>,
    asked: Result<Query<FlushQuery>, QueryRejection>,
) -> Result<Json<Flushed>, Problem> {
    let forbidden = |detail| Problem::new(StatusCode::FORBIDDEN, detail);
    if !caller.is_some_and(|Extension(caller)| caller.may_change()) {
        return Err(forbidden(
            "only root may take bindings back, over the unix socket of the enforcer: try sudo",
        ));
    }
    let Some(changes) = &site.changes else { return Err(forbidden("nothing can be changed here")) };
    let asked = query(asked)?;
    let given = |text: &Option<String>| text.as_ref().is_some_and(|text| !text.is_empty());
    if !given(&asked.name) && !given(&asked.address) {
        return Err(Problem::bad(
            "say which bindings: name=NAME, name=*.NAME, name=* for all, or address=ADDRESS",
        ));
    }
    let page = Page::of::<BindingStatus>(asked.limit, asked.cursor.as_deref())?;
    let filter = BindingFilter {
        name: filter::pattern(asked.name.as_deref())?,
        address: filter::addresses(asked.address.as_deref())?,
        policy: None,
        live: Some(true),
    };
    let endpoints = EndpointFilter { endpoint: asked.endpoint, namespace: asked.namespace, pod: asked.pod };
    let source = site.source.clone();
    let (found, next) = reading(move || collect(&*source, &endpoints, &filter, &page)).await?;
    let mut names: BTreeMap<Arc<str>, Vec<Name>> = BTreeMap::new();
    for binding in found {
        names.entry(binding.endpoint).or_default().extend(Name::parse(&binding.name));
    }
    let mut flushed = Flushed { node: site.node.to_string(), items: Vec::new(), warnings: Vec::new(), next };
    for (uid, names) in names {
        match changes.flush(&uid, names).await {
            Ok(done) => {
                flushed.items.extend(done.bindings);
                for warning in done.warnings {
                    if !flushed.warnings.contains(&warning) {
                        flushed.warnings.push(warning);
                    }
                }
            }
            // Removed since: nothing of it is left.
            Err(SourceError::NoSuchEndpoint(_)) => tracing::trace!(endpoint = &*uid, "removed meanwhile"),
            Err(error) => return Err(error.into()),
        }
    }
    Ok(Json(flushed))
}
