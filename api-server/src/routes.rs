//! The routes of the cluster: those of a node, over all nodes. Items say which node they are of, `node=` asks some nodes
//! only, and nodes that did not answer are named in `unanswered`.

use std::sync::Arc;

use axum::{
    Extension, Json, Router,
    extract::{Path, Query, State},
    http::{HeaderMap, StatusCode, Uri},
    middleware,
    response::Response,
    routing::get,
};
use nameward_api::{
    Problem, openapi,
    page::Page,
    shared::{DecisionsQuery, Wanted, accepts_events, alive, finish, readiness},
    types::{
        BindingStatus, Decision, EndpointStatus, Flushed, FlushedBinding, Keyed, List, Located, PolicyStatus,
        SubjectStatus, Suggestion, TrafficStatus, namespace_of,
    },
};
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::{
    Node, Nodes,
    access::{self, Access, Asker, Right, Ticket},
    ask::{self, Answers},
    events::{self, Followed},
    find::Holders,
    merge,
    positions::Positions,
    query::Asked,
};

/// All that can be asked for, for those who asked for something else.
const PATHS: &str = "/v1/endpoints, /v1/endpoints/UID, /v1/bindings, /v1/decisions, /v1/explain, /v1/policies, \
    /v1/subjects, /v1/suggestions, /v1/traffic, /openapi.json, /healthz, /readyz";
/// The cursor of what is left to be taken back.
const AGAIN: &str = "again";
/// Questions that nodes are asked at a time: each costs as many connections as there are nodes.
const QUESTIONS: usize = 32;
/// Those who follow decisions at a time: each costs a stream of each node.
const FOLLOWERS: usize = 64;

/// Who answers for the cluster.
#[derive(Clone, Debug)]
pub struct Cluster(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    nodes: Nodes,
    /// Who says who may ask; none where the routes are guarded otherwise.
    access: Option<Access>,
    holders: Holders,
    questions: Semaphore,
    followers: Arc<Semaphore>,
}

impl Cluster {
    /// Over these nodes. Without `access` everybody who can reach the routes may ask.
    pub fn new(nodes: Nodes, access: Option<Access>) -> Self {
        Self(Arc::new(Inner {
            nodes,
            access,
            holders: Holders::default(),
            questions: Semaphore::new(QUESTIONS),
            followers: Arc::new(Semaphore::new(FOLLOWERS)),
        }))
    }

    /// Why it cannot answer yet; empty when it can.
    pub fn not_ready(&self) -> Vec<String> {
        let nodes = self.0.nodes.all().is_none();
        let nodes = nodes.then(|| "the nodes of the cluster have not been read yet".to_owned());
        nodes.into_iter().chain(self.0.access.as_ref().and_then(Access::trouble)).collect()
    }

    /// Refuses what the asker may not see, and gives what lets them go on to see it.
    async fn admit(
        &self,
        asker: Option<Extension<Asker>>,
        resource: &'static str,
        verb: &'static str,
        namespace: Option<String>,
    ) -> Result<Option<Ticket>, Problem> {
        let Some(access) = &self.0.access else { return Ok(None) };
        let Some(Extension(asker)) = asker else {
            return Err(Problem::new(StatusCode::UNAUTHORIZED, "nobody said who asks"));
        };
        access.admit(asker, Right { resource, verb, namespace }).await.map(Some)
    }

    fn choose(&self, asked: &Asked) -> Result<Vec<Arc<Node>>, Problem> {
        let unknown = || Problem::new(StatusCode::SERVICE_UNAVAILABLE, self.not_ready().join("; "));
        asked.choose(&*self.0.nodes.all().ok_or_else(unknown)?)
    }

    fn question(&self) -> Result<tokio::sync::SemaphorePermit<'_>, Problem> {
        self.0.questions.try_acquire().map_err(|_| too_many("questions are asked"))
    }

    fn follower(&self) -> Result<OwnedSemaphorePermit, Problem> {
        Arc::clone(&self.0.followers).try_acquire_owned().map_err(|_| too_many("clients follow decisions"))
    }
}

fn too_many(what: &str) -> Problem {
    Problem::new(
        StatusCode::TOO_MANY_REQUESTS,
        format!("too many {what} at this time; try again in a second"),
    )
}

