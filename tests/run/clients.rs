//! Real programs behind the fence: what is allowed works, what is not fails at once (issue of all client kinds:
//! glibc, static glibc, musl, Go's own resolver, Python, Node).

use std::path::PathBuf;
use std::sync::OnceLock;
use std::time::Duration;

use crate::lab::{Lab, must, privileged};

/// A refused connection must be known within this time; a loaded machine starts programs slowly.
const AT_ONCE: Duration = Duration::from_secs(4);

/// Runs `program NAME PORT`-like commands for an allowed and a denied destination.
#[track_caller]
fn allowed_and_denied(command: impl Fn(&str) -> Vec<String>) {
    let lab = Lab::new();
    let run = |name: &str| {
        let command = command(name);
        let mut arguments = vec!["--allow", "allowed.example:80/tcp", "--allow", "six.example:80/tcp", "--"];
        arguments.extend(command.iter().map(String::as_str));
        lab.run(&arguments)
    };
    let said = run("allowed.example");
    said.ended(0);
    assert!(said.out.contains("hello from 198.51.100.10"), "{said:#?}");
    let said = run("six.example");
    said.ended(0);
    assert!(said.out.contains("hello from 2001:db8:1::10"), "{said:#?}");
    // A name that no rule allows.
    let said = run("denied.example");
    assert_ne!(said.status, Some(0), "{said:#?}");
    said.told("denied name denied.example: filtered").told("--allow denied.example");
    assert!(said.took < AT_ONCE, "{said:#?}");
    assert!(!lab.asked.lock().unwrap().iter().any(|name| name.starts_with("denied")), "the question left");
    // An address that no name gave.
    let said = run("203.0.113.11");
    assert_ne!(said.status, Some(0), "{said:#?}");
    said.told("denied tcp 203.0.113.11:80 (never resolved): no-match")
        .told("--allow-cidr 203.0.113.11:80/tcp");
    assert!(said.took < AT_ONCE, "{said:#?}");
    assert!(!lab.was_reached("203.0.113.11"));
}

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

/// Compiles a program of `programs/` once.
fn compiled(name: &str, kind: &str, compile: impl Fn(&str, &str) -> String) -> String {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    let folder = FOLDER.get_or_init(|| PathBuf::from(env!("CARGO_TARGET_TMPDIR")));
    let source = format!("{}/run/programs/{name}", env!("CARGO_MANIFEST_DIR"));
    let binary = folder.join(format!("{}-{kind}-{}", name.replace('.', "-"), std::process::id()));
    let binary = binary.to_str().unwrap();
    must(&compile(&source, binary));
    binary.to_owned()
}

#[test]
fn curl() {
    if !privileged() {
        return;
    }
    allowed_and_denied(|name| {
        let host = if name.contains(':') { format!("[{name}]") } else { name.to_owned() };
        words(&["curl", "-sS", "--max-time", "10", &format!("http://{host}/")])
    });
}

#[test]
fn static_glibc() {
    if !privileged() {
        return;
    }
    // The linker warns of getaddrinfo(3), which loads its modules also here.
    let probe =
        compiled("probe.c", "glibc", |source, binary| format!("gcc -static -w -O1 -o {binary} {source}"));
    allowed_and_denied(|name| words(&[&probe, name, "80"]));
    drop(std::fs::remove_file(probe));
}

#[test]
fn musl() {
    if !privileged() {
        return;
    }
    let probe =
        compiled("probe.c", "musl", |source, binary| format!("musl-gcc -static -O1 -o {binary} {source}"));
    allowed_and_denied(|name| words(&[&probe, name, "80"]));
    drop(std::fs::remove_file(probe));
}

#[test]
fn go_own_resolver() {
    if !privileged() {
        return;
    }
    let probe = compiled("probe.go", "go", |source, binary| {
        format!("CGO_ENABLED=0 GOFLAGS= GOTOOLCHAIN=local go build -o {binary} {source}")
    });
    allowed_and_denied(|name| words(&[&probe, name, "80"]));
    drop(std::fs::remove_file(probe));
}

#[test]
fn python() {
    if !privileged() {
        return;
    }
    allowed_and_denied(|name| {
        let code = format!(
            "import urllib.request as r; print(r.urlopen('http://{name}/', timeout=10).read().decode())"
        );
        words(&["/usr/bin/python3", "-c", &code])
    });
}

#[test]
fn node() {
    if !privileged() {
        return;
    }
    allowed_and_denied(|name| {
        let code = format!(
            "require('http').get('http://{name}/', a => a.pipe(process.stdout))\
             .on('error', e => {{ console.error(e.message); process.exit(1) }})"
        );
        words(&["node", "-e", &code])
    });
}

/// Node's `dns.resolve` asks with c-ares instead of the C library.
#[test]
fn c_ares() {
    if !privileged() {
        return;
    }
    let lab = Lab::new();
    let code = "require('dns').promises.resolve4('allowed.example').then(a => console.log(a.join()))";
    let said = lab.run(&["--allow", "allowed.example", "--", "node", "-e", code]);
    said.ended(0);
    assert_eq!(said.out.trim(), "198.51.100.10");
}

/// Every server that the command names is our resolver, and seems to be the one it named.
#[test]
fn dig_over_udp_and_tcp() {
    if !privileged() {
        return;
    }
    let lab = Lab::new();
    for server in ["192.0.2.77", "2001:db8::77", "127.0.0.53"] {
        for transport in ["+notcp", "+tcp"] {
            let said = lab.run(&[
                "--allow",
                "allowed.example",
                "--",
                "dig",
                transport,
                "+timeout=5",
                "+tries=1",
                &format!("@{server}"),
                "allowed.example",
            ]);
            said.ended(0);
            assert!(
                said.out.contains("198.51.100.10") && said.out.contains(&format!("SERVER: {server}#53")),
                "{said:#?}"
            );
        }
    }
}

/// The bar for a denial is that the program knows at once; measured without the sandbox's start.
#[test]
fn a_refused_connection_fails_at_once() {
    if !privileged() {
        return;
    }
    let lab = Lab::new();
    let said = lab.run(&[
        "--allow",
        "allowed.example:443",
        "--",
        "curl",
        "-sS",
        "-o",
        "/dev/null",
        "-w",
        "%{time_total}",
        "--max-time",
        "20",
        "http://203.0.113.10/",
    ]);
    said.ended(7); // CURLE_COULDNT_CONNECT, not a timeout
    assert!(said.out.trim().parse::<f64>().unwrap() < 0.5, "{said:#?}");
}
