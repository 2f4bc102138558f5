//! One instance of the programs with the rules that all tests share, and the means to look at what they did.

use std::net::IpAddr;

use aya::{
    Ebpf, EbpfLoader,
    maps::{
        Array, HashMap, PerCpuArray, RingBuf,
        lpm_trie::{Key, LpmTrie},
    },
    programs::{SchedClassifier, TcAttachType, TestRun, TestRunOptions},
};
use nameward_abi::{
    Address, Admitted, Allow, CidrRule, Config, Counter, DnsRedirect, Event, EventBudget, Flow, FlowKey,
    Fold, FoldKey, Identity, Mode, PortKey, PortRule, Reason, Switch, TrustedServer, flags, maps, programs,
};
use nameward_enforcer::kernel::{BootNanos, OBJECT};

/// `TCX_NEXT`: others decide.
pub(crate) const PASS: i32 = -1;
/// `TCX_DROP`.
pub(crate) const DROP: i32 = 2;
/// `TCX_REDIRECT`.
pub(crate) const REDIRECT: i32 = 7;

pub(crate) const TCP: u8 = 6;
pub(crate) const UDP: u8 = 17;
pub(crate) const ICMP: u8 = 1;

/// Class of TCP 443 and TCP 8080-8087.
pub(crate) const WEB: u64 = 1;
/// Class of UDP 443.
pub(crate) const QUIC: u64 = 2;
/// Class of ICMP echo.
pub(crate) const ECHO: u64 = 4;
/// Class of port 53 alone.
pub(crate) const DIRECT_DNS: u64 = 8;
/// Class of protocol 50.
pub(crate) const ESP: u64 = 16;
/// Class of everything.
pub(crate) const ANY: u64 = 1 << 63;

pub(crate) const OWN4: &str = "10.0.0.2";
pub(crate) const OWN6: &str = "2001:db8:1::2";
/// Granted through a name, for `WEB` and `QUIC`.
pub(crate) const NAMED4: &str = "203.0.113.10";
pub(crate) const NAMED6: &str = "2001:db8:10::10";
/// In a CIDR rule for `WEB` and `ECHO`.
pub(crate) const BLOCK4: &str = "198.51.100.9";
pub(crate) const BLOCK6: &str = "2001:db8:20::9";
/// In a `cluster` rule for `WEB`.
pub(crate) const CLUSTER4: &str = "10.96.0.1";
/// Denied, though allowed as well.
pub(crate) const DENIED4: &str = "192.0.2.5";
/// In no rule.
pub(crate) const UNKNOWN4: &str = "198.18.0.1";
pub(crate) const UNKNOWN6: &str = "2001:db8:ff::1";
/// May be asked directly.
pub(crate) const DIRECT4: &str = "203.0.113.53";

pub(crate) const RESOLVER4: &str = "169.254.53.53";
pub(crate) const RESOLVER6: &str = "fd6e:77::53";
pub(crate) const IDENTITY4: &str = "169.254.128.7";
pub(crate) const IDENTITY6: &str = "fd6e:77::7";
/// A DNS server with a resolver port of its own.
pub(crate) const TRUSTED4: &str = "10.96.0.10";
pub(crate) const TRUSTED_PORT: u16 = 5302;
pub(crate) const DEFAULT_PORT: u16 = 5301;
pub(crate) const LINK_MAC: [u8; 6] = [2, 0, 0, 0, 1, 1];
pub(crate) const FAR_MAC: [u8; 6] = [2, 0, 0, 0, 1, 2];

/// The name set behind `NAMED4` and `NAMED6`.
pub(crate) const NAME_ID: u32 = 7;
pub(crate) const HOUR: u64 = 3_600_000_000_000;

/// Whether privileged tests can run here; where they must (`NAMEWARD_MUST_RUN=1`), it fails instead.
pub(crate) fn privileged() -> bool {
    let root = nix::unistd::Uid::effective().is_root();
    assert!(
        root || std::env::var_os("NAMEWARD_MUST_RUN").is_none(),
        "NAMEWARD_MUST_RUN is set, this is not root"
    );
    root
}

pub(crate) fn address(text: &str) -> Address {
    match text.parse().unwrap() {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    }
}

/// What a program did.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) action: i32,
    pub(crate) frame: Vec<u8>,
    pub(crate) mark: u32,
    pub(crate) nanoseconds: u64,
}

pub(crate) type Flows = Vec<(FlowKey, Flow)>;

