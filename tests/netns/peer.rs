//! A CNI that delivers past the host's side of a workload's link: a program of a few instructions in its place.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream, UdpSocket},
    thread,
    time::Duration,
};

use aya::programs::{LinkOrder, TcAttachType};
use nameward_enforcer::{EndpointConfig, Enforcer, EnforcerOptions, kernel::interface_index};
use nameward_policy::{Delivery, Inbound, PortSpec, Protocol, Settings};
use nameward_test_support::{ForeignProgram, wait_until};

use crate::{
    lab::{Lab, Workload, inside, inside_thread, privileged},
    traffic::{config, hour, is_alive, rules_with, serve},
};

const WAIT: Duration = Duration::from_secs(5);
const BRIEFLY: Duration = Duration::from_millis(800);

fn settings(delivery: Delivery, inbound: Inbound) -> Settings {
    Settings { delivery, inbound, ..Settings::default() }
}

fn guard(lab: &Lab, workload: &Workload, settings: &Settings) -> Enforcer {
    let options = EnforcerOptions { host: lab.options(), state: Some(lab.state()), dns_link: None };
    let enforcer = Enforcer::open(options).unwrap();
    apply(&enforcer, workload, settings);
    enforcer
}

fn apply(enforcer: &Enforcer, workload: &Workload, settings: &Settings) {
    enforcer.apply_endpoint(EndpointConfig { settings: settings.clone(), ..config(workload) }).unwrap();
    let names = [
        ("app.example.com", PortSpec::one(Protocol::Tcp, 80)),
        ("app.example.com", PortSpec::one(Protocol::Udp, 80)),
    ];
    enforcer.apply_rules(&workload.namespace, rules_with(&names, settings.clone())).unwrap();
}

/// Everything from the internet goes to the workload, past the host's side of its link.
fn deliver_past(workload: &Workload) -> ForeignProgram {
    let mut cni = ForeignProgram::delivering_past(interface_index(&workload.interface).unwrap()).unwrap();
    cni.attach("internet", TcAttachType::Ingress, LinkOrder::first()).unwrap();
    cni
}

/// A server of the workload that says hello.
fn greet(workload: &Workload) {
    let listener = inside_thread(&workload.namespace, || TcpListener::bind("0.0.0.0:8080").unwrap());
    thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            drop(stream.write_all(b"hello"));
        }
    });
}

fn visit(internet: &str, patience: Duration) -> Option<String> {
    inside_thread(internet, || {
        let server: SocketAddr = "10.7.1.2:8080".parse().unwrap();
        let mut stream = TcpStream::connect_timeout(&server, patience).ok()?;
        let mut text = String::new();
        stream.read_to_string(&mut text).ok()?;
        Some(text)
    })
}

fn dial(workload: &Workload) -> TcpStream {
    let server: SocketAddr = "203.0.113.10:80".parse().unwrap();
    inside_thread(&workload.namespace, || TcpStream::connect_timeout(&server, WAIT).unwrap())
}

fn echo(workload: &Workload) -> bool {
    inside_thread(&workload.namespace, || {
        let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
        socket.set_read_timeout(Some(WAIT)).unwrap();
        socket.connect("203.0.113.10:80").unwrap();
        socket.send(b"ping").unwrap();
        socket.recv(&mut [0; 8]).is_ok()
    })
}

fn count(enforcer: &Enforcer, workload: &Workload, reason: &str) -> u64 {
    let status = enforcer.endpoint(&workload.namespace).unwrap();
    status.counters.get(reason).map_or(0, |counts| counts.packets)
}

// DESIGN 4: what is delivered past us is noticed, and said
#[test]
fn answers_that_pass_the_host_by_are_noticed() {
    if !privileged() {
        return;
    }
    let mut lab = Lab::new();
    let workload = lab.workload();
    let internet = lab.internet();
    serve(&internet);
    greet(&workload);
    inside(&lab.host(), async || {
        let settings = settings(Delivery::Host, Inbound::All);
        let enforcer = guard(&lab, &workload, &settings);
        let _tasks = enforcer.start(|| true).unwrap();
        assert_eq!(visit(&internet, WAIT).as_deref(), Some("hello"));
        let _cni = deliver_past(&workload);
        enforcer.grant(&hour(&workload, "app.example.com", &["203.0.113.10"])).unwrap();
        let live = dial(&workload);
        assert!(is_alive(&live));
        enforcer.upkeep();
        let told = enforcer.endpoint(&workload.namespace).unwrap().not_covered.join("; ");
        assert!(told.contains("bpf_redirect_peer") && told.contains("delivery: Peer"), "{told}");
        assert_eq!(visit(&internet, BRIEFLY), None, "nobody saw the connection come");
    });
}