/// The routes.
pub fn router(cluster: Cluster) -> Router {
    let bindings = get(list::<BindingStatus>);
    // Where nobody is told from anybody nothing may be changed.
    let bindings = if cluster.0.access.is_some() { bindings.delete(flush) } else { bindings };
    let routes = Router::new()
        .route("/v1/endpoints", get(list::<EndpointStatus>))
        .route("/v1/endpoints/{*uid}", get(endpoint))
        .route("/v1/bindings", bindings)
        .route("/v1/decisions", get(decisions))
        .route("/v1/explain", get(explain))
        .route("/v1/policies", get(list::<PolicyStatus>))
        .route("/v1/subjects", get(list::<SubjectStatus>))
        .route("/v1/suggestions", get(suggestions))
        .route("/v1/traffic", get(list::<TrafficStatus>))
        .route("/openapi.json", get(async || openapi::answer()))
        .route("/healthz", get(alive))
        .route("/readyz", get(async |State(cluster): State<Cluster>| readiness(&cluster.not_ready())));
    let access = cluster.0.access.clone();
    let routes = finish(routes, PATHS).with_state(cluster);
    match access {
        Some(access) => routes.layer(middleware::from_fn_with_state(access, access::authenticate)),
        None => routes,
    }
}

const BINDINGS: &str = "egressbindings";
const ENDPOINTS: &str = "egressendpoints";
const DECISIONS: &str = "egressdecisions";

/// Items of a list that users have rights on.
trait Listed: Keyed + DeserializeOwned + Send + 'static {
    /// The resource that stands for them.
    const RESOURCE: &'static str;
}

impl Listed for BindingStatus {
    const RESOURCE: &'static str = BINDINGS;
}

impl Listed for EndpointStatus {
    const RESOURCE: &'static str = ENDPOINTS;
}

impl Listed for PolicyStatus {
    const RESOURCE: &'static str = ENDPOINTS;
}

impl Listed for SubjectStatus {
    const RESOURCE: &'static str = ENDPOINTS;
}

impl Listed for TrafficStatus {
    const RESOURCE: &'static str = BINDINGS;
}

impl Listed for Decision {
    const RESOURCE: &'static str = DECISIONS;
}

async fn list<T: Listed>(
    State(cluster): State<Cluster>,
    asker: Option<Extension<Asker>>,
    uri: Uri,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let mut asked = Asked::read(&uri)?;
    let namespace = asked.narrow();
    cluster.admit(asker, T::RESOURCE, "list", namespace).await?;
    page::<T>(&cluster, &asked, uri.path(), &headers).await
}

async fn page<T: Listed>(
    cluster: &Cluster,
    asked: &Asked,
    path: &str,
    headers: &HeaderMap,
) -> Result<Response, Problem> {
    let page = Page::of::<Located<T>>(asked.limit, asked.cursor.as_deref())?;
    let wanted = Wanted::read::<Located<T>>(asked.fields.as_deref(), headers)?;
    let (nodes, _place) = (cluster.choose(asked)?, cluster.question()?);
    let answers = ask::all::<List<T>>(&nodes, |node| {
        let mut more = vec![("limit", page.limit.to_string())];
        more.extend(merge::start_at(&page, node.name()).map(|start| ("cursor", start.cursor())));
        asked.address(path, &more)
    });
    let answers = known_to_some(answers.await?)?;
    let (items, next) = merge::merge(&page, answers.good);
    wanted.answer(List { node: String::new(), items, next, unanswered: answers.unanswered })
}

/// What no node knows is not there; what some do not know is with the others.
fn known_to_some<T>(answers: Answers<T>) -> Result<Answers<T>, Problem> {
    match answers.absent.first() {
        Some((_, problem)) if answers.good.is_empty() && answers.unanswered.is_empty() => {
            Err(problem.clone())
        }
        _ => Ok(answers),
    }
}

async fn decisions(
    State(cluster): State<Cluster>,
    asker: Option<Extension<Asker>>,
    uri: Uri,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let mut asked = Asked::read(&uri)?;
    let follow = asked.value("follow").map(str::to_owned);
    let is_followed = match follow.as_deref() {
        Some("true") => true,
        Some("false") => false,
        Some(other) => return Err(Problem::bad(format!("follow {other:?}: write true or false"))),
        None => accepts_events(&headers),
    };
    asked.passed_on.retain(|(name, _)| name != "follow");
    let namespace = asked.narrow();
    let verb = if is_followed { "watch" } else { "list" };
    let ticket = cluster.admit(asker, DECISIONS, verb, namespace).await?;
    if !is_followed {
        return page::<Decision>(&cluster, &asked, uri.path(), &headers).await;
    }
    let address = asked.address("/v1/decisions", &[]);
    // A stream that has begun cannot be refused any more.
    let alone = address.parse::<Uri>().map_err(|error| Problem::bad(error.to_string()))?;
    let query = Query::<DecisionsQuery>::try_from_uri(&alone);
    query.map_err(|error| Problem::bad(error.body_text()))?.0.filter()?;
    cluster.choose(&asked)?;
    let last = headers.get("last-event-id").map(|value| value.to_str().unwrap_or("?"));
    let positions = last.map(Positions::read).transpose()?.unwrap_or_default();
    let place = cluster.follower()?;
    let nodes = cluster.0.nodes.clone();
    Ok(events::follow(Followed { nodes, only: asked.nodes, address, positions, _place: place, ticket }))
}

