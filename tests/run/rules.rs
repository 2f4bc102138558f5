//! What the rules of the command line mean, on the wire (X1, X6, X7, X8).

use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use crate::lab::{DNS, Lab, Said, eventually, finish, must, nameward, privileged, serve_forever};

const CURL: [&str; 4] = ["curl", "-sS", "--max-time", "10"];

/// `curl URL` behind these rules.
fn curl(lab: &Lab, rules: &[&str], url: &str) -> Said {
    let mut arguments = rules.to_vec();
    arguments.push("--");
    arguments.extend(CURL);
    arguments.push(url);
    lab.run(&arguments)
}

/// A program in the lab's host namespace, with mounts of its own made by `script` first.
fn with_mounts(lab: &Lab, script: &str, arguments: &[&str]) -> Said {
    let mut command = std::process::Command::new("nsenter");
    command.arg(format!("--net=/run/netns/{}", lab.host()));
    let run = "shift; exec \"$@\"";
    command.args([
        "unshare",
        "--mount",
        "--propagation",
        "private",
        "sh",
        "-ec",
        &format!("{script}\n{run}"),
        "sh",
        "x",
    ]);
    command
        .arg(nameward())
        .arg("run")
        .args(arguments)
        .stdin(std::process::Stdio::null())
        .env_remove("SUDO_UID");
    finish(command)
}

// X1, N3
#[test]
fn a_star_means_names_below() {
    if !privileged() {
        return;
    }
    let lab = Lab::new();
    curl(&lab, &["--allow", "*.wild.example"], "http://a.wild.example/").ended(0);
    let said = curl(&lab, &["--allow", "*.allowed.example"], "http://allowed.example/");
    said.ended(6).told("denied name allowed.example: filtered");
}

// X1, G2
#[test]
fn ports_and_protocols_count() {
    if !privileged() {
        return;
    }
    let lab = Lab::new();
    let rules = ["--allow", "allowed.example:8000-8099/tcp", "--allow", "both.example:80/udp"];
    curl(&lab, &rules, "http://allowed.example:8080/").ended(0);
    let said = curl(&lab, &rules, "http://allowed.example/");
    said.ended(7)
        .told("denied tcp 198.51.100.10:80 (allowed.example): port")
        .told("--allow allowed.example:80/tcp");
    curl(&lab, &rules, "http://both.example/").ended(7).told("(both.example): port");
    assert!(!lab.reached.lock().unwrap().iter().any(|address| address.port() == 80));
}

// X1
#[test]
fn addresses_are_allowed_by_cidr() {
    if !privileged() {
        return;
    }
    let lab = Lab::new();
    curl(&lab, &["--allow-cidr", "203.0.113.0/24:80/tcp"], "http://203.0.113.99/").ended(0);
    curl(&lab, &["--allow-cidr", "[2001:db8:1::99]:80"], "http://[2001:db8:1::99]/").ended(0);
    let said = curl(&lab, &["--allow-cidr", "203.0.113.0/25"], "http://198.51.100.99/");
    said.ended(7).told("no-match").told("--allow-cidr 198.51.100.99:80/tcp");
}

// X6
#[test]
fn servers_inside_are_reached_listeners_outside_are_not() {
    if !privileged() {
        return;
    }
    let lab = Lab::new();
    let server = "import http.server as h, threading, urllib.request as r, sys\n\
                  for a, u in (('127.0.0.1', '127.0.0.1'), ('::1', '[::1]')):\n    \
                      h.HTTPServer.address_family = 10 if ':' in a else 2\n    \
                      s = h.HTTPServer((a, 0), h.SimpleHTTPRequestHandler)\n    \
                      threading.Thread(target=s.serve_forever, daemon=True).start()\n    \
                      print(r.urlopen(f'http://{u}:{s.server_port}/', timeout=5).status)\n";
    let said = lab.run(&["--", "/usr/bin/python3", "-c", server]);
    said.ended(0);
    assert_eq!(said.out, "200\n200\n");
    let host = lab.host();
    let listener = lab.in_namespace(&host, || std::net::TcpListener::bind("127.0.0.1:0").unwrap());
    let port = listener.local_addr().unwrap().port();
    let connect = format!("import socket; socket.create_connection(('127.0.0.1', {port}), 5)");
    let said = lab.run(&["--", "/usr/bin/python3", "-c", &connect]);
    said.ended(1).told(&format!("--allow-cidr 127.0.0.1:{port}/tcp"));
    let allowed = format!("127.0.0.1:{port}");
    lab.run(&["--allow-cidr", &allowed, "--", "/usr/bin/python3", "-c", &connect]).ended(0);
}

