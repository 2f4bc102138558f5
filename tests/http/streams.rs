//! The stream of decisions, as a client follows it.

use std::time::Duration;

use nameward_api::client::{Client, Event};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::world::{ESCAPE, Served};

const SOON: Duration = Duration::from_secs(10);

async fn next(events: &mut nameward_api::client::Events) -> Event {
    tokio::time::timeout(SOON, events.next()).await.expect("an event comes").unwrap().unwrap()
}

fn number(event: &Event) -> (u64, &str) {
    let Event::Decision(decision, id) = event else { panic!("{event:?}") };
    (decision.sequence, id)
}

#[tokio::test]
async fn what_comes_is_told_and_an_interrupted_reader_goes_on() {
    let served = Served::new();
    served.fixture.deny("ci/0", None);
    let client = Client::new(served.place(), None).unwrap();
    let mut events = client.follow(&[], None).await.unwrap();
    served.fixture.deny("ci/0", Some("a.example"));
    served.fixture.deny("ci/1", None);
    let first = next(&mut events).await;
    assert_eq!(number(&first).0, 2, "what was before is not told");
    assert_eq!(number(&next(&mut events).await).0, 3);
    drop(events);
    served.fixture.deny("ci/0", None);
    let mut events = client.follow(&[], Some(number(&first).1)).await.unwrap();
    served.fixture.deny("ci/0", None);
    for expected in [3, 4, 5] {
        assert_eq!(number(&next(&mut events).await).0, expected);
    }
    // Of a process that is gone: all that this one knows.
    let mut events = client.follow(&[], Some("1-3")).await.unwrap();
    assert_eq!(number(&next(&mut events).await).0, 1);
}

#[tokio::test]
async fn a_filter_holds_for_what_is_kept_and_what_comes() {
    let served = Served::new();
    for _ in 0..600 {
        served.fixture.deny("ci/0", None);
    }
    served.fixture.deny("ci/1", None);
    let client = Client::new(served.place(), None).unwrap();
    let query = [("endpoint", "ci/1".to_owned())];
    let mut events = client.follow(&query, Some("abc-1")).await.unwrap();
    assert_eq!(number(&next(&mut events).await).0, 601);
    served.fixture.deny("ci/0", None);
    served.fixture.deny("ci/1", None);
    assert_eq!(number(&next(&mut events).await).0, 603);
}

#[tokio::test]
async fn what_is_lost_is_counted() {
    let served = Served::new();
    for _ in 0..10 {
        served.fixture.deny("ci/0", None);
    }
    served.fixture.decisions.lock().unwrap().drain(..5);
    let client = Client::new(served.place(), None).unwrap();
    let mut events = client.follow(&[], Some("abc-2")).await.unwrap();
    assert_eq!(next(&mut events).await, Event::Lost(3));
    assert_eq!(number(&next(&mut events).await).0, 6);
}

// Each workload has its own part of the memory: what is forgotten is not always the oldest.
#[tokio::test]
async fn what_is_lost_in_between_is_counted() {
    let served = Served::new();
    for _ in 0..10 {
        served.fixture.deny("ci/0", None);
    }
    served.fixture.decisions.lock().unwrap().drain(5..8);
    let client = Client::new(served.place(), None).unwrap();
    let mut events = client.follow(&[], Some("abc-2")).await.unwrap();
    assert_eq!(next(&mut events).await, Event::Lost(3));
    assert_eq!(number(&next(&mut events).await).0, 3);
}

/// A reader that does not read is behind alone.
#[tokio::test]
async fn a_slow_reader_holds_nobody_up() {
    let served = Served::new();
    let mut slow = served.connect().await;
    slow.write_all(b"GET /v1/decisions?follow=true HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    let mut byte = [0; 15];
    slow.read_exact(&mut byte).await.unwrap();
    let client = Client::new(served.place(), None).unwrap();
    let mut events = client.follow(&[], None).await.unwrap();
    let long = "a".repeat(200);
    for expected in 1..=2_000 {
        served.fixture.deny("ci/0", Some(&long));
        if expected % 20 == 0 {
            let mut last = number(&next(&mut events).await).0;
            while last < expected {
                last = number(&next(&mut events).await).0;
            }
            assert_eq!(last, expected);
        }
    }
    let mut text = String::new();
    let read = async {
        let mut piece = vec![0; 1 << 20];
        while !text.contains("event: lost") {
            let count = slow.read(&mut piece).await.unwrap();
            text += &String::from_utf8_lossy(&piece[..count]);
        }
    };
    tokio::time::timeout(SOON, read).await.expect("the slow reader is told what it lost");
}

#[tokio::test]
async fn names_cannot_begin_an_event() {
    let served = Served::new();
    let client = Client::new(served.place(), None).unwrap();
    let mut events = client.follow(&[], None).await.unwrap();
    let hostile = format!("a\n\nevent: lost\ndata: {{\"count\":9}}\n\n{ESCAPE}");
    served.fixture.deny("ci/0", Some(&hostile));
    served.fixture.deny("ci/0", None);
    let Event::Decision(first, _) = next(&mut events).await else { panic!("a decision") };
    assert_eq!(first.name.as_deref(), Some(hostile.as_str()));
    assert_eq!(number(&next(&mut events).await).0, 2);
}
