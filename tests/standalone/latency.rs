//! How long a new grant takes: from the resolver's question over the unix socket until the acknowledgement, with the
//! real kernel map written in between.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use nameward_feed::sockets::DnsSocket;
use nameward_resolver::{
    endpoints::Endpoints,
    feed_server::{Enforcers, FeedServer, FeedSockets, SocketTaker},
    grants::{GrantRequest, Granted, Grantor, Refused},
};
use nameward_test_support::{privileged, wait_until_async};

use crate::pair_lab::{Host, Part};

/// A debug build beside other tests is asked less, so that what is measured is not the queue for a processor.
const NAMES_A_SECOND: u32 = if cfg!(debug_assertions) { 200 } else { 2_000 };
const NAMES: u32 = NAMES_A_SECOND * 3 / 2;
const TTL: Duration = Duration::from_secs(60);
/// A wrong order of magnitude; the bars are measured by a release build.
const NEVER: Duration = Duration::from_millis(250);

/// Leaves questions in the sockets: this resolver answers nobody.
struct NoDns;

impl SocketTaker for NoDns {
    fn replace(&self, _node: &str, _sockets: Vec<DnsSocket>) {}
    fn let_go(&self, _node: &str, _ports: &[u16]) {}
}

// G1: 2,000 new names a second (of a release build), each granted in the kernel before it is acknowledged
#[tokio::test(flavor = "multi_thread")]
async fn new_grants_are_acknowledged_at_once() {
    if !privileged() {
        return;
    }
    let mut host = tokio::task::spawn_blocking(|| Host::new("\"*.many.example\"")).await.unwrap();
    let endpoints = Arc::new(Endpoints::new());
    let enforcers = Arc::new(Enforcers::new(Arc::clone(&endpoints)));
    let server = FeedServer::new(Arc::clone(&enforcers), Arc::new(NoDns));
    let serving = tokio::spawn(server.serve(FeedSockets::open(&host.feed()).unwrap()));
    let host = tokio::task::spawn_blocking(move || {
        host.start(Part::Enforcer);
        host
    });
    let host = host.await.unwrap();
    wait_until_async("the enforcer's snapshot", Duration::from_secs(10), async || {
        (endpoints.all().len() == host.workloads.len()).then_some(())
    })
    .await;
    let uids: Vec<(Arc<str>, u32)> =
        endpoints.all().iter().map(|one| (Arc::clone(&one.view.uid), one.view.generation)).collect();
    let mut pace = tokio::time::interval(Duration::from_secs(1) / NAMES_A_SECOND);
    let mut asking = Vec::new();
    for number in 0..NAMES {
        pace.tick().await;
        let (uid, generation) = &uids[number as usize % uids.len()];
        let request = request(uid, *generation, number);
        let enforcers = Arc::clone(&enforcers);
        asking.push(tokio::spawn(async move {
            let asked = Instant::now();
            let outcome: Result<Granted, Refused> = enforcers.grant(request).await;
            (outcome, asked.elapsed())
        }));
    }
    let mut took = Vec::new();
    for one in asking {
        let (outcome, elapsed) = one.await.unwrap();
        assert!(outcome.as_ref().is_ok_and(|granted| granted.usable_for >= TTL), "{outcome:?}");
        took.push(elapsed);
    }
    took.sort();
    let (median, p99) = (took[took.len() / 2], took[took.len() * 99 / 100]);
    println!("a new grant: median {median:?}, p99 {p99:?}, worst {:?}, {NAMES} names", took[took.len() - 1]);
    assert!(median < NEVER, "median {median:?}");
    serving.abort();
    tokio::task::spawn_blocking(move || drop(host)).await.unwrap();
}

fn request(uid: &Arc<str>, generation: u32, number: u32) -> GrantRequest {
    let [_, b, c, d] = number.to_be_bytes();
    GrantRequest {
        endpoint: Arc::clone(uid),
        generation,
        name: format!("n{number}.many.example").into(),
        chain: Vec::new(),
        addresses: vec![([203, b + 1, c, d].into(), TTL)],
        grace: Duration::from_secs(600),
    }
}
