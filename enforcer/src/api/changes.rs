//! What root may change over the API: bindings are taken back, in the kernel and in resolvers.

use std::sync::Arc;

use futures::{FutureExt, future::BoxFuture};
use nameward_api::{Changes, Flush, SourceError, types::FlushedBinding};
use nameward_policy::Name;

use crate::{Enforcer, EnforcerError, endpoints::FlushedName, feed_client::FeedClient};

/// An enforcer, and the way to its resolvers.
pub(super) struct Operated {
    pub(super) enforcer: Enforcer,
    pub(super) feed: Arc<FeedClient>,
}

impl Changes for Operated {
    /// Resolvers forget before the kernel does, as with rules: an answer from memory never names what is not usable. What
    /// is granted in between belongs to an answer that leaves, and stays.
    fn flush(&self, uid: &str, names: Vec<Name>) -> BoxFuture<'static, Result<Flush, SourceError>> {
        let (enforcer, feed) = (self.enforcer.clone(), Arc::clone(&self.feed));
        let uid: Arc<str> = uid.into();
        // A task of its own: once it has begun, it ends, also when whoever asked hangs up.
        let done = tokio::spawn(async move { flush(&enforcer, &feed, &uid, names).await });
        async move { done.await.map_err(|_| SourceError::Failed("the process is about to end".into()))? }
            .boxed()
    }
}

async fn flush(
    enforcer: &Enforcer,
    feed: &FeedClient,
    uid: &Arc<str>,
    names: Vec<Name>,
) -> Result<Flush, SourceError> {
    let generation = enforcer.begin_flush(uid, &names)?;
    let warnings = feed.forget(uid, generation, &names).await;
    let (finishing, own) = (enforcer.clone(), Arc::clone(uid));
    let finished = tokio::task::spawn_blocking(move || finishing.finish_flush(&own, &names)).await;
    let finished: Result<Vec<FlushedName>, EnforcerError> =
        finished.map_err(|_| SourceError::Failed("the process is about to end".into()))?;
    let flushed = finished?;
    let revoked: usize = flushed.iter().map(|one| one.revoked.len()).sum();
    tracing::warn!(
        endpoint = &**uid,
        names = flushed.len(),
        addresses = revoked,
        ?warnings,
        "bindings were taken back"
    );
    let binding = |one: FlushedName| FlushedBinding {
        endpoint: Arc::clone(uid),
        name: one.name.to_string(),
        revoked: one.revoked,
        renewed: one.renewed,
    };
    Ok(Flush { bindings: flushed.into_iter().map(binding).collect(), warnings })
}
