//! Who may ask, as the cluster says: a bearer token is reviewed (TokenReview), and what its user wants to see is, too
//! (SubjectAccessReview), as the resources `egressbindings`, `egressendpoints` and `egressdecisions` of `live.nameward.io`.
//!
//! Answers of the API server are remembered for a bounded time, and so many at most. What cannot be reviewed is refused.

use std::{
    collections::BTreeMap,
    hash::Hash,
    num::NonZeroUsize,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use axum::{
    extract::{Request, State},
    http::{StatusCode, header},
    middleware::Next,
    response::{IntoResponse, Response},
};
use k8s_openapi::api::{
    authentication::v1::{TokenReview, TokenReviewSpec, UserInfo},
    authorization::v1::{ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec},
};
use kube::{Api, Client, api::PostParams};
use lru::LruCache;
use nameward_api::{Problem, serve::OPEN};
use tokio::{sync::Semaphore, time::timeout};

/// The group of what may be seen.
const GROUP: &str = "live.nameward.io";
/// How long a yes counts: also how long a right that was taken away may still be used.
pub(crate) const YES_FOR: Duration = Duration::from_secs(30);
/// How long a no counts.
const NO_FOR: Duration = Duration::from_secs(5);
/// Answers that are remembered, of each kind.
const REMEMBERED: NonZeroUsize = NonZeroUsize::new(4_096).unwrap();
/// Reviews at a time: strangers can have tokens reviewed.
const REVIEWS: usize = 16;
/// The API server answers within this time, and a review's turn comes.
const WITHIN: Duration = Duration::from_secs(3);
/// A longer token is none.
const LONGEST: usize = 8_192;

/// A user, as the API server knows it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct User {
    name: String,
    uid: String,
    groups: Vec<String>,
    extra: BTreeMap<String, Vec<String>>,
}

/// What somebody wants to do.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Right {
    /// The resource.
    pub(crate) resource: &'static str,
    /// `get`, `list`, `watch` or `delete`.
    pub(crate) verb: &'static str,
    /// Where; everywhere when there is none.
    pub(crate) namespace: Option<String>,
}

impl std::fmt::Display for Right {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}.{GROUP}", self.verb, self.resource)?;
        match &self.namespace {
            Some(namespace) => write!(f, " in the namespace {namespace}"),
            None => f.write_str(" in all namespaces"),
        }
    }
}

/// Who asks, and by which token they said so; an extension of each request.
#[derive(Clone)]
pub(crate) struct Asker {
    user: Arc<User>,
    token: Arc<str>,
}

/// What somebody was let in for; what goes on asks now and then whether it is still good.
pub(crate) struct Ticket {
    access: Access,
    asker: Asker,
    right: Right,
}

impl std::fmt::Debug for Ticket {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ticket").field("user", &self.asker.user.name).field("right", &self.right).finish()
    }
}

impl Ticket {
    /// Whether it has not been taken away. While nobody can be asked it has not.
    pub(crate) async fn is_good(&self) -> bool {
        let reviewed = match self.access.user(&self.asker.token).await {
            Ok(user) => self.access.allow(&user, &self.right).await,
            Err(problem) => Err(problem),
        };
        match reviewed {
            Ok(()) => true,
            Err(problem) => problem.status == StatusCode::SERVICE_UNAVAILABLE.as_u16(),
        }
    }
}

/// Asks the API server, and remembers what it said.
#[derive(Clone)]
pub struct Access(Arc<Inner>);

struct Inner {
    client: Client,
    users: Memory<String, Option<Arc<User>>>,
    rights: Memory<(Arc<User>, Right), bool>,
    reviews: Semaphore,
    /// Why the last review failed; none when it did not.
    trouble: Mutex<Option<String>>,
}

impl std::fmt::Debug for Access {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Access").finish_non_exhaustive()
    }
}

impl Access {
    /// By the API server of this client, whose account may create both kinds of reviews.
    pub fn new(client: Client) -> Self {
        Self(Arc::new(Inner {
            client,
            users: Memory::new(),
            rights: Memory::new(),
            reviews: Semaphore::new(REVIEWS),
            trouble: Mutex::default(),
        }))
    }

