//! Sockets of one sandbox reach each other, and no others (X6).

use nameward_abi::Reason;

use crate::lab::{Sandbox, TCP, UDP, privileged};

const FAMILIES: [(&str, &str); 2] = [("AF_INET", "127.0.0.1"), ("AF_INET6", "::1")];

fn ask(family: &str, kind: &str, address: &str, port: u16) -> String {
    format!(
        "s = socket({family}, {kind}); start = time.monotonic()
show(attempt(lambda: s.connect(('{address}', {port})) or s.send(b'x') and s.recv(9)), time.monotonic() - start < 0.2)"
    )
}

// X6, also from and to child cgroups, on every address of this host.
#[test]
fn servers_of_the_sandbox_are_reached() {
    if !privileged() {
        return;
    }
    let mut sandbox = Sandbox::new();
    std::fs::create_dir(sandbox.path().join("below")).unwrap();
    for below in ["", "below"] {
        for (family, address) in FAMILIES {
            for kind in ["SOCK_STREAM", "SOCK_DGRAM"] {
                let any = if family == "AF_INET" { "0.0.0.0" } else { "::" };
                let server = format!("serve(listen({family}, {kind}, '{any}', 8080))");
                let _server = sandbox.start(below, &server);
                let said = sandbox.python(&ask(family, kind, address, 8080));
                assert_eq!(said, "b'hello' True", "{below} {family} {kind}");
                let own = if family == "AF_INET" { "198.51.100.1" } else { "2001:db8:51::1" };
                let said = sandbox.python(&ask(family, kind, own, 8080));
                assert_eq!(said, "b'hello' True", "{below} {family} {kind} {own}");
            }
        }
    }
    assert_eq!(sandbox.told(), []);
}

// X6: one event and one count for one attempt.
#[test]
fn listeners_of_others_are_not_reached() {
    if !privileged() {
        return;
    }
    let mut sandbox = Sandbox::new();
    let inside = sandbox.inside();
    for (family, address) in FAMILIES {
        let before = sandbox.count(Reason::NoMatch);
        for (kind, port) in [("SOCK_STREAM", 8080), ("SOCK_DGRAM", 8081)] {
            let server = format!("serve(listen({family}, {kind}, '{address}', {port}))");
            let _server = sandbox.start_beside(&inside, &server);
            let said = sandbox.python(&ask(family, kind, address, port));
            assert_eq!(said, if kind == "SOCK_STREAM" { "ECONNREFUSED True" } else { "EPERM True" });
        }
        assert_eq!(sandbox.count(Reason::NoMatch) - before, 2, "{family}");
        assert_eq!(sandbox.told(), [(Reason::NoMatch, 1, 8080), (Reason::NoMatch, 1, 8081)]);
    }
}

// X6: `--allow-cidr 127.0.0.1:PORT`.
#[test]
fn a_rule_opens_a_listener_of_others() {
    if !privileged() {
        return;
    }
    let mut sandbox = Sandbox::new();
    let inside = sandbox.inside();
    sandbox.allow_block("127.0.0.1", 128, TCP, 8080);
    sandbox.allow_block("::1", 128, UDP, 8080);
    for (family, kind, address) in
        [("AF_INET", "SOCK_STREAM", "127.0.0.1"), ("AF_INET6", "SOCK_DGRAM", "::1")]
    {
        let server = format!("serve(listen({family}, {kind}, '{address}', 8080))");
        let _server = sandbox.start_beside(&inside, &server);
        assert_eq!(sandbox.python(&ask(family, kind, address, 8080)), "b'hello' True");
    }
}

// A port that nobody listens at is refused as everywhere, and nothing is said about it.
#[test]
fn a_port_without_listener_is_refused_in_silence() {
    if !privileged() {
        return;
    }
    let mut sandbox = Sandbox::new();
    assert_eq!(sandbox.python(&ask("AF_INET", "SOCK_STREAM", "127.0.0.1", 9)), "ECONNREFUSED True");
    assert_eq!(sandbox.python(&ask("AF_INET", "SOCK_STREAM", "0.0.0.0", 9)), "ECONNREFUSED True");
    assert_eq!(sandbox.count(Reason::NoMatch), 0);
    assert_eq!(sandbox.told(), []);
}

// X6: nobody beside the sandbox reaches its servers by loopback, unless inbound connections are admitted.
#[test]
fn others_do_not_reach_servers_of_the_sandbox() {
    if !privileged() {
        return;
    }
    let mut sandbox = Sandbox::new();
    let _server = sandbox.start("", "serve(listen(AF_INET, SOCK_DGRAM, '127.0.0.1', 8080))");
    let inside = sandbox.inside();
    let mut client = sandbox.start_beside(
        &inside,
        "show('ready'); s = socket(AF_INET, SOCK_DGRAM); s.settimeout(0.3); s.connect(('127.0.0.1', 8080)); s.send(b'x')
show(attempt(lambda: s.recv(9)))",
    );
    assert_eq!(client.line(), "timed out");
    assert_eq!(sandbox.count(Reason::Inbound), 1);
    assert_eq!(sandbox.told().len(), 1);
}

// X6: a service that is fenced while it runs keeps its own listeners.
#[test]
fn listeners_from_before_the_fence_are_own() {
    if !privileged() {
        return;
    }
    let mut sandbox = Sandbox::new();
    let _server = sandbox.start("", "serve(listen(AF_INET, SOCK_STREAM, '127.0.0.1', 8080))");
    sandbox.attach_afresh();
    assert_eq!(sandbox.python(&ask("AF_INET", "SOCK_STREAM", "127.0.0.1", 8080)), "b'hello' True");
}

