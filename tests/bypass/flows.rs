//! Time, flows and neighbours: what comes before rules, after them, and instead of them.

use std::{
    io::{Read, Write},
    net::{IpAddr, SocketAddr, TcpStream},
    time::{Duration, Instant},
};

use nameward_enforcer::{GrantRequest, Refused};
use nameward_policy::Inbound;
use nameward_test_support::{output_within, privileged};

use crate::{
    frames::*,
    world::{WAIT, World, listener, rules, uid},
};

const OWN: (&str, u16) = (OWN4, 40_000);

fn request(generation: u32, name: &str) -> GrantRequest {
    GrantRequest {
        endpoint: uid(1).into(),
        generation,
        name: name.into(),
        chain: vec![],
        addresses: vec![(NAMED4.parse().unwrap(), Duration::from_secs(60))],
        grace: Duration::ZERO,
    }
}

// B3
#[test]
fn b03_an_address_that_nobody_resolved() {
    if !privileged() {
        return;
    }
    let world = World::new();
    let syn = || tcp(OWN, (UNKNOWN4, 443), "S");
    assert_eq!(world.send(&[syn()]), [true]);
    world.enforce(async |mut guard| {
        guard.start();
        assert_eq!(world.send(&[syn(), tcp(OWN, (NAMED4, 443), "S")]), [false, true]);
        let denied = guard.denied(|decision| decision.remote.to_string() == UNKNOWN4).await;
        assert_eq!((&*denied.reason, denied.name_or_unknown()), ("no-match", "never resolved"));
        assert_eq!(guard.count("no-match"), 1);
    });
}

// B17: a grant for rules that are gone opens nothing.
#[test]
fn b17_a_stale_generation() {
    if !privileged() {
        return;
    }
    let world = World::new();
    world.enforce(async |guard| {
        guard.attach(1);
        let old = guard.enforcer.apply_rules(&uid(1), rules(&["app.example.com"], Inbound::None)).unwrap();
        let new = guard.enforcer.apply_rules(&uid(1), rules(&["other.example.com"], Inbound::None)).unwrap();
        let refused = guard.enforcer.grant(&request(old, "app.example.com"));
        assert_eq!(refused, Err(Refused::StaleGeneration { asked: old, current: new }));
        let refused = guard.enforcer.grant(&request(new, "app.example.com"));
        assert!(matches!(refused, Err(Refused::NotAllowed { .. })), "{refused:?}");
        assert_eq!(world.send(&[tcp(OWN, (NAMED4, 443), "S")]), [false]);
        assert_eq!(guard.count("no-match"), 1);
    });
}

// B18
#[test]
fn b18_before_the_rules_are_there() {
    if !privileged() {
        return;
    }
    let world = World::new();
    let frames = || vec![tcp(OWN, (NAMED4, 443), "S"), udp(OWN, (UNKNOWN4, 9)), echo(OWN6, NAMED6)];
    assert_eq!(world.send(&frames()), [true, true, true]);
    world.enforce(async |mut guard| {
        guard.attach(1);
        assert_eq!(world.send(&frames()), [false, false, false]);
        assert!(guard.count("no-policy-yet") >= 3);
        guard.denied(|decision| decision.reason == "no-policy-yet").await;
    });
}

// B19
#[test]
fn b19_the_address_of_one_that_ended() {
    if !privileged() {
        return;
    }
    let world = World::new();
    world.enforce(async |guard| {
        guard.start();
        assert_eq!(world.send(&[tcp(OWN, (NAMED4, 443), "S")]), [true]);
        guard.enforcer.remove_endpoint(&uid(1)).unwrap();
        guard.attach(1);
        guard.enforcer.apply_rules(&uid(1), rules(&["app.example.com"], Inbound::None)).unwrap();
        assert!(guard.enforcer.bindings(&uid(1)).unwrap().is_empty());
        assert_eq!(world.send(&[tcp(OWN, (NAMED4, 443), "S"), tcp(OWN, (NAMED4, 443), "A")]), [false, false]);
        assert_eq!(guard.count("no-match"), 2);
    });
}

