//! The answer and its grant: which comes first, and what happens when it does not come.

use std::{
    sync::atomic::{AtomicUsize, Ordering},
    time::{Duration, Instant},
};

use hickory_proto::{
    op::{Message, ResponseCode},
    rr::RecordType,
};
use nameward_resolver::{decisions::Reason, endpoints::Identity, grants::Refused};
use nameward_test_support::{Reply, wait_until_async};

use crate::{
    client::{addresses, query, read, receive, why, write},
    lab::{Lab, SOON, Word, allow, at, external, one},
};

/// An answer that did not wait would be here by then.
const A_WHILE: Duration = Duration::from_millis(200);

async fn asked(lab: &Lab, times: usize) {
    let what = "the enforcer is asked";
    wait_until_async(what, SOON, async || (lab.enforcer.asked().len() == times).then_some(())).await;
}

// G1, promise 1
#[tokio::test(flavor = "multi_thread")]
async fn no_answer_leaves_before_its_grant() {
    let lab = Lab::new(one).await;
    lab.enforcer.script(|_| Word::Later);
    let client = lab.workload();
    let (socket, mut stream) = (client.socket().await, client.connect().await);
    socket.send(&query("allowed.example", RecordType::A).to_vec().unwrap()).await.unwrap();
    asked(&lab, 1).await;
    write(&mut stream, &query("a.wild.example", RecordType::A)).await;
    asked(&lab, 2).await;
    assert_eq!(receive(&socket, A_WHILE).await, None, "an answer over UDP before its grant");
    let mut octet = [0];
    let early = tokio::time::timeout(A_WHILE, stream.peek(&mut octet)).await;
    assert!(early.is_err(), "an answer over TCP before its grant");
    // Nor does somebody else's impatience release it.
    let again = client.socket().await;
    again.send(&query("allowed.example", RecordType::A).to_vec().unwrap()).await.unwrap();
    assert_eq!(receive(&again, A_WHILE).await, None, "a second question is answered before the grant");
    lab.enforcer.speak();
    for socket in [socket, again] {
        let answer = Message::from_vec(&receive(&socket, SOON).await.unwrap()).unwrap();
        assert_eq!(addresses(&answer), [external(1)]);
    }
    assert_eq!(addresses(&read(&mut stream).await), [external(1)]);
}

// G1
#[tokio::test(flavor = "multi_thread")]
async fn a_grant_that_does_not_come_is_a_failure_in_time() {
    let wait = Duration::from_millis(150);
    let lab = Lab::with(one, |config| config.grant_wait = wait).await;
    lab.enforcer.script(|_| Word::Later);
    let started = Instant::now();
    let answer = lab.workload().ask("allowed.example").await;
    assert!(started.elapsed() >= wait && started.elapsed() < SOON);
    assert_eq!((answer.metadata.response_code, addresses(&answer)), (ResponseCode::ServFail, vec![]));
    assert!(why(&answer).unwrap().1.contains("grant-timeout"), "{answer:?}");
    assert_eq!(lab.server.counters().grant_timeout.value(), 1);
    assert_eq!(lab.log.denials("allowed.example"), [Reason::GrantTimeout]);
    assert_eq!(lab.log.last(), (2, None));
}

// G1, Q8
#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_releases_nothing() {
    let cases = [
        (Refused::Kernel("map full".into()), Reason::GrantTimeout),
        (Refused::NotAllowed, Reason::GrantTimeout),
        (Refused::Absent, Reason::GrantTimeout),
        (Refused::Limit("addresses".into()), Reason::Limit),
    ];
    for (refused, reason) in cases {
        let lab = Lab::new(one).await;
        let client = lab.workload();
        lab.enforcer.script(move |_| Word::Refused(refused.clone()));
        let answer = client.ask("allowed.example").await;
        assert_eq!((answer.metadata.response_code, addresses(&answer)), (ResponseCode::ServFail, vec![]));
        assert_eq!(lab.log.denials("allowed.example"), [reason]);
        // And is not remembered.
        lab.enforcer.script(|_| Word::Granted);
        assert_eq!(addresses(&client.ask("allowed.example").await), [external(1)]);
    }
}

// Promise 6, DESIGN 6
#[tokio::test(flavor = "multi_thread")]
async fn each_workload_has_its_own_grant_and_known_answers_cost_none() {
    let lab = Lab::new(one).await;
    let (first, second) = (lab.workload(), lab.workload_with("other", |_| {}));
    for _ in 0..3 {
        assert_eq!(addresses(&first.ask("allowed.example").await), [external(1)]);
    }
    assert_eq!(addresses(&second.ask("ALLOWED.example").await), [external(1)]);
    let asked = lab.enforcer.asked();
    let who: Vec<_> = asked.iter().map(|request| (&*request.endpoint, &*request.name)).collect();
    assert_eq!(who, [("w", "allowed.example"), ("other", "allowed.example")]);
    assert_eq!(asked[0].grace, Duration::from_secs(600));
    // One question to the upstream for both.
    assert_eq!(lab.upstream.count("allowed.example"), 1);
    assert_eq!(lab.server.counters().fast.value(), 2);
}