async fn suggestions(
    State(cluster): State<Cluster>,
    asker: Option<Extension<Asker>>,
    uri: Uri,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let mut asked = Asked::read(&uri)?;
    let namespace = asked.narrow();
    cluster.admit(asker, DECISIONS, "list", namespace).await?;
    if asked.limit.is_some() || asked.cursor.is_some() {
        return Err(Problem::bad("this list has no pages: leave limit and cursor out"));
    }
    let wanted = Wanted::read::<Located<Suggestion>>(asked.fields.as_deref(), &headers)?;
    let (nodes, _place) = (cluster.choose(&asked)?, cluster.question()?);
    let answers = ask::all::<List<Suggestion>>(&nodes, |_| asked.address(uri.path(), &[])).await?;
    let everything = Page { limit: usize::MAX, start: None };
    let (items, next) = merge::merge(&everything, answers.good);
    wanted.answer(List { node: String::new(), items, next, unanswered: answers.unanswered })
}

/// Takes bindings back on all nodes. A node that did not answer is a warning: what it has stays.
async fn flush(
    State(cluster): State<Cluster>,
    asker: Option<Extension<Asker>>,
    uri: Uri,
) -> Result<Json<Flushed<Located<FlushedBinding>>>, Problem> {
    let mut asked = Asked::read(&uri)?;
    let namespace = asked.narrow();
    cluster.admit(asker, BINDINGS, "delete", namespace).await?;
    if asked.fields.is_some() {
        return Err(Problem::bad("unknown field `fields`"));
    }
    let (nodes, _place) = (cluster.choose(&asked)?, cluster.question()?);
    let limit = asked.limit.map(|limit| ("limit", limit.to_string()));
    // What was taken back is not found again, so that each time begins with what is left.
    let address = asked.address(uri.path(), limit.as_slice());
    let answers = known_to_some(ask::delete::<Flushed>(&nodes, &address).await?)?;
    let mut flushed = Flushed { node: String::new(), items: Vec::new(), warnings: Vec::new(), next: None };
    for (node, own) in answers.good {
        let located = own.items.into_iter().map(|item| Located { node: Arc::clone(&node), item });
        flushed.items.extend(located);
        flushed.warnings.extend(own.warnings.into_iter().map(|warning| format!("{node}: {warning}")));
        flushed.next = flushed.next.or_else(|| own.next.map(|_| AGAIN.to_owned()));
    }
    let silent = answers.unanswered.into_iter();
    flushed.warnings.extend(silent.map(|one| format!("{} did not answer: {}", one.node, one.problem)));
    flushed.items.sort_by(|one, other| {
        (&one.item.endpoint, &one.item.name, &one.node).cmp(&(
            &other.item.endpoint,
            &other.item.name,
            &other.node,
        ))
    });
    Ok(Json(flushed))
}

async fn explain(
    State(cluster): State<Cluster>,
    asker: Option<Extension<Asker>>,
    uri: Uri,
) -> Result<Json<Value>, Problem> {
    let asked = Asked::read(&uri)?;
    let endpoint = asked.value("endpoint").ok_or_else(|| Problem::bad("missing field `endpoint`"))?;
    cluster.admit(asker, ENDPOINTS, "get", namespace_of(endpoint).map(str::to_owned)).await?;
    let (nodes, _place) = (cluster.choose(&asked)?, cluster.question()?);
    Ok(Json(cluster.0.holders.ask(&nodes, endpoint, &asked.address("/v1/explain", &[])).await?))
}

async fn endpoint(
    State(cluster): State<Cluster>,
    asker: Option<Extension<Asker>>,
    Path(uid): Path<String>,
    uri: Uri,
) -> Result<Json<Value>, Problem> {
    let asked = Asked::read(&uri)?;
    cluster.admit(asker, ENDPOINTS, "get", namespace_of(&uid).map(str::to_owned)).await?;
    let (nodes, _place) = (cluster.choose(&asked)?, cluster.question()?);
    let address = asked.address(&format!("/v1/endpoints/{uid}"), &[]);
    Ok(Json(cluster.0.holders.ask(&nodes, &uid, &address).await?))
}