/// One instance; its maps go with it.
pub(crate) struct Lab {
    pub(crate) ebpf: Ebpf,
}

impl Lab {
    /// Enforcing, with `Reject`, generation 1, and the rules named by the constants above.
    pub(crate) fn new() -> Self {
        Self::sized(4_096)
    }

    /// With room for so many established flows.
    pub(crate) fn sized(flows: u32) -> Self {
        let mut loader = EbpfLoader::new();
        loader.map_max_entries(maps::FLOWS, flows);
        let mut ebpf = loader.load(OBJECT).unwrap();
        for name in [programs::POD_EGRESS, programs::POD_INGRESS, programs::DNS_RETURN] {
            program(&mut ebpf, name).load().unwrap();
        }
        let mut lab = Self { ebpf };
        lab.configure(|config| *config = configuration());
        lab.beat(BootNanos::now().0);
        lab.standard_rules();
        lab
    }

    /// Loads a program that few tests need.
    pub(crate) fn load(&mut self, name: &str) {
        program(&mut self.ebpf, name).load().unwrap();
    }

    /// Attaches to an interface of the calling thread's network namespace, until this is dropped.
    pub(crate) fn attach(&mut self, interface: &str) {
        let index = nix::net::if_::if_nametoindex(interface).unwrap();
        self.configure(|config| config.ifindex = index);
        for (name, hook) in
            [(programs::POD_INGRESS, TcAttachType::Egress), (programs::POD_EGRESS, TcAttachType::Ingress)]
        {
            program(&mut self.ebpf, name).attach(interface, hook).unwrap();
        }
    }

    fn standard_rules(&mut self) {
        self.port(0, 0, 0, ANY);
        self.port(24, TCP, 443, WEB | ANY);
        self.port(21, TCP, 8_080, WEB | ANY);
        self.port(24, UDP, 443, QUIC | ANY);
        self.port(24, UDP, 53, DIRECT_DNS | ANY);
        self.port(24, TCP, 53, DIRECT_DNS | ANY);
        self.port(8, ICMP, 0, ECHO | ANY);
        self.port(8, 50, 0, ESP | ANY);
        self.admit(NAME_ID, [WEB | QUIC, 0]);
        for named in [NAMED4, NAMED6] {
            self.grant(named, NAME_ID, BootNanos::now().0 + HOUR);
        }
        self.cidr("198.51.100.0", 24, WEB | ECHO | ESP, 0, 0);
        self.cidr("2001:db8:20::", 48, WEB | ECHO, 0, 0);
        self.cidr("10.96.0.0", 16, WEB, 0, WEB);
        self.cidr("192.0.2.0", 24, WEB, ANY, 0);
        self.cidr(DIRECT4, 32, DIRECT_DNS, 0, 0);
    }

    pub(crate) fn port(&mut self, length: u32, protocol: u8, port: u16, classes: u64) {
        let mut map: LpmTrie<_, PortKey, PortRule> = self.map(maps::PORTS);
        let key = Key::new(length, PortKey { protocol, port: port.to_be_bytes() });
        map.insert(&key, PortRule { classes: [classes, 0] }, 0).unwrap();
    }

    pub(crate) fn cidr(&mut self, text: &str, length: u32, allow: u64, deny: u64, cluster: u64) {
        self.cidr_of_both(text, length, [allow, 0], [deny, 0], [cluster, 0]);
    }

    pub(crate) fn cidr_of_both(
        &mut self,
        text: &str,
        length: u32,
        allow: [u64; 2],
        deny: [u64; 2],
        cluster: [u64; 2],
    ) {
        let length = if text.contains(':') { length } else { length + 96 };
        let mut map: LpmTrie<_, Address, CidrRule> = self.map(maps::CIDRS);
        map.insert(&Key::new(length, address(text)), CidrRule { allow, deny, cluster }, 0).unwrap();
    }

    pub(crate) fn admit(&mut self, id: u32, classes: [u64; 2]) {
        let mut map: HashMap<_, u32, Admitted> = self.map(maps::ADMITTED);
        map.insert(id, Admitted { classes }, 0).unwrap();
    }

    pub(crate) fn grant(&mut self, text: &str, admitted_id: u32, expires_at: u64) {
        let mut map: HashMap<_, Address, Allow> = self.map(maps::ALLOW);
        map.insert(address(text), Allow { expires_at, admitted_id, ..Allow::default() }, 0).unwrap();
    }

    pub(crate) fn grant_of(&mut self, text: &str) -> Allow {
        let map: HashMap<_, Address, Allow> = self.map(maps::ALLOW);
        map.get(&address(text), 0).unwrap()
    }