// DESIGN 6: a stale generation is judged again
#[tokio::test(flavor = "multi_thread")]
async fn rules_that_change_under_way_decide() {
    for still_allowed in [true, false] {
        let lab = Lab::new(one).await;
        let client = lab.workload();
        lab.enforcer.script(|request| match request.generation {
            1 => Word::Refused(Refused::StaleGeneration),
            _ => Word::Granted,
        });
        let asking = tokio::spawn(async move { client.ask("allowed.example").await });
        asked(&lab, 1).await;
        lab.apply("w", 2, Identity::Port(client.server.port()), |rules| {
            if !still_allowed {
                rules.allowed = vec![allow("other.example", |_| {})];
            }
        });
        let answer = tokio::time::timeout(SOON, asking).await.unwrap().unwrap();
        let generations: Vec<_> = lab.enforcer.asked().iter().map(|request| request.generation).collect();
        match still_allowed {
            true => assert_eq!((addresses(&answer), generations), (vec![external(1)], vec![1, 2])),
            false => {
                assert_eq!((answer.metadata.response_code, generations), (ResponseCode::NXDomain, vec![1]));
            }
        }
    }
}

// DESIGN 6: the fast path never answers with what was taken away
#[tokio::test(flavor = "multi_thread")]
async fn what_is_revoked_is_not_answered_from_memory() {
    let lab = Lab::new(one).await;
    let client = lab.workload();
    client.ask("allowed.example").await;
    lab.endpoints.revoke("w", 2);
    lab.enforcer.script(|_| Word::Refused(Refused::NotAllowed));
    let answer = client.ask("allowed.example").await;
    assert_eq!((answer.metadata.response_code, addresses(&answer)), (ResponseCode::ServFail, vec![]));
    lab.endpoints.remove("w");
    assert_eq!(client.ask("allowed.example").await.metadata.response_code, ResponseCode::Refused);
}

// Issue 8: who was asked before a flush may answer after it, to those who wait for that, and nothing remembers what it said
#[tokio::test(flavor = "multi_thread")]
async fn what_is_flushed_under_way_is_asked_anew() {
    let questions = AtomicUsize::new(0);
    let lab = Lab::new(move |asked| match questions.fetch_add(1, Ordering::Relaxed) {
        0 => Reply::After(A_WHILE, Box::new(at(asked, 60, [external(1)]))),
        _ => at(asked, 60, [external(2)]),
    })
    .await;
    let client = lab.workload();
    let before = tokio::spawn(async move { client.ask("allowed.example").await });
    let at_upstream = async || (lab.upstream.count("allowed.example") == 1).then_some(());
    wait_until_async("the upstream is asked", SOON, at_upstream).await;
    lab.server.forget(&[nameward_policy::Name::parse("allowed.example").unwrap()]);
    lab.endpoints.forget("w");
    assert_eq!(addresses(&client.ask("allowed.example").await), [external(2)], "who asks after it");
    let before = tokio::time::timeout(SOON, before).await.unwrap().unwrap();
    assert_eq!(addresses(&before), [external(1)]);
    assert!(lab.enforcer.addresses().contains(&external(1)), "it was granted before it left");
    assert_eq!(addresses(&client.ask("allowed.example").await), [external(2)], "what is remembered");
    assert_eq!(lab.upstream.count("allowed.example"), 2);
}

// A8, promise 4: without an enforcer only what was granted before
#[tokio::test(flavor = "multi_thread")]
async fn without_an_enforcer_only_granted_addresses_are_answered() {
    let lab = Lab::new(|asked| match asked.kind {
        RecordType::A => at(asked, 1, [external(1)]),
        _ => at(asked, 60, ["2001:db8::1".parse().unwrap()]),
    });
    let lab = lab.await;
    let client = lab.workload_with("w", |rules| rules.ttl.min_seconds = 1);
    client.ask("allowed.example").await;
    lab.enforcer.script(|_| Word::Refused(Refused::Absent));
    let over = "the answer's TTL is over";
    wait_until_async(over, SOON, async || {
        let answer = client.ask("allowed.example").await;
        assert_eq!(addresses(&answer), [external(1)]);
        (lab.enforcer.asked().len() > 1).then_some(())
    })
    .await;
    let answer = client.ask_for("allowed.example", RecordType::AAAA).await;
    assert_eq!((answer.metadata.response_code, addresses(&answer)), (ResponseCode::ServFail, vec![]));
}

// A5: never above what the grant lasts
#[tokio::test(flavor = "multi_thread")]
async fn a_ttl_does_not_outlast_the_grant() {
    let lab = Lab::new(|asked| at(asked, 300, [external(1)])).await;
    lab.enforcer.script(|_| Word::For(Duration::from_secs(20)));
    let answer = lab.workload().ask("allowed.example").await;
    assert!((15..=20).contains(&answer.answers[0].ttl), "{}", answer.answers[0].ttl);
}
