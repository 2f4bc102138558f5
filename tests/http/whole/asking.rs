//! Lists of all nodes, nodes that do not answer, and questions that one node answers.

use std::{
    net::{SocketAddr, TcpListener},
    sync::atomic::Ordering,
    time::{Duration, Instant},
};

use nameward_api::serve::API;
use nameward_test_support::{Authority, patient, wait_until};
use nameward_tls::{Credentials, ServerName};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::scene::{CLIENT, Served, Whole, files};
use crate::world::{Fixture, Socket};

fn column(list: &Value, field: &str) -> Vec<String> {
    let items = list["items"].as_array().unwrap();
    items.iter().map(|item| item[field].as_str().unwrap_or_default().to_owned()).collect()
}

/// All pages of a list: `FIELD NODE` of each item.
async fn joined(socket: &Socket, path: &str, field: &str, limit: usize) -> Vec<String> {
    let (mut joined, mut cursor) = (Vec::new(), String::new());
    loop {
        let page = socket.json(&format!("{path}?limit={limit}{cursor}")).await;
        assert!(page["items"].as_array().unwrap().len() <= limit, "{page}");
        let each = column(&page, field).into_iter().zip(column(&page, "node"));
        joined.extend(each.map(|(name, node)| format!("{name} {node}")));
        let Some(next) = page["next"].as_str() else { return joined };
        cursor = format!("&cursor={next}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_of_all_nodes_are_one_list() {
    let whole = Whole::new(3, &[]);
    let all = whole.socket.json("/v1/bindings").await;
    assert_eq!((all.get("node"), all.get("unanswered"), all.get("next")), (None, None, None));
    assert_eq!(all["items"].as_array().unwrap().len(), 90);
    for (path, field) in [("/v1/bindings", "name"), ("/v1/endpoints", "uid"), ("/v1/policies", "name")] {
        let whole_list = joined(&whole.socket, path, field, 1_000).await;
        for limit in [1, 7, 90] {
            assert_eq!(
                joined(&whole.socket, path, field, limit).await,
                whole_list,
                "{path}, pages of {limit}"
            );
        }
    }
    // Endpoints are of one node each, policies of all.
    let endpoints = joined(&whole.socket, "/v1/endpoints", "uid", 1_000).await;
    assert_eq!((endpoints[0].as_str(), endpoints[8].as_str(), endpoints.len()), ("ci/0 n1", "ci/8 n3", 9));
    let policies = joined(&whole.socket, "/v1/policies", "name", 1_000).await;
    assert_eq!(policies, ["mail n1", "mail n2", "mail n3", "web n1", "web n2", "web n3"]);
    let some =
        whole.socket.json("/v1/bindings?node=n3,n1&endpoint=ci/7&name=n2.example&fields=node,name").await;
    assert_eq!(some["items"], serde_json::json!([{"name": "n2.example", "node": "n3"}]));
    assert_eq!(whole.socket.json("/v1/subjects?pod=4").await["items"][0]["node"], "n2");
    assert_eq!(whole.socket.json("/v1/traffic?pod=4").await["items"].as_array().unwrap().len(), 3);
    let (_, head, table) = whole.socket.get("/v1/endpoints", "accept: text/plain\r\n").await;
    assert!(table.starts_with("NODE   UID") && !table.contains('\u{1b}'), "{table}");
    let tag = head.lines().find_map(|line| line.strip_prefix("etag: ")).unwrap().replacen('w', "W", 1);
    let again = format!("accept: text/plain\r\nif-none-match: {tag}\r\n");
    assert_eq!(whole.socket.get("/v1/endpoints", &again).await.0, 304);
    for (number, node) in whole.nodes.iter().enumerate() {
        node.fixture.deny(&format!("ci/{}", 3 * number), Some("a.example"));
    }
    whole.nodes[1].fixture.deny("ci/3", Some("b.example"));
    let latest = joined(&whole.socket, "/v1/decisions", "name", 2).await;
    assert_eq!(latest, ["b.example n2", "a.example n1", "a.example n2", "a.example n3"]);
    let suggestions = whole.socket.json("/v1/suggestions?namespace=ci").await;
    assert_eq!(column(&suggestions, "endpoint"), ["ci/0", "ci/3", "ci/6"]);
}

// Issue 8: who does not answer is named, in time
#[tokio::test(flavor = "multi_thread")]
async fn dead_nodes_are_named_and_hold_nobody_up() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let refusing = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let stranger = Served::at("127.0.0.1:0".parse().unwrap(), "n22", &Authority::new(), Fixture::new());
    let silent = silent.local_addr().map(|address| (address, silent)).unwrap();
    let dead: [(&str, SocketAddr); 3] = [("n20", silent.0), ("n21", refusing), ("n22", stranger.address)];
    let whole = Whole::new(8, &dead);
    for _ in 0..2 {
        let begun = Instant::now();
        let list = whole.socket.json("/v1/endpoints").await;
        let took = begun.elapsed();
        assert!(took < patient(Duration::from_millis(1_500)), "{took:?}");
        assert_eq!(list["items"].as_array().unwrap().len(), 24);
        let named: Vec<&str> =
            list["unanswered"].as_array().unwrap().iter().map(|one| one["node"].as_str().unwrap()).collect();
        assert_eq!(named, ["n20", "n21", "n22"]);
        assert!(list["unanswered"][0]["problem"].as_str().unwrap().contains("within 1000 ms"), "{list}");
        assert!(list["unanswered"][2]["problem"].as_str().unwrap().contains("certificate"), "{list}");
    }
    let (_, _, table) = whole.socket.get("/v1/endpoints?limit=2", "accept: text/plain\r\n").await;
    assert!(
        table.contains("# no answer: n21: no connection") && table.contains("# more: cursor="),
        "{table}"
    );
    // What those that answer do not have may be on the others.
    whole.socket.assert_refused("/v1/endpoints/absent", 503, "these did not: n20, n21, n22").await;
    whole.socket.assert_refused("/v1/endpoints/absent?node=n1", 404, "no endpoint absent").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_node_answers_for_its_endpoints() {
    let whole = Whole::new(3, &[]);
    let asked =
        || whole.nodes.iter().map(|node| node.fixture.explained.load(Ordering::Relaxed)).collect::<Vec<_>>();
    let path = "/v1/explain?endpoint=ci/5&destination=a.example&port=8443";
    let first = whole.socket.json(path).await;
    assert_eq!((first["node"].as_str(), first["text"].as_str()), (Some("n2"), Some("denied: port 8443")));
    assert_eq!(asked(), [1, 1, 1]);
    whole.socket.json(path).await;
    assert_eq!(asked(), [1, 2, 1], "it is known who has it");
    assert_eq!(whole.socket.json("/v1/endpoints/ci/5").await["node"], "n2");
    // It goes elsewhere.
    *whole.nodes[1].fixture.endpoints.lock().unwrap() = 3..5;
    *whole.nodes[2].fixture.endpoints.lock().unwrap() = 5..9;
    assert_eq!(whole.socket.json(path).await["node"], "n3");
    *whole.nodes[0].fixture.endpoints.lock().unwrap() = 0..9;
    whole.socket.assert_refused("/v1/endpoints/ci/7", 409, "with node=: n1, n3").await;
    assert_eq!(whole.socket.json("/v1/endpoints/ci/7?node=n3").await["node"], "n3");
    whole.socket.assert_refused("/v1/explain?endpoint=absent&destination=a.b", 404, "on any node").await;
    whole.socket.assert_refused("/v1/explain?endpoint=ci/1&destination=a.b", 409, "no rules yet").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_questions_are_refused_as_a_node_does() {
    let whole = Whole::new(2, &[]);
    for (path, status, says) in [
        ("/v1/nothing", 404, "ask for one of /v1/endpoints"),
        ("/metrics", 404, "there is nothing at /metrics"),
        ("/v1/bindings?endpont=ci/0", 400, "unknown field `endpont`"),
        ("/v1/bindings?endpoint=absent", 404, "there is no endpoint absent"),
        ("/v1/bindings?name=a*.example", 400, "name:"),
        ("/v1/bindings?limit=0", 400, "from 1 to 1000"),
        ("/v1/bindings?limit=many", 400, "write a number"),
        ("/v1/bindings?cursor=YQB4", 400, "cursor"),
        ("/v1/bindings?fields=nmae", 400, "there are node, endpoint"),
        ("/v1/bindings?name=a&name=b", 400, "duplicate field"),
        ("/v1/bindings?node=n9", 400, "no node of this name"),
        ("/v1/decisions?reason=because", 400, "no-match"),
        ("/v1/decisions?follow=true&reason=because", 400, "no-match"),
        ("/v1/decisions?follow=perhaps", 400, "true or false"),
        ("/v1/suggestions?limit=3", 400, "no pages"),
        ("/v1/explain", 400, "missing field `endpoint`"),
        ("/v1/explain?endpoint=ci/0&destination=a%20b", 400, "destination"),
    ] {
        whole.socket.assert_refused(path, status, says).await;
    }
    let last = whole.socket.get("/v1/decisions?follow=true", "last-event-id: abc-7\r\n").await;
    assert!(last.0 == 400 && last.2.contains("of the cluster"), "{last:?}");
    assert_eq!(whole.socket.get("/readyz", "").await.0, 200);
    let posted = whole
        .socket
        .raw(b"DELETE /v1/bindings?name=* HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        .await;
    assert!(posted.starts_with("HTTP/1.1 405"), "{posted}");
}

/// What a node says to whoever has this name.
async fn said_to(node: &Served, name: &str, authority: &Authority) -> String {
    let credentials = Credentials::read(files(authority, name), API).unwrap();
    let connected = credentials.connect(node.address, ServerName::try_from("n1").unwrap()).await;
    let mut stream = match connected {
        Ok(stream) => stream,
        Err(error) => return error.to_string(),
    };
    let mut said = Vec::new();
    let _refused =
        stream.write_all(b"GET /v1/endpoints HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await;
    match stream.read_to_end(&mut said).await {
        Ok(_) => String::from_utf8_lossy(&said).into_owned(),
        Err(error) => error.to_string(),
    }
}

// Nothing unauthenticated
#[tokio::test(flavor = "multi_thread")]
async fn a_node_answers_to_one_name_of_its_authority() {
    let whole = Whole::asking_as("someone.else", 1, &[]);
    let list = whole.socket.json("/v1/endpoints").await;
    let problem = list["unanswered"][0]["problem"].as_str().unwrap();
    assert!(problem.contains("403") && problem.contains(CLIENT), "{list}");
    let node = &whole.nodes[0];
    let good = said_to(node, CLIENT, &whole.authority).await;
    assert!(good.starts_with("HTTP/1.1 200"), "{good}");
    let other = said_to(node, "n2", &whole.authority).await;
    assert!(other.starts_with("HTTP/1.1 403"), "{other}");
    // Of another authority, which also does not know the node's.
    let strange = said_to(node, CLIENT, &Authority::new()).await;
    assert!(strange.contains("certificate"), "{strange}");
    // Without TLS nothing is said.
    let mut plain = tokio::net::TcpStream::connect(node.address).await.unwrap();
    let _refused = plain.write_all(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n").await;
    let mut said = Vec::new();
    let _hung_up = plain.read_to_end(&mut said).await;
    assert!(!said.starts_with(b"HTTP"), "{said:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_comes_back_is_asked_again() {
    let mut whole = Whole::new(2, &[]);
    assert_eq!(whole.socket.json("/v1/endpoints").await["items"].as_array().unwrap().len(), 6);
    let (address, fixture) = (whole.nodes[1].address, whole.nodes[1].fixture.clone());
    drop(whole.nodes.remove(1));
    let list = whole.socket.json("/v1/endpoints").await;
    assert_eq!(list["unanswered"][0]["node"], "n2");
    let mut back = None;
    wait_until("the port is free", Duration::from_secs(10), || TcpListener::bind(address).ok().map(drop));
    back.replace(Served::at(address, "n2", &whole.authority, fixture));
    let list = whole.socket.json("/v1/endpoints").await;
    assert_eq!((list["items"].as_array().unwrap().len(), list.get("unanswered")), (6, None));
}