// B21: ways of the socket interface that send without an ordinary connect.
#[test]
fn b21_ways_around_connect() {
    const SCRIPT: &str = r#"
import socket as s, sys
to = (sys.argv[1], 443)
def attempt(what):
    try: what()
    except OSError: pass
def tcp(): return s.socket(s.AF_INET, s.SOCK_STREAM)
def udp(): return s.socket(s.AF_INET, s.SOCK_DGRAM)
def fast_open(): t = tcp(); t.settimeout(0.2); t.sendto(b'data', s.MSG_FASTOPEN, to)
def marked(): u = udp(); u.setsockopt(s.SOL_SOCKET, s.SO_MARK, 0x6e77); u.sendto(b'data', to)
def transparent(): u = udp(); u.setsockopt(0, 19, 1); u.bind(('203.0.113.10', 443)); u.sendto(b'data', to)
def reconnect(): u = udp(); u.connect(('203.0.113.10', 443)); u.connect(to); u.send(b'data')
def to_device(): u = udp(); u.setsockopt(s.SOL_SOCKET, 25, b'eth0'); u.sendmsg([b'data'], [], 0, to)
def raw(): r = s.socket(s.AF_INET, s.SOCK_RAW, 17); r.sendto(b'\x9c\x40\x01\xbb\x00\x08\x00\x00', (to[0], 0))
def mapped(): u = s.socket(s.AF_INET6, s.SOCK_DGRAM); u.sendto(b'data', ('::ffff:' + to[0], 443))
for what in (fast_open, marked, transparent, reconnect, to_device, raw, mapped): attempt(what)
"#;
    if !privileged() {
        return;
    }
    let world = World::new();
    let run = || {
        let mut python = world.workloads[0].command("taskset");
        python.args(["-c", "0", "/usr/bin/python3", "-c", SCRIPT, UNKNOWN4]);
        let output = output_within(&mut python, WAIT).unwrap();
        assert!(output.status.success(), "{output:?}");
        world.packets_to(UNKNOWN4)
    };
    assert!(run() >= 7, "not all ways lead out where nobody guards");
    world.enforce(async |guard| {
        guard.start();
        assert_eq!(run(), 0);
        assert!(guard.count("no-match") >= 6 && guard.count("spoofed-source") >= 1);
    });
}

// B29
#[test]
fn b29_a_neighbours_address() {
    if !privileged() {
        return;
    }
    let world = World::new();
    world.enforce(async |guard| {
        guard.start();
        guard.attach(2);
        let allowed = rules(&["app.example.com"], Inbound::None);
        guard.enforcer.apply_rules(&uid(2), allowed).unwrap();
        guard.grant(2, "app.example.com", &[UNKNOWN4]);
        assert_eq!(world.send(&[tcp(OWN, (UNKNOWN4, 443), "S")]), [false]);
        assert_eq!(guard.count("no-match"), 1);
    });
}

// B30: a flood of denied packets and of connections costs a neighbour neither its live connection nor a new one.
#[test]
fn b30_floods() {
    const PACKETS: u16 = 5_000;
    if !privileged() {
        return;
    }
    let world = World::new();
    let server = listener(&world.far, NAMED4, 443);
    world.enforce(async |guard| {
        guard.start();
        guard.attach(2);
        guard.enforcer.apply_rules(&uid(2), rules(&["app.example.com"], Inbound::None)).unwrap();
        guard.grant(2, "app.example.com", &[NAMED4]);
        let connect = || {
            let to: SocketAddr = (NAMED4.parse::<IpAddr>().unwrap(), 443).into();
            world.workloads[1].run(|| TcpStream::connect_timeout(&to, WAIT)).unwrap()
        };
        let mut live = connect().unwrap();
        let mut far = server.accept().unwrap().0;
        let denied: Vec<_> = (0..PACKETS).map(|port| udp((OWN4, port), (UNKNOWN4, port + 1_000))).collect();
        assert!(!world.send(&denied).contains(&true));
        assert!(guard.count("no-match") >= u64::from(PACKETS) - 100);
        // Half-open connections beyond the room for flows.
        let opened: Vec<_> = (1..PACKETS).map(|port| tcp((OWN4, port), (NAMED4, 443), "S")).collect();
        world.send(&opened);
        live.write_all(b"alive").unwrap();
        far.set_read_timeout(Some(WAIT)).unwrap();
        let mut said = [0; 5];
        far.read_exact(&mut said).unwrap();
        assert_eq!(&said, b"alive");
        let begin = Instant::now();
        connect().unwrap();
        assert!(begin.elapsed() < Duration::from_secs(3), "{:?}", begin.elapsed());
    });
}