/// A socket of the host that shares its port, and how much it was sent.
const SHARED_OUTSIDE: &str = "import socket, subprocess, sys\n\
    outside = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n\
    outside.setsockopt(socket.SOL_SOCKET, int(sys.argv[1]), 1)\n\
    outside.bind((sys.argv[2], 0))\n\
    group = socket.inet_aton('224.0.0.251') + socket.inet_aton('127.0.0.1')\n\
    outside.setsockopt(0, socket.IP_ADD_MEMBERSHIP, group)\n\
    port = str(outside.getsockname()[1])\n\
    subprocess.run([*sys.argv[4:], sys.argv[3], port], check=True)\n\
    outside.setblocking(False)\n\
    got = 0\n\
    try:\n    while outside.recv(99): got += 1\n\
    except BlockingIOError: pass\n\
    print(got)\n";

/// What a host's socket that shares its port is sent by a program inside, which is told the port.
fn sent_outside(lab: &Lab, option: &str, address: &str, inside: &str) -> Said {
    let mut command = std::process::Command::new("nsenter");
    command.arg(format!("--net=/run/netns/{}", lab.host()));
    command.args(["/usr/bin/python3", "-c", SHARED_OUTSIDE, option, address, inside]).arg(nameward());
    command.args(["run", "--dns", DNS, "--", "/usr/bin/python3", "-c"]);
    command.stdin(std::process::Stdio::null()).env_remove("SUDO_UID");
    finish(command)
}

// X6: what is for many sockets reaches more than those inside.
#[test]
fn broadcasts_and_groups_on_loopback_do_not_leave() {
    if !privileged() {
        return;
    }
    let lab = Lab::new();
    for group in ["127.255.255.255", "224.0.0.251"] {
        let inside = format!(
            "import socket, sys\nto = ('{group}', int(sys.argv[1]))\n\
             own = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n\
             own.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)\nown.bind(to)\n\
             s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n\
             s.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)\n\
             s.setsockopt(0, socket.IP_MULTICAST_IF, socket.inet_aton('127.0.0.1'))\n\
             try: s.sendto(b'leak', to)\nexcept PermissionError: pass\n"
        );
        const REUSEADDR: &str = "2";
        let said = sent_outside(&lab, REUSEADDR, "0.0.0.0", &inside);
        assert_eq!(said.ended(0).out, "0\n", "{group}: {said:#?}");
    }
}

// X6: who shares a port with a listener outside does not choose who is sent to.
#[test]
fn a_shared_port_is_no_way_to_a_listener_outside() {
    if !privileged() {
        return;
    }
    let lab = Lab::new();
    let inside = "import ctypes, socket, struct, sys\nport = int(sys.argv[1])\n\
                  own = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n\
                  own.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)\n\
                  try: own.bind(('127.0.0.1', port))\n\
                  except OSError as error: print(error.strerror, file=sys.stderr)\n\
                  first = ctypes.create_string_buffer(struct.pack('HBBI', 6, 0, 0, 0))\n\
                  try: own.setsockopt(socket.SOL_SOCKET, 51, struct.pack('HxxxxxxQ', 1, ctypes.addressof(first)))\n\
                  except PermissionError: print('refused', file=sys.stderr)\n\
                  for _ in range(64):\n    \
                      s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n    \
                      try: s.sendto(b'leak', ('127.0.0.1', port))\n    \
                      except PermissionError: pass\n";
    const REUSEPORT: &str = "15";
    let said = sent_outside(&lab, REUSEPORT, "127.0.0.1", inside);
    assert_eq!(said.ended(0).told("Address already in use").told("refused").out, "0\n", "{said:#?}");
}

