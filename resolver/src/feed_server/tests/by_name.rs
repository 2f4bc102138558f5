//! Grants by name: the barrier over all enforcers (Q9, promise 1).

use nameward_feed::{
    DEAD_AFTER_MILLIS,
    proto::{Acks, Grants},
};

use super::*;
use crate::grants::{EVERYONE, Scope};

/// Longer than a grant is waited for (G1).
const LATE: Duration = Duration::from_millis(300);
const DEAD_AFTER: Duration = Duration::from_millis(DEAD_AFTER_MILLIS);

/// An enforcer that answers what it is asked together.
struct Living {
    enforcer: Enforcer,
    /// Of grants that came together and were not looked at yet.
    heard: Vec<Grant>,
    /// How many messages they came in.
    messages: usize,
}

impl Living {
    async fn join(resolver: &Resolver, node: &str, port: u16) -> Self {
        let enforcer = resolver.enforcer().await;
        enforcer.hello(node, 0);
        enforcer.say(Message::Endpoint(endpoint(&format!("{node}-pod"), port, 3)));
        enforcer.say(Message::SnapshotEnd(SnapshotEnd {}));
        Self { enforcer, heard: Vec::new(), messages: 0 }
    }

    /// The same, and what it is told before it is known to all.
    async fn settled(resolver: &Resolver, node: &str, port: u16) -> Self {
        let mut living = Self::join(resolver, node, port).await;
        living.enforcer.settle().await;
        living
    }

    async fn hear(&mut self) -> Grant {
        while self.heard.is_empty() {
            let from_resolver::Message::Grants(Grants { grants }) = self.enforcer.hear().await else {
                panic!("no grants")
            };
            self.messages += 1;
            self.heard = grants;
        }
        self.heard.remove(0)
    }

    async fn hear_name(&mut self, name: &str) -> Grant {
        let grant = self.hear().await;
        assert_eq!((grant.name.as_str(), grant.endpoint.as_str(), grant.generation), (name, EVERYONE, 0));
        grant
    }

    fn acknowledge(&self, grants: &[&Grant], millis: u64) {
        let ack = |grant: &&Grant| {
            let outcome = Some(Outcome::Granted(proto::Granted { usable_millis: millis }));
            Ack { sequence: grant.sequence, outcome }
        };
        self.enforcer.say(Message::Acks(Acks { acks: grants.iter().map(ack).collect() }));
    }

    /// Nothing is heard of it any more, though its stream stands.
    fn fall_silent(&self) -> Instant {
        self.enforcer.fall_silent();
        Instant::now()
    }
}

fn by_name() -> Resolver {
    Resolver::with_scope(Scope::Name)
}

async fn is_waiting<T>(granting: &mut JoinHandle<T>) -> bool {
    tokio::time::timeout(Duration::from_millis(150), granting).await.is_err()
}

// Promise 1, Q9
#[tokio::test(flavor = "multi_thread")]
async fn an_answer_waits_for_every_enforcer_that_is_there() {
    let resolver = by_name();
    let mut one = Living::settled(&resolver, "node-1", 5301).await;
    let mut two = Living::settled(&resolver, "node-2", 5302).await;
    let mut granting = resolver.granting(EVERYONE, "a.example");
    let grant = one.hear_name("a.example").await;
    assert_eq!((grant.addresses[0].ttl_millis, &grant.chain[..]), (60_000, &["cdn.example".to_owned()][..]));
    one.acknowledge(&[&grant], 90_000);
    assert!(is_waiting(&mut granting).await, "it left before node-2 had it");
    let grant = two.hear_name("a.example").await;
    two.acknowledge(&[&grant], 80_000);
    assert_eq!(granting.await.unwrap(), Ok(Granted { usable_for: Duration::from_secs(80) }));
    // What one cannot grant is granted to nobody.
    let granting = resolver.granting(EVERYONE, "b.example");
    let (first, second) = (one.hear_name("b.example").await, two.hear_name("b.example").await);
    let refused = proto::Refused { reason: proto::Refusal::Kernel.into(), detail: "no memory".into() };
    let ack = Ack { sequence: first.sequence, outcome: Some(Outcome::Refused(refused)) };
    one.enforcer.say(Message::Acks(Acks { acks: vec![ack] }));
    assert_eq!(granting.await.unwrap(), Err(Refused::Kernel("no memory".into())));
    two.acknowledge(&[&second], 80_000);
}

