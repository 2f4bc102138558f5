//! The cluster's API over 200 simulated nodes, five of which are dead: two refuse, two say nothing, one is not who it should be.

use std::{
    net::{SocketAddr, TcpListener},
    time::Instant,
};

use nameward_api::client::Client;
use nameward_test_support::Authority;
use serde_json::Value;

use crate::{
    figure,
    scene::{Served, Whole},
    world::Fixture,
};

const LIVE: usize = 195;
const SAMPLES: usize = 20;
const BAR_MS: f64 = 1_500.0;

/// What asking all of them takes, the first time and afterwards. Each answer names the five.
pub(crate) async fn measure() -> Vec<Value> {
    let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
    let silent = [TcpListener::bind(any).unwrap(), TcpListener::bind(any).unwrap()];
    let refusing = [(); 2].map(|()| TcpListener::bind(any).unwrap().local_addr().unwrap());
    let stranger = Served::at(any, "n200", &Authority::new(), Fixture::new());
    let of = |listener: &TcpListener| listener.local_addr().unwrap();
    let dead = [
        ("n196", of(&silent[0])),
        ("n197", of(&silent[1])),
        ("n198", refusing[0]),
        ("n199", refusing[1]),
        ("n200", stranger.address),
    ];
    let whole = Whole::new(LIVE, &dead);
    let client = Client::new(whole.place(), None).unwrap();
    let mut times = Vec::new();
    for number in 0..=SAMPLES {
        let query = [("name", format!("n{}.example", number % 10)), ("limit", "1000".into())];
        let begun = Instant::now();
        let answer: Value = client.get("/v1/bindings", &query).await.unwrap();
        times.push(begun.elapsed().as_secs_f64() * 1e3);
        let silent = answer["unanswered"].as_array().unwrap();
        let named: Vec<&str> = silent.iter().map(|one| one["node"].as_str().unwrap()).collect();
        assert_eq!(named, dead.map(|(name, _)| name), "{silent:?}");
        assert_eq!(answer["items"].as_array().unwrap().len(), 3 * LIVE);
    }
    let first = times.remove(0);
    times.sort_by(f64::total_cmp);
    let name = |what: &str| format!("a name on 200 nodes, 5 of them dead, {what}");
    vec![
        figure(&name("the first question"), first, "ms", Some(BAR_MS)),
        figure(&name("p50"), times[SAMPLES / 2], "ms", None),
        figure(&name("the slowest of 20"), times[SAMPLES - 1], "ms", Some(BAR_MS)),
    ]
}
