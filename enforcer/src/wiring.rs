//! The process `nameward-enforcer`, from top to bottom: options, configuration, kernel, tasks, the end.
//!
//! The end of the process is not the end of the fence: what is in the kernel goes on to judge, and the next process
//! takes it up. Only `--remove` takes it away.

mod cluster;
mod finding;
mod follow;
mod node;
mod prepare;
mod removal;
mod resolvers;
mod sign;
mod uninstall;

use std::{
    net::{SocketAddr, TcpListener},
    process::ExitCode,
    sync::Arc,
};

use anyhow::{Context, Result, anyhow};
use clap::Parser;
use nameward_api::serve::{API, ApiListener, TlsListener, serve};
use nameward_daemon::{StopSignals, Tasks, log, supervisor};
use nameward_tls::Credentials;
use tokio::sync::watch;

use self::follow::Follower;
use crate::{
    Enforcer, api,
    audit::Audit,
    config::{Config, HostAllowed},
    endpoints::chain_text,
    feed_client::FeedClient,
    guardian::Guardian,
    options::Options,
};

/// Reads the command line and enforces until a signal says stop.
pub fn main() -> ExitCode {
    let options = Options::parse();
    log::start(options.log);
    let done = match options.prepare_for {
        Some(user) => prepare::prepare(&options, user),
        None if options.remove => removal::remove(&options),
        None if options.uninstall => uninstall::uninstall(&options),
        None if options.sign.is_some() => sign::sign(&options),
        None => start(&options),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("nameward-enforcer: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn start(options: &Options) -> Result<()> {
    let allowed =
        HostAllowed { default_route: options.allow_default_route, root_cgroup: options.allow_root_cgroup };
    // A mistake in the file is told before anything of the host is touched.
    let config = options.config.as_deref().map(|file| Config::read(file, allowed)).transpose()?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    runtime.context("cannot start threads")?.block_on(enforce(options, config))
}

async fn enforce(options: &Options, config: Option<Config>) -> Result<()> {
    let mut signals = StopSignals::listen()?;
    let (found, finding) = watch::channel(Vec::new());
    let places = options.places(&finding)?;
    let trusted = trusted(options, config.as_ref());
    let enforcer = open(options, trusted.clone())?;
    if let Some(wanted) = options.audit() {
        let audit = Audit::start(&wanted, &options.node());
        enforcer.audit(audit.context("cannot write --audit-log")?);
    }
    let feed = FeedClient::new(places, options.node(), Arc::new(enforcer.clone()));
    let mut tasks = Tasks::new();
    start_tasks(options, &enforcer, &feed, &mut tasks)?;
    let guardian = Guardian::new(enforcer.clone(), Some(Arc::clone(&feed)));
    if options.kubernetes {
        let settings = cluster::settings(options, config.as_ref(), trusted);
        tokio::select! {
            begun = cluster::begin(options, config, settings, guardian, &enforcer, (&feed, found), &mut tasks) => begun?,
            () = signals.arrived() => return Ok(()),
        }
    } else {
        let config = config.context("name a file of endpoints and policies with --config")?;
        let mut follower = Follower::new(config, guardian, enforcer)?;
        tokio::select! {
            () = follower.begin() => {}
            () = signals.arrived() => return Ok(()),
        }
        tasks.spawn("configuration", follower.follow());
    }
    supervisor::ready();
    let places = options.feed().iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
    tracing::info!(feed = places, node = options.node(), "enforcing");
    tokio::select! {
        fault = tasks.fault() => return Err(fault),
        () = signals.arrived() => {}
    }
    supervisor::stopping();
    tracing::info!("stopping; what is in the kernel stays in force, and --remove takes it away");
    tasks.shut_down().await;
    Ok(())
}

/// DNS servers that workloads may mean (Q6): the file's, and the cluster's.
fn trusted(options: &Options, config: Option<&Config>) -> Vec<SocketAddr> {
    let mut trusted = config.map(|config| config.trusted().to_vec()).unwrap_or_default();
    for server in &options.cluster_dns {
        if !trusted.contains(server) {
            trusted.push(*server);
        }
    }
    trusted
}

fn open(options: &Options, trusted: Vec<SocketAddr>) -> Result<Enforcer> {
    let enforcer_options = options.enforcer(trusted);
    if let Some(state) = &enforcer_options.state {
        std::fs::create_dir_all(state)
            .with_context(|| format!("cannot make {} for the names that a restart needs", state.display()))?;
    }
    Enforcer::open(enforcer_options).map_err(|error| anyhow!(chain_text(&error)))
}

fn start_tasks(
    options: &Options,
    enforcer: &Enforcer,
    feed: &Arc<FeedClient>,
    tasks: &mut Tasks,
) -> Result<()> {
    let heard = Arc::clone(feed);
    let mut own = enforcer.start(move || heard.is_alive()).map_err(|error| anyhow!(chain_text(&error)))?;
    tasks.spawn("enforcer", async move {
        match own.join_next().await {
            Some(Ok(name)) => Err(anyhow!("`{name}` ended by itself")),
            Some(Err(error)) => Err(anyhow!("a task broke off: {error}")),
            None => Err(anyhow!("no task is left")),
        }
    });
    let running = Arc::clone(feed);
    tasks.spawn("feed", async move {
        running.run().await;
        Ok(())
    });
    if let Some(place) = &options.api {
        let listening = place.listen(options.api_token_file.as_deref());
        let listening = listening.with_context(|| format!("cannot serve --api {place}"))?;
        let site = api::changeable_site(enforcer.clone(), Arc::clone(feed), &options.node());
        let serving = serve(site, listening);
        tasks.spawn("API", async { Ok(serving.await?) });
    }
    if let Some((address, files)) = options.api_tls() {
        let listener = TcpListener::bind(address);
        let listener = listener.with_context(|| format!("cannot serve --api-tls {address}"))?;
        let site = api::changeable_site(enforcer.clone(), Arc::clone(feed), &options.node());
        let clients = options.api_tls_client.clone();
        tasks.spawn("API over TLS", async move {
            // Whatever gives them may need pods, and pods need us: they are not waited for before that.
            let credentials = Credentials::await_files(files, API).await;
            let listening = ApiListener::Tls(TlsListener::for_clients(listener, credentials, clients));
            Ok(serve(site, listening).await?)
        });
    }
    Ok(())
}
