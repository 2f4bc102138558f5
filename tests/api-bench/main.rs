//! What asking costs: names, addresses and explanations with 100,000 bindings on a node, and a name on 200 nodes. Writes
//! `target/bench/api.json`.
//!
//! The node is a real enforcer in this process, with endpoints on cgroups and their maps in the kernel, served on a unix
//! socket; the client is ours, a connection a question, as the command line asks.
#![allow(clippy::unwrap_used, reason = "a measurement that cannot go on fails")]

#[path = "../http/whole/scene.rs"]
#[allow(dead_code, reason = "shared with the tests of the routes")]
mod scene;
mod whole;
#[path = "../http/world.rs"]
#[allow(dead_code, reason = "shared with the tests of the routes")]
mod world;

use std::{
    fs,
    net::Ipv4Addr,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use nameward_api::{
    client::Client,
    serve::{ApiPlace, serve},
};
use nameward_enforcer::{
    EndpointConfig, Enforcer, EnforcerOptions, GrantRequest, api,
    kernel::{self, Attachment, HostOptions},
};
use nameward_policy::{
    ClusterRanges, Effect, Isolation, Pattern, Peer, PolicyKind, PolicyRef, PortSpec, Protocol, Rule,
    RuleSet, Settings,
};
use nameward_test_support::{CgroupGuard, Scratch, privileged};
use serde_json::{Value, json};

const ENDPOINTS: usize = 25;
const NAMES: usize = 4_000;
const SAMPLES: usize = 1_000;
const BINDINGS_BAR_MS: f64 = 5.0;
const EXPLAIN_BAR_MS: f64 = 2.0;

fn main() {
    assert!(privileged(), "this needs root");
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let mut figures = runtime.block_on(whole::measure());
    figures.extend(runtime.block_on(measure()));
    for figure in &figures {
        let bar = figure["bar"].as_f64().map_or(String::new(), |bar| format!("(bar {bar})"));
        println!(
            "{:<66} {:>9.3} {} {bar}",
            figure["name"].as_str().unwrap(),
            figure["value"].as_f64().unwrap(),
            figure["unit"].as_str().unwrap()
        );
    }
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join("target/bench");
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join("api.json"), serde_json::to_string_pretty(&figures).unwrap()).unwrap();
    std::process::exit(i32::from(figures.iter().any(|figure| figure["pass"] == false)));
}

async fn measure() -> Vec<Value> {
    let node = Node::new();
    let scratch = Scratch::new("apibench").unwrap();
    let place = ApiPlace::Unix(scratch.path().join("api"));
    let serving = tokio::spawn(serve(api::site(node.enforcer.clone(), "bench"), place.listen(None).unwrap()));
    let client = Client::new(place, None).unwrap();
    let mut figures = vec![figure("bindings held", node.bindings as f64, "", None)];
    let exact =
        |number: usize| vec![("name", format!("n{}.e{}.example", number % NAMES, number % ENDPOINTS))];
    figures.extend(
        asked("GET /v1/bindings?name= of one name", &client, "/v1/bindings", exact, Some(BINDINGS_BAR_MS))
            .await,
    );
    let below =
        |number: usize| vec![("name", format!("*.e{}.example", number % ENDPOINTS)), ("limit", "10".into())];
    figures.extend(
        asked("GET /v1/bindings?name=*.NAME, a page of 10", &client, "/v1/bindings", below, None).await,
    );
    let address = |number: usize| vec![("address", address(number % ENDPOINTS, number % NAMES).to_string())];
    figures.extend(
        asked(
            "GET /v1/bindings?address= of one address",
            &client,
            "/v1/bindings",
            address,
            Some(BINDINGS_BAR_MS),
        )
        .await,
    );
    let explain = |number: usize| {
        vec![
            ("endpoint", format!("bench/{}", number % ENDPOINTS)),
            ("destination", format!("n{}.e{}.example", number % NAMES, number % ENDPOINTS)),
        ]
    };
    figures.extend(asked("GET /v1/explain", &client, "/v1/explain", explain, Some(EXPLAIN_BAR_MS)).await);
    serving.abort();
    figures
}

