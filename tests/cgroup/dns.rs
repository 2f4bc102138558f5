//! Queries reach the resolver, and programs see the server they meant (DESIGN 4, Q1, Q7).

use nameward_abi::{Mode, Reason, flags};

use crate::lab::{Sandbox, privileged};

// Q1
#[test]
fn unconnected_udp_sees_its_server() {
    if !privileged() {
        return;
    }
    let sandbox = Sandbox::new();
    let said = sandbox.python(
        "s = socket(AF_INET, SOCK_DGRAM); s.sendto(query(), ('8.8.8.8', 53))
data, peer = s.recvfrom(512); show(answered(data), *peer)",
    );
    assert_eq!(said, "203.0.113.1 8.8.8.8 53");
    assert!(sandbox.count(Reason::Dns) >= 2);
}

// Q1, Q6: a trusted server has a port of its own.
#[test]
fn connected_udp_sees_its_server() {
    if !privileged() {
        return;
    }
    let said = Sandbox::new().python(
        "for server in '8.8.8.8', '9.9.9.9':
    s = socket(AF_INET, SOCK_DGRAM); s.connect((server, 53)); s.send(query())
    data, peer = s.recvfrom(512); show(answered(data), *peer, *s.getpeername(), s.getsockname()[0])",
    );
    assert_eq!(
        said,
        "203.0.113.1 8.8.8.8 53 8.8.8.8 53 198.51.100.1\n203.0.113.2 9.9.9.9 53 9.9.9.9 53 198.51.100.1"
    );
}

// Q7
#[test]
fn tcp_sees_its_server() {
    if !privileged() {
        return;
    }
    let said = Sandbox::new().python(
        "for family, server in (AF_INET, '8.8.8.8'), (AF_INET6, '2001:4860:4860::8888'), (AF_INET6, '::ffff:8.8.8.8'):
    s = socket(family, SOCK_STREAM); s.connect((server, 53)); q = query()
    s.sendall(struct.pack('>H', len(q)) + q); show(answered(s.recv(512)), *s.getpeername()[:2])",
    );
    assert_eq!(
        said,
        "203.0.113.1 8.8.8.8 53\n203.0.113.1 2001:4860:4860::8888 53\n203.0.113.1 ::ffff:8.8.8.8 53"
    );
}

// Q1: native IPv6, sockets for IPv6 only, and IPv4 through an IPv6 socket.
#[test]
fn ipv6_sockets_see_their_server() {
    if !privileged() {
        return;
    }
    let said = Sandbox::new().python(
        "for only, server in (0, '2001:4860:4860::8888'), (1, '2001:4860:4860::8888'), (0, '::ffff:8.8.8.8'):
    s = socket(AF_INET6, SOCK_DGRAM); s.setsockopt(IPPROTO_IPV6, IPV6_V6ONLY, only)
    s.sendto(query(), (server, 53)); data, peer = s.recvfrom(512); show(answered(data), *peer[:2])
    s = socket(AF_INET6, SOCK_DGRAM); s.setsockopt(IPPROTO_IPV6, IPV6_V6ONLY, only)
    s.connect((server, 53)); s.send(query()); data, peer = s.recvfrom(512)
    show(answered(data), *peer[:2], s.getpeername()[0], s.getsockname()[0])",
    );
    let native = "203.0.113.1 2001:4860:4860::8888 53";
    let connected = format!("{native} 2001:4860:4860::8888 2001:db8:51::1");
    let mapped = "203.0.113.1 ::ffff:8.8.8.8 53";
    let expected = format!(
        "{native}\n{connected}\n{native}\n{connected}\n{mapped}\n{mapped} ::ffff:8.8.8.8 ::ffff:198.51.100.1"
    );
    assert_eq!(said, expected);
}

// Q1: four servers on one socket, as musl asks them; three of them share one resolver port.
#[test]
fn servers_of_one_socket_are_told_apart() {
    if !privileged() {
        return;
    }
    let said = Sandbox::new().python(
        "s = socket(AF_INET, SOCK_DGRAM); servers = ['8.8.8.8', '1.1.1.1', '9.9.9.9', '8.8.4.4']
for kind in 0, 1:
    for i, server in enumerate(servers): s.sendto(query(10 * kind + i), (server, 53))
time.sleep(0.1)
for _ in range(8):
    data, peer = s.recvfrom(512); show(data[1] % 10 == servers.index(peer[0]))",
    );
    assert_eq!(said, ["True"; 8].join("\n"));
}

// Q7
#[test]
fn dig_and_kdig_work() {
    if !privileged() {
        return;
    }
    let sandbox = Sandbox::new();
    for arguments in ["", "+tcp", "-6"] {
        for (tool, server) in [("dig", "8.8.8.8"), ("kdig", "8.8.8.8")] {
            let server = if arguments == "-6" { "2001:4860:4860::8888" } else { server };
            let line = format!("{tool} {arguments} +short +timeout=3 @{server} test.example A");
            let output = sandbox.command("", "sh", &["-c", &line]).output().unwrap();
            assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), "203.0.113.1", "{line}");
        }
    }
}

