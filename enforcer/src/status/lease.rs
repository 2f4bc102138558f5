//! One of several: a Lease of the API server (coordination.k8s.io), held by whoever renews it.
//!
//! Clocks of nodes are not compared: a Lease counts as left when its text has not changed for its duration, by our own
//! clock. Every write names the version it replaces, so that of two that try, one succeeds.

use std::time::Duration;

use k8s_openapi::{
    api::coordination::v1::{Lease, LeaseSpec},
    apimachinery::pkg::apis::meta::v1::MicroTime,
};
use kube::{Api, Client, api::PostParams};
use tokio::time::{Instant, sleep};

use super::remedy;

/// A holder that does not renew for this long has left.
const DURATION: Duration = Duration::from_secs(15);
/// How often a holder renews.
const RENEW_EVERY: Duration = Duration::from_secs(3);
/// How often others look: every node of a cluster is one of them.
const LOOK_EVERY: Duration = Duration::from_secs(10);
/// A holder that cannot renew for this long stops, before another may take over.
const GIVE_UP: Duration = Duration::from_secs(10);

/// A Lease, as we see it.
#[derive(Debug)]
pub struct Leadership {
    api: Api<Lease>,
    name: String,
    identity: String,
    seen: Option<(LeaseSpec, Instant)>,
}

impl Leadership {
    /// Nothing held, nothing seen yet.
    #[must_use]
    pub fn new(client: Client, namespace: &str, name: &str, identity: &str) -> Self {
        let api = Api::namespaced(client, namespace);
        Self { api, name: name.into(), identity: identity.into(), seen: None }
    }

    /// Waits until the Lease is ours.
    pub async fn acquire(&mut self) {
        let mut told = false;
        loop {
            match self.try_once().await {
                Ok(true) => return,
                Ok(false) => {}
                Err(error) if is_conflict(&error) => {}
                Err(error) => {
                    if !told {
                        let error = remedy(&error);
                        tracing::warn!(
                            lease = self.name,
                            error,
                            "no Lease of the status writer can be had; it is tried again"
                        );
                    }
                    told = true;
                }
            }
            sleep(LOOK_EVERY).await;
        }
    }

    /// Renews the Lease; returns when it is, or may be, another's.
    pub async fn keep(&mut self) {
        let mut renewed = Instant::now();
        while renewed.elapsed() < GIVE_UP {
            sleep(RENEW_EVERY).await;
            match self.try_once().await {
                Ok(true) => renewed = Instant::now(),
                Ok(false) => return,
                Err(error) => tracing::debug!(lease = self.name, %error, "not renewed"),
            }
        }
    }

    /// Makes, takes or renews the Lease where that may be done; returns whether it is ours.
    async fn try_once(&mut self) -> kube::Result<bool> {
        let Some(mut lease) = self.api.get_opt(&self.name).await? else {
            let mut lease = Lease::default();
            lease.metadata.name = Some(self.name.clone());
            lease.spec = Some(self.held(None));
            self.api.create(&PostParams::default(), &lease).await?;
            return Ok(true);
        };
        let spec = lease.spec.take().unwrap_or_default();
        let is_ours = spec.holder_identity.as_deref() == Some(&self.identity);
        if !is_ours && !self.has_left(&spec) {
            return Ok(false);
        }
        lease.spec = Some(self.held(Some(&spec)));
        self.api.replace(&self.name, &PostParams::default(), &lease).await?;
        Ok(true)
    }

    fn has_left(&mut self, spec: &LeaseSpec) -> bool {
        if spec.holder_identity.as_deref().is_none_or(str::is_empty) {
            return true;
        }
        match &self.seen {
            Some((seen, since)) if seen == spec => since.elapsed() > DURATION,
            _ => {
                self.seen = Some((spec.clone(), Instant::now()));
                false
            }
        }
    }

    fn held(&self, before: Option<&LeaseSpec>) -> LeaseSpec {
        let now = MicroTime(k8s_openapi::jiff::Timestamp::now());
        let ours = before.filter(|spec| spec.holder_identity.as_deref() == Some(&self.identity));
        let changes = before.map_or(0, |spec| spec.lease_transitions.unwrap_or(0) + 1);
        LeaseSpec {
            holder_identity: Some(self.identity.clone()),
            lease_duration_seconds: Some(DURATION.as_secs() as i32),
            acquire_time: ours.map_or(Some(now.clone()), |spec| spec.acquire_time.clone()),
            renew_time: Some(now),
            lease_transitions: ours.map_or(Some(changes), |spec| spec.lease_transitions),
            ..LeaseSpec::default()
        }
    }
}

fn is_conflict(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 409)
}
