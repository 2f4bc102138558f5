//! What a flood of denied packets costs a neighbour, beside the same flood dropped by a rule of nftables.
//!
//! All share one processor: what a flood costs is then what the neighbour's round trips lose, and it cannot hide on
//! a processor that has nothing else to do. The enforcer runs, reads events and tells decisions.

use std::{
    net::UdpSocket,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use nameward_enforcer::{EndpointConfig, Enforcer, EnforcerOptions, kernel::Attachment};
use nameward_policy::{
    ClusterRanges, Effect, Isolation, Peer, PolicyKind, PolicyRef, PortSpec, Protocol, Rule, RuleSet,
    Settings,
};
use nameward_test_support::Netns;

use crate::{
    bench::{
        figures::{Figures, percentile},
        road::{Servers, Table, Traffic, pin},
    },
    lab::{NAMED4, OWN4},
};

const SLICE: Duration = Duration::from_millis(100);
/// Packets a second: a fifth to a third of a processor for the sender alone.
const RATE: u32 = 50_000;
/// The processor of everybody.
const PROCESSOR: usize = 0;

/// Who sends.
#[derive(Clone, Copy)]
enum Flood {
    None,
    /// A workload that our programs deny it.
    Denied,
    /// A workload that nftables denies it.
    Dropped,
}

pub(crate) fn measure(figures: &mut Figures, quick: bool) {
    let node = node();
    let workloads: Vec<Netns> = (0..3).map(|index| workload(&node, index)).collect();
    let _servers = Servers::new(&node, &[Traffic::Requests], PROCESSOR);
    let _table = Table::new(
        &node,
        "chain guard { type filter hook forward priority 0; iifname \"e1\" counter drop; }",
    );
    let options = nameward_enforcer::kernel::HostOptions {
        instance: Some(node.name().to_owned()),
        ..Default::default()
    };
    let options = EnforcerOptions { host: options, ..EnforcerOptions::default() };
    let rates = node
        .block_on(async || {
            let enforcer = Enforcer::open(options).unwrap();
            for index in [0, 2] {
                guard(&enforcer, index);
            }
            let _tasks = enforcer.start(|| true).unwrap();
            let measured = tokio::task::spawn_blocking({
                let enforcer = enforcer.clone();
                let rounds = if quick { 60 } else { 150 };
                move || measure_rates(&workloads, &enforcer, rounds)
            });
            let measured = measured.await.unwrap();
            enforcer.remove_all().unwrap();
            measured
        })
        .unwrap();
    let Measured { rates, sent, decisions } = rates;
    let column = |flood: Flood| rates.iter().map(|row| row[flood as usize]).collect::<Vec<f64>>();
    figures.plain("neighbour's TCP_RR without a flood", "/s", percentile(&mut column(Flood::None), 0.5));
    figures.plain("flood denied by the programs", "packets/s", sent[0]);
    figures.plain("flood dropped by nftables", "packets/s", sent[1]);
    figures.plain("decisions told of the flood", "/s", decisions);
    let slower = |by: Flood, than: Flood| -> Vec<f64> {
        rates.iter().map(|row| (row[than as usize] / row[by as usize] - 1.0) * 100.0).collect()
    };
    figures.percentage("a denied flood costs the neighbour", &slower(Flood::Denied, Flood::None));
    figures.percentage("a flood dropped by nftables costs it", &slower(Flood::Dropped, Flood::None));
    let name = "a denied flood costs the neighbour more than nftables' drop";
    figures.percentage_at_most(name, &slower(Flood::Denied, Flood::Dropped), 0.0, 5.0);
}

/// Two that flood, `e0` behind our programs and `e1` behind nftables, and their neighbour `e2`.
fn node() -> Netns {
    let node = Netns::new("flood").unwrap();
    node.sysctl(&[
        "net.ipv4.ip_forward=1",
        "net.ipv4.conf.all.rp_filter=0",
        "net.ipv4.conf.default.rp_filter=0",
    ])
    .unwrap();
    node.address("lo", &[&format!("{NAMED4}/32")]).unwrap();
    node
}

fn workload(node: &Netns, index: usize) -> Netns {
    let workload = Netns::new("work").unwrap();
    let interface = format!("e{index}");
    node.join(&interface, &workload, "eth0").unwrap();
    node.address(&interface, &[&format!("10.{index}.0.1/24")]).unwrap();
    let own = own(index);
    workload.address("eth0", &[&format!("{own}/24")]).unwrap();
    workload.ip(&format!("route add default via 10.{index}.0.1")).unwrap();
    if index == 0 {
        // Where forwarded packets would go.
        node.ip("route add 198.18.0.0/15 dev e0").unwrap();
    }
    workload
}

fn own(index: usize) -> String {
    if index == 0 { OWN4.to_owned() } else { format!("10.{index}.0.2") }
}

fn uid(index: usize) -> String {
    format!("e{index}")
}

/// Allows nothing but the neighbour's server.
fn guard(enforcer: &Enforcer, index: usize) {
    let config = EndpointConfig {
        uid: uid(index).as_str().into(),
        name: uid(index),
        attachment: Attachment::Interface { name: uid(index) },
        addresses: vec![own(index).parse().unwrap()],
        settings: Settings::default(),
        allow_host: false,
    };
    enforcer.apply_endpoint(config).unwrap();
    let policy = PolicyRef::new(PolicyKind::EgressPolicy, "bench", "flood");
    let mut rule = Rule::new(policy, "server", Effect::Allow);
    rule.peers = vec![Peer::Block { cidr: format!("{NAMED4}/32").parse().unwrap(), except: vec![] }];
    rule.ports = vec![PortSpec::one(Protocol::Tcp, Traffic::Requests as u16)];
    let (settings, cluster) = (Settings::default(), ClusterRanges::default());
    let now = jiff::Timestamp::now();
    let rules = RuleSet::compile(Isolation::Isolated, &[rule], &settings, &cluster, now).unwrap();
    enforcer.apply_rules(&uid(index), Arc::new(rules)).unwrap();
}

struct Measured {
    /// The neighbour's round trips by [`Flood`], a row a round.
    rates: Vec<[f64; 3]>,
    /// Packets a second of the denied and the dropped flood.
    sent: [f64; 2],
    decisions: f64,
}

fn measure_rates(workloads: &[Netns], enforcer: &Enforcer, rounds: usize) -> Measured {
    let floods = [Flooder::new(&workloads[0]), Flooder::new(&workloads[1])];
    let neighbour = &workloads[2];
    let (mut rates, mut sent, mut told) = (Vec::new(), [Vec::new(), Vec::new()], Vec::new());
    for round in 0..=rounds {
        let mut turns = [Flood::None, Flood::Denied, Flood::Dropped];
        turns.rotate_left(round % 3);
        let mut row = [0.0; 3];
        for flood in turns {
            let flooder = match flood {
                Flood::None => None,
                Flood::Denied => Some(0),
                Flood::Dropped => Some(1),
            };
            let before = enforcer.decision_counts().told;
            let begun = Instant::now();
            let flooding = flooder.map(|flooder| floods[flooder].on());
            row[flood as usize] = neighbour
                .run(|| {
                    pin(PROCESSOR);
                    Traffic::Requests.run(SLICE)
                })
                .unwrap();
            drop(flooding);
            let seconds = begun.elapsed().as_secs_f64();
            if let Some(flooder) = flooder {
                sent[flooder].push(floods[flooder].taken() as f64 / seconds);
            }
            if matches!(flood, Flood::Denied) {
                told.push((enforcer.decision_counts().told - before) as f64 / seconds);
            }
        }
        // The first round warms up.
        if round > 0 {
            rates.push(row);
        }
    }
    let sent = sent.map(|mut rates| percentile(&mut rates, 0.5));
    Measured { rates, sent, decisions: percentile(&mut told, 0.5) }
}

/// A workload that sends to a new destination with each packet, while it is on.
struct Flooder {
    on: Arc<AtomicBool>,
    end: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
    thread: Option<JoinHandle<()>>,
}

impl Flooder {
    fn new(workload: &Netns) -> Self {
        let socket = workload.run(|| UdpSocket::bind(("0.0.0.0", 4_000)).unwrap()).unwrap();
        socket.set_nonblocking(true).unwrap();
        let (on, end) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
        let sent = Arc::new(AtomicU64::new(0));
        let state = (Arc::clone(&on), Arc::clone(&end), Arc::clone(&sent));
        let thread = thread::spawn(move || flood(&socket, &state.0, &state.1, &state.2));
        Self { on, end, sent, thread: Some(thread) }
    }

    fn on(&self) -> Flooding<'_> {
        self.on.store(true, Ordering::Relaxed);
        Flooding(self)
    }

    /// Packets since the last time.
    fn taken(&self) -> u64 {
        self.sent.swap(0, Ordering::Relaxed)
    }
}

struct Flooding<'a>(&'a Flooder);

impl Drop for Flooding<'_> {
    fn drop(&mut self) {
        self.0.on.store(false, Ordering::Relaxed);
    }
}

impl Drop for Flooder {
    fn drop(&mut self) {
        self.end.store(true, Ordering::Relaxed);
        self.thread.take().unwrap().join().unwrap();
    }
}

fn flood(socket: &UdpSocket, on: &AtomicBool, end: &AtomicBool, sent: &AtomicU64) {
    const TICK: Duration = Duration::from_millis(1);
    pin(PROCESSOR);
    let mut destination = 0u32;
    while !end.load(Ordering::Relaxed) {
        let tick = Instant::now();
        if on.load(Ordering::Relaxed) {
            for _ in 0..RATE / 1_000 {
                destination = (destination + 1) % 60_000;
                let [_, _, high, low] = destination.to_be_bytes();
                let to = ([198, 18, high, low], 9);
                // Rejections of earlier packets show as errors.
                if socket.send_to(b"flood", std::net::SocketAddr::from(to)).is_ok() {
                    sent.fetch_add(1, Ordering::Relaxed);
                }
            }
        }
        thread::sleep(TICK.saturating_sub(tick.elapsed()));
    }
}