    /// Says where answers to an identity address go.
    pub(crate) fn identify(&mut self, text: &str, ifindex: u32) {
        let mut map: HashMap<_, Address, Identity> = self.map(maps::IDENTITIES);
        map.insert(address(text), Identity { ifindex, receive: 0 }, 0).unwrap();
    }

    pub(crate) fn beat(&mut self, at: u64) {
        let mut map: Array<_, u64> = self.map(maps::HEARTBEAT);
        map.set(0, at, 0).unwrap();
    }

    pub(crate) fn configure(&mut self, change: impl FnOnce(&mut Config)) {
        let mut map: Array<_, Config> = self.map(maps::CONFIG);
        let mut config = map.get(&0, 0).unwrap();
        change(&mut config);
        map.set(0, config, 0).unwrap();
    }

    pub(crate) fn switch(&mut self, slot: usize, mode: Mode, flags: u64, generation: u32) {
        self.configure(|config| config.switch = Switch::new(slot, mode, flags, generation).0);
    }

    pub(crate) fn budget(&mut self) -> EventBudget {
        let map: Array<_, EventBudget> = self.map(maps::EVENT_BUDGET);
        map.get(&0, 0).unwrap()
    }

    pub(crate) fn change_budget(&mut self, change: impl FnOnce(&mut EventBudget)) {
        let mut map: Array<_, EventBudget> = self.map(maps::EVENT_BUDGET);
        let mut budget = map.get(&0, 0).unwrap();
        change(&mut budget);
        map.set(0, budget, 0).unwrap();
    }

    pub(crate) fn change_folds(&mut self, change: impl Fn(&mut Fold)) {
        let mut map: HashMap<_, FoldKey, Fold> = self.map(maps::FOLDS);
        let all: Vec<(FoldKey, Fold)> = map.iter().map(Result::unwrap).collect();
        for (key, mut fold) in all {
            change(&mut fold);
            map.insert(key, fold, 0).unwrap();
        }
    }

    /// All flows: the established and the fleeting ones.
    pub(crate) fn flows(&mut self) -> (Flows, Flows) {
        let established: HashMap<_, FlowKey, Flow> = self.map(maps::FLOWS);
        let established = established.iter().map(Result::unwrap).collect();
        let fleeting: HashMap<_, FlowKey, Flow> = self.map(maps::FLEETING);
        (established, fleeting.iter().map(Result::unwrap).collect())
    }

    /// Writes a flow, as user space does.
    pub(crate) fn put_flow(&mut self, map: &str, key: FlowKey, flow: Flow) {
        let mut map: HashMap<_, FlowKey, Flow> = self.map(map);
        map.insert(key, flow, 0).unwrap();
    }

    /// Changes every flow, wherever it is.
    pub(crate) fn change_flows(&mut self, change: impl Fn(&mut Flow)) {
        for name in [maps::FLOWS, maps::FLEETING] {
            let mut map: HashMap<_, FlowKey, Flow> = self.map(name);
            let all: Vec<(FlowKey, Flow)> = map.iter().map(Result::unwrap).collect();
            for (key, mut flow) in all {
                change(&mut flow);
                map.insert(key, flow, 0).unwrap();
            }
        }
    }

    /// Counted packets and bytes of every reason.
    pub(crate) fn counters(&mut self) -> Vec<Counter> {
        let map: PerCpuArray<_, Counter> = self.map(maps::STATS);
        let sum = |reason: &Reason| {
            map.get(&(*reason as u32), 0).unwrap().iter().fold(Counter::default(), |sum, one| Counter {
                packets: sum.packets + one.packets,
                bytes: sum.bytes + one.bytes,
            })
        };
        Reason::ALL.iter().map(sum).collect()
    }

    /// Events since the last call.
    pub(crate) fn events(&mut self) -> Vec<Event> {
        let mut ring = RingBuf::try_from(self.ebpf.map_mut(maps::EVENTS).unwrap()).unwrap();
        let mut events = Vec::new();
        while let Some(item) = ring.next() {
            events.push(parse_event(&item));
        }
        events
    }

    pub(crate) fn egress(&mut self, frame: &[u8]) -> Run {
        self.run(programs::POD_EGRESS, frame, 0, 1)
    }

