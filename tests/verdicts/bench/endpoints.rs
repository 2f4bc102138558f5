//! Endpoints: added from nothing, taken up after a restart, given new programs under traffic; the memory of one.

use std::{
    net::UdpSocket,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use nameward_abi::{Config, maps};
use nameward_enforcer::{
    EndpointConfig, Enforcer, EnforcerOptions,
    kernel::{EndpointSpec, Host, KernelStore, MapSizes},
};
use nameward_policy::Settings;
use nameward_test_support::Netns;
use nix::sys::socket::{setsockopt, sockopt::RcvBufForce};

use crate::{
    bench::{
        estate::{Estate, enforce, grant, memory, spec, uid},
        figures::{Figures, percentile},
        packets::{established, flow_key},
    },
    lab::{NAMED4, OWN4, UNKNOWN4, address},
};

/// As many endpoints as the bars say.
const ENDPOINTS: usize = 250;
const FLOWS: u16 = 4_096;
const MIB: f64 = 1_048_576.0;
/// Endpoints with traffic, and how far apart a workload's packets are.
const BUSY: usize = 3;
const PACE: Duration = Duration::from_micros(400);

pub(crate) fn measure(figures: &mut Figures) {
    let estate = Estate::new(ENDPOINTS);
    add(&estate, figures);
    restart(&estate, figures);
    take_up(&estate, figures);
    upgrade(&estate, figures);
    weigh(&estate, figures);
}

fn all() -> impl Iterator<Item = EndpointSpec> {
    (0..ENDPOINTS).map(|index| spec(index, MapSizes::default()))
}

fn milliseconds(begun: Instant) -> f64 {
    begun.elapsed().as_secs_f64() * 1e3
}

fn attach(host: &Host, spec: &EndpointSpec) -> f64 {
    let begun = Instant::now();
    host.attach(spec).unwrap();
    milliseconds(begun)
}

fn add(estate: &Estate, figures: &mut Figures) {
    let mut times: Vec<f64> = estate.with(|host| all().map(|spec| attach(host, &spec)).collect());
    figures.at_most("endpoint added from nothing, p50 of 250", "ms", percentile(&mut times, 0.5), 60.0);
    figures.at_most("endpoint added from nothing, p99 of 250", "ms", percentile(&mut times, 0.99), 150.0);
}

/// What a new process of the same release does: the shared maps, then each endpoint.
fn restart(estate: &Estate, figures: &mut Figures) {
    let begun = Instant::now();
    estate.with(|host| all().for_each(|spec| drop(host.attach(&spec).unwrap())));
    figures.at_most("250 endpoints adopted after a restart", "ms", milliseconds(begun), 1_000.0);
}

/// The same by the enforcer, with what it keeps of each endpoint beside the kernel.
fn take_up(estate: &Estate, figures: &mut Figures) {
    let options =
        EnforcerOptions { host: estate.options().clone(), state: None, ..EnforcerOptions::default() };
    let taken = estate.node.run(|| {
        let begun = Instant::now();
        let enforcer = Enforcer::open(options).unwrap();
        for spec in all() {
            let settings = Settings::default();
            let config = EndpointConfig {
                uid: spec.uid.as_str().into(),
                name: spec.uid,
                attachment: spec.attachment,
                addresses: spec.addresses,
                settings,
                allow_host: false,
            };
            enforcer.apply_endpoint(config).unwrap();
        }
        milliseconds(begun)
    });
    figures.at_most("250 endpoints adopted by the enforcer", "ms", taken.unwrap(), 1_000.0);
}

/// Programs of another release take the place of those that judge, while workloads send what is allowed and what is
/// not.
fn upgrade(estate: &Estate, figures: &mut Figures) {
    let busy: Vec<Busy> = (0..BUSY).map(|index| Busy::new(estate, index)).collect();
    let counts = Counts::default();
    let receivers = [(NAMED4, &counts.allowed), (UNKNOWN4, &counts.denied)]
        .map(|(to, count)| count_packets(&estate.node, to, count));
    let stop = Arc::new(AtomicBool::new(false));
    let before: u64 = estate.with(|host| (0..BUSY).map(|index| judged(host, index)).sum());
    let (time, sent) = thread::scope(|scope| {
        let senders: Vec<_> = busy.iter().map(|busy| scope.spawn(|| busy.send(&stop))).collect();
        let time = estate.with(|host| {
            for index in 0..ENDPOINTS {
                let mut endpoint = host.open_endpoint(&uid(index)).unwrap();
                let config = endpoint.config().unwrap();
                endpoint.write_config(&Config { object: config.object + 1, ..config }).unwrap();
            }
            let begun = Instant::now();
            all().for_each(|spec| drop(host.attach(&spec).unwrap()));
            begun.elapsed().as_secs_f64()
        });
        stop.store(true, Ordering::Relaxed);
        (time, senders.into_iter().map(|sender| sender.join().unwrap()).sum::<u64>())
    });
    thread::sleep(Duration::from_millis(200)); // what is in sockets' queues is counted
    drop(receivers);
    let judged: u64 = estate.with(|host| (0..BUSY).map(|index| judged(host, index)).sum::<u64>()) - before;
    figures.plain("programs of 250 endpoints replaced under traffic", "s", time);
    figures.plain("packets sent meanwhile, half of them not allowed", "", 2.0 * sent as f64);
    let lost = sent - counts.allowed.load(Ordering::Relaxed);
    figures.at_most("allowed packets that did not arrive", "", lost as f64, 0.0);
    let passed = counts.denied.load(Ordering::Relaxed);
    figures.at_most("packets that passed and were not allowed", "", passed as f64, 0.0);
    // Neighbour discovery is judged, too: there may be more.
    let unjudged = (2 * sent).saturating_sub(judged);
    figures.at_most("packets that no program judged", "", unjudged as f64, 0.0);
}

#[derive(Default)]
struct Counts {
    allowed: Arc<AtomicU64>,
    denied: Arc<AtomicU64>,
}

/// All packets that an endpoint's programs have counted so far.
fn judged(host: &Host, index: usize) -> u64 {
    host.open_endpoint(&uid(index)).unwrap().stats().unwrap().iter().map(|(_, counter)| counter.packets).sum()
}

/// A workload that sends, behind one of the interfaces.
struct Busy {
    socket: UdpSocket,
    _workload: Netns,
}

impl Busy {
    fn new(estate: &Estate, index: usize) -> Self {
        let node = &estate.node;
        let workload = Netns::new("busy").unwrap();
        node.ip(&format!("link set p{index} netns {}", workload.name())).unwrap();
        // All workloads have one address: the kernel looks at the interface that packets come from.
        node.ip(&format!("addr add 10.0.0.1/32 dev e{index}")).unwrap();
        node.sysctl(&[&format!("net.ipv4.conf.e{index}.rp_filter=0"), "net.ipv4.conf.all.rp_filter=0"])
            .unwrap();
        workload.address(&format!("p{index}"), &[&format!("{OWN4}/24")]).unwrap();
        workload.ip(&format!("link set p{index} up")).unwrap();
        workload.ip("route add default via 10.0.0.1").unwrap();
        let mac = node.ip(&format!("-br link show e{index}")).unwrap();
        let mac = mac.split_ascii_whitespace().nth(2).unwrap();
        workload.ip(&format!("neigh replace 10.0.0.1 lladdr {mac} dev p{index} nud permanent")).unwrap();
        estate.with(|host| {
            let mut endpoint = host.open_endpoint(&uid(index)).unwrap();
            enforce(&mut endpoint);
            endpoint.write(&grant(address(NAMED4))).unwrap();
        });
        let socket = workload.run(|| UdpSocket::bind((OWN4, 4_000)).unwrap()).unwrap();
        Self { socket, _workload: workload }
    }

    /// Sends pairs of packets until `stop`; returns how many pairs.
    fn send(&self, stop: &AtomicBool) -> u64 {
        let mut pairs = 0;
        while !stop.load(Ordering::Relaxed) {
            for to in [NAMED4, UNKNOWN4] {
                // Rejections of earlier packets show here.
                while self.socket.send_to(b"packet", (to, 443)).is_err() {}
            }
            pairs += 1;
            thread::sleep(PACE);
        }
        pairs
    }
}

/// Counts what arrives at an address of the node until it is dropped.
struct Receiver {
    stop: Arc<AtomicBool>,
    thread: Option<thread::JoinHandle<()>>,
}

fn count_packets(node: &Netns, at: &str, count: &Arc<AtomicU64>) -> Receiver {
    node.address("lo", &[&format!("{at}/32")]).unwrap();
    let socket = node.run(|| UdpSocket::bind((at, 443)).unwrap()).unwrap();
    setsockopt(&socket, RcvBufForce, &(16 << 20)).unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let (stopped, count) = (Arc::clone(&stop), Arc::clone(count));
    let thread = thread::spawn(move || {
        let mut buffer = [0; 64];
        loop {
            match socket.recv(&mut buffer) {
                Ok(_) => drop(count.fetch_add(1, Ordering::Relaxed)),
                Err(_) if stopped.load(Ordering::Relaxed) => return,
                Err(_) => {}
            }
        }
    });
    Receiver { stop, thread: Some(thread) }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().unwrap().join().unwrap();
    }
}

fn weigh(estate: &Estate, figures: &mut Figures) {
    let pins = estate.pins(ENDPOINTS - 1);
    let empty = memory(&pins) as f64;
    let data = aya::maps::MapData::from_pin(pins.join(maps::FLOWS)).unwrap();
    let mut flows: aya::maps::HashMap<_, _, _> =
        aya::maps::Map::from_map_data(data).unwrap().try_into().unwrap();
    for port in 0..FLOWS {
        flows.insert(flow_key(port), established(), 0).unwrap();
    }
    let full = memory(&pins) as f64;
    figures.plain("kernel memory of an endpoint without flows", "MiB", empty / MIB);
    figures.at_most("kernel memory of an endpoint with 4,096 flows", "MiB", full / MIB, 2.0);
    figures.plain("kernel memory of one flow", "bytes", (full - empty) / f64::from(FLOWS));
}
