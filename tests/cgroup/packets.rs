//! Verdicts on connections and datagrams: rules, expiry, inbound, modes, counters and events.

use nameward_abi::{Mode, Reason, Verdict, flags};
use nameward_enforcer::kernel::BootNanos;

use crate::lab::{ICMP, Sandbox, TCP, UDP, privileged};

const CONNECT: &str = "s = socket(AF_INET, SOCK_STREAM); start = time.monotonic()
show(attempt(lambda: s.connect(('198.51.100.2', 80)) or s.send(b'x') and s.recv(9)), time.monotonic() - start < 0.2)";
const SEND: &str = "s = socket(AF_INET, SOCK_DGRAM)
show(attempt(lambda: s.sendto(b'x', ('198.51.100.2', 80)) and s.recv(9)))";
const SEND6: &str = "s = socket(AF_INET6, SOCK_DGRAM)
show(attempt(lambda: s.sendto(b'x', ('2001:db8:51::2', 80)) and s.recv(9)))";
const DENY: u8 = Verdict::Deny as u8;

fn later(seconds: u64) -> BootNanos {
    BootNanos(BootNanos::now().0 + seconds * 1_000_000_000)
}

// G6, G8: one attempt, one count, one event.
#[test]
fn denied_tcp_fails_at_once() {
    if !privileged() {
        return;
    }
    let mut sandbox = Sandbox::new();
    assert_eq!(sandbox.python(CONNECT), "ECONNREFUSED True");
    assert_eq!(sandbox.count(Reason::NoMatch), 1);
    let events = sandbox.events();
    let [event] = events.as_slice() else { panic!("{events:?}") };
    assert_eq!((event.reason, event.verdict), (Reason::NoMatch as u8, DENY));
    assert_eq!((event.remote, event.remote_port), (crate::lab::address("198.51.100.2"), 80u16.to_be_bytes()));
    assert_eq!((event.protocol, event.packets), (TCP, 1));
    let six = "s = socket(AF_INET6, SOCK_STREAM)
for server in '2001:db8:51::2', '::ffff:198.51.100.3': show(attempt(lambda: s.connect((server, 80))))";
    assert_eq!(sandbox.python(six), "ECONNREFUSED\nECONNREFUSED");
    assert_eq!(sandbox.told(), [(Reason::NoMatch, DENY, 80); 2]);
}

// DESIGN 4: programs connect UDP sockets only to sort addresses.
#[test]
fn udp_connect_is_neither_denied_nor_told() {
    if !privileged() {
        return;
    }
    let mut sandbox = Sandbox::new();
    let said = sandbox.python(
        "for family, server in (AF_INET, '198.51.100.2'), (AF_INET6, '2001:db8:51::2'):
    s = socket(family, SOCK_DGRAM); s.connect((server, 443)); show(s.getsockname()[0], s.getpeername()[1])",
    );
    assert_eq!(said, "198.51.100.1 443\n2001:db8:51::1 443");
    assert_eq!(sandbox.told(), []);
    assert_eq!(sandbox.count(Reason::NoMatch), 0);
}

// G6
#[test]
fn denied_udp_is_not_permitted() {
    if !privileged() {
        return;
    }
    let mut sandbox = Sandbox::new();
    assert_eq!(sandbox.python(SEND), "EPERM");
    assert_eq!(sandbox.python(SEND6), "EPERM");
    assert_eq!(sandbox.count(Reason::NoMatch), 2);
    assert_eq!(sandbox.told(), [(Reason::NoMatch, DENY, 80); 2]);
}

// G2
#[test]
fn blocks_and_ports_are_reached() {
    if !privileged() {
        return;
    }
    let mut sandbox = Sandbox::new();
    sandbox.allow_block("198.51.100.0", 96 + 24, TCP, 80);
    assert_eq!(sandbox.python(CONNECT), "b'x' True");
    assert_eq!(sandbox.python(SEND), "EPERM");
    assert_eq!(sandbox.told().iter().filter(|told| told.1 == DENY).count(), 1);
    assert_eq!(sandbox.count(Reason::Port), 1);
    sandbox.allow_block("2001:db8:51::", 64, UDP, 80);
    assert_eq!(sandbox.python(SEND6), "b'x'");
    assert!(sandbox.count(Reason::Cidr) >= 2);
}

// G3: an ended grant closes what is new and nothing that lives.
#[test]
fn expiry_cuts_nothing_live() {
    if !privileged() {
        return;
    }
    let mut sandbox = Sandbox::new();
    sandbox.grant("198.51.100.2", TCP, 80, later(60));
    let mut client = sandbox.start(
        "",
        "s = socket(AF_INET, SOCK_STREAM); s.connect(('198.51.100.2', 80)); s.send(b'x'); s.recv(9); show('ready')
for line in sys.stdin: s.send(line.encode()); show(s.recv(99).decode().strip())",
    );
    sandbox.grant("198.51.100.2", TCP, 80, BootNanos(1));
    assert_eq!(sandbox.python(CONNECT), "ECONNREFUSED True");
    assert_eq!(sandbox.count(Reason::Expired), 1);
    client.tell("still-here");
    assert_eq!(client.line(), "still-here");
    // R9: an unrelated edit asks whether the name is still allowed, not whether its grant has ended.
    sandbox.switch(Mode::Enforce, flags::REJECT | flags::INBOUND_NONE);
    client.tell("and-now");
    assert_eq!(client.line(), "and-now");
}

