//! The process `nameward-resolver`, from top to bottom: options, sockets, rights given up, tasks, the end.
//!
//! Each task has a name, and the end of one that nobody asked for ends the process.

mod dns_sockets;
mod feeds;
mod listening;
pub mod metrics;
mod privileges;
mod static_endpoints;
mod upstreams;

use std::{path::PathBuf, process::ExitCode, sync::Arc, time::Duration};

use anyhow::{Context, Result};
use clap::Parser;
use nameward_api::serve::ApiListener;
use nameward_daemon::{StopSignals, Tasks, log, supervisor};
use nameward_feed::sockets::DnsSocket;
use tokio::signal::unix::{Signal, SignalKind, signal};

use self::{dns_sockets::DnsSockets, feeds::Feeds, static_endpoints::StaticEndpoints, upstreams::Upstreams};
use crate::{
    Server, ServerConfig,
    decisions::DecisionSink,
    endpoints::Endpoints,
    feed_server::{Enforcers, FeedServer, SocketTaker},
    grants::{Acknowledge, Grantor, Scope},
    options::{Options, Source, UnknownClients},
    refused::RefusedNames,
    upstream::Upstream,
};

/// How long questions that were taken may still be on their way at the end (A8).
const DRAIN_WITHIN: Duration = Duration::from_secs(5);
/// Whose the sockets of `--listen` are.
const OURS: &str = "--listen";

