//! The stage: a host with two workloads, and the internet behind it.

use std::{path::PathBuf, time::Duration};

use anyhow::{Context, Result};
use nameward_test_support::{Netns, Scratch, SmallInternet, Workload};

use crate::{processes::Processes, rest::Rest, stop};

/// Endpoints and policies, as `nameward-enforcer --config` reads them.
const CONFIG: &str = include_str!("host.yaml");
const ZONE: &str = include_str!("internet.zone");
/// How long the enforcer may take to put rules into the kernel.
const READY: Duration = Duration::from_secs(30);
const UPSTREAM: &str = "198.51.100.53:53";

/// One of the two workloads.
#[derive(Debug)]
pub(crate) struct Actor {
    /// What it is called on the stage.
    pub(crate) name: &'static str,
    /// The enforcer's identifier of it.
    pub(crate) uid: String,
    /// Where its commands run.
    pub(crate) workload: Workload,
}

/// Everything, in the order in which it has to go.
#[derive(Debug)]
pub(crate) struct World {
    /// The enforcer's REST.
    pub(crate) rest: Rest,
    /// Workload `ci/runner`.
    pub(crate) runner: Actor,
    /// Workload `shop/web`.
    pub(crate) shop: Actor,
    /// Resolver and enforcer.
    pub(crate) processes: Processes,
    config: PathBuf,
    folder: Scratch,
    /// Name server and web servers.
    pub(crate) internet: SmallInternet,
}

impl World {
    /// Builds it and starts the two processes.
    pub(crate) fn new() -> Result<Self> {
        let mut internet = SmallInternet::with_zone(ZONE)?;
        let runner = actor("runner", &mut internet)?;
        let shop = actor("shop", &mut internet)?;
        let folder = Scratch::new("demo")?;
        let config = folder.file("host.yaml", CONFIG)?;
        let processes = Processes::new(internet.host());
        let rest = Rest::new(folder.path().join("api.sock"));
        let mut world = Self { rest, runner, shop, processes, config, folder, internet };
        world.start()?;
        for actor in [&mut world.runner, &mut world.shop] {
            actor.uid = uid(&world.rest, actor)?;
        }
        Ok(world)
    }

    /// Starts resolver and enforcer, and waits until both workloads have their rules.
    pub(crate) fn start(&mut self) -> Result<()> {
        self.processes.start(&self.folder, &self.config, UPSTREAM)?;
        let (processes, rest) = (&mut self.processes, &self.rest);
        stop::wait_until("both workloads have rules", READY, || {
            processes.check()?;
            let endpoints = rest.items("/v1/endpoints").unwrap_or_default();
            let ready = |endpoint: &serde_json::Value| endpoint["generation"].as_u64() > Some(0);
            Ok((endpoints.len() == 2 && endpoints.iter().all(ready)).then_some(()))
        })
        .with_context(|| self.processes.logs())
    }

    /// The host's namespace.
    pub(crate) fn host(&self) -> &Netns {
        self.internet.host()
    }
}

fn actor(name: &'static str, internet: &mut SmallInternet) -> Result<Actor> {
    let workload = internet.add_workload(internet.dns())?;
    Ok(Actor { name, uid: String::new(), workload })
}

fn uid(rest: &Rest, actor: &Actor) -> Result<String> {
    let attachment = format!("interface {}", actor.workload.interface());
    let endpoints = rest.items("/v1/endpoints")?;
    let own = endpoints.iter().find(|endpoint| endpoint["attachment"] == attachment.as_str());
    let uid = own.and_then(|endpoint| endpoint["uid"].as_str());
    Ok(uid.with_context(|| format!("{attachment} is not in /v1/endpoints: {endpoints:?}"))?.to_owned())
}