// F1: expiry is compared with the heartbeat.
#[test]
fn expiry_stands_still_with_the_heartbeat() {
    if !privileged() {
        return;
    }
    let mut sandbox = Sandbox::new();
    let beat = sandbox.host().last_beat().unwrap();
    sandbox.grant("198.51.100.2", TCP, 80, BootNanos(beat.0 + 1));
    assert_eq!(sandbox.python(CONNECT), "b'x' True");
    sandbox.host().beat(BootNanos::now()).unwrap();
    assert_eq!(sandbox.python(CONNECT), "ECONNREFUSED True");
}

// Promise 2
#[test]
fn nothing_passes_before_the_rules() {
    if !privileged() {
        return;
    }
    let mut sandbox = Sandbox::without_rules();
    assert_eq!(sandbox.python(SEND), "EPERM");
    let query =
        "s = socket(AF_INET, SOCK_DGRAM); show(attempt(lambda: s.sendto(query(), ('8.8.8.8', 53)) and None))";
    assert_eq!(sandbox.python(query), "EPERM");
    assert_eq!(sandbox.count(Reason::NoPolicyYet), 2);
    assert!(sandbox.told().iter().all(|told| told.0 == Reason::NoPolicyYet));
}

// DESIGN 4: everything passes, the reason stays; one event for an attempt.
#[test]
fn audit_passes_and_tells() {
    if !privileged() {
        return;
    }
    let mut sandbox = Sandbox::new();
    sandbox.switch(Mode::Audit, flags::REJECT);
    assert_eq!(sandbox.python(CONNECT), "b'x' True");
    let told = sandbox.told();
    assert_eq!(told[0], (Reason::NoMatch, Verdict::WouldDeny as u8, 80));
    assert_eq!(told.iter().filter(|told| told.0 == Reason::NoMatch).count(), 1);
    assert_eq!(sandbox.python(SEND), "b'x'");
    let told = sandbox.told();
    assert!(told.iter().all(|told| told.1 != DENY));
    // Nobody listens there: one packet, and it is counted once.
    let before = sandbox.count(Reason::NoMatch);
    let refused = "show(attempt(lambda: socket(AF_INET, SOCK_STREAM).connect(('198.51.100.2', 81))))";
    assert_eq!(sandbox.python(refused), "ECONNREFUSED");
    assert_eq!(sandbox.count(Reason::NoMatch) - before, 1);
}

// A socket of another network namespace: neither the resolver nor loopback mean there what the rules mean.
#[test]
fn sockets_of_other_namespaces_are_denied() {
    if !privileged() {
        return;
    }
    let mut sandbox = Sandbox::new();
    sandbox.allow_block("198.51.100.0", 96 + 24, TCP, 80);
    let outside = format!("--net=/run/netns/{}", sandbox.outside());
    let program = "import errno
from socket import *
for kind, port in (SOCK_STREAM, 80), (SOCK_DGRAM, 53):
    try: socket(AF_INET, kind).connect(('198.51.100.2', port))
    except OSError as e: print(errno.errorcode[e.errno])
try: socket(AF_INET6, SOCK_DGRAM).sendto(b'x', ('2001:db8:51::2', 80))
except OSError as e: print(errno.errorcode[e.errno])";
    let output = sandbox.command("", "nsenter", &[&outside, "python3", "-c", program]).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "EPERM\nEPERM\nEPERM\n");
    assert_eq!(sandbox.count(Reason::ForeignNetns), 3);
    let told = sandbox.told();
    assert_eq!(told, [80, 53, 80].map(|port| (Reason::ForeignNetns, DENY, port)));
}

// G9
#[test]
fn inbound_connections_pass_where_admitted() {
    if !privileged() {
        return;
    }
    let mut sandbox = Sandbox::new();
    let _server = sandbox.start("", "serve(listen(AF_INET, SOCK_STREAM, '0.0.0.0', 8080))");
    let outside = sandbox.outside();
    let ask = "show('ready'); s = socket(AF_INET, SOCK_STREAM); s.settimeout(0.5)
show(attempt(lambda: s.connect(('198.51.100.1', 8080)) or s.recv(9)))";
    assert_eq!(sandbox.start_beside(&outside, ask).line(), "timed out");
    assert!(sandbox.count(Reason::Inbound) >= 1);
    assert_eq!(sandbox.told()[0].0, Reason::Inbound);
    sandbox.switch(Mode::Enforce, flags::REJECT);
    assert_eq!(sandbox.start_beside(&outside, ask).line(), "b'hello'");
    assert!(sandbox.count(Reason::Reply) >= 1);
}

// B24: echo by rule only.
#[test]
fn echo_passes_by_rule_only() {
    if !privileged() {
        return;
    }
    let mut sandbox = Sandbox::new();
    let ping = "s = socket(AF_INET, SOCK_DGRAM, IPPROTO_ICMP); s.connect(('198.51.100.2', 0))
show(attempt(lambda: s.send(b'\\x08\\0\\0\\0\\0\\0\\0\\1x') and s.recv(99)[:1]))";
    assert_eq!(sandbox.python(ping), "EPERM");
    assert_eq!(sandbox.count(Reason::NoMatch), 1);
    sandbox.allow_block("198.51.100.2", 128, ICMP, 0);
    assert_eq!(sandbox.python(ping), r"b'\x00'");
}