// X8, A3
#[test]
fn private_answers_need_a_word() {
    if !privileged() {
        return;
    }
    let lab = Lab::new();
    let url = "http://private.example/";
    let said = curl(&lab, &["--allow", "private.example"], url);
    assert_ne!(said.status, Some(0));
    said.told("denied name private.example: private-address").told("--allow-private private.example");
    curl(&lab, &["--allow", "*.example", "--allow-private", "private.example"], url).ended(0);
    curl(&lab, &["--allow", "private.example", "--allow-cidr", "10.66.0.0/16"], url).ended(0);
    let said = curl(
        &lab,
        &["--allow", "*.example", "--allow-private", "metadata.example"],
        "http://metadata.example/",
    );
    assert_ne!(said.status, Some(0));
    assert!(!lab.was_reached("169.254.169.254"));
}

// A3, X6, B7: the host is no place that a name may lead to, whoever answers so.
#[test]
fn no_name_opens_the_host() {
    if !privileged() {
        return;
    }
    let lab = Lab::new();
    let (host, reached) = (lab.host(), Arc::clone(&lab.reached));
    lab.in_namespace(&host, move || {
        let listener = TcpListener::bind("[::]:80").unwrap();
        std::thread::spawn(move || serve_forever(&listener, &reached));
    });
    let said = curl(&lab, &["--allow", "*.example"], "http://self.example/");
    said.ended(6).told("denied name self.example: private-address");
    assert!(!lab.was_reached("192.0.2.2") && !lab.was_reached("2001:db8::2"), "{said:#?}");
    let widened = ["--allow", "self.example", "--allow-private", "self.example"];
    curl(&lab, &widened, "http://self.example/").ended(6);
    let ruled = ["--allow", "self.example", "--allow-cidr", "192.0.2.2:80"];
    curl(&lab, &ruled, "http://self.example/").ended(0);
}

// A3, X6: what else the host takes in: a prefix, the broadcast address of a subnet, the anycast address of its routers.
#[test]
fn no_name_opens_what_is_local_by_a_route() {
    if !privileged() {
        return;
    }
    let lab = Lab::new();
    let (host, reached) = (lab.host(), Arc::clone(&lab.reached));
    must(&format!("ip -n {host} route add local 203.0.113.192/26 dev lo"));
    lab.in_namespace(&host, move || {
        std::fs::write("/proc/sys/net/ipv6/conf/all/forwarding", "1").unwrap();
        let listener = TcpListener::bind("[::]:80").unwrap();
        std::thread::spawn(move || serve_forever(&listener, &reached));
    });
    let said = curl(&lab, &["--allow", "*.example"], "http://around.example/");
    said.ended(6).told("denied name around.example: private-address");
    assert!(lab.reached.lock().unwrap().is_empty(), "{said:#?}");
}

// A3: also one that it gets while the command runs.
#[test]
fn an_address_that_becomes_the_host_s_is_open_no_more() {
    if !privileged() {
        return;
    }
    let lab = Lab::new();
    let (host, reached) = (lab.host(), Arc::clone(&lab.reached));
    // Read by line; once an answer comes without the address, it is tried itself.
    let script = "set -e\n\
                  curl -sS --max-time 5 http://198.51.100.13/ > /dev/null && exit 9\n\
                  curl -sS --max-time 5 http://moves.example/\n\
                  curl -sS --max-time 5 http://198.51.100.13/\n\
                  read line\n\
                  while getent ahostsv4 moves.example | grep -q 198.51.100.13; do sleep 0.02; done\n\
                  curl -sS --max-time 5 http://198.51.100.12/\n\
                  curl -sS --max-time 5 http://198.51.100.13/ && exit 9\n\
                  read line\n\
                  until getent ahostsv4 moves.example | grep -q 198.51.100.13; do sleep 0.02; done\n\
                  curl -sS --max-time 5 http://198.51.100.13/";
    let script = script.replace("&& exit 9", "&& exit 9 || true");
    let mut child = lab
        .command(&["--allow", "moves.example", "--", "sh", "-c", &script])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let (mut stdin, mut out) = (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()));
    let mut lines = |count: usize| -> Vec<String> {
        let line = |_| {
            let mut line = String::new();
            out.read_line(&mut line).map(|_| line).unwrap()
        };
        (0..count).map(line).collect()
    };
    let said = lines(2);
    assert_eq!(said[1], "hello from 198.51.100.13\n", "{said:?}");
    must(&format!("ip -n {host} addr add 198.51.100.13/32 dev up0"));
    lab.in_namespace(&host, move || {
        let listener = TcpListener::bind("198.51.100.13:80").unwrap();
        std::thread::spawn(move || serve_forever(&listener, &reached));
    });
    let before = lab.reached.lock().unwrap().len();
    writeln!(stdin).unwrap();
    assert_eq!(lines(1), ["hello from 198.51.100.12\n"]);
    eventually("the last one has been tried", || lab.reached.lock().unwrap().len() > before);
    must(&format!("ip -n {host} addr del 198.51.100.13/32 dev up0"));
    writeln!(stdin).unwrap();
    assert_eq!(lines(1), ["hello from 198.51.100.13\n"]);
    let output = child.wait_with_output().unwrap();
    Said::of(&output, Duration::ZERO).ended(0).told("denied tcp 198.51.100.13:80 (moves.example)");
}

