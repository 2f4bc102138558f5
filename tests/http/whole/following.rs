//! Streams of decisions of all nodes as one.

use std::time::Duration;

use nameward_api::client::{Client, Event, Events};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::scene::{Served, Whole};

const SOON: Duration = Duration::from_secs(10);

/// The next decisions by `NAME`, and the identifier behind the last.
async fn next(events: &mut Events, count: usize) -> (Vec<String>, String) {
    let (mut names, mut last) = (Vec::new(), String::new());
    while names.len() < count {
        let event = tokio::time::timeout(SOON, events.next()).await;
        let event = event.unwrap_or_else(|_| panic!("only {names:?} came")).unwrap().unwrap();
        let Event::Decision(decision, id) = event else { panic!("{event:?} after {names:?}") };
        names.push(decision.name.unwrap_or_default());
        last = id;
    }
    names.sort();
    (names, last)
}

/// A stream that all nodes take part in, and where it begins.
async fn begin(whole: &Whole, client: &Client, last: Option<&str>) -> Events {
    let events = client.follow(&[], last).await.unwrap();
    let all = || whole.nodes.iter().all(|node| node.fixture.coming.receiver_count() > 0);
    let begun = std::time::Instant::now();
    while !all() {
        assert!(begun.elapsed() < SOON, "not all nodes are followed");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    events
}

#[tokio::test(flavor = "multi_thread")]
async fn what_happens_on_any_node_is_told_once() {
    let whole = Whole::new(3, &[]);
    whole.nodes[0].fixture.deny("ci/0", Some("before"));
    let client = Client::new(whole.place(), None).unwrap();
    let mut events = begin(&whole, &client, None).await;
    for (number, node) in whole.nodes.iter().enumerate() {
        node.fixture.deny("ci/0", Some(&format!("first{number}")));
    }
    let (names, last) = next(&mut events, 3).await;
    assert_eq!(names, ["first0", "first1", "first2"]);
    drop(events);
    // Nobody follows, and the nodes notice.
    let begun = std::time::Instant::now();
    while whole.nodes.iter().any(|node| node.fixture.coming.receiver_count() > 0) {
        assert!(begun.elapsed() < SOON, "nodes are followed for nobody");
        whole.nodes.iter().for_each(|node| node.fixture.deny("ci/0", Some("between")));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let missed: usize =
        whole.nodes.iter().map(|node| node.fixture.decisions.lock().unwrap().len()).sum::<usize>() - 4;
    let mut events = begin(&whole, &client, Some(&last)).await;
    whole.nodes[2].fixture.deny("ci/0", Some("zlast"));
    let (names, _) = next(&mut events, missed + 1).await;
    assert_eq!(names.iter().filter(|name| *name == "between").count(), missed);
    assert_eq!(names.last().map(String::as_str), Some("zlast"));
}

/// Reads a stream as text until it says something.
struct Raw(tokio::net::UnixStream, String);

impl Raw {
    async fn follow(whole: &Whole, query: &str) -> Self {
        let mut stream = whole.socket.connect().await;
        let request = format!("GET /v1/decisions?follow=true{query} HTTP/1.1\r\nhost: x\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        Self(stream, String::new())
    }

    async fn until(&mut self, text: &str) {
        let read = async {
            let mut piece = vec![0; 65_536];
            while !self.1.contains(text) {
                let count = self.0.read(&mut piece).await.unwrap();
                assert!(count > 0, "the stream has ended: {}", self.1);
                self.1 += &String::from_utf8_lossy(&piece[..count]);
            }
        };
        assert!(tokio::time::timeout(SOON, read).await.is_ok(), "no {text} in {}", self.1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_goes_is_told_and_goes_on_where_it_was() {
    let mut whole = Whole::new(2, &[]);
    let mut stream = Raw::follow(&whole, "&namespace=ci").await;
    // Both have said where they are: an interruption from here on loses nothing.
    while whole.nodes.iter().any(|node| node.fixture.coming.receiver_count() == 0) {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    whole.nodes[1].fixture.deny("ci/3", Some("a.example"));
    stream.until(r#"data: {"node":"n2","sequence":1"#).await;
    let (address, fixture) = (whole.nodes[1].address, whole.nodes[1].fixture.clone());
    drop(whole.nodes.remove(1));
    stream.until("event: unanswered\ndata: {\"node\":\"n2\"").await;
    fixture.deny("ci/3", Some("while it was away"));
    fixture.deny("other/3", Some("of another namespace"));
    whole.nodes[0].fixture.deny("ci/0", Some("of the other node"));
    stream.until("of the other node").await;
    let begun = std::time::Instant::now();
    while std::net::TcpListener::bind(address).is_err() {
        assert!(begun.elapsed() < SOON, "the port is not free");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let back = Served::at(address, "n2", &whole.authority, fixture);
    stream.until("while it was away").await;
    back.fixture.deny("ci/3", Some("z.example"));
    stream.until("z.example").await;
    assert_eq!(stream.1.matches("a.example").count(), 1, "{}", stream.1);
    assert_eq!(stream.1.matches("while it was away").count(), 1);
    assert!(!stream.1.contains("of another namespace"));
}

#[tokio::test(flavor = "multi_thread")]
async fn followers_are_bounded() {
    let whole = Whole::new(1, &[]);
    let mut held = Vec::new();
    for _ in 0..64 {
        let mut one = Raw::follow(&whole, "").await;
        one.until(": following").await;
        held.push(one);
    }
    let (status, _, body) = whole.socket.get("/v1/decisions?follow=true", "").await;
    assert!(status == 429 && body.contains("too many clients follow"), "{status} {body}");
    held.clear();
    let begun = std::time::Instant::now();
    loop {
        let mut one = Raw::follow(&whole, "").await;
        one.until("HTTP/1.1 ").await;
        if one.1.starts_with("HTTP/1.1 200") {
            break;
        }
        assert!(begun.elapsed() < SOON, "no place is free again");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