/// Reads the command line and serves until a signal says stop.
pub fn main() -> ExitCode {
    let options = Options::parse();
    log::start(options.log);
    match start(&options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("nameward-resolver: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn start(options: &Options) -> Result<()> {
    let (upstreams, scope) = (Upstreams::read(options)?, options.scope()?);
    tell(options, &upstreams, scope);
    let bounds = Bounds::within(privileges::raise_descriptor_limit());
    tracing::info!(
        pending = bounds.pending,
        connections = bounds.connections,
        "questions and connections at one time"
    );
    let opened = Opened::open(options)?;
    privileges::give_up(options.user.as_deref())?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    runtime.context("cannot start threads")?.block_on(serve(options, upstreams, bounds, opened, scope))
}

fn tell(options: &Options, upstreams: &Upstreams, scope: Scope) {
    let forwarders = &options.trusted_forwarder;
    tracing::info!(source = ?options.source(), %upstreams, ?forwarders, ?scope, "options in effect");
    if scope == Scope::Name {
        tracing::warn!(
            "names are granted by name: what one workload looks up opens it for all whose rules allow it, and an enforcer \
             that is cut off learns it when it is back"
        );
    }
    if let Source::File { .. } = options.source() {
        tracing::warn!(
            "WITHOUT AN ENFORCER: nothing is enforced. Whoever asks from an endpoint's address is taken for it, and what \
             it connects to is judged by nobody. This is for tests and measurements"
        );
    }
}

/// What may be open at one time, so that descriptors never run out for what keeps the process going.
#[derive(Clone, Copy, Debug)]
struct Bounds {
    pending: usize,
    connections: usize,
}

impl Bounds {
    /// Half of the descriptors for sockets to upstreams, of which a question that is asked again has two or three, an
    /// eighth for connections, the rest for all that is handed over.
    fn within(descriptors: u64) -> Self {
        let descriptors = usize::try_from(descriptors).unwrap_or(usize::MAX);
        let usual = ServerConfig::new(Vec::<Upstream>::new());
        Self {
            pending: usual.pending.min(descriptors / 2 / 3).max(1),
            connections: usual.connections.min(descriptors / 8).max(1),
        }
    }
}

/// What may need root's rights to be opened.
struct Opened {
    from: OpenedSource,
    /// Sockets of `--listen`.
    sockets: Vec<DnsSocket>,
    metrics: Option<ApiListener>,
}

enum OpenedSource {
    Feed(Feeds),
    File(PathBuf),
}

impl Opened {
    fn open(options: &Options) -> Result<Self> {
        let (from, listen) = match options.source() {
            Source::Feed { places, listen } => {
                (OpenedSource::Feed(Feeds::open(&places, options.feed_files()?)?), listen)
            }
            Source::File { file, listen } => (OpenedSource::File(file), listen),
        };
        Ok(Self { from, sockets: listening::open(&listen)?, metrics: metrics::open(options)? })
    }
}

async fn serve(
    options: &Options,
    upstreams: Upstreams,
    bounds: Bounds,
    opened: Opened,
    scope: Scope,
) -> Result<()> {
    let mut signals = StopSignals::listen()?;
    let mut tasks = Tasks::new();
    let config = config(options, upstreams, bounds);
    let endpoints = Arc::new(Endpoints::with_scope(scope));
    let (server, sockets) = match opened.from {
        OpenedSource::Feed(feeds) => serve_feeds(config, &endpoints, feeds, &mut tasks)?,
        OpenedSource::File(file) => serve_file(config, &endpoints, file, &mut tasks)?,
    };
    if let Some(listener) = opened.metrics {
        metrics::serve(listener, &server, &endpoints, &mut tasks);
    }
    sockets.replace(OURS, opened.sockets);
    supervisor::ready();
    tracing::info!("serving");
    tokio::select! {
        fault = tasks.fault() => return Err(fault),
        () = signals.arrived() => {}
    }
    supervisor::stopping();
    sockets.let_all_go();
    tracing::info!("no more questions are taken; those that were are answered");
    match tokio::time::timeout(DRAIN_WITHIN, server.drained()).await {
        Ok(()) => tracing::info!("every question is answered; stopping"),
        Err(_) => tracing::warn!("some questions stay unanswered; stopping"),
    }
    tasks.shut_down().await;
    Ok(())
}

/// Endpoints, rules and DNS sockets come from enforcers, and grants go to them (S4).
fn serve_feeds(
    config: ServerConfig,
    endpoints: &Arc<Endpoints>,
    feeds: Feeds,
    tasks: &mut Tasks,
) -> Result<(Server, Arc<DnsSockets>)> {
    let endpoints = Arc::clone(endpoints);
    let enforcers = Arc::new(Enforcers::new(Arc::clone(&endpoints)));
    let refused = Arc::new(RefusedNames::default());
    let decisions = Arc::clone(&refused) as Arc<dyn DecisionSink>;
    let server = Server::new(config, endpoints, Arc::clone(&enforcers) as Arc<dyn Grantor>, decisions);
    let telling = Arc::clone(&enforcers);
    tasks.spawn("refused-names", async move {
        telling.tell_refused(&refused).await;
        Ok(())
    });
    let sockets = Arc::new(DnsSockets::new(server.clone()));
    feeds.serve(&FeedServer::new(enforcers, Arc::clone(&sockets) as Arc<dyn SocketTaker>), tasks);
    let hang_up = signal(SignalKind::hangup())?;
    tasks.spawn("hang-up", nothing_to_read(hang_up));
    Ok((server, sockets))
}

/// Endpoints and rules come from a file, and nothing is enforced (S2).
fn serve_file(
    config: ServerConfig,
    endpoints: &Arc<Endpoints>,
    file: PathBuf,
    tasks: &mut Tasks,
) -> Result<(Server, Arc<DnsSockets>)> {
    let endpoints = Arc::clone(endpoints);
    let followed = StaticEndpoints::open(file, Arc::clone(&endpoints))?;
    let config = ServerConfig { believe_sources: true, ..config };
    let refused = Arc::new(RefusedNames::default());
    let decisions = Arc::clone(&refused) as Arc<dyn DecisionSink>;
    let server = Server::new(config, endpoints, Arc::new(Acknowledge), decisions);
    tasks.spawn("refused-names", async move {
        // Nobody else is there to be told.
        refused.follow(|batch, _| batch.log()).await;
        Ok(())
    });
    let hang_up = signal(SignalKind::hangup())?;
    tasks.spawn("endpoints", followed.follow(hang_up));
    let sockets = Arc::new(DnsSockets::new(server.clone()));
    Ok((server, sockets))
}

fn config(options: &Options, upstreams: Upstreams, bounds: Bounds) -> ServerConfig {
    ServerConfig {
        pending: bounds.pending,
        connections: bounds.connections,
        routes: upstreams.routes,
        trusted_forwarders: options.forwarders(),
        believe_enforcers: options.believes_feed(),
        pass_unknown: options.unknown_clients == UnknownClients::Pass,
        ..ServerConfig::new(upstreams.default)
    }
}

async fn nothing_to_read(mut hang_up: Signal) -> Result<()> {
    loop {
        hang_up.recv().await.context("no more signals arrive")?;
        tracing::info!("there is nothing to read again: rules come from enforcers");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptors_bound_what_is_open() {
        let (few, many) = (Bounds::within(1_024), Bounds::within(u64::MAX));
        assert_eq!((few.pending, few.connections), (170, 128));
        assert_eq!((many.pending, many.connections), (16_384, 4_096));
    }
}