// R7: a rule of a policy file ends while the command runs.
#[test]
fn a_rule_ends_by_the_clock() {
    if !privileged() {
        return;
    }
    let lab = Lab::new();
    let end = jiff::Timestamp::now() + jiff::SignedDuration::from_secs(3);
    let end = jiff::Timestamp::from_second(end.as_second()).unwrap();
    let policy = format!(
        "apiVersion: nameward.io/v1alpha1\nkind: EgressPolicy\nmetadata: {{name: short}}\nspec:\n  \
         podSelector: {{}}\n  egress:\n  - name: r\n    to: [{{domainNames: [allowed.example]}}]\n    \
         ports: [{{protocol: TCP}}]\n    expiresAt: \"{end}\"\n"
    );
    let file = lab.file("short.yaml", &policy);
    let script = "curl -sS --max-time 5 http://allowed.example/ && \
                  while curl -s --max-time 5 http://198.51.100.10/ > /dev/null; do sleep 0.1; done; echo over";
    let said = lab.run(&["--policy", &file, "--", "sh", "-c", script]);
    assert_eq!(said.ended(0).out, "hello from 198.51.100.10\nover\n", "{said:#?}");
    assert!(jiff::Timestamp::now() >= end);
}

// X8
#[test]
fn names_of_the_hosts_file_grant_its_addresses() {
    if !privileged() {
        return;
    }
    let lab = Lab::new();
    let hosts = lab.file("hosts", "127.0.0.1 localhost\n203.0.113.99 pinned.example\n");
    let mounts = format!("mount --bind {hosts} /etc/hosts");
    let ask = |allow: &str, url: &str| {
        let rules = ["--dns", DNS, "--allow", allow, "--"];
        with_mounts(&lab, &mounts, &[&rules[..], &CURL[..], &[url]].concat())
    };
    let run = |allow: &str| ask(allow, "http://pinned.example/");
    let said = run("pinned.example:80");
    said.ended(0);
    assert_eq!(said.out, "hello from 203.0.113.99\n");
    run("pinned.example:8080").ended(7).told("203.0.113.99:80");
    run("other.example").ended(7);
    run("*.example").ended(7);
    // A3, X6: a listener of the host is none of its names.
    let (host, reached) = (lab.host(), Arc::clone(&lab.reached));
    lab.in_namespace(&host, move || {
        let listener = TcpListener::bind("127.0.0.1:80").unwrap();
        std::thread::spawn(move || serve_forever(&listener, &reached));
    });
    ask("*", "http://localhost/").ended(7).told("127.0.0.1:80");
    ask("localhost", "http://localhost/").ended(7).told("use --allow-cidr 127.0.0.1:PORT");
    assert!(!lab.was_reached("127.0.0.1"));
}