// B34, B35: no flow without an allowed first packet; a bare SYN is always new.
#[test]
fn b35_an_idle_denied_flow_that_looks_established() {
    if !privileged() {
        return;
    }
    let world = World::new();
    world.enforce(async |guard| {
        guard.start();
        // Where the rules do not count, so that only a flow could let it pass.
        let forged = [
            tcp(OWN, (UNKNOWN4, 443), "A"),
            tcp(OWN, (UNKNOWN4, 443), "SA"),
            tcp(OWN, (UNKNOWN4, 443), "FA"),
            tcp(OWN, (UNKNOWN4, 443), "R"),
            tcp(OWN, (UNKNOWN4, 443), "SF"),
        ];
        assert!(!world.send(&forged).contains(&true));
        // An answer from outside to what was never asked.
        world.send_back(&[answered(&forged[0]), answered(&forged[1])]);
        assert_eq!(world.send(&[tcp(OWN, (UNKNOWN4, 443), "A")]), [false]);
        assert_eq!(guard.count("flow") + guard.count("reply"), 0);
    });
}

/// The frame that a peer would answer with.
fn answered(frame: &[u8]) -> Vec<u8> {
    let mut frame = tcp((UNKNOWN4, 443), OWN, if frame[L3 + 33] & 2 == 0 { "A" } else { "SA" });
    let (to, from) = frame.split_at_mut(6);
    to.swap_with_slice(&mut from[..6]);
    frame
}

// B38: an accomplice outside opens the connection.
#[test]
fn b38_invited_from_outside() {
    if !privileged() {
        return;
    }
    let world = World::new();
    let server = listener(&world.workloads[0], OWN4, 40_000);
    server.set_nonblocking(true).unwrap();
    let invite = |patience| {
        let to: SocketAddr = (OWN4.parse::<IpAddr>().unwrap(), 40_000).into();
        world.far.run(|| TcpStream::connect_timeout(&to, patience)).unwrap()
    };
    world.enforce(async |mut guard| {
        guard.start();
        assert!(invite(Duration::from_millis(300)).is_err());
        assert!(server.accept().is_err(), "the workload saw it");
        let denied = guard.denied(|decision| decision.reason == "inbound").await;
        assert_eq!((denied.direction.word(), denied.remote.to_string().as_str()), ("ingress", "10.7.1.1"));
        assert_eq!(guard.count("reply"), 0);
        // Where it is admitted, what goes out is counted as a reply, with its bytes.
        guard.enforcer.apply_rules(&uid(1), rules(&["app.example.com"], Inbound::All)).unwrap();
        let mut outside = invite(WAIT).unwrap();
        let mut inside = server.accept().unwrap().0;
        inside.write_all(&[7; 1_000]).unwrap();
        outside.set_read_timeout(Some(WAIT)).unwrap();
        outside.read_exact(&mut [0; 1_000]).unwrap();
        let replies = guard.enforcer.endpoint(&uid(1)).unwrap().counters["reply"];
        assert!(replies.packets >= 2 && replies.bytes > 1_000, "{replies:?}");
        // It opens nothing but itself.
        assert_eq!(world.send(&[tcp((OWN4, 40_001), ("10.7.1.1", 443), "SA")]), [false]);
    });
}

// B42, G10: an unrelated edit cuts nothing and opens nothing.
#[test]
fn b42_unrelated_edits() {
    if !privileged() {
        return;
    }
    let world = World::new();
    let server = listener(&world.far, NAMED4, 443);
    world.enforce(async |guard| {
        guard.start();
        let to: SocketAddr = (NAMED4.parse::<IpAddr>().unwrap(), 443).into();
        let mut live = world.workloads[0].run(|| TcpStream::connect_timeout(&to, WAIT)).unwrap().unwrap();
        let mut far = server.accept().unwrap().0;
        far.set_read_timeout(Some(WAIT)).unwrap();
        for round in 0..20 {
            let other = format!("other{round}.example.com");
            let edited = rules(&["app.example.com", &other], Inbound::None);
            guard.enforcer.apply_rules(&uid(1), edited).unwrap();
            live.write_all(b"alive").unwrap();
            let mut said = [0; 5];
            far.read_exact(&mut said).unwrap();
            assert_eq!(world.send(&[tcp(OWN, (UNKNOWN4, 443), "S")]), [false]);
        }
    });
}