// Q7: Go asks by itself, without the C library.
#[test]
fn the_resolver_of_go_works() {
    if !privileged() {
        return;
    }
    let sandbox = Sandbox::new();
    let folder = std::env::temp_dir().join(&sandbox.name);
    std::fs::create_dir_all(&folder).unwrap();
    let source = folder.join("main.go");
    std::fs::write(
        &source,
        r#"package main
import ("context"; "fmt"; "net")
func main() {
	for _, network := range []string{"udp", "tcp"} {
		r := net.Resolver{PreferGo: true, Dial: func(c context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(c, network, "8.8.8.8:53")
		}}
		found, err := r.LookupNetIP(context.Background(), "ip4", "test.example.")
		fmt.Println(found, err)
	}
}
"#,
    )
    .unwrap();
    let binary = folder.join("main");
    let built = std::process::Command::new("go").arg("build").arg("-o").arg(&binary).arg(&source).status();
    assert!(built.unwrap().success());
    let output = sandbox.command("", binary.to_str().unwrap(), &[]).output().unwrap();
    std::fs::remove_dir_all(&folder).unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "[203.0.113.1] <nil>\n[203.0.113.1] <nil>\n");
}

// X6: a DNS server of the sandbox itself is asked; one of somebody else is not.
#[test]
fn a_dns_server_of_the_sandbox_wins() {
    if !privileged() {
        return;
    }
    let sandbox = Sandbox::new();
    let ask =
        "s = socket(AF_INET, SOCK_DGRAM); s.sendto(query(), ('127.0.0.1', 53)); data, peer = s.recvfrom(512)
show(data[-5:], *peer)
s = socket(AF_INET, SOCK_DGRAM); s.connect(('127.0.0.1', 53)); s.send(query()); show(s.recv(512)[-5:])
s = socket(AF_INET, SOCK_STREAM); s.connect(('127.0.0.1', 53)); q = query()
s.sendall(struct.pack('>H', len(q)) + q); show(s.recv(512)[-5:])
s = socket(AF_INET, SOCK_DGRAM); s.sendto(query(), ('8.8.8.8', 53)); show(answered(s.recv(512)))";
    {
        let _udp = sandbox.start("", "serve(listen(AF_INET, SOCK_DGRAM, '0.0.0.0', 53))");
        let _tcp = sandbox.start("", "serve(listen(AF_INET, SOCK_STREAM, '0.0.0.0', 53))");
        let said = sandbox.python(ask);
        assert_eq!(said, "b'hello' 127.0.0.1 53\nb'hello'\nb'hello'\n203.0.113.1");
    }
    let inside = sandbox.inside();
    let _udp = sandbox.start_beside(&inside, "serve(listen(AF_INET, SOCK_DGRAM, '127.0.0.1', 53))");
    let _tcp = sandbox.start_beside(&inside, "serve(listen(AF_INET, SOCK_STREAM, '127.0.0.1', 53))");
    assert!(!sandbox.python(ask).contains("hello"));
}

// B4: without a resolver, or by another way, a server is not reached.
#[test]
fn dns_elsewhere_is_denied() {
    if !privileged() {
        return;
    }
    let mut sandbox = Sandbox::new();
    let said = sandbox.python(
        "for kind in SOCK_STREAM, SOCK_DGRAM:
    s = socket(AF_INET, kind)
    show(attempt(lambda: s.connect(('198.51.100.2', 853))), kind == SOCK_DGRAM and attempt(lambda: s.send(b'x') and None))",
    );
    assert_eq!(said, "ECONNREFUSED False\nok EPERM");
    assert_eq!(sandbox.count(Reason::DnsElsewhere), 2);
    let told = sandbox.told();
    assert_eq!(told, [(Reason::DnsElsewhere, 1, 853), (Reason::DnsElsewhere, 1, 853)]);

    let mut config = sandbox.endpoint.config().unwrap();
    config.dns.default_port = [0; 2];
    sandbox.endpoint.write_config(&config).unwrap();
    let said = sandbox.python(
        "show(attempt(lambda: socket(AF_INET, SOCK_STREAM).connect(('8.8.8.8', 53))))
show(attempt(lambda: socket(AF_INET, SOCK_DGRAM).sendto(query(), ('8.8.8.8', 53)) and None))",
    );
    assert_eq!(said, "ECONNREFUSED\nEPERM");
    assert_eq!(sandbox.count(Reason::DnsElsewhere), 4);
}

// R10: where DNS is direct, port 53 is a port like any other.
#[test]
fn direct_dns_is_judged_by_rules() {
    if !privileged() {
        return;
    }
    let mut sandbox = Sandbox::new();
    sandbox.switch(Mode::Enforce, flags::REJECT | flags::DNS_DIRECT);
    let outside = sandbox.outside();
    let _server = sandbox.start_beside(&outside, "serve(listen(AF_INET, SOCK_STREAM, '198.51.100.3', 53))");
    let ask = "s = socket(AF_INET, SOCK_STREAM); show(attempt(lambda: s.connect(('198.51.100.3', 53)) or s.recv(9)))";
    assert_eq!(sandbox.python(ask), "ECONNREFUSED");
    sandbox.allow_block("198.51.100.3", 128, crate::lab::TCP, 53);
    assert_eq!(sandbox.python(ask), "b'hello'");
}