// Q9: a cached copy may reach a workload of a node that came later
#[tokio::test(flavor = "multi_thread")]
async fn who_comes_later_is_told_first_of_what_is_live() {
    let resolver = by_name();
    let mut one = Living::settled(&resolver, "node-1", 5301).await;
    let granting = resolver.granting(EVERYONE, "a.example");
    let grant = one.hear_name("a.example").await;
    one.acknowledge(&[&grant], 60_000);
    granting.await.unwrap().unwrap();
    let mut late = Living::join(&resolver, "node-2", 5302).await;
    let known = late.hear_name("a.example").await;
    assert_eq!(known.chain, ["cdn.example"]);
    assert!((50_000..=60_000).contains(&known.addresses[0].ttl_millis), "{known:?}");
    let mut granting = resolver.granting(EVERYONE, "b.example");
    let (first, second) = (one.hear_name("b.example").await, late.hear_name("b.example").await);
    one.acknowledge(&[&first], 60_000);
    assert!(is_waiting(&mut granting).await, "it left before the new one had it");
    late.acknowledge(&[&known, &second], 60_000);
    granting.await.unwrap().unwrap();
}

// DESIGN 5: a feed that is dead for 2 s leaves the barrier, and is told of what it missed when it is back
#[tokio::test(flavor = "multi_thread")]
async fn one_that_is_cut_off_is_waited_for_as_long_as_it_may_live() {
    let resolver = by_name();
    let mut one = Living::settled(&resolver, "node-1", 5301).await;
    let two = Living::settled(&resolver, "node-2", 5302).await;
    let silent_since = two.fall_silent();
    let in_time = tokio::time::timeout(LATE, resolver.grant(EVERYONE, "early.example")).await;
    let early = one.hear_name("early.example").await;
    one.acknowledge(&[&early], 60_000);
    assert!(in_time.is_err() || silent_since.elapsed() >= DEAD_AFTER, "not waited for: {in_time:?}");
    wait_for_its_end(two).await;
    assert!(silent_since.elapsed() >= DEAD_AFTER - Duration::from_millis(300), "it left too early");
    let granting = resolver.granting(EVERYONE, "late.example");
    let late = one.hear_name("late.example").await;
    one.acknowledge(&[&late], 60_000);
    assert!(granting.await.unwrap().is_ok(), "one that is dead holds nobody up");
    let mut back = Living::join(&resolver, "node-2", 5302).await;
    let mut told = [back.hear().await.name, back.hear().await.name];
    told.sort();
    assert_eq!(told, ["early.example", "late.example"]);
}

async fn wait_for_its_end(mut living: Living) {
    let ended = async { while let Ok(Some(_)) = living.enforcer.stream.message().await {} };
    tokio::time::timeout(WAIT, ended).await.expect("a silent stream goes on");
}

