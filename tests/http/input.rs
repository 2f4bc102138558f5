//! Bad input: refused with a problem document, bounded, and without growth.

use std::time::Duration;

use nameward_api::serve::Bounds;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::world::Served;

#[tokio::test]
async fn refusals_are_sentences() {
    let served = Served::new();
    for (path, status, says) in [
        ("/v1/nothing", 404, "ask for one of /v1/endpoints"),
        ("/v1/endpoints/absent", 404, "there is no endpoint absent"),
        ("/v1/bindings?endpoint=absent", 404, "there is no endpoint absent"),
        ("/v1/bindings?endpont=ci/0", 400, "unknown field `endpont`"),
        ("/v1/bindings?name=a*.example", 400, "name:"),
        ("/v1/bindings?address=10", 400, "write an address or a range"),
        ("/v1/bindings?limit=0", 400, "from 1 to 1000"),
        ("/v1/bindings?limit=-1", 400, "limit"),
        ("/v1/bindings?cursor=%00", 400, "cursor"),
        ("/v1/bindings?live=perhaps", 400, "live"),
        ("/v1/bindings?fields=nmae", 400, "there are endpoint, workload, name"),
        ("/v1/bindings?name=a&name=b", 400, "duplicate field"),
        ("/v1/decisions?verdict=denied", 400, "would-deny"),
        ("/v1/decisions?reason=because", 400, "no-match"),
        ("/v1/decisions?since=yesterday", 400, "2027-01-31"),
        ("/v1/decisions?cursor=YQB4", 400, "cursor"),
        ("/v1/explain", 400, "missing field `endpoint`"),
        ("/v1/explain?endpoint=ci/0&destination=a%20b", 400, "destination"),
        ("/v1/explain?endpoint=ci/0&destination=a.b&protocol=tpc", 400, "write tcp"),
        ("/v1/explain?endpoint=ci/0&destination=a.b&port=65536", 400, "port"),
        ("/v1/explain?endpoint=ci/1&destination=a.b", 409, "no rules yet"),
    ] {
        served.assert_refused(path, status, says).await;
    }
    let last = served.get("/v1/decisions?follow=true", "last-event-id: what\r\n").await;
    assert_eq!(last.0, 400, "{last:?}");
    let posted = served
        .raw(b"POST /v1/bindings HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: 3\r\n\r\nabc")
        .await;
    assert!(posted.starts_with("HTTP/1.1 405") && posted.contains("use GET"), "{posted}");
}

