//! What workloads may reach, with real connections: names, ports, expiry, changes of rules, restarts.

use std::{
    io::{ErrorKind, Read, Write},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use nameward_abi::Config;
use nameward_enforcer::{
    EndpointConfig, Enforcer, EnforcerOptions, GrantRequest, Refused,
    decisions::{Decision, Followed},
    kernel::{Attachment, Host, attached_programs},
};
use nameward_policy::{
    ClusterRanges, Effect, Isolation, Pattern, Peer, PolicyKind, PolicyRef, PortSpec, Protocol, Rule,
    RuleSet, Settings,
};
use nameward_test_support::wait_until;
use tokio::sync::broadcast;

use crate::lab::{Lab, Workload, inside, inside_thread, privileged};

const WAIT: Duration = Duration::from_secs(5);
/// A refusal that takes longer was a timeout.
const AT_ONCE: Duration = Duration::from_millis(500);
const WEB: PortSpec = PortSpec::one(Protocol::Tcp, 80);

/// A rule set that allows names on ports.
pub(crate) fn rules(names: &[(&str, PortSpec)]) -> Arc<RuleSet> {
    rules_with(names, Settings::default())
}

pub(crate) fn rules_with(names: &[(&str, PortSpec)], settings: Settings) -> Arc<RuleSet> {
    let rules: Vec<Rule> = names
        .iter()
        .enumerate()
        .map(|(index, (name, port))| {
            let policy = PolicyRef::new(PolicyKind::EgressPolicy, "ci", "runners");
            let mut rule = Rule::new(policy, &format!("rule-{index}"), Effect::Allow);
            rule.peers = vec![Peer::Names(vec![Pattern::parse(name).unwrap()])];
            rule.ports = vec![*port];
            rule
        })
        .collect();
    let now = jiff::Timestamp::now();
    Arc::new(
        RuleSet::compile(Isolation::Isolated, &rules, &settings, &ClusterRanges::default(), now).unwrap(),
    )
}

/// A host that enforces, in the calling process.
pub(crate) struct Guarding {
    pub(crate) enforcer: Enforcer,
    pub(crate) decisions: broadcast::Receiver<Arc<Followed>>,
    _tasks: tokio::task::JoinSet<&'static str>,
}

impl Guarding {
    /// Opens the instance of a lab and guards its workloads; needs a runtime in the host's namespace.
    pub(crate) fn start(lab: &Lab, workloads: &[(&Workload, Arc<RuleSet>)]) -> Self {
        let options = EnforcerOptions { host: lab.options(), state: Some(lab.state()), dns_link: None };
        let enforcer = Enforcer::open(options).unwrap();
        for (workload, rules) in workloads {
            enforcer.apply_endpoint(config(workload)).unwrap();
            enforcer.apply_rules(&workload.namespace, Arc::clone(rules)).unwrap();
        }
        let decisions = enforcer.decisions();
        let tasks = enforcer.start(|| true).unwrap();
        Self { enforcer, decisions, _tasks: tasks }
    }

    /// Waits for a decision that `wanted` accepts.
    pub(crate) async fn decision(&mut self, wanted: impl Fn(&Decision) -> bool) -> Arc<Followed> {
        tokio::time::timeout(WAIT, async {
            loop {
                let decision = self.decisions.recv().await.unwrap();
                if wanted(&decision) {
                    return decision;
                }
            }
        })
        .await
        .expect("the decision never came")
    }
}

pub(crate) fn config(workload: &Workload) -> EndpointConfig {
    EndpointConfig {
        uid: workload.namespace.as_str().into(),
        name: workload.namespace.clone(),
        attachment: Attachment::Interface { name: workload.interface.clone() },
        addresses: workload.addresses.clone(),
        settings: Settings::default(),
        allow_host: false,
    }
}

pub(crate) fn grant(
    workload: &Workload,
    name: &str,
    addresses: &[&str],
    ttl: Duration,
    grace: Duration,
) -> GrantRequest {
    GrantRequest {
        endpoint: workload.namespace.as_str().into(),
        generation: 1,
        name: name.into(),
        chain: vec![],
        addresses: addresses.iter().map(|address| (address.parse().unwrap(), ttl)).collect(),
        grace,
    }
}

pub(crate) fn hour(workload: &Workload, name: &str, addresses: &[&str]) -> GrantRequest {
    grant(workload, name, addresses, Duration::from_secs(3_600), Duration::from_secs(600))
}

/// A server that sends back what it gets, at port 80 and 81 of every address of the namespace.
pub(crate) fn serve(namespace: &str) {
    for port in [80, 81] {
        inside_thread(namespace, move || {
            let listener = TcpListener::bind(("::", port)).unwrap();
            thread::spawn(move || {
                for stream in listener.incoming() {
                    let mut stream = stream.unwrap();
                    thread::spawn(move || {
                        let mut buffer = [0; 64];
                        while let Ok(length @ 1..) = stream.read(&mut buffer) {
                            if stream.write_all(&buffer[..length]).is_err() {
                                return;
                            }
                        }
                    });
                }
            });
            let socket = UdpSocket::bind(("::", port)).unwrap();
            thread::spawn(move || {
                let mut buffer = [0; 64];
                while let Ok((length, from)) = socket.recv_from(&mut buffer) {
                    socket.send_to(&buffer[..length], from).unwrap();
                }
            });
        });
    }
}

/// Connects from a workload; the error comes at once or the test fails.
pub(crate) fn connect(workload: &Workload, to: &str) -> Result<TcpStream, ErrorKind> {
    let to: SocketAddr = to.parse().unwrap();
    inside_thread(&workload.namespace, move || {
        let begin = Instant::now();
        let connected = TcpStream::connect_timeout(&to, WAIT).map_err(|error| error.kind());
        if connected.is_err() {
            assert!(begin.elapsed() < AT_ONCE, "{to}: the refusal took {:?}", begin.elapsed());
        }
        connected
    })
}

/// Whether a connection still carries bytes.
pub(crate) fn is_alive(mut stream: &TcpStream) -> bool {
    stream.set_read_timeout(Some(WAIT)).unwrap();
    let mut buffer = [0; 4];
    stream.write_all(b"ping").is_ok() && stream.read_exact(&mut buffer).is_ok() && &buffer == b"ping"
}

/// Sends numbers to an echo server, one after the other, until told to stop. Returns how many came back; one that
/// does not is a failure.
fn exchange(workload: &Workload, to: &str, stop: &AtomicBool) -> u32 {
    let to: SocketAddr = to.parse().unwrap();
    inside_thread(&workload.namespace, move || {
        let socket = UdpSocket::bind(("0.0.0.0", 0)).unwrap();
        socket.connect(to).unwrap();
        socket.set_read_timeout(Some(WAIT)).unwrap();
        let mut number = 0_u32;
        while !stop.load(Ordering::Relaxed) {
            number += 1;
            socket.send(&number.to_be_bytes()).unwrap();
            let mut back = [0; 4];
            socket.recv(&mut back).unwrap_or_else(|error| panic!("datagram {number} was lost: {error}"));
            assert_eq!(back, number.to_be_bytes());
        }
        number
    })
}

pub(crate) fn is_refused<T>(result: &Result<T, ErrorKind>) -> bool {
    matches!(result, Err(ErrorKind::ConnectionRefused))
}

// G1, G2, G6, G8
#[test]
fn an_allowed_name_passes_and_the_rest_is_refused_at_once_by_name() {
    if !privileged() {
        return;
    }
    let mut lab = Lab::new();
    let workload = lab.workload();
    serve(&lab.internet());
    inside(&lab.host(), async || {
        let mut guarding = Guarding::start(&lab, &[(&workload, rules(&[("app.example.com", WEB)]))]);
        for (address, port) in [("203.0.113.10", "203.0.113.10"), ("2001:db8:1::10", "[2001:db8:1::10]")] {
            let (web, other) = (format!("{port}:80"), format!("{port}:81"));
            assert!(is_refused(&connect(&workload, &web)));
            let remote: IpAddr = address.parse().unwrap();
            let denied = guarding.decision(|decision| decision.remote == remote).await;
            assert_eq!((denied.verdict.word(), &*denied.reason), ("deny", "no-match"));
            assert_eq!(denied.name_or_unknown(), "never resolved");
            guarding.enforcer.grant(&hour(&workload, "app.example.com", &[address])).unwrap();
            assert!(is_alive(&connect(&workload, &web).unwrap()));
            assert!(is_refused(&connect(&workload, &other)));
            let denied = guarding.decision(|decision| decision.remote_port == 81).await;
            assert_eq!((&*denied.reason, denied.name.as_deref()), ("port", Some("app.example.com")));
            assert_eq!(denied.policy.as_deref(), Some("EgressPolicy ci/runners rule rule-0"));
        }
        let refused = guarding.enforcer.grant(&hour(&workload, "evil.example.org", &["203.0.113.11"]));
        assert!(matches!(refused, Err(Refused::NotAllowed { .. })));
        let counters = guarding.enforcer.endpoint(&workload.namespace).unwrap().counters;
        assert!(counters["no-match"].packets >= 2 && counters["port"].packets >= 2, "{counters:?}");
        guarding.enforcer.remove_all().unwrap();
    });
    // Taken away: nobody is in the way any more, as soon as the kernel has let go of the links.
    wait_until("nobody is in the way", Duration::from_secs(10), || {
        connect(&workload, "203.0.113.11:80").ok()
    });
}

// G3, A5
#[test]
fn expiry_stops_new_connections_and_no_live_one() {
    if !privileged() {
        return;
    }
    let mut lab = Lab::new();
    let workload = lab.workload();
    serve(&lab.internet());
    inside(&lab.host(), async || {
        let mut guarding = Guarding::start(&lab, &[(&workload, rules(&[("app.example.com", WEB)]))]);
        let short =
            grant(&workload, "app.example.com", &["203.0.113.10"], Duration::from_secs(1), Duration::ZERO);
        guarding.enforcer.grant(&short).unwrap();
        let live = connect(&workload, "203.0.113.10:80").unwrap();
        assert!(is_alive(&live));
        let until = Instant::now() + WAIT;
        while connect(&workload, "203.0.113.10:80").is_ok() {
            assert!(Instant::now() < until, "the grant never lapsed");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let denied = guarding.decision(|decision| decision.is_denied()).await;
        assert_eq!((&*denied.reason, denied.name.as_deref()), ("expired", Some("app.example.com")));
        assert!(is_alive(&live));
        // Promise 3: an unrelated edit asks whether the name is allowed, not whether the grant has lapsed.
        let edited = rules(&[("app.example.com", WEB), ("other.example.com", WEB)]);
        guarding.enforcer.apply_rules(&workload.namespace, edited).unwrap();
        assert!(is_alive(&live));
    });
}

// A5: what is in use does not lapse
#[test]
fn a_live_connection_keeps_its_address_open() {
    if !privileged() {
        return;
    }
    let mut lab = Lab::new();
    let workload = lab.workload();
    serve(&lab.internet());
    inside(&lab.host(), async || {
        let guarding = Guarding::start(&lab, &[(&workload, rules(&[("app.example.com", WEB)]))]);
        let second = Duration::from_secs(1);
        let idle_name = grant(&workload, "app.example.com", &["203.0.113.11"], second, second);
        let busy_name = grant(&workload, "app.example.com", &["203.0.113.10"], second, second);
        guarding.enforcer.grant(&idle_name).unwrap();
        guarding.enforcer.grant(&busy_name).unwrap();
        let live = connect(&workload, "203.0.113.10:80").unwrap();
        // A probe would be a use: the other address is left alone until both should have lapsed.
        tokio::time::sleep(Duration::from_millis(2_500)).await;
        assert!(is_refused(&connect(&workload, "203.0.113.11:80")));
        assert!(connect(&workload, "203.0.113.10:80").is_ok());
        assert!(is_alive(&live));
    });
}

// R9, G10
#[test]
fn a_change_of_rules_judges_live_connections_again() {
    if !privileged() {
        return;
    }
    let mut lab = Lab::new();
    let workload = lab.workload();
    serve(&lab.internet());
    inside(&lab.host(), async || {
        let both = rules(&[("app.example.com", WEB), ("old.example.com", WEB)]);
        let mut guarding = Guarding::start(&lab, &[(&workload, both)]);
        guarding.enforcer.grant(&hour(&workload, "app.example.com", &["203.0.113.10"])).unwrap();
        guarding.enforcer.grant(&hour(&workload, "old.example.com", &["203.0.113.11"])).unwrap();
        let kept = connect(&workload, "203.0.113.10:80").unwrap();
        let cut = connect(&workload, "203.0.113.11:80").unwrap();
        assert!(is_alive(&kept) && is_alive(&cut));
        guarding.enforcer.apply_rules(&workload.namespace, rules(&[("app.example.com", WEB)])).unwrap();
        assert!(!is_alive(&cut));
        assert!(is_alive(&kept));
        assert!(is_refused(&connect(&workload, "203.0.113.11:80")));
        let denied = guarding.decision(|decision| decision.is_denied()).await;
        assert_eq!((&*denied.reason, denied.name.as_deref()), ("no-match", Some("old.example.com")));
        let stale = guarding.enforcer.grant(&hour(&workload, "app.example.com", &["203.0.113.12"]));
        assert_eq!(stale, Err(Refused::StaleGeneration { asked: 1, current: 2 }));
    });
}

// B29, promise 6
#[test]
fn one_workloads_names_open_nothing_for_another() {
    if !privileged() {
        return;
    }
    let mut lab = Lab::new();
    let (one, two) = (lab.workload(), lab.workload());
    serve(&lab.internet());
    inside(&lab.host(), async || {
        let same = rules(&[("app.example.com", WEB)]);
        let guarding = Guarding::start(&lab, &[(&one, Arc::clone(&same)), (&two, same)]);
        guarding.enforcer.grant(&hour(&one, "app.example.com", &["203.0.113.10"])).unwrap();
        assert!(connect(&one, "203.0.113.10:80").is_ok());
        assert!(is_refused(&connect(&two, "203.0.113.10:80")));
    });
}

// Promise 4
#[test]
fn a_restart_cuts_nothing_and_forgets_nothing() {
    if !privileged() {
        return;
    }
    let mut lab = Lab::new();
    let workload = lab.workload();
    serve(&lab.internet());
    let live = inside(&lab.host(), async || {
        let guarding = Guarding::start(&lab, &[(&workload, rules(&[("app.example.com", WEB)]))]);
        guarding.enforcer.grant(&hour(&workload, "app.example.com", &["203.0.113.10"])).unwrap();
        connect(&workload, "203.0.113.10:80").unwrap()
    });
    // Nobody is there: what was granted stays, what was denied stays denied.
    assert!(is_alive(&live));
    assert!(connect(&workload, "203.0.113.10:80").is_ok());
    assert!(is_refused(&connect(&workload, "203.0.113.11:80")));
    inside(&lab.host(), async || {
        let guarding = Guarding::start(&lab, &[(&workload, rules(&[("app.example.com", WEB)]))]);
        assert!(is_alive(&live));
        assert!(connect(&workload, "203.0.113.10:80").is_ok());
        let bindings = guarding.enforcer.bindings(&workload.namespace).unwrap();
        assert_eq!(bindings[0].name.as_str(), "app.example.com");
        assert_eq!(guarding.enforcer.endpoint(&workload.namespace).unwrap().generation, 2);
    });
}

// Promise 4: programs are replaced in their links, and no packet is lost or goes unjudged
#[test]
fn programs_are_replaced_under_traffic_without_a_lost_packet() {
    if !privileged() {
        return;
    }
    let mut lab = Lab::new();
    let workload = lab.workload();
    serve(&lab.internet());
    let udp = PortSpec::one(Protocol::Udp, 80);
    let rules = rules(&[("app.example.com", udp), ("old.example.com", WEB)]);
    let start = async || {
        let guarding = Guarding::start(&lab, &[(&workload, Arc::clone(&rules))]);
        let generation = guarding.enforcer.endpoint(&workload.namespace).unwrap().generation;
        let request = hour(&workload, "app.example.com", &["203.0.113.10"]);
        guarding.enforcer.grant(&GrantRequest { generation, ..request }).unwrap();
        attached_programs(&workload.interface).unwrap()
    };
    let mut programs = inside(&lab.host(), async || start().await);
    let stop = AtomicBool::new(false);
    let exchanged = thread::scope(|scope| {
        let exchanges = ["203.0.113.10:80"; 2].map(|to| scope.spawn(|| exchange(&workload, to, &stop)));
        for _ in 0..5 {
            inside(&lab.host(), async || of_another_release(&lab, &workload));
            let replaced = inside(&lab.host(), async || start().await);
            assert_ne!(replaced, programs, "other programs judge now");
            programs = replaced;
            // Nobody slips through meanwhile.
            assert!(is_refused(&connect(&workload, "203.0.113.12:80")));
        }
        stop.store(true, Ordering::Relaxed);
        exchanges.map(|exchange| exchange.join().unwrap())
    });
    assert!(exchanged.iter().all(|count| *count > 100), "{exchanged:?}");
}

/// Leaves an endpoint as another release would have.
fn of_another_release(lab: &Lab, workload: &Workload) {
    let host = Host::open(&lab.options()).unwrap();
    let mut endpoint = host.open_endpoint(&workload.namespace).unwrap();
    let config = endpoint.config().unwrap();
    endpoint.write_config(&Config { object: config.object + 1, ..config }).unwrap();
}

// F1
#[test]
fn while_nobody_beats_what_is_live_stays_live() {
    if !privileged() {
        return;
    }
    let mut lab = Lab::new();
    let workload = lab.workload();
    serve(&lab.internet());
    inside(&lab.host(), async || {
        let guarding = Guarding::start(&lab, &[(&workload, rules(&[("app.example.com", WEB)]))]);
        let ttl = Duration::from_secs(1);
        let request = grant(&workload, "app.example.com", &["203.0.113.10"], ttl, Duration::from_secs(60));
        guarding.enforcer.grant(&GrantRequest { grace: Duration::ZERO, ..request }).unwrap();
    });
    // The test is about a clock: time must pass.
    thread::sleep(Duration::from_millis(1_500));
    assert!(connect(&workload, "203.0.113.10:80").is_ok());
}

// G6: what is refused fails at once, for programs that people use
#[test]
fn curl_is_refused_in_milliseconds() {
    if !privileged() {
        return;
    }
    let mut lab = Lab::new();
    let workload = lab.workload();
    serve(&lab.internet());
    inside(&lab.host(), async || {
        let _guarding = Guarding::start(&lab, &[(&workload, rules(&[("app.example.com", WEB)]))]);
        for url in ["http://203.0.113.10/", "http://[2001:db8:1::10]/"] {
            let mut times: Vec<f64> = (0..5)
                .map(|_| {
                    let curl = format!(
                        "ip netns exec {} curl -s -g -m 20 -o /dev/null -w '%{{exitcode}} %{{time_total}}' '{url}' || true",
                        workload.namespace
                    );
                    let said = crate::lab::must(&curl);
                    let (status, seconds) = said.trim().split_once(' ').unwrap();
                    assert_eq!(status, "7", "could not connect");
                    seconds.parse().unwrap()
                })
                .collect();
            times.sort_by(f64::total_cmp);
            println!("{url}: {times:?} s");
            // 50 ms are promised; the rest is for a loaded machine.
            assert!(times[2] < 0.5, "{url}: {times:?} s");
        }
    });
}

// Promise 3: ten thousand short connections, none denied wrongly, and the one that is idle meanwhile stays
#[test]
fn many_short_connections_cost_none_of_its_own() {
    const EACH: u32 = 2_500;
    if !privileged() {
        return;
    }
    let mut lab = Lab::new();
    let workload = lab.workload();
    let internet = lab.internet();
    serve(&internet);
    for port in 90..94_u16 {
        let listener = inside_thread(&internet, move || TcpListener::bind(("203.0.113.10", port)).unwrap());
        thread::spawn(move || {
            for stream in listener.incoming().take(EACH as usize) {
                drop(stream);
            }
        });
    }
    let ports = PortSpec { protocol: Protocol::Tcp, first: 80, last: 93 };
    inside(&lab.host(), async || {
        let guarding = Guarding::start(&lab, &[(&workload, rules(&[("app.example.com", ports)]))]);
        guarding.enforcer.grant(&hour(&workload, "app.example.com", &["203.0.113.10"])).unwrap();
        let idle = connect(&workload, "203.0.113.10:80").unwrap();
        assert!(is_alive(&idle));
        let begin = Instant::now();
        thread::scope(|scope| {
            for port in 90..94_u16 {
                let workload = &workload;
                scope.spawn(move || {
                    inside_thread(&workload.namespace, move || {
                        for number in 0..EACH {
                            let stream = TcpStream::connect(("203.0.113.10", port));
                            let mut stream =
                                stream.unwrap_or_else(|error| panic!("{port} {number}: {error}"));
                            // To the end, so that no data is lost by a reset.
                            assert_eq!(stream.read(&mut [0; 1]).unwrap(), 0);
                        }
                    });
                });
            }
        });
        let rate = f64::from(4 * EACH) / begin.elapsed().as_secs_f64();
        println!("{rate:.0} connections a second");
        assert!(is_alive(&idle));
        let counters = guarding.enforcer.endpoint(&workload.namespace).unwrap().counters;
        let denied = ["no-match", "expired", "port", "flows-full", "inbound", "malformed"];
        for reason in denied {
            assert!(!counters.contains_key(reason), "{reason}: {counters:?}");
        }
    });
}