// F1: a stream that was closed is waited for as well; what is known goes on being answered
#[tokio::test(flavor = "multi_thread")]
async fn one_that_restarts_is_waited_for() {
    let resolver = by_name();
    let mut one = Living::settled(&resolver, "node-1", 5301).await;
    let mut two = Living::settled(&resolver, "node-2", 5302).await;
    let mut granting = resolver.granting(EVERYONE, "a.example");
    let grant = one.hear_name("a.example").await;
    one.acknowledge(&[&grant], 60_000);
    two.hear_name("a.example").await;
    drop(two);
    let closed = Instant::now();
    let outcome = tokio::time::timeout(WAIT, &mut granting).await.unwrap().unwrap();
    assert!(outcome == Err(Refused::Absent) || closed.elapsed() >= DEAD_AFTER, "{outcome:?}");
    let asked = Instant::now();
    let outcome = resolver.grant(EVERYONE, "b.example").await;
    assert!(outcome == Err(Refused::Absent) || closed.elapsed() >= DEAD_AFTER, "{outcome:?}");
    assert!(asked.elapsed() < WAIT / 2, "known names need an answer before G1's bound");
    // Back in time, it has what it missed and is asked like the other.
    let mut back = Living::join(&resolver, "node-2", 5302).await;
    assert_eq!(back.hear().await.name, "a.example");
    drop(one);
    drop(back);
    tokio::time::sleep(DEAD_AFTER).await;
    assert_eq!(resolver.grant(EVERYONE, "c.example").await, Err(Refused::Absent), "nobody is there");
}

// DESIGN 5: batched per stream
#[tokio::test(flavor = "multi_thread")]
async fn grants_that_come_together_travel_together() {
    const GRANTS: usize = 400;
    let resolver = by_name();
    let mut one = Living::settled(&resolver, "node-1", 5301).await;
    let mut two = Living::settled(&resolver, "node-2", 5302).await;
    let granting: Vec<_> =
        (0..GRANTS).map(|number| resolver.granting(EVERYONE, &format!("n{number}.example"))).collect();
    for living in [&mut one, &mut two] {
        let mut grants = Vec::new();
        for _ in 0..GRANTS {
            grants.push(living.hear().await);
        }
        assert!(living.messages <= GRANTS / 4, "{} messages", living.messages);
        living.acknowledge(&grants.iter().collect::<Vec<_>>(), 60_000);
    }
    for one in granting {
        one.await.unwrap().unwrap();
    }
}

// R9: what all may ask follows the rules of each
#[tokio::test(flavor = "multi_thread")]
async fn all_endpoints_are_judged_as_one() {
    let resolver = by_name();
    assert!(resolver.endpoints.get(EVERYONE).is_none(), "nobody is known yet");
    let mut one = Living::settled(&resolver, "node-1", 5301).await;
    let first = resolver.endpoints.get(EVERYONE).unwrap();
    let mut two = Living::settled(&resolver, "node-2", 5302).await;
    let second = resolver.endpoints.get(EVERYONE).unwrap();
    assert!(Arc::ptr_eq(&first, &second), "the same rules, so nothing was forgotten");
    let addresses = [(address(), Duration::from_secs(60))];
    second.granted.record(&"a.example".into(), &addresses, Instant::now(), Duration::from_secs(60));
    let other = Endpoint { rules: other_rules().into(), ..endpoint("node-2-other", 5303, 1) };
    two.enforcer.say(Message::Endpoint(other));
    two.enforcer.settle().await;
    let third = resolver.endpoints.get(EVERYONE).unwrap();
    assert_eq!(third.view.rules.parts().len(), 2);
    assert!(third.granted.usable_until("a.example", address(), Instant::now()).is_some(), "still granted");
    two.enforcer.say(Message::EndpointRemoved(EndpointRemoved { uid: "node-2-other".into() }));
    two.enforcer.settle().await;
    assert_eq!(resolver.endpoints.get(EVERYONE).unwrap().view.rules.parts().len(), 1);
    assert!(Resolver::start().endpoints.get(EVERYONE).is_none(), "only where grants are by name");
    one.enforcer.settle().await;
}

fn other_rules() -> Vec<u8> {
    let settings = Settings {
        ttl: nameward_policy::TtlBounds { min_seconds: 7, max_seconds: 70 },
        ..Settings::default()
    };
    let cluster = ClusterRanges::default();
    let compiled = RuleSet::compile(Isolation::Isolated, &[], &settings, &cluster, Timestamp::UNIX_EPOCH);
    serde_json::to_vec(&*compiled.unwrap().dns).unwrap()
}