#[tokio::test]
async fn large_heads_and_bodies_are_not_kept() {
    let served = Served::new();
    served.assert_refused(&format!("/v1/bindings?name={}", "a".repeat(5_000)), 414, "at most 4096").await;
    let (status, _, body) = served.get("/v1/bindings", &format!("x: {}\r\n", "a".repeat(20_000))).await;
    assert!(status == 431 && body.contains("at most 16384"), "{status} {body}");
    // Beyond what is buffered the server itself says no.
    let said =
        served.raw(format!("GET / HTTP/1.1\r\nhost: x\r\nx: {}", "a".repeat(100_000)).as_bytes()).await;
    assert!(said.starts_with("HTTP/1.1 431"), "{said}");
    // A body without end is not read.
    let mut stream = served.connect().await;
    stream
        .write_all(b"GET /healthz HTTP/1.1\r\nhost: x\r\ncontent-length: 100000000000\r\n\r\n")
        .await
        .unwrap();
    let mut said = vec![0; 15];
    stream.read_exact(&mut said).await.unwrap();
    assert_eq!(said, b"HTTP/1.1 200 OK");
    let mut sent = 0_usize;
    while sent < 64 << 20 {
        match tokio::time::timeout(Duration::from_secs(1), stream.write(&[0; 65_536])).await {
            Ok(Ok(count)) if count > 0 => sent += count,
            _ => break,
        }
    }
    assert!(sent < 8 << 20, "{sent} bytes of a body were taken");
    let garbage = served.raw(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n").await;
    assert!(garbage.starts_with("HTTP/1.1 400"), "{garbage}");
}

// Connections beyond the limit are told so, and the others go on.
#[tokio::test]
async fn one_connection_too_many_is_told_so() {
    let served = Served::at_most(3);
    let mut held = Vec::new();
    for _ in 0..3 {
        let mut stream = served.connect().await;
        stream.write_all(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
        let mut said = [0; 12];
        stream.read_exact(&mut said).await.unwrap();
        assert_eq!(&said, b"HTTP/1.1 200");
        held.push(stream);
    }
    let refused = served.raw(b"").await;
    assert!(refused.starts_with("HTTP/1.1 429") && refused.contains("too many connections"), "{refused}");
    held.pop();
    // Its end is noticed a moment later.
    let begun = std::time::Instant::now();
    while served.get("/healthz", "").await.0 != 200 {
        assert!(begun.elapsed() < Duration::from_secs(10), "no connection is free again");
    }
}

#[tokio::test]
async fn an_address_answers_to_the_token_alone() {
    let served = Served::new();
    let address = served.on_address();
    let token = std::fs::read_to_string(served.folder.join("token")).unwrap();
    let get = async |path: &str, header: String| {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{header}\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut said = String::new();
        stream.read_to_string(&mut said).await.unwrap();
        said
    };
    for open in ["/healthz", "/readyz"] {
        assert!(get(open, String::new()).await.starts_with("HTTP/1.1 200"), "{open}");
    }
    for path in ["/v1/bindings", "/metrics", "/openapi.json", "/nothing", "/healthz/../metrics", "//healthz"]
    {
        let said = get(path, String::new()).await;
        assert!(
            said.starts_with("HTTP/1.1 401")
                && said.to_ascii_lowercase().contains("www-authenticate: bearer"),
            "{path}: {said}"
        );
        assert!(said.contains("--api-token-file"), "{said}");
    }
    let shown = token.trim();
    for wrong in [
        format!("Bearer {}", &shown[1..]),
        format!("Bearer {shown}x"),
        format!("Basic {shown}"),
        "Bearer ".into(),
        shown.into(),
    ] {
        let said = get("/v1/bindings", format!("authorization: {wrong}\r\n")).await;
        assert!(said.starts_with("HTTP/1.1 401"), "{wrong}");
    }
    let said = get("/v1/bindings", format!("authorization: bearer {shown}\r\n")).await;
    assert!(said.starts_with("HTTP/1.1 200"), "{said}");
}

// Issue 8: 10,000 connections
#[tokio::test(flavor = "multi_thread")]
async fn thousands_of_connections_are_refused_and_leave_nothing() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).unwrap();
    // Both ends of each are in this process.
    let many = usize::try_from(hard.saturating_sub(1_000)).unwrap_or(usize::MAX).min(10_000);
    let served = Served::at_most(64);
    let mut held = Vec::with_capacity(many);
    for _ in 0..many {
        held.push(served.connect().await);
    }
    let mut refused = 0;
    for mut stream in held.drain(64..) {
        let mut said = String::new();
        let _hung_up = stream.read_to_string(&mut said).await;
        refused += usize::from(said.starts_with("HTTP/1.1 429"));
    }
    assert_eq!(refused, many - 64);
    drop(held);
    let begun = std::time::Instant::now();
    while served.get("/healthz", "").await.0 != 200 {
        assert!(begun.elapsed() < Duration::from_secs(10), "no connection is free again");
    }
    let open = std::fs::read_dir("/proc/self/fd").unwrap().count();
    assert!(open < 1_000, "{open} descriptors are open");
}