    /// Runs a program with a packet mark, `repeat` times.
    pub(crate) fn run(&mut self, name: &str, frame: &[u8], mark: u32, repeat: u32) -> Run {
        let mut context = [0; 192];
        context[8..12].copy_from_slice(&mark.to_ne_bytes());
        let mut context_out = [0; 192];
        let mut out = vec![0; 65_536];
        let mut options = TestRunOptions::new();
        options.data_in = Some(frame);
        options.data_out = Some(&mut out);
        options.ctx_in = Some(&context);
        options.ctx_out = Some(&mut context_out);
        options.repeat = repeat;
        let result = program(&mut self.ebpf, name).test_run(options).unwrap();
        out.truncate(result.data_size_out as usize);
        Run {
            action: result.return_value.cast_signed(),
            frame: out,
            mark: u32::from_ne_bytes(context_out[8..12].try_into().unwrap()),
            nanoseconds: u64::try_from(result.duration.as_nanos()).unwrap(),
        }
    }

    /// Sends a packet of the workload, and checks action and counter.
    #[track_caller]
    pub(crate) fn sends(&mut self, frame: &[u8], action: i32, reason: Reason) -> Run {
        self.check(programs::POD_EGRESS, frame, action, reason)
    }

    /// Sends a packet to the workload, and checks action and counter.
    #[track_caller]
    pub(crate) fn receives(&mut self, frame: &[u8], action: i32, reason: Reason) -> Run {
        self.check(programs::POD_INGRESS, frame, action, reason)
    }

    #[track_caller]
    pub(crate) fn check(&mut self, name: &str, frame: &[u8], action: i32, reason: Reason) -> Run {
        let before = self.counters();
        let run = self.run(name, frame, 0, 1);
        let after = self.counters();
        let counted: Vec<&str> = Reason::ALL
            .iter()
            .filter(|reason| after[**reason as usize].packets != before[**reason as usize].packets)
            .map(|reason| reason.word())
            .collect();
        assert_eq!((run.action, counted), (action, vec![reason.word()]), "{frame:02x?}");
        run
    }

    fn map<'a, M: TryFrom<&'a mut aya::maps::Map>>(&'a mut self, name: &str) -> M
    where
        M::Error: std::fmt::Debug,
    {
        M::try_from(self.ebpf.map_mut(name).unwrap()).unwrap()
    }
}

pub(crate) fn program<'a>(ebpf: &'a mut Ebpf, name: &str) -> &'a mut SchedClassifier {
    ebpf.program_mut(name).unwrap().try_into().unwrap()
}

fn configuration() -> Config {
    let mut config = Config {
        switch: Switch::new(0, Mode::Enforce, flags::REJECT, 1).0,
        endpoint_id: 42,
        flow_limit: 4_096,
        events_per_second: 1_000,
        events_burst: 1_000,
        rejects_per_second: 1_000,
        ifindex: 1,
        direct_dns: [DIRECT_DNS, 0],
        ..Config::default()
    };
    config.own[0] = address(OWN4);
    config.own[1] = address(OWN6);
    config.dns = DnsRedirect {
        resolver4: address(RESOLVER4),
        resolver6: address(RESOLVER6),
        identity4: address(IDENTITY4),
        identity6: address(IDENTITY6),
        link_ifindex: 1,
        default_port: DEFAULT_PORT.to_be_bytes(),
        link_mac: LINK_MAC,
        far_mac: FAR_MAC,
        ..DnsRedirect::default()
    };
    config.dns.trusted[0] = TrustedServer {
        address: address(TRUSTED4),
        port: 53u16.to_be_bytes(),
        resolver_port: TRUSTED_PORT.to_be_bytes(),
        ..TrustedServer::default()
    };
    config
}

fn parse_event(bytes: &[u8]) -> Event {
    let word = |at: usize| u64::from_ne_bytes(bytes[at..at + 8].try_into().unwrap());
    let half = |at: usize| u32::from_ne_bytes(bytes[at..at + 4].try_into().unwrap());
    assert_eq!(bytes.len(), size_of::<Event>());
    Event {
        at: word(0),
        endpoint_id: word(8),
        packets: word(16),
        bytes: word(24),
        generation: half(32),
        admitted_id: half(36),
        local: bytes[40..56].try_into().unwrap(),
        remote: bytes[56..72].try_into().unwrap(),
        local_port: [bytes[72], bytes[73]],
        remote_port: [bytes[74], bytes[75]],
        protocol: bytes[76],
        reason: bytes[77],
        verdict: bytes[78],
        direction: bytes[79],
        ethertype: [bytes[80], bytes[81]],
        _pad: [0; 6],
    }
}
