//! What a workload has open when rules isolate it for the first time (R11).
#![allow(unsafe_code, reason = "an option of sockets that has no safe wrapper")]

use std::{
    io::Read,
    net::{SocketAddr, TcpListener, TcpStream},
    os::fd::{AsRawFd, OwnedFd},
    sync::Arc,
    thread,
    time::Duration,
};

use nameward_api::types::EndpointStatus;
use nameward_enforcer::{EndpointConfig, Enforcer, EnforcerOptions, GrantRequest};
use nameward_policy::{
    Adopt, ClusterRanges, Effect, Isolation, Pattern, Peer, PolicyKind, PolicyRef, PortSpec, Protocol, Rule,
    RuleSet, Settings,
};
use nameward_test_support::wait_until;

use nix::{
    libc,
    sys::socket::{AddressFamily, SockFlag, SockType, SockaddrIn, connect as connect_socket, socket},
};

use crate::{
    lab::{Lab, Workload, inside, inside_thread, privileged},
    traffic::{config, connect, hour, is_alive, is_refused, serve},
};

const WAIT: Duration = Duration::from_secs(5);
const WEB: PortSpec = PortSpec::one(Protocol::Tcp, 80);

fn rule(name: &str, effect: Effect, peer: Peer) -> Rule {
    let mut rule = Rule::new(PolicyRef::new(PolicyKind::EgressPolicy, "ci", "runners"), name, effect);
    rule.peers = vec![peer];
    if effect == Effect::Allow {
        rule.ports = vec![WEB];
    }
    rule
}

fn app() -> Rule {
    rule("app", Effect::Allow, Peer::Names(vec![Pattern::parse("app.example.com").unwrap()]))
}

fn deny(address: &str) -> Rule {
    let cidr = format!("{address}/32").parse().unwrap();
    rule("no", Effect::Deny, Peer::Block { cidr, except: vec![] })
}

fn compile(isolation: Isolation, rules: &[Rule], settings: &Settings) -> Arc<RuleSet> {
    let (ranges, now) = (ClusterRanges::default(), jiff::Timestamp::now());
    Arc::new(RuleSet::compile(isolation, rules, settings, &ranges, now).unwrap())
}

/// A host that isolates a workload when told so.
struct Scene {
    enforcer: Enforcer,
    workload: Workload,
    settings: Settings,
}

impl Scene {
    fn open(lab: &Lab, workload: Workload, settings: Settings) -> Self {
        let options = EnforcerOptions { host: lab.options(), state: Some(lab.state()), dns_link: None };
        let enforcer = Enforcer::open(options).unwrap();
        let config = EndpointConfig { settings: settings.clone(), ..config(&workload) };
        enforcer.apply_endpoint(config).unwrap();
        Self { enforcer, workload, settings }
    }

    fn apply(&self, isolation: Isolation, rules: &[Rule]) {
        let rules = compile(isolation, rules, &self.settings);
        self.enforcer.apply_rules(&self.workload.namespace, rules).unwrap();
    }

    fn status(&self) -> EndpointStatus {
        self.enforcer.endpoint(&self.workload.namespace).unwrap()
    }

    fn packets(&self, reason: &str) -> u64 {
        self.status().counters.get(reason).map_or(0, |counts| counts.packets)
    }

    fn remotes(&self) -> Vec<String> {
        self.status().adopted.iter().filter_map(|one| one.remote).map(|remote| remote.to_string()).collect()
    }

    fn grant(&self, name: &str, address: &str) {
        let generation = self.status().generation;
        let request = hour(&self.workload, name, &[address]);
        self.enforcer.grant(&GrantRequest { generation, ..request }).unwrap();
    }
}

/// A connection from outside to a server of the workload that sends back what it gets; the outer end.
fn called(workload: &Workload, internet: &str) -> TcpStream {
    let listener = inside_thread(&workload.namespace, || TcpListener::bind("0.0.0.0:8080").unwrap());
    thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut copy = stream.try_clone().unwrap();
        drop(std::io::copy(&mut copy, &mut stream));
    });
    let server: SocketAddr = "10.7.1.2:8080".parse().unwrap();
    let outer = inside_thread(internet, || TcpStream::connect_timeout(&server, WAIT).unwrap());
    assert!(is_alive(&outer));
    outer
}