// Issue 8: slow clients
#[tokio::test]
async fn who_is_slow_is_let_go() {
    let (head_time, write_time) = (Duration::from_millis(300), Duration::from_millis(500));
    let served = Served::within(Bounds { connections: 3, head_time, write_time });
    let ends = async |mut stream: tokio::net::UnixStream| {
        let mut said = Vec::new();
        let end = tokio::time::timeout(Duration::from_secs(10), stream.read_to_end(&mut said)).await;
        end.expect("it is let go").map(|_| ()).unwrap_or_default();
        String::from_utf8_lossy(&said).into_owned()
    };
    // Half a head, one that trickles in, and none at all.
    let mut half = served.connect().await;
    half.write_all(b"GET /healthz HTTP/1.1\r\nhost:").await.unwrap();
    let mut trickling = served.connect().await;
    let trickle = async {
        for octet in b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n".iter().cycle().take(100_000) {
            if trickling.write_all(&[*octet]).await.is_err() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("it is never let go");
    };
    let silent = served.connect().await;
    let (said, (), nothing) = tokio::join!(ends(half), trickle, ends(silent));
    assert!(!said.starts_with("HTTP/1.1 200") && nothing.is_empty(), "{said:?} {nothing:?}");
    // A reader that takes nothing.
    let mut lazy = served.connect().await;
    lazy.write_all(b"GET /v1/decisions?follow=true HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    let mut begun = [0; 12];
    lazy.read_exact(&mut begun).await.unwrap();
    assert_eq!(&begun, b"HTTP/1.1 200");
    let long = "x".repeat(200) + ".example";
    let started = std::time::Instant::now();
    while served.fixture.coming.receiver_count() > 0 {
        (0..50).for_each(|_| served.fixture.deny("ci/0", Some(&long)));
        assert!(started.elapsed() < Duration::from_secs(10), "it is never let go");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(served.get("/healthz", "").await.0, 200);
}

// Issue 8: what changes something is for root, over a unix socket, and only where it is meant to be
#[tokio::test]
async fn bindings_are_taken_back_by_root_alone() {
    let served = Served::new();
    let delete =
        |query: &str| format!("DELETE /v1/bindings{query} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
    let said = served.raw(delete("?name=*").as_bytes()).await;
    assert!(said.starts_with("HTTP/1.1 405"), "{said}");
    let path = served.changeable();
    let ask = async |query: &str| {
        let mut stream = tokio::net::UnixStream::connect(&path).await.unwrap();
        stream.write_all(delete(query).as_bytes()).await.unwrap();
        let mut said = String::new();
        stream.read_to_string(&mut said).await.unwrap();
        said
    };
    let flushed = || served.fixture.flushed.lock().unwrap().clone();
    if !nix::unistd::geteuid().is_root() {
        let said = ask("?name=*").await;
        assert!(said.starts_with("HTTP/1.1 403") && said.contains("try sudo"), "{said}");
        assert!(flushed().is_empty());
        return;
    }
    for (query, status, says) in [
        ("", "400", "say which bindings"),
        ("?endpoint=ci/0", "400", "say which bindings"),
        ("?name=", "400", "say which bindings"),
        ("?name=a*.example", "400", "name:"),
        ("?name=*&live=true", "400", "unknown field"),
        ("?name=*&endpoint=absent", "404", "there is no endpoint"),
        ("?name=absent.example", "200", r#""items":[]"#),
    ] {
        let said = ask(query).await;
        assert!(said.starts_with(&format!("HTTP/1.1 {status}")) && said.contains(says), "{query}: {said}");
    }
    assert!(flushed().is_empty());
    let said = ask("?name=n1.example&pod=1").await;
    assert!(said.contains(r#""name":"n1.example""#) && said.contains("a resolver did not confirm"), "{said}");
    assert_eq!(flushed(), ["ci/1 n1.example"]);
    let said = ask("?address=198.51.100.2&limit=2").await;
    let (_, body) = said.split_once("\r\n\r\n").unwrap();
    let body: serde_json::Value = serde_json::from_str(body).unwrap();
    assert_eq!((body["items"].as_array().unwrap().len(), body["warnings"].as_array().unwrap().len()), (2, 1));
    let said = ask(&format!("?address=198.51.100.2&cursor={}", body["next"].as_str().unwrap())).await;
    assert!(said.contains("ci/2") && !said.contains("ci/0") && !said.contains("\"next\""), "{said}");
    assert_eq!(flushed().len(), 4);
}

#[tokio::test]
async fn a_token_reads_and_changes_nothing() {
    let served = Served::new();
    let address = served.on_changeable_address();
    let token = std::fs::read_to_string(served.folder.join("token")).unwrap();
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = format!(
        "DELETE /v1/bindings?name=* HTTP/1.1\r\nhost: x\r\nconnection: close\r\nauthorization: Bearer {}\r\n\r\n",
        token.trim()
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut said = String::new();
    stream.read_to_string(&mut said).await.unwrap();
    assert!(said.starts_with("HTTP/1.1 403") && said.contains("unix socket"), "{said}");
}