/// Percentiles of questions one after the other.
async fn asked(
    name: &str,
    client: &Client,
    path: &str,
    query: impl Fn(usize) -> Vec<(&'static str, String)>,
    bar: Option<f64>,
) -> Vec<Value> {
    let mut times = Vec::new();
    for number in 0..SAMPLES {
        let query = query(number * 7_919);
        let begun = Instant::now();
        client.bytes(path, &query).await.unwrap();
        times.push(begun.elapsed().as_secs_f64() * 1e3);
    }
    times.sort_by(f64::total_cmp);
    vec![
        figure(&format!("{name}, p50"), times[SAMPLES / 2], "ms", None),
        figure(&format!("{name}, p99"), times[SAMPLES * 99 / 100], "ms", bar),
    ]
}

fn figure(name: &str, value: f64, unit: &str, bar: Option<f64>) -> Value {
    json!({"name": name, "value": value, "unit": unit, "bar": bar, "pass": bar.map(|bar| value <= bar)})
}

/// The documentation ranges are too small for so many addresses; nothing is sent to these.
fn address(endpoint: usize, name: usize) -> Ipv4Addr {
    let number = u32::try_from(endpoint * NAMES + name).unwrap();
    Ipv4Addr::from(u32::from(Ipv4Addr::new(203, 0, 0, 0)) + number)
}

struct Node {
    enforcer: Enforcer,
    bindings: usize,
    instance: PathBuf,
    cgroups: Vec<CgroupGuard>,
}

impl Node {
    fn new() -> Self {
        let name = format!("nwt{}api", std::process::id());
        let host = HostOptions { instance: Some(name.clone()), ..HostOptions::default() };
        let instance = host.bpffs.join("nameward").join(&name);
        let enforcer = Enforcer::open(EnforcerOptions { host, ..EnforcerOptions::default() }).unwrap();
        let mut node = Self { enforcer, bindings: 0, instance, cgroups: Vec::new() };
        (0..ENDPOINTS).for_each(|number| node.add(number));
        node
    }

    fn add(&mut self, number: usize) {
        let cgroup = CgroupGuard::new(&format!("e{number}")).unwrap();
        let uid: Arc<str> = format!("bench/{number}").into();
        let attachment =
            Attachment::Cgroup { path: cgroup.path().into(), netns_cookie: kernel::netns_cookie().unwrap() };
        let settings = Settings::default();
        let mut rule =
            Rule::new(PolicyRef::new(PolicyKind::EgressPolicy, "bench", "all"), "all", Effect::Allow);
        rule.peers = vec![Peer::Names(vec![Pattern::parse("*.example").unwrap()])];
        rule.ports = vec![PortSpec::one(Protocol::Tcp, 443)];
        let now = jiff::Timestamp::now();
        let rules = RuleSet::compile(Isolation::Isolated, &[rule], &settings, &ClusterRanges::default(), now)
            .unwrap();
        self.enforcer
            .apply_endpoint(EndpointConfig {
                uid: Arc::clone(&uid),
                name: uid.to_string(),
                attachment,
                addresses: vec![],
                settings,
                allow_host: false,
            })
            .unwrap();
        self.enforcer.apply_rules(&uid, Arc::new(rules)).unwrap();
        for name in 0..NAMES {
            let request = GrantRequest {
                endpoint: Arc::clone(&uid),
                generation: 1,
                name: format!("n{name}.e{number}.example"),
                chain: vec![],
                addresses: vec![(address(number, name).into(), Duration::from_secs(3_600))],
                grace: Duration::ZERO,
            };
            self.enforcer.grant(&request).unwrap();
            self.bindings += 1;
        }
        self.cgroups.push(cgroup);
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.cgroups.clear();
        drop(fs::remove_dir_all(&self.instance));
    }
}
