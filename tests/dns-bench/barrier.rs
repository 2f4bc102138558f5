//! Grants by name behind a forwarder that caches: from the resolver's question until every enforcer has acknowledged it,
//! over unix sockets. The enforcers are their own end of the feed, with maps that take no time.

use std::{net::Ipv4Addr, sync::Arc, time::Duration};

use anyhow::Result;
use nameward_enforcer::{
    GrantRequest as Wanted, Granted, Refused,
    feed_client::{Backend, BindingView, EndpointView, FeedClient, Place},
};
use nameward_feed::{Identity, sockets::DnsSocket};
use nameward_policy::{
    ClusterRanges, Effect, Isolation, Peer, PolicyKind, PolicyRef, PortSpec, Protocol, Rule, RuleSet,
    Settings,
};
use nameward_resolver::{
    endpoints::Endpoints,
    feed_server::{Enforcers, FeedServer, FeedSockets},
    grants::{EVERYONE, Scope},
};
use nameward_test_support::{Scratch, wait_until_async};
use tokio::runtime::Runtime;

use crate::{
    Extent,
    figures::{Figures, percentile},
    grants::{NoDns, TTL, ask, request},
};

/// How many enforcers, and what 99 of 100 grants may take; none is set for more.
const SIZES: [(usize, Option<f64>); 2] = [(50, Some(20.0)), (200, None)];
const NAMES_A_SECOND: u32 = 500;
const MILLISECOND: f64 = 1_000_000.0;

/// An enforcer with one workload, which grants at once.
struct Willing(EndpointView);

impl Backend for Willing {
    fn endpoints(&self) -> Vec<EndpointView> {
        vec![self.0.clone()]
    }

    fn bindings(&self) -> Vec<BindingView> {
        Vec::new()
    }

    fn grant(&self, _: Wanted) -> Result<Granted, Refused> {
        Ok(Granted { usable_for: TTL * 10 })
    }

    fn dns_sockets(&self) -> std::io::Result<Vec<DnsSocket>> {
        Ok(Vec::new())
    }
}

pub(crate) fn measure(extent: Extent, figures: &mut Figures) -> Result<()> {
    for (count, bar) in SIZES {
        let mut took = with_enforcers(count, extent.grants())?;
        let name =
            |part: &str| format!("barrier: {part} of {count} enforcers, {NAMES_A_SECOND} new names a second");
        figures.once(&name("median"), "ms", percentile(&mut took, 0.5) / MILLISECOND);
        let p99 = percentile(&mut took, 0.99) / MILLISECOND;
        match bar {
            Some(bar) => figures.bounded(&name("p99"), "ms", p99, bar),
            None => figures.once(&name("p99"), "ms", p99),
        }
        figures.once(&name("worst"), "ms", percentile(&mut took, 1.0) / MILLISECOND);
    }
    Ok(())
}

/// Nanoseconds of each grant.
fn with_enforcers(count: usize, time: Duration) -> Result<Vec<u32>> {
    let folder = Scratch::new("barrier")?;
    let feed = folder.path().join("feed");
    let (resolver, nodes) = (runtime()?, runtime()?);
    let endpoints = Arc::new(Endpoints::with_scope(Scope::Name));
    let enforcers = Arc::new(Enforcers::new(Arc::clone(&endpoints)));
    let server = FeedServer::new(Arc::clone(&enforcers), Arc::new(NoDns));
    let sockets = {
        let _inside = resolver.enter();
        FeedSockets::open(&feed)?
    };
    resolver.spawn(server.serve(sockets));
    let rules = rules()?;
    for number in 0..count {
        let (place, enforcer) = (Place::Folder(feed.clone()), Willing(workload(number, &rules)));
        nodes.spawn(FeedClient::new(vec![place], format!("node-{number}"), Arc::new(enforcer)).run());
    }
    let took = resolver.block_on(async {
        wait_until_async("all enforcers", Duration::from_secs(60), async || {
            (endpoints.all().len() == count).then_some(())
        })
        .await;
        let everyone: Arc<str> = EVERYONE.into();
        ask(&enforcers, NAMES_A_SECOND, time, |number| request(&everyone, 0, number)).await
    });
    nodes.shutdown_background();
    resolver.shutdown_background();
    took
}

fn workload(number: usize, rules: &Arc<[u8]>) -> EndpointView {
    let [.., high, low] = number.to_be_bytes();
    EndpointView {
        uid: format!("workload-{number}").into(),
        name: format!("bench/workload-{number}"),
        generation: 1,
        identity: vec![Identity::Source(Ipv4Addr::new(10, 0, high, low).into())],
        addresses: Vec::new(),
        rules: Arc::clone(rules),
    }
}

fn rules() -> Result<Arc<[u8]>> {
    let policy = PolicyRef::new(PolicyKind::EgressPolicy, "bench", "many");
    let peers = vec![Peer::Names(vec!["*.many.example".parse()?])];
    let ports = vec![PortSpec::all(Protocol::Tcp)];
    let rule = Rule { peers, ports, ..Rule::new(policy, "many", Effect::Allow) };
    let (settings, cluster, now) =
        (Settings::default(), ClusterRanges::default(), jiff::Timestamp::UNIX_EPOCH);
    let compiled = RuleSet::compile(Isolation::Isolated, &[rule], &settings, &cluster, now)?;
    Ok(serde_json::to_vec(&*compiled.dns)?.into())
}

fn runtime() -> Result<Runtime> {
    Ok(tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?)
}
