//! Follows what decides about endpoints: the file (SIGHUP), the clock (R7), interfaces that come, addresses of the host
//! (A3), failures that are tried again. A file with a mistake changes nothing.

use anyhow::{Context, Result};
use ipnet::IpNet;
use jiff::Timestamp;
use nameward_daemon::clock;
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::watch,
    time::Instant,
};

use crate::{
    Enforcer,
    config::{Config, ConfigError},
    guardian::Guardian,
};

/// What is wanted, and who makes it so.
pub(super) struct Follower {
    config: Config,
    guardian: Guardian,
    links: watch::Receiver<()>,
    own_addresses: watch::Receiver<Vec<IpNet>>,
    hang_up: Signal,
    next_change: Option<Timestamp>,
}

impl Follower {
    pub(super) fn new(config: Config, guardian: Guardian, enforcer: Enforcer) -> Result<Self> {
        let hang_up = signal(SignalKind::hangup()).context("cannot listen for SIGHUP")?;
        let (links, own_addresses) = (enforcer.links(), enforcer.own_addresses());
        Ok(Self { config, guardian, links, own_addresses, hang_up, next_change: None })
    }

    /// Makes it so for the first time. What fails is told, and tried again by [`follow`](Self::follow).
    pub(super) async fn begin(&mut self) {
        self.put_into_force().await;
    }

    /// Never ends by itself.
    pub(super) async fn follow(mut self) -> Result<()> {
        loop {
            tokio::select! {
                next = self.hang_up.recv() => {
                    next.context("no more signals arrive")?;
                    self.reload().await;
                }
                changed = self.links.changed() => {
                    changed.context("interfaces are not watched any more")?;
                    self.guardian.hurry(Instant::now());
                }
                changed = self.own_addresses.changed() => {
                    changed.context("addresses are not watched any more")?;
                    self.put_into_force().await;
                }
                () = until_instant(self.guardian.next_retry()) => {
                    // What fails again is in the endpoint's status and in the log.
                    drop(self.guardian.retry(Instant::now()).await);
                }
                () = clock::until(self.next_change) => self.put_into_force().await,
            }
        }
    }

    async fn reload(&mut self) {
        match self.config.read_again() {
            Ok(config) => {
                if config.trusted() != self.config.trusted() {
                    tracing::warn!(
                        "trusted DNS servers have changed: for endpoints on interfaces that holds from the next start"
                    );
                }
                let endpoints = config.len();
                self.config = config;
                self.put_into_force().await;
                tracing::info!(file = %self.config.file().display(), endpoints, "read again");
            }
            Err(error) => tell(&error),
        }
    }

    async fn put_into_force(&mut self) {
        let wanted = self.config.wanted(Timestamp::now(), &self.own_addresses.borrow_and_update());
        match wanted {
            Ok(wanted) => {
                self.next_change = wanted.next_change;
                // Each failure is in its endpoint's status and in the log.
                if let Err(failures) = self.guardian.reconcile(wanted.endpoints).await {
                    tracing::warn!(
                        failures = failures.len(),
                        "not everything is as wanted yet; it is tried again"
                    );
                }
            }
            Err(error) => {
                self.next_change = None;
                tell(&error);
            }
        }
    }
}

fn tell(error: &ConfigError) {
    tracing::error!(%error, "nothing has changed: the file has mistakes");
}

pub(super) async fn until_instant(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}