// X7: where the host answers names by sockets, the sandbox asks DNS; the system's servers are the default.
#[test]
fn name_service_sockets_are_hidden_and_plain_dns_is_used() {
    if !privileged() {
        return;
    }
    let lab = Lab::new();
    let resolv = lab.file("resolv.conf", &format!("nameserver {DNS}\nsearch wild.example\n"));
    let nsswitch =
        lab.file("nsswitch.conf", "passwd: files\nhosts: mymachines resolve [!UNAVAIL=return] files\n");
    let listen = "import socket, sys, time\n\
                  for p in sys.argv[1:]: s = socket.socket(socket.AF_UNIX); s.bind(p); s.listen(); globals()[p] = s\n\
                  print('up', flush=True); time.sleep(60)";
    let listener = lab.file("listen.py", listen);
    let mounts = format!(
        "mount -t tmpfs none /run; mkdir -p /run/nscd /run/systemd/resolve
         mount --bind {nsswitch} /etc/nsswitch.conf
         cp {resolv} /run/systemd/resolve/stub-resolv.conf
         mount --bind /run/systemd/resolve/stub-resolv.conf /etc/resolv.conf
         /usr/bin/python3 {listener} /run/nscd/socket /run/systemd/resolve/io.systemd.Resolve > /run/up & server=$!
         until grep -q up /run/up; do sleep 0.01; done
         test -S /run/nscd/socket
         (sleep 20; kill $server) > /dev/null 2>&1 &"
    );
    let script = "grep hosts: /etc/nsswitch.conf; cat /etc/resolv.conf
                  test -S /run/nscd/socket && echo nscd; test -S /run/systemd/resolve/io.systemd.Resolve && echo resolve
                  curl -sS --max-time 9 http://a/";
    let said = with_mounts(&lab, &mounts, &["--allow", "a.wild.example", "--", "sh", "-c", script]);
    said.ended(0);
    let expected =
        format!("hosts: files dns\nnameserver {DNS}\nsearch wild.example\nhello from 198.51.100.12\n");
    assert_eq!(said.out, expected, "{said:#?}");
}

// G9: the same socket was a client before.
#[test]
fn a_socket_that_was_connected_accepts_nobody_from_outside() {
    if !privileged() {
        return;
    }
    let lab = Lab::new();
    let serve = "import ctypes, socket\n\
                 s = socket.socket(); s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)\n\
                 s.connect(('198.51.100.10', 80))\n\
                 assert ctypes.CDLL(None).connect(s.fileno(), bytes(16), 16) == 0\n\
                 s.bind(('0.0.0.0', 7777)); s.listen(); s.settimeout(2)\n\
                 print('ready', flush=True)\ntry: s.accept(); print('accepted')\nexcept TimeoutError: print('nobody')";
    let mut child = lab
        .command(&["--allow-cidr", "198.51.100.10:80", "--", "/usr/bin/python3", "-c", serve])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut out = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    out.read_line(&mut line).unwrap();
    assert_eq!(line, "ready\n", "{:?}", child.wait_with_output());
    let internet = lab.internet();
    let connected = lab.in_namespace(&internet, || {
        let timeout = Duration::from_millis(500);
        std::net::TcpStream::connect_timeout(&"192.0.2.2:7777".parse().unwrap(), timeout).is_ok()
    });
    line.clear();
    out.read_line(&mut line).unwrap();
    assert_eq!((connected, line.as_str()), (false, "nobody\n"));
    let output = child.wait_with_output().unwrap();
    assert!(String::from_utf8_lossy(&output.stderr).contains("inbound"), "{output:?}");
}

// G9
#[test]
fn connections_from_outside_are_not_accepted() {
    if !privileged() {
        return;
    }
    let lab = Lab::new();
    let serve = "import socket; s = socket.create_server(('192.0.2.2', 7777)); s.settimeout(2)\n\
                 print('ready', flush=True)\ntry: s.accept(); print('accepted')\nexcept TimeoutError: print('nobody')";
    let internet = lab.internet();
    let mut child = lab
        .command(&["--", "/usr/bin/python3", "-c", serve])
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut out = std::io::BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    std::io::BufRead::read_line(&mut out, &mut line).unwrap();
    let connected = lab.in_namespace(&internet, || {
        let timeout = std::time::Duration::from_millis(500);
        std::net::TcpStream::connect_timeout(&"192.0.2.2:7777".parse().unwrap(), timeout).is_ok()
    });
    assert!(!connected);
    line.clear();
    std::io::BufRead::read_line(&mut out, &mut line).unwrap();
    assert_eq!(line, "nobody\n");
    let output = child.wait_with_output().unwrap();
    assert!(String::from_utf8_lossy(&output.stderr).contains("inbound"), "{output:?}");
}