// G9, DESIGN 4: the program on the workload's side sees what the host's does not
#[test]
fn the_workloads_side_judges_what_is_delivered_past_the_host() {
    if !privileged() {
        return;
    }
    let mut lab = Lab::new();
    let workload = lab.workload();
    let internet = lab.internet();
    serve(&internet);
    greet(&workload);
    inside(&lab.host(), async || {
        let open = settings(Delivery::Peer, Inbound::All);
        let enforcer = guard(&lab, &workload, &open);
        let _tasks = enforcer.start(|| true).unwrap();
        // The usual way is judged there, too, and counted once.
        assert_eq!(visit(&internet, WAIT).as_deref(), Some("hello"));
        assert!(count(&enforcer, &workload, "reply") > 0);
        let _cni = deliver_past(&workload);
        assert_eq!(visit(&internet, WAIT).as_deref(), Some("hello"));
        enforcer.grant(&hour(&workload, "app.example.com", &["203.0.113.10"])).unwrap();
        assert!(is_alive(&dial(&workload)));
        assert!(echo(&workload));
        enforcer.upkeep();
        let told = enforcer.endpoint(&workload.namespace).unwrap().not_covered.join("; ");
        assert!(told.contains("NET_ADMIN") && !told.contains("bpf_redirect_peer"), "{told}");
        // A refusal is an answer of ours, and arrives.
        let refused = inside_thread(&workload.namespace, || {
            let server: SocketAddr = "203.0.113.12:80".parse().unwrap();
            TcpStream::connect_timeout(&server, WAIT).unwrap_err().kind()
        });
        assert_eq!(refused, std::io::ErrorKind::ConnectionRefused);
        apply(&enforcer, &workload, &settings(Delivery::Peer, Inbound::None));
        assert_eq!(visit(&internet, BRIEFLY), None);
        assert!(count(&enforcer, &workload, "inbound") > 0);
    });
}

// Promise 4: link, program and judgement outlive the process; the setting takes it away again
#[test]
fn the_program_on_the_workloads_side_is_adopted_and_removed() {
    if !privileged() {
        return;
    }
    let mut lab = Lab::new();
    let workload = lab.workload();
    let internet = lab.internet();
    greet(&workload);
    let attached = || {
        let programs = inside_thread(&workload.namespace, || {
            nameward_enforcer::kernel::attached_programs("eth0").unwrap()
        });
        programs.into_iter().flatten().map(|program| program.name).collect::<Vec<_>>()
    };
    let peer = settings(Delivery::Peer, Inbound::All);
    inside(&lab.host(), async || drop(guard(&lab, &workload, &peer)));
    let cni = inside(&lab.host(), async || deliver_past(&workload));
    assert_eq!(attached(), ["pod_arrival"]);
    assert_eq!(visit(&internet, WAIT).as_deref(), Some("hello"));
    inside(&lab.host(), async || {
        let enforcer = guard(&lab, &workload, &peer);
        assert_eq!(attached(), ["pod_arrival"]);
        assert_eq!(visit(&internet, WAIT).as_deref(), Some("hello"));
        drop(cni);
        apply(&enforcer, &workload, &settings(Delivery::Host, Inbound::All));
        wait_until("the workload's side is free", WAIT, || attached().is_empty().then_some(()));
        assert_eq!(visit(&internet, WAIT).as_deref(), Some("hello"));
        apply(&enforcer, &workload, &peer);
        assert_eq!(attached(), ["pod_arrival"]);
        enforcer.remove_all().unwrap();
        wait_until("nothing is left", WAIT, || attached().is_empty().then_some(()));
    });
}
