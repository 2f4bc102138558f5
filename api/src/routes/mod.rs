//! The routes, over a [`Source`]. Reading only, but for what [`Changes`] has, where a site has them.

pub(crate) mod answer;
pub(crate) mod bindings;
pub(crate) mod decisions;
pub(crate) mod endpoints;
pub(crate) mod explain;
pub(crate) mod flush;
pub(crate) mod health;
pub(crate) mod policies;
pub(crate) mod subjects;
pub(crate) mod traffic;

use std::sync::Arc;

use axum::{
    Router,
    extract::{Query, Request, rejection::QueryRejection},
    http::{StatusCode, Uri},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::get,
};

use crate::{Changes, Problem, Source, SourceError, openapi};

/// All that can be asked for, for those who asked for something else.
const PATHS: &str = "/v1/endpoints, /v1/endpoints/UID, /v1/bindings, /v1/decisions, /v1/explain, /v1/policies, \
    /v1/subjects, /v1/suggestions, /v1/traffic, /openapi.json, /metrics, /healthz, /readyz";
/// A longer path with its query is no question of ours.
const LONGEST_URI: usize = 4_096;
/// Bytes of headers that are borne.
const LARGEST_HEAD: usize = 16_384;

/// Who answers, and what it is called.
#[derive(Clone)]
pub struct Site {
    /// Who knows.
    pub source: Arc<dyn Source>,
    /// The node's name.
    pub node: Arc<str>,
    /// What may be changed; none where nothing may.
    pub changes: Option<Arc<dyn Changes>>,
}

impl std::fmt::Debug for Site {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Site").field("node", &self.node).finish_non_exhaustive()
    }
}

/// The routes.
pub fn router(site: Site) -> Router {
    let bindings = get(bindings::list);
    let bindings = if site.changes.is_some() { bindings.delete(flush::flush) } else { bindings };
    let routes = Router::new()
        .route("/v1/endpoints", get(endpoints::list))
        // Identifiers are NAMESPACE/NAME as a rule.
        .route("/v1/endpoints/{*uid}", get(endpoints::one))
        .route("/v1/bindings", bindings)
        .route("/v1/decisions", get(decisions::list))
        .route("/v1/explain", get(explain::explain))
        .route("/v1/policies", get(policies::list))
        .route("/v1/subjects", get(subjects::list))
        .route("/v1/suggestions", get(policies::suggestions))
        .route("/v1/traffic", get(traffic::list))
        .route("/openapi.json", get(async || openapi::answer()))
        .route("/metrics", get(health::metrics))
        .route("/healthz", get(health::alive))
        .route("/readyz", get(health::ready));
    finish(routes, PATHS).with_state(site)
}

/// The bounds that all routes have, and what is said of other paths and methods.
pub fn finish<S: Clone + Send + Sync + 'static>(routes: Router<S>, paths: &'static str) -> Router<S> {
    routes
        .fallback(async move |uri: Uri| unknown_path(&uri, paths))
        .method_not_allowed_fallback(read_only)
        .layer(middleware::from_fn(bounded))
}

/// Refuses heads that nobody needs, before anything looks at them.
async fn bounded(request: Request, next: Next) -> Response {
    let uri = request.uri().path_and_query().map_or(0, |text| text.as_str().len());
    let headers = request.headers();
    let head: usize = headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 4).sum();
    if uri > LONGEST_URI {
        let detail = format!("the address has {uri} bytes; at most {LONGEST_URI} are read");
        return Problem::new(StatusCode::URI_TOO_LONG, detail).into_response();
    }
    if head > LARGEST_HEAD {
        let detail = format!("the headers have {head} bytes; at most {LARGEST_HEAD} are read");
        return Problem::new(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, detail).into_response();
    }
    next.run(request).await
}

fn unknown_path(uri: &Uri, paths: &str) -> Problem {
    let path = uri.path();
    Problem::new(StatusCode::NOT_FOUND, format!("there is nothing at {path}; ask for one of {paths}"))
}

async fn read_only() -> Problem {
    Problem::new(StatusCode::METHOD_NOT_ALLOWED, "this API only tells, here: use GET")
}

/// What follows `?`, or a refusal that says what is wrong with it.
fn query<T>(query: Result<Query<T>, QueryRejection>) -> Result<T, Problem> {
    query.map(|Query(value)| value).map_err(|error| Problem::bad(error.body_text()))
}

/// Does what reads maps of the kernel beside the tasks that must not wait.
async fn reading<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, SourceError> + Send + 'static,
) -> Result<T, Problem> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => Ok(result?),
        Err(_) => Err(Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "the process is about to end")),
    }
}
