//! Grants by name behind a forwarder that caches: from the resolver's question until every enforcer has acknowledged it,
//! over unix sockets. The enforcers are their own end of the feed, with maps that take no time.

use std::{
    net::{Ipv4Addr, Ipv6Addr},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};
use nameward_enforcer::{
    GrantRequest as Wanted, Granted, Refused,
    feed_client::{Backend, BindingView, EndpointView, FeedClient, Place},
};
use nameward_feed::{Identity, sockets::DnsSocket};
use nameward_policy::{
    ClusterRanges, Effect, Isolation, Peer, PolicyKind, PolicyRef, PortSpec, Protocol, Rule, RuleMode,
    RuleSet, Settings,
};
use nameward_resolver::{
    endpoints::Endpoints,
    feed_server::{Enforcers, FeedServer, FeedSockets},
    grants::{EVERYONE, GrantRequest, Grantor, Scope},
};
use nameward_test_support::{Scratch, wait_until_async};
use tokio::{runtime::Runtime, task::JoinSet};

use crate::{Extent, figures::Figures, figures::percentile, grants::NoDns};

/// How many enforcers, and what 99 of 100 grants may take; none is set for more.
const SIZES: [(usize, Option<f64>); 2] = [(50, Some(20.0)), (200, None)];
const NAMES_A_SECOND: u32 = 500;
const TTL: Duration = Duration::from_secs(60);
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
        ask(time, &enforcers).await
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
    let rule = Rule {
        policy: PolicyRef::new(PolicyKind::EgressPolicy, "bench", "many"),
        name: "many".into(),
        effect: Effect::Allow,
        mode: RuleMode::Enforce,
        peers: vec![Peer::Names(vec!["*.many.example".parse()?])],
        ports: vec![PortSpec::all(Protocol::Tcp)],
        private_addresses: false,
        grace: None,
        strict_chain: false,
        expires_at: None,
        schedule: None,
    };
    let (settings, cluster, now) =
        (Settings::default(), ClusterRanges::default(), jiff::Timestamp::UNIX_EPOCH);
    let compiled = RuleSet::compile(Isolation::Isolated, &[rule], &settings, &cluster, now)?;
    Ok(serde_json::to_vec(&*compiled.dns)?.into())
}

fn runtime() -> Result<Runtime> {
    Ok(tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?)
}

async fn ask(time: Duration, enforcers: &Arc<Enforcers>) -> Result<Vec<u32>> {
    let mut pace = tokio::time::interval(Duration::from_secs(1) / NAMES_A_SECOND);
    let mut asking = JoinSet::new();
    for number in 0..NAMES_A_SECOND * time.as_secs() as u32 {
        pace.tick().await;
        let enforcers = Arc::clone(enforcers);
        asking.spawn(async move {
            let asked = Instant::now();
            (enforcers.grant(request(number)).await, asked.elapsed())
        });
    }
    let mut took = Vec::new();
    while let Some(one) = asking.join_next().await {
        let (outcome, elapsed) = one?;
        if let Err(refused) = outcome {
            bail!("refused: {refused}");
        }
        took.push(u32::try_from(elapsed.as_nanos()).unwrap_or(u32::MAX));
    }
    Ok(took)
}

fn request(number: u32) -> GrantRequest {
    let [high, low] = [number >> 16, number].map(|part| part as u16);
    GrantRequest {
        endpoint: EVERYONE.into(),
        generation: 0,
        name: format!("n{number}.many.example").into(),
        chain: Vec::new(),
        addresses: vec![(Ipv6Addr::new(0x2001, 0xdb8, 0xb, 0, 0, 0, high, low).into(), TTL)],
        grace: Duration::ZERO,
    }
}
