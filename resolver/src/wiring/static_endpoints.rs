//! Endpoints of a file (S1, S2), for serving without an enforcer: read whole, in force at once, read again on
//! SIGHUP and when the clock ends or begins a rule (R7). A file with a mistake changes nothing.

use std::{path::PathBuf, sync::Arc};

use anyhow::{Context, Result, bail};
use jiff::Timestamp;
use nameward_crds::static_config::{self, Purpose, StaticConfig, StaticEndpoint};
use nameward_daemon::clock;
use nameward_policy::{ClusterRanges, RuleSet};
use tokio::signal::unix::Signal;

use crate::endpoints::{EndpointView, Endpoints, Identity};

/// The file, what it said last, and where it is in force.
#[derive(Debug)]
pub(super) struct StaticEndpoints {
    file: PathBuf,
    config: StaticConfig,
    endpoints: Arc<Endpoints>,
    generation: u32,
    next_change: Option<Timestamp>,
}

impl StaticEndpoints {
    /// Reads the file and puts it into force.
    pub(super) fn open(file: PathBuf, endpoints: Arc<Endpoints>) -> Result<Self> {
        let config = read(&file)?;
        let mut own = Self { file, config, endpoints, generation: 0, next_change: None };
        own.put_into_force()?;
        Ok(own)
    }

    /// Follows the file and the clock. Never ends by itself.
    pub(super) async fn follow(mut self, mut hang_up: Signal) -> Result<()> {
        loop {
            tokio::select! {
                next = hang_up.recv() => {
                    next.context("no more signals arrive")?;
                    self.reload();
                }
                () = clock::until(self.next_change) => self.follow_clock(),
            }
        }
    }

    fn reload(&mut self) {
        let before = self.config.clone();
        let reloaded = read(&self.file).and_then(|config| {
            self.config = config;
            self.put_into_force()
        });
        match reloaded {
            Ok(()) => tracing::info!(
                file = %self.file.display(),
                endpoints = self.config.endpoints.len(),
                "read again, and in force"
            ),
            Err(error) => {
                self.config = before;
                tracing::error!(%error, "nothing has changed: the file has mistakes");
            }
        }
    }

    fn follow_clock(&mut self) {
        if let Err(error) = self.put_into_force() {
            self.next_change = None;
            tracing::error!(%error, "rules that ended or began by the clock cannot be put into force");
        }
    }

    fn put_into_force(&mut self) -> Result<()> {
        let now = Timestamp::now();
        let compiled = compile(&self.config, now)?;
        self.generation += 1;
        self.next_change = compiled.iter().filter_map(|(_, rules)| rules.next_change).min();
        let generation = self.generation;
        self.endpoints.replace(compiled.iter().map(|(endpoint, rules)| view(endpoint, rules, generation)));
        Ok(())
    }
}

fn read(file: &std::path::Path) -> Result<StaticConfig> {
    let config = static_config::read(file, Purpose::Resolve)?;
    for warning in &config.warnings {
        tracing::warn!("{warning}");
    }
    Ok(config)
}

/// All endpoints with their rules, or what is wrong with each.
fn compile(config: &StaticConfig, now: Timestamp) -> Result<Vec<(&StaticEndpoint, RuleSet)>> {
    let (mut compiled, mut mistakes) = (Vec::new(), Vec::new());
    let cluster = ClusterRanges::default();
    for endpoint in &config.endpoints {
        match RuleSet::compile(endpoint.isolation, &endpoint.rules, &config.settings, &cluster, now) {
            Ok(rules) => compiled.push((endpoint, rules)),
            Err(error) => mistakes.push(format!("endpoint {}: {error}", endpoint.uid)),
        }
    }
    if !mistakes.is_empty() {
        bail!(mistakes.join("\n"));
    }
    Ok(compiled)
}

fn view(endpoint: &StaticEndpoint, rules: &RuleSet, generation: u32) -> EndpointView {
    EndpointView {
        uid: Arc::clone(&endpoint.uid),
        name: Arc::clone(&endpoint.uid),
        generation,
        rules: Arc::clone(&rules.dns),
        identity: endpoint.addresses.iter().copied().map(Identity::Source).collect(),
    }
}
