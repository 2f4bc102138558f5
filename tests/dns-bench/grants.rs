//! New grants: from the resolver's question over the unix socket until the enforcer's acknowledgement, with the kernel's
//! map written in between.

use std::{
    net::Ipv6Addr,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Result, bail, ensure};
use nameward_feed::sockets::DnsSocket;
use nameward_resolver::{
    endpoints::Endpoints,
    feed_server::{Enforcers, FeedServer, FeedSockets, SocketTaker},
    grants::{GrantRequest, Grantor},
};
use nameward_test_support::wait_until_async;

use crate::{Extent, figures::Figures, figures::percentile, world::World};

const NAMES_A_SECOND: u32 = 2_000;
const WORKLOADS: u8 = 4;
pub(crate) const TTL: Duration = Duration::from_secs(60);
const MEDIAN_BAR: f64 = 300.0;
const P99_BAR: f64 = 2_000.0;
const MICROSECOND: f64 = 1_000.0;

/// Leaves questions in the sockets: this resolver answers nobody.
pub(crate) struct NoDns;

impl SocketTaker for NoDns {
    fn replace(&self, _node: &str, _sockets: Vec<DnsSocket>) {}
    fn let_go(&self, _node: &str, _ports: &[u16]) {}
}

pub(crate) fn measure(extent: Extent, figures: &mut Figures) -> Result<()> {
    let mut world = World::new(WORKLOADS)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let endpoints = Arc::new(Endpoints::new());
    let enforcers = Arc::new(Enforcers::new(Arc::clone(&endpoints)));
    let server = FeedServer::new(Arc::clone(&enforcers), Arc::new(NoDns));
    let sockets = {
        let _inside = runtime.enter();
        FeedSockets::open(&world.feed())?
    };
    runtime.spawn(server.serve(sockets));
    world.start_enforcer()?;
    let mut took = runtime.block_on(async {
        wait_until_async("the enforcer's snapshot", Duration::from_secs(30), async || {
            (endpoints.all().len() == usize::from(WORKLOADS)).then_some(())
        })
        .await;
        let all: Vec<(Arc<str>, u32)> =
            endpoints.all().iter().map(|one| (Arc::clone(&one.view.uid), one.view.generation)).collect();
        ask(&enforcers, NAMES_A_SECOND, extent.grants(), |number| {
            let (uid, generation) = &all[number as usize % all.len()];
            request(uid, *generation, number)
        })
        .await
    })?;
    let name = |part: &str| format!("grants: {part} at {NAMES_A_SECOND} new names a second");
    figures.bounded(&name("median"), "us", percentile(&mut took, 0.5) / MICROSECOND, MEDIAN_BAR);
    figures.bounded(&name("p99"), "us", percentile(&mut took, 0.99) / MICROSECOND, P99_BAR);
    figures.once(&name("worst"), "us", percentile(&mut took, 1.0) / MICROSECOND);
    Ok(())
}

/// Asks for so many new names a second, all of which must be granted. Returns the nanoseconds of each grant.
pub(crate) async fn ask(
    enforcers: &Arc<Enforcers>,
    names_a_second: u32,
    time: Duration,
    request: impl Fn(u32) -> GrantRequest,
) -> Result<Vec<u32>> {
    let mut pace = tokio::time::interval(Duration::from_secs(1) / names_a_second);
    let mut asking = Vec::new();
    for number in 0..names_a_second * time.as_secs() as u32 {
        pace.tick().await;
        let (request, enforcers) = (request(number), Arc::clone(enforcers));
        asking.push(tokio::spawn(async move {
            let asked = Instant::now();
            (enforcers.grant(request).await, asked.elapsed())
        }));
    }
    let mut took = Vec::new();
    for one in asking {
        let (outcome, elapsed) = one.await?;
        match outcome {
            Ok(granted) => ensure!(granted.usable_for >= TTL, "{granted:?}"),
            Err(refused) => bail!("refused: {refused}"),
        }
        took.push(u32::try_from(elapsed.as_nanos()).unwrap_or(u32::MAX));
    }
    Ok(took)
}

/// The question for one name, that nobody has asked for.
pub(crate) fn request(uid: &Arc<str>, generation: u32, number: u32) -> GrantRequest {
    let [high, low] = [number >> 16, number].map(|part| part as u16);
    GrantRequest {
        endpoint: Arc::clone(uid),
        generation,
        name: format!("n{number}.many.example").into(),
        chain: Vec::new(),
        addresses: vec![(Ipv6Addr::new(0x2001, 0xdb8, 0xb, 0, 0, 0, high, low).into(), TTL)],
        grace: Duration::from_secs(600),
    }
}