    /// Why nobody new is let in; none when reviews are answered.
    pub(crate) fn trouble(&self) -> Option<String> {
        let trouble = self.0.trouble.lock().unwrap_or_else(PoisonError::into_inner).clone();
        trouble.map(|trouble| format!("the API server does not say who may ask: {trouble}"))
    }

    /// Whose token this is.
    async fn user(&self, token: &str) -> Result<Arc<User>, Problem> {
        let unknown = || unauthorized("the API server does not know this token, or it has ended");
        let now = Instant::now();
        if let Some(known) = self.0.users.recall(&token.to_owned(), now) {
            return known.ok_or_else(unknown);
        }
        let spec = TokenReviewSpec { token: token.to_owned(), ..TokenReviewSpec::default() };
        let review = TokenReview { spec, ..TokenReview::default() };
        let status = self.review(&review).await?.status.unwrap_or_default();
        let user =
            status.user.filter(|_| status.authenticated == Some(true)).map(|user| Arc::new(read(user)));
        self.0.users.keep(token.to_owned(), user.clone(), user.is_some(), now);
        user.ok_or_else(unknown)
    }

    /// Lets somebody in who has the right.
    pub(crate) async fn admit(&self, asker: Asker, right: Right) -> Result<Ticket, Problem> {
        self.allow(&asker.user, &right).await?;
        Ok(Ticket { access: self.clone(), asker, right })
    }

    /// Refuses what the user may not do.
    async fn allow(&self, user: &Arc<User>, right: &Right) -> Result<(), Problem> {
        let now = Instant::now();
        let key = (Arc::clone(user), right.clone());
        let may = match self.0.rights.recall(&key, now) {
            Some(known) => known,
            None => {
                let answered = self.review(&question(user, right)).await?.status;
                let may = answered.is_some_and(|status| status.allowed && status.denied != Some(true));
                self.0.rights.keep(key, may, may, now);
                may
            }
        };
        if may {
            return Ok(());
        }
        let hint = match right.namespace {
            Some(_) => "",
            None => "; ask for one that you may see with namespace=",
        };
        let detail = format!("{} may not {right}{hint}", user.name);
        Err(Problem::new(StatusCode::FORBIDDEN, detail))
    }

    /// Has the API server fill something in.
    async fn review<K>(&self, object: &K) -> Result<K, Problem>
    where
        K: kube::Resource<DynamicType = ()>
            + serde::Serialize
            + serde::de::DeserializeOwned
            + Clone
            + std::fmt::Debug,
    {
        let unavailable = |detail: &str| Problem::new(StatusCode::SERVICE_UNAVAILABLE, detail);
        let busy = || unavailable("too many questions who may ask are open; try again in a second");
        let _turn =
            timeout(WITHIN, self.0.reviews.acquire()).await.map_err(|_| busy())?.map_err(|_| busy())?;
        let api: Api<K> = Api::all(self.0.client.clone());
        let reviewed = match timeout(WITHIN, api.create(&PostParams::default(), object)).await {
            Ok(Ok(reviewed)) => Ok(reviewed),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err(format!("no answer within {} s", WITHIN.as_secs())),
        };
        let trouble = reviewed.as_ref().err().cloned();
        let before = std::mem::replace(
            &mut *self.0.trouble.lock().unwrap_or_else(PoisonError::into_inner),
            trouble.clone(),
        );
        if let Some(error) = trouble.filter(|error| before.as_ref() != Some(error)) {
            tracing::warn!(error, "the API server does not say who may ask");
        }
        reviewed.map_err(|_| {
            unavailable("the API server does not say who you are or what you may; try again in a second")
        })
    }
}

fn read(user: UserInfo) -> User {
    User {
        name: user.username.unwrap_or_default(),
        uid: user.uid.unwrap_or_default(),
        groups: user.groups.unwrap_or_default(),
        extra: user.extra.unwrap_or_default(),
    }
}