fn is_ended(mut stream: &TcpStream) -> bool {
    stream.set_read_timeout(Some(WAIT)).unwrap();
    // By an error: a time-out is one as well, of another kind.
    match stream.read(&mut [0; 8]) {
        Ok(length) => length == 0,
        Err(error) => error.kind() != std::io::ErrorKind::WouldBlock,
    }
}

// R11
#[test]
fn live_connections_go_on_and_are_listed_until_they_end() {
    if !privileged() {
        return;
    }
    let mut lab = Lab::new();
    let workload = lab.workload();
    let internet = lab.internet();
    serve(&internet);
    let four = connect(&workload, "203.0.113.10:80").unwrap();
    let six = connect(&workload, "[2001:db8:1::10]:80").unwrap();
    let called = called(&workload, &internet);
    let scene = inside(&lab.host(), async || {
        let scene = Scene::open(&lab, workload, Settings::default());
        scene.apply(Isolation::Isolated, &[app()]);
        for stream in [&four, &six, &called] {
            assert!(is_alive(stream));
        }
        assert!(is_refused(&connect(&scene.workload, "203.0.113.10:80")));
        assert!(scene.packets("adopted") >= 3, "{:?}", scene.status().counters);
        let mut remotes = scene.remotes();
        remotes.retain(|remote| !remote.starts_with("203.0.113.10:") || remote.ends_with(":80"));
        assert!(remotes.contains(&"203.0.113.10:80".into()), "{remotes:?}");
        assert!(remotes.contains(&"[2001:db8:1::10]:80".into()), "{remotes:?}");
        assert_eq!(scene.status().adopted.len(), 3);
        scene
    });
    // A process that takes this one's place knows them from the kernel.
    let Scene { enforcer, workload, settings } = scene;
    drop(enforcer);
    inside(&lab.host(), async || {
        let scene = Scene::open(&lab, workload, settings);
        scene.apply(Isolation::Isolated, &[app()]);
        assert_eq!(scene.status().adopted.len(), 3);
        assert!(is_alive(&four) && is_alive(&six) && is_alive(&called));
        drop((four, six));
        wait_until("ended connections are forgotten", WAIT, || {
            scene.enforcer.upkeep();
            (scene.status().adopted.len() == 1).then_some(())
        });
        assert!(is_alive(&called));
    });
}

// R11
#[test]
fn cut_ends_them() {
    if !privileged() {
        return;
    }
    let mut lab = Lab::new();
    let workload = lab.workload();
    let internet = lab.internet();
    serve(&internet);
    let live = connect(&workload, "203.0.113.10:80").unwrap();
    let called = called(&workload, &internet);
    inside(&lab.host(), async || {
        let scene = Scene::open(&lab, workload, Settings { adopt: Adopt::Cut, ..Settings::default() });
        scene.apply(Isolation::NotIsolated, &[]);
        assert!(is_alive(&live) && is_alive(&called));
        scene.apply(Isolation::Isolated, &[app()]);
        assert!(is_ended(&live));
        assert!(is_ended(&called), "the other side is told as well");
        assert_eq!(scene.status().adopted, []);
    });
}

// R2, R11: a deny wins also over what lived before it, and at any time later
#[test]
fn what_is_denied_is_not_adopted() {
    if !privileged() {
        return;
    }
    let mut lab = Lab::new();
    let workload = lab.workload();
    serve(&lab.internet());
    let denied = connect(&workload, "203.0.113.11:80").unwrap();
    let later = connect(&workload, "203.0.113.12:80").unwrap();
    inside(&lab.host(), async || {
        let scene = Scene::open(&lab, workload, Settings::default());
        scene.apply(Isolation::Isolated, &[app(), deny("203.0.113.11")]);
        assert!(is_ended(&denied));
        assert!(is_alive(&later));
        assert_eq!(scene.remotes(), ["203.0.113.12:80"]);
        scene.apply(Isolation::Isolated, &[app(), deny("203.0.113.12")]);
        assert!(!is_alive(&later));
    });
}

