//! One Ethernet segment: hostile workloads, and everybody else behind one far interface. A bridge joins them, so what
//! passes a guard arrives at the far side octet by octet, whatever it is.
//!
//! ```text
//!   workload 1 eth0 --- w1 \
//!                            bridge far --- eth0 far side: gateway and all servers
//!   workload 2 eth0 --- w2 /        canary: sends what is always let through
//! ```

use std::{
    net::{IpAddr, SocketAddr, TcpListener},
    os::fd::{AsRawFd, OwnedFd},
    path::Path,
    sync::{
        Arc, Once,
        atomic::{AtomicU32, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use nameward_enforcer::{
    EndpointConfig, Enforcer, EnforcerOptions, GrantRequest,
    decisions::{Decision, Followed},
    kernel::{Attachment, Host, HostOptions},
};
use nameward_policy::{
    ClusterRanges, Effect, Inbound, Isolation, Pattern, Peer, PolicyKind, PolicyRef, PortSpec, Protocol,
    Rule, RuleSet, Settings,
};
use nameward_test_support::{Netns, Scratch};
use nix::{
    ifaddrs::getifaddrs,
    sched::{CpuSet, sched_setaffinity},
    sys::socket::{
        AddressFamily, LinkAddr, MsgFlags, SockFlag, SockProtocol, SockType, bind, recv, send, setsockopt,
        socket, sockopt,
    },
    sys::time::{TimeVal, TimeValLike},
    unistd::Pid,
};
use tokio::sync::broadcast;

use crate::frames::{FAR_MAC, NAMED4, NAMED6, UNKNOWN4, UNKNOWN6, udp};

/// How long anything may take that must happen.
pub(crate) const WAIT: Duration = Duration::from_secs(10);
/// Instances of these tests begin with it.
const PREFIX: &str = "nwtb";
const NAME: &str = "app.example.com";

static NUMBER: AtomicU32 = AtomicU32::new(0);
static CLEAN: Once = Once::new();

/// The segment and what is on it; nobody is guarded yet.
pub(crate) struct World {
    pub(crate) workloads: [Netns; 2],
    pub(crate) far: Netns,
    host: Netns,
    state: Scratch,
    instance: String,
    tap: OwnedFd,
    senders: [OwnedFd; 2],
    _canary: Netns,
}

impl World {
    pub(crate) fn new() -> Self {
        CLEAN.call_once(|| drop(Host::remove_abandoned(Path::new("/sys/fs/bpf"), PREFIX)));
        let [host, far, one, two, canary] =
            ["host", "far", "w1", "w2", "canary"].map(|role| Netns::new(role).unwrap());
        for (port, other) in [("w1", &one), ("w2", &two), ("far", &far), ("canary", &canary)] {
            host.join(port, other, "eth0").unwrap();
        }
        host.bridge("segment", &["w1", "w2", "far", "canary"]).unwrap();
        // Snooping looks into packets, and drops what is malformed.
        host.ip("link set segment type bridge mcast_snooping 0").unwrap();
        for (index, namespace) in [&far, &one, &two].into_iter().enumerate() {
            let mac = [2, 0, 0, 0, 7, index + 1].map(|octet| format!("{octet:02x}")).join(":");
            namespace.ip(&format!("link set eth0 address {mac}")).unwrap();
            let last = index + 1;
            let addresses = [format!("10.7.1.{last}/24"), format!("2001:db8:7:1::{last}/64")];
            namespace.address("eth0", &addresses.each_ref().map(String::as_str)).unwrap();
        }
        for namespace in [&one, &two] {
            namespace.ip("route add default via 10.7.1.1").unwrap();
            namespace.ip("route add default via 2001:db8:7:1::1").unwrap();
        }
        let servers = [NAMED4, NAMED6, UNKNOWN4, UNKNOWN6];
        let servers = servers.map(|text| format!("{text}/{}", if text.contains(':') { 128 } else { 32 }));
        far.address("lo", &servers.each_ref().map(String::as_str)).unwrap();
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let instance = format!("{PREFIX}{}x{number}", std::process::id());
        let [tap, first, last] = [&far, &one, &canary].map(|place| place.run(packet_socket).unwrap());
        let state = Scratch::new("bypass").unwrap();
        let senders = [first, last];
        Self { workloads: [one, two], far, host, state, instance, tap, senders, _canary: canary }
    }

    /// Does `work` with an enforcer in the host's namespace that guards nobody yet.
    pub(crate) fn enforce<T: Send>(&self, work: impl AsyncFnOnce(Guard) -> T + Send) -> T {
        let host = HostOptions { instance: Some(self.instance.clone()), ..HostOptions::default() };
        let options = EnforcerOptions { host, state: Some(self.state.path().to_path_buf()), dns_link: None };
        let run = async || {
            let enforcer = Enforcer::open(options).unwrap();
            let decisions = enforcer.decisions();
            let _tasks = enforcer.start(|| true).unwrap();
            work(Guard { enforcer, decisions }).await
        };
        self.host.block_on(run).unwrap()
    }

    /// Sends frames as workload 1, in order, and returns which of them arrived.
    pub(crate) fn send(&self, frames: &[Vec<u8>]) -> Vec<bool> {
        in_order(&self.senders[0], frames);
        let seen = self.seen();
        frames.iter().map(|frame| seen.iter().any(|one| one.ends_with(end(frame)))).collect()
    }

    /// Sends frames as the far side to workload 1.
    pub(crate) fn send_back(&self, frames: &[Vec<u8>]) {
        in_order(&self.tap, frames);
    }

    /// IPv4 packets to an address that were seen since anything was sent.
    pub(crate) fn packets_to(&self, address: &str) -> usize {
        let wanted = address.parse::<std::net::Ipv4Addr>().unwrap().octets();
        self.seen().iter().filter(|frame| frame[12..14] == [8, 0] && frame[30..34] == wanted).count()
    }

    /// What the far side saw of all that was sent before.
    fn seen(&self) -> Vec<Vec<u8>> {
        // To nobody: an answer would reach the workload.
        let mut canary = udp(("10.7.1.4", 9), ("192.0.2.1", 9));
        canary[11] = 0x77;
        in_order(&self.senders[1], std::slice::from_ref(&canary));
        self.until_seen(&canary)
    }

    /// Everything at the far side up to this frame.
    fn until_seen(&self, last: &[u8]) -> Vec<Vec<u8>> {
        let (mut seen, begin) = (Vec::new(), Instant::now());
        let mut buffer = vec![0; 65_536];
        while begin.elapsed() < WAIT {
            let Ok(length) = recv(self.tap.as_raw_fd(), &mut buffer, MsgFlags::empty()) else { continue };
            // Errors that the far side sends quote what arrived before.
            if buffer[6..12] != FAR_MAC {
                seen.push(buffer[..length].to_vec());
            }
            if buffer[..length].ends_with(end(last)) {
                return seen;
            }
        }
        panic!("the last frame never arrived; {} others did", seen.len());
    }
}

impl Drop for World {
    fn drop(&mut self) {
        let options = HostOptions { instance: Some(self.instance.clone()), ..HostOptions::default() };
        let removed = self.host.run(|| Host::open(&options).map(|host| host.remove_all()));
        if !matches!(removed, Ok(Ok(Ok(_)))) {
            eprintln!("instance {} was not removed", self.instance);
        }
    }
}

/// An enforcer, and what it said.
pub(crate) struct Guard {
    pub(crate) enforcer: Enforcer,
    decisions: broadcast::Receiver<Arc<Followed>>,
}

impl Guard {
    /// Attaches to workload 1 or 2.
    pub(crate) fn attach(&self, number: usize) {
        let last = number + 1;
        let addresses = [format!("10.7.1.{last}"), format!("2001:db8:7:1::{last}")];
        let config = EndpointConfig {
            uid: uid(number).into(),
            name: uid(number),
            attachment: Attachment::Interface { name: uid(number) },
            addresses: addresses.iter().map(|address| address.parse().unwrap()).collect(),
            settings: Settings::default(),
            allow_host: false,
        };
        self.enforcer.apply_endpoint(config).unwrap();
    }

    /// Attaches to workload 1 with [`rules`], and grants the address of their name.
    pub(crate) fn start(&self) {
        self.attach(1);
        self.enforcer.apply_rules(&uid(1), rules(&[NAME], Inbound::None)).unwrap();
        self.grant(1, NAME, &[NAMED4, NAMED6]);
    }

    pub(crate) fn grant(&self, number: usize, name: &str, addresses: &[&str]) {
        let ttl = Duration::from_secs(3_600);
        let request = GrantRequest {
            endpoint: uid(number).into(),
            generation: self.enforcer.endpoint(&uid(number)).unwrap().generation,
            name: name.into(),
            chain: vec![],
            addresses: addresses.iter().map(|address| (address.parse().unwrap(), ttl)).collect(),
            grace: ttl,
        };
        self.enforcer.grant(&request).unwrap();
    }

    /// Packets of workload 1 with this reason.
    pub(crate) fn count(&self, reason: &str) -> u64 {
        self.enforcer.endpoint(&uid(1)).unwrap().counters.get(reason).map_or(0, |counter| counter.packets)
    }

    /// All counters of workload 1, for the message of a failure.
    pub(crate) fn counters(&self) -> String {
        format!("{:?}", self.enforcer.endpoint(&uid(1)).unwrap().counters)
    }

    /// Waits for the event of a denied packet of workload 1.
    pub(crate) async fn denied(&mut self, wanted: impl Fn(&Decision) -> bool) -> Arc<Followed> {
        let found = async {
            loop {
                let decision = self.decisions.recv().await.unwrap();
                if decision.is_denied() && *decision.endpoint == uid(1) && wanted(&decision) {
                    return decision;
                }
            }
        };
        tokio::time::timeout(WAIT, found).await.expect("the event never came")
    }
}

/// Identifier, interface and name of a workload.
pub(crate) fn uid(number: usize) -> String {
    format!("w{number}")
}

/// Names at TCP 443.
pub(crate) fn rules(names: &[&str], inbound: Inbound) -> Arc<RuleSet> {
    let policy = PolicyRef::new(PolicyKind::EgressPolicy, "ci", "runners");
    let mut web = Rule::new(policy, "web", Effect::Allow);
    web.peers = vec![Peer::Names(names.iter().map(|name| Pattern::parse(name).unwrap()).collect())];
    web.ports = vec![PortSpec::one(Protocol::Tcp, 443)];
    let settings = Settings { inbound, ..Settings::default() };
    let ranges = ClusterRanges::default();
    let now = jiff::Timestamp::now();
    Arc::new(RuleSet::compile(Isolation::Isolated, &[web], &settings, &ranges, now).unwrap())
}

/// What a frame is known by.
fn end(frame: &[u8]) -> &[u8] {
    &frame[frame.len() - 8..]
}

/// Sends frames from the first processor: its packets stay in order, whatever interfaces they came by.
fn in_order(socket: &OwnedFd, frames: &[Vec<u8>]) {
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut first = CpuSet::new();
            first.set(0).unwrap();
            sched_setaffinity(Pid::from_raw(0), &first).unwrap();
            for frame in frames {
                let sent = send(socket.as_raw_fd(), frame, MsgFlags::empty()).unwrap();
                assert_eq!(sent, frame.len());
            }
        });
    });
}

/// Sends and receives whole frames at `eth0` of the calling thread's namespace.
fn packet_socket() -> OwnedFd {
    let links = getifaddrs().unwrap().filter(|one| one.interface_name == "eth0");
    let mut links = links.filter_map(|one| one.address?.as_link_addr().copied());
    let (all, link): (_, LinkAddr) = (SockProtocol::EthAll, links.next().unwrap());
    let socket = socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, all).unwrap();
    bind(socket.as_raw_fd(), &link).unwrap();
    setsockopt(&socket, sockopt::ReceiveTimeout, &TimeVal::seconds(1)).unwrap();
    setsockopt(&socket, sockopt::RcvBufForce, &(64 << 20)).unwrap();
    socket
}

/// A server of the far side, for connections that a stack makes.
pub(crate) fn listener(place: &Netns, address: &str, port: u16) -> TcpListener {
    let address = SocketAddr::new(address.parse::<IpAddr>().unwrap(), port);
    place.run(|| TcpListener::bind(address)).unwrap().unwrap()
}
