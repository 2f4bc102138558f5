//! systemd-resolved's stub as the upstream: what most desktops and many servers have in `/etc/resolv.conf`.

use std::{net::SocketAddr, path::Path, process::Command, time::Duration};

use nameward_test_support::{
    Daemon, Scratch, SmallInternet, output_within, privileged, program, unpacked, wait_until,
};

use crate::{lab::SOON, real::endpoints};

/// Where systemd-resolved answers.
const STUB: &str = "127.0.0.53";
const PORT: &str = "5398";
/// It gives up root's rights for this user's, which only its installation makes.
const USER: &str = "systemd-resolve:x:64999:64999::/:/usr/sbin/nologin\n";
const GROUP: &str = "systemd-resolve:x:64999:\n";
const CONFIG: &str =
    "[Resolve]\nDNS=198.51.100.53\nDomains=~.\nDNSSEC=no\nLLMNR=no\nMulticastDNS=no\nDNSStubListener=yes\n";

/// The daemon in the host's network, with files of its own in place of the machine's.
fn start(internet: &SmallInternet, folder: &Scratch) -> Daemon {
    let package = unpacked("systemd-resolved").unwrap();
    let with = |name: &str, more: &str| {
        let text = std::fs::read_to_string(Path::new("/etc").join(name)).unwrap();
        folder.file(name, &(text + more)).unwrap()
    };
    let (users, groups) = (with("passwd", USER), with("group", GROUP));
    let config = folder.file("resolved.conf", CONFIG).unwrap();
    let script = r#"mount --bind "$1" /etc/passwd && mount --bind "$2" /etc/group &&
        mount -t tmpfs none /run && mkdir -p /run/systemd/resolve && chown 64999:64999 /run/systemd/resolve &&
        mount -t tmpfs none /etc/systemd && cp "$3" /etc/systemd/resolved.conf &&
        LD_LIBRARY_PATH=$4/usr/lib/x86_64-linux-gnu/systemd exec "$4/lib/systemd/systemd-resolved""#;
    let mut command = internet.host().command("unshare");
    command.args(["--mount", "--propagation", "private", "sh", "-c", script, "sh"]);
    command.args([users, groups, config, package]);
    let mut resolved =
        Daemon::start("systemd-resolved", &mut command, &folder.path().join("resolved.log")).unwrap();
    resolved.wait(SOON, || kdig(internet, STUB, "53", "allowed.example").contains("198.51.100.10")).unwrap();
    resolved
}

fn kdig(internet: &SmallInternet, server: &str, port: &str, name: &str) -> String {
    let mut command = internet.host().command("kdig");
    command.args([&format!("@{server}"), "-p", port, "+edns", "+time=2", "+retry=0", name, "A"]);
    String::from_utf8(output_within(&mut command, SOON).unwrap().stdout).unwrap()
}

fn with_rules(folder: &Scratch, internet: &SmallInternet) -> (Daemon, SocketAddr) {
    let file = folder.file("endpoints.yaml", endpoints()).unwrap();
    let mut command: Command = internet.host().command("env");
    command.args(["-u", "RUST_LOG"]).arg(program("nameward-resolver").unwrap());
    command.args(["--listen", &format!("127.0.0.1:{PORT}"), "--upstream", STUB, "--endpoints"]).arg(file);
    let log = folder.path().join("resolver.log");
    let mut resolver = Daemon::start("nameward-resolver", &mut command, &log).unwrap();
    resolver.wait(SOON, || std::fs::read_to_string(&log).is_ok_and(|text| text.contains("serving"))).unwrap();
    (resolver, SocketAddr::from(([127, 0, 0, 1], PORT.parse().unwrap())))
}

// Q6, A9: it gives the letter case back, keeps our IDs, and its negative answers are understood
#[test]
fn the_stub_of_systemd_resolved_is_an_upstream() {
    if !privileged() {
        return;
    }
    let (internet, folder) = (SmallInternet::new().unwrap(), Scratch::new("resolved").unwrap());
    let _resolved = start(&internet, &folder);
    let (_resolver, server) = with_rules(&folder, &internet);
    let ask = |name: &str| kdig(&internet, &server.ip().to_string(), PORT, name);
    for (name, says) in [
        ("allowed.example", "198.51.100.10"),
        ("www.example", "203.0.113.11"),
        ("absent.example", "status: NXDOMAIN"),
        ("private.example", "private-address"),
        ("elsewhere.test", "no rule allows elsewhere.test"),
    ] {
        let said = ask(name);
        assert!(said.contains(says), "{name}: {said}");
    }
    // Names that it has not asked for yet, in letter case that it has never seen: each answer fits its question.
    for number in 0..20 {
        let said = ask(&format!("absent{number}.example"));
        assert!(said.contains("status: NXDOMAIN"), "{said}");
    }
    wait_until("nothing is asked twice for want of an answer", Duration::from_secs(5), || {
        ask("six.example").contains("status: NOERROR").then_some(())
    });
}