fn question(user: &User, right: &Right) -> SubjectAccessReview {
    let attributes = ResourceAttributes {
        group: Some(GROUP.into()),
        resource: Some(right.resource.into()),
        verb: Some(right.verb.into()),
        namespace: right.namespace.clone(),
        ..ResourceAttributes::default()
    };
    let spec = SubjectAccessReviewSpec {
        user: Some(user.name.clone()),
        uid: Some(user.uid.clone()).filter(|uid| !uid.is_empty()),
        groups: Some(user.groups.clone()),
        extra: Some(user.extra.clone()),
        resource_attributes: Some(attributes),
        ..SubjectAccessReviewSpec::default()
    };
    SubjectAccessReview { spec, ..SubjectAccessReview::default() }
}

/// Says whose the token of a request is, in an extension of it; health and readiness answer everybody.
pub(crate) async fn authenticate(State(access): State<Access>, mut request: Request, next: Next) -> Response {
    if OPEN.contains(&request.uri().path()) {
        return next.run(request).await;
    }
    let token: Option<Arc<str>> = bearer(&request).map(Into::into);
    let asker = match token {
        Some(token) => access.user(&token).await.map(|user| Asker { user, token }),
        None => {
            Err(unauthorized("send `Authorization: Bearer TOKEN` with a token that the API server knows"))
        }
    };
    match asker {
        Ok(asker) => {
            request.extensions_mut().insert(asker);
            next.run(request).await
        }
        Err(problem) => problem.into_response(),
    }
}

fn bearer(request: &Request) -> Option<&str> {
    let shown = request.headers().get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = shown.split_once(' ')?;
    let token = token.trim();
    let fits = (1..=LONGEST).contains(&token.len());
    (scheme.eq_ignore_ascii_case("bearer") && fits).then_some(token)
}

fn unauthorized(detail: &str) -> Problem {
    Problem::new(StatusCode::UNAUTHORIZED, detail)
}

/// Answers by question, each until its time; the least used go first.
struct Memory<K: Hash + Eq, V>(Mutex<LruCache<K, (V, Instant)>>);

impl<K: Hash + Eq, V: Clone> Memory<K, V> {
    fn new() -> Self {
        Self(Mutex::new(LruCache::new(REMEMBERED)))
    }

    fn recall(&self, key: &K, now: Instant) -> Option<V> {
        let mut all = self.lock();
        let (value, until) = all.get(key)?;
        (now < *until).then(|| value.clone())
    }

    fn keep(&self, key: K, value: V, is_yes: bool, now: Instant) {
        let time = if is_yes { YES_FOR } else { NO_FOR };
        self.lock().put(key, (value, now + time));
    }

    fn lock(&self) -> MutexGuard<'_, LruCache<K, (V, Instant)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_remembered_for_a_while() {
        let (memory, now) = (Memory::new(), Instant::now());
        memory.keep("yes", true, true, now);
        memory.keep("no", false, false, now);
        let later = |time: Duration| (memory.recall(&"yes", now + time), memory.recall(&"no", now + time));
        assert_eq!(later(Duration::ZERO), (Some(true), Some(false)));
        assert_eq!(later(NO_FOR), (Some(true), None));
        assert_eq!(later(YES_FOR), (None, None));
        assert_eq!(memory.recall(&"other", now), None);
        for number in 0..2 * REMEMBERED.get() {
            memory.keep(Box::leak(number.to_string().into_boxed_str()), true, true, now);
        }
        assert_eq!(memory.lock().len(), REMEMBERED.get());
    }

    #[test]
    fn a_question_carries_the_whole_user() {
        let user = User {
            name: "jane".into(),
            uid: String::new(),
            groups: vec!["dev".into()],
            extra: [("scopes".to_owned(), vec!["x".to_owned()])].into(),
        };
        let right = Right { resource: "egressbindings", verb: "list", namespace: Some("ci".into()) };
        let asked = serde_json::to_value(question(&user, &right).spec).unwrap();
        let attributes = serde_json::json!({"group": GROUP, "resource": "egressbindings", "verb": "list", "namespace": "ci"});
        assert_eq!(asked["resourceAttributes"], attributes);
        assert_eq!(
            (&asked["user"], &asked["groups"][0], &asked["extra"]["scopes"][0]),
            (&"jane".into(), &"dev".into(), &"x".into())
        );
        assert_eq!(asked.get("uid"), None);
        assert_eq!(right.to_string(), "list egressbindings.live.nameward.io in the namespace ci");
    }
}