// R11: observation records, and its names count later
#[test]
fn what_was_observed_is_honoured() {
    if !privileged() {
        return;
    }
    let mut lab = Lab::new();
    let workload = lab.workload();
    serve(&lab.internet());
    inside(&lab.host(), async || {
        let scene = Scene::open(&lab, workload, Settings::default());
        scene.apply(Isolation::NotIsolated, &[]);
        scene.grant("app.example.com", "203.0.113.10");
        scene.grant("other.example.com", "203.0.113.11");
        let named = connect(&scene.workload, "203.0.113.10:80").unwrap();
        let other = connect(&scene.workload, "203.0.113.11:80").unwrap();
        assert!(is_alive(&named) && is_alive(&other));
        assert!(scene.packets("not-isolated") > 0);
        scene.apply(Isolation::Isolated, &[app()]);
        assert!(is_alive(&named) && is_alive(&other));
        assert_eq!(scene.remotes(), ["203.0.113.11:80"]);
        assert!(connect(&scene.workload, "203.0.113.10:80").is_ok(), "the name was asked before");
        assert!(is_refused(&connect(&scene.workload, "203.0.113.11:80")));
        // Only the first time: what is opened while nothing isolates ends with the next rules.
        scene.apply(Isolation::NotIsolated, &[]);
        let opened = connect(&scene.workload, "203.0.113.12:80").unwrap();
        assert!(is_alive(&opened));
        scene.apply(Isolation::Isolated, &[app()]);
        assert!(!is_alive(&opened));
        assert!(is_alive(&named) && is_alive(&other));
    });
}

// R1: who is not isolated may do everything but what is denied
#[test]
fn what_nothing_isolates_is_denied_what_rules_deny() {
    if !privileged() {
        return;
    }
    let mut lab = Lab::new();
    let workload = lab.workload();
    serve(&lab.internet());
    inside(&lab.host(), async || {
        let scene = Scene::open(&lab, workload, Settings::default());
        scene.apply(Isolation::NotIsolated, &[deny("203.0.113.11")]);
        assert!(is_refused(&connect(&scene.workload, "203.0.113.11:80")));
        let live = connect(&scene.workload, "203.0.113.12:80").unwrap();
        assert!(is_alive(&live));
        scene.apply(Isolation::NotIsolated, &[deny("203.0.113.12")]);
        assert!(!is_alive(&live));
        assert!(connect(&scene.workload, "203.0.113.11:80").is_ok());
    });
}

/// A socket that looks connected, though no packet was sent (`TCP_REPAIR`, tcp(7)).
fn made_up(workload: &Workload, to: &str) -> TcpStream {
    let to: std::net::SocketAddrV4 = to.parse().unwrap();
    inside_thread(&workload.namespace, move || {
        let made = socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).unwrap();
        repair(&made, 1);
        connect_socket(made.as_raw_fd(), &SockaddrIn::from(to)).unwrap();
        repair(&made, -1); // off, and nothing is sent
        TcpStream::from(made)
    })
}

fn repair(socket: &OwnedFd, mode: libc::c_int) {
    // SAFETY: the option reads an int, which outlives the call.
    let status = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_REPAIR,
            (&raw const mode).cast(),
            size_of_val(&mode) as libc::socklen_t,
        )
    };
    assert_eq!(status, 0, "{}", std::io::Error::last_os_error());
}

// R11, promises 5 and 7: between fence and rules nothing can be opened, and what is made to look so does not count
#[test]
fn what_is_made_up_is_not_adopted() {
    if !privileged() {
        return;
    }
    let mut lab = Lab::new();
    let workload = lab.workload();
    serve(&lab.internet());
    let before = connect(&workload, "203.0.113.10:80").unwrap();
    inside(&lab.host(), async || {
        let scene = Scene::open(&lab, workload, Settings::default());
        let made_up = made_up(&scene.workload, "203.0.113.12:80");
        scene.apply(Isolation::Isolated, &[app()]);
        assert_eq!(scene.remotes(), ["203.0.113.10:80"]);
        assert!(!is_alive(&made_up));
        assert!(is_alive(&before));
    });
}