// X6: what is judged for a listener inside must not reach one outside because the former goes away meanwhile. Who shares a
// port with somebody outside would choose the moment.
#[test]
fn a_datagram_port_of_others_is_not_shared() {
    if !privileged() {
        return;
    }
    let sandbox = Sandbox::new();
    let inside = sandbox.inside();
    let shared = |family: &str, address: &str, port: u16| {
        format!(
            "s = socket({family}, SOCK_DGRAM); s.setsockopt(SOL_SOCKET, SO_REUSEADDR, 1)
show(attempt(lambda: s.bind(('{address}', {port}))))"
        )
    };
    let _others: Vec<_> =
        [("AF_INET", "0.0.0.0", 8080), ("AF_INET", "127.0.0.1", 8081), ("AF_INET6", "::", 8082)]
            .into_iter()
            .map(|(family, address, port)| {
                sandbox.start_beside(
                    &inside,
                    &format!("serve(listen({family}, SOCK_DGRAM, '{address}', {port}))"),
                )
            })
            .collect();
    for (family, address, port) in [
        ("AF_INET", "0.0.0.0", 8080),
        ("AF_INET", "127.0.0.1", 8080),
        ("AF_INET6", "::ffff:127.0.0.1", 8080),
        ("AF_INET6", "::", 8080),
        ("AF_INET", "127.0.0.1", 8081),
        ("AF_INET6", "::", 8082),
        ("AF_INET6", "::1", 8082),
        ("AF_INET", "127.0.0.1", 8082),
    ] {
        let said = sandbox.python(&shared(family, address, port));
        assert_eq!(said, "EADDRINUSE", "{family} {address} {port}");
    }
    // Nobody outside has these; sockets of the sandbox share theirs.
    for (family, address, port) in
        [("AF_INET", "127.0.0.2", 8081), ("AF_INET6", "::1", 8081), ("AF_INET", "0.0.0.0", 8083)]
    {
        let twice = format!(
            "{}\n{}",
            shared(family, address, port).replace("s.", "t.").replace("s =", "t ="),
            shared(family, address, port)
        );
        assert_eq!(sandbox.python(&twice), "ok\nok", "{family} {address} {port}");
    }
}

// X6: IPv4 delivers what is sent to groups and to everybody also on this host, as a copy that no packet hook sees.
#[test]
fn groups_do_not_reach_listeners_of_this_host() {
    if !privileged() {
        return;
    }
    let mut sandbox = Sandbox::new();
    let inside = sandbox.inside();
    let mut listener = sandbox.start_beside(
        &inside,
        "s = socket(AF_INET, SOCK_DGRAM); s.bind(('0.0.0.0', 8080)); s.settimeout(60)
s.setsockopt(IPPROTO_IP, IP_ADD_MEMBERSHIP, inet_aton('239.255.255.250') + inet_aton('198.51.100.1'))
show('ready')
while True: show(s.recv(9))",
    );
    let send = |family: &str, to: &str, connected: bool| {
        let send = if connected {
            format!("s.connect(('{to}', 8080)) or s.send(b'x')")
        } else {
            format!("s.sendto(b'x', ('{to}', 8080))")
        };
        format!(
            "s = socket({family}, SOCK_DGRAM); s.setsockopt(SOL_SOCKET, SO_BROADCAST, 1)
show(attempt(lambda: {send}))"
        )
    };
    let before = sandbox.count(Reason::NoMatch);
    let mut attempts = 0;
    for (family, to) in [
        ("AF_INET", "224.0.0.1"),
        ("AF_INET", "239.255.255.250"),
        ("AF_INET", "255.255.255.255"),
        ("AF_INET6", "::ffff:224.0.0.1"),
    ] {
        for connected in [false, true] {
            assert_eq!(sandbox.python(&send(family, to, connected)), "EPERM", "{family} {to} {connected}");
            attempts += 1;
        }
    }
    assert_eq!(sandbox.count(Reason::NoMatch) - before, attempts);
    // What a rule allows arrives, and nothing has before.
    sandbox.allow_block("239.255.255.250", 128, UDP, 8080);
    assert_eq!(sandbox.python(&send("AF_INET", "239.255.255.250", false).replace("b'x'", "b'allowed'")), "7");
    assert_eq!(listener.line(), "b'allowed'");
}

// B4: the way to the resolver is no way out of another link.
#[test]
fn loopback_is_no_way_out_of_another_link() {
    if !privileged() {
        return;
    }
    let mut sandbox = Sandbox::new();
    let before = sandbox.count(Reason::DnsElsewhere);
    for (family, server) in [("AF_INET", "198.51.100.2"), ("AF_INET6", "2001:db8:51::2")] {
        let said = sandbox.python(&format!(
            "s = socket({family}, SOCK_DGRAM); s.setsockopt(SOL_SOCKET, SO_BINDTODEVICE, b'eth0')
show(attempt(lambda: s.sendto(b'payload', ('{server}', 53))))"
        ));
        assert_eq!(said, "EPERM", "{family}");
    }
    assert_eq!(sandbox.count(Reason::DnsElsewhere) - before, 2);
    let before = sandbox.count(Reason::NoMatch);
    sandbox.allow_block("127.0.0.0", 104, UDP, 8080);
    let said = sandbox.python(
        "s = socket(AF_INET, SOCK_DGRAM); s.setsockopt(SOL_SOCKET, SO_BINDTODEVICE, b'eth0')
show(attempt(lambda: s.sendto(b'payload', ('127.0.0.1', 8080))))",
    );
    assert_eq!((said.as_str(), sandbox.count(Reason::NoMatch) - before), ("EPERM", 1));
}
