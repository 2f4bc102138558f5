//! What a run tells: denials, the summary, `--audit`, `--learn`, `--policy`, JSON (X4, X5, R6).

use std::{
    process::{Command, Stdio},
    time::Instant,
};

use crate::lab::{Lab, Said, eventually, privileged};

// X4
#[test]
fn denials_are_folded_and_summed_up() {
    if !privileged() {
        return;
    }
    let lab = Lab::new();
    let script =
        "for n in 1 2 3; do curl -s http://203.0.113.99/; done; curl -s http://denied.example/; exit 0";
    let said = lab.run(&["--allow", "allowed.example", "--", "sh", "-c", script]);
    said.ended(0).told("nameward: denied 2 destinations:");
    said.told("nameward: to allow all of it: --allow denied.example --allow-cidr 203.0.113.99:80/tcp");
    let lines = said.err.matches("nameward: denied tcp 203.0.113.99:80 (never resolved): no-match").count();
    assert_eq!(lines, 1, "{said:#?}");
}

// X4, G8: what came after the last event is in the summary, too.
#[test]
fn the_summary_counts_everything() {
    if !privileged() {
        return;
    }
    let lab = Lab::new();
    let script = "import socket, struct\n\
                  s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n\
                  for _ in range(7):\n\
                  \ttry: s.sendto(b'x', ('203.0.113.99', 9))\n\
                  \texcept PermissionError: pass\n\
                  def ask(labels, number):\n\
                  \tname = b''.join(bytes([len(l)]) + l for l in labels) + b'\\0'\n\
                  \treturn struct.pack('>6H', number, 256, 1, 0, 0, 0) + name + struct.pack('>2H', 1, 1)\n\
                  s.sendto(ask([b'odd name', b'example'], 1), ('198.51.100.53', 53)); s.recv(512)\n\
                  s.setblocking(False)\n\
                  for number in range(6000):\n\
                  \ts.sendto(ask([b'allowed', b'example'], number), ('198.51.100.53', 53))\n\
                  \ttry: s.recv(512)\n\
                  \texcept BlockingIOError: pass";
    let said = lab.run(&["--allow", "allowed.example", "--", "/usr/bin/python3", "-c", script]);
    said.ended(0).told("     7 x udp 203.0.113.99:9 (never resolved): no-match");
    said.told("name allowed.example: limit").told("more events were not told one by one");
    // N1: what no host can be called is nowhere to be read, but counted.
    assert!(!said.err.contains("odd"), "{said:#?}");
}

#[test]
fn a_run_without_denials_says_nothing() {
    if !privileged() {
        return;
    }
    let lab = Lab::new();
    let said = lab.run(&["--allow", "allowed.example", "--", "curl", "-sS", "http://allowed.example/"]);
    assert_eq!((said.ended(0).err.as_str(), said.out.as_str()), ("", "hello from 198.51.100.10\n"));
}

// X4
#[test]
fn json_is_one_object_a_line() {
    if !privileged() {
        return;
    }
    let lab = Lab::new();
    let said = lab.run(&[
        "--log",
        "json",
        "--",
        "sh",
        "-c",
        "curl -s http://203.0.113.99/; curl -s http://denied.example/; true",
    ]);
    said.ended(0);
    let lines: Vec<serde_json::Value> =
        said.err.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let denial = |key: &str, value: &str| {
        lines.iter().find(|line| line[key] == value).unwrap_or_else(|| panic!("no {key} {value}: {said:#?}"))
    };
    let packet = denial("address", "203.0.113.99");
    assert_eq!((&packet["reason"], &packet["port"]), (&"no-match".into(), &80.into()));
    assert_eq!(packet["allow_with"], "--allow-cidr 203.0.113.99:80/tcp");
    assert_eq!(denial("name", "denied.example")["reason"], "filtered");
    assert_eq!(lines.last().unwrap()["event"], "summary");
}

// R6, X4
#[test]
fn audit_lets_everything_pass_and_says_what_it_would_deny() {
    if !privileged() {
        return;
    }
    let lab = Lab::new();
    let script =
        "curl -s http://denied.example/ && curl -s http://203.0.113.99/ && curl -s http://allowed.example/";
    let said = lab.run(&["--audit", "--allow", "allowed.example", "--", "sh", "-c", script]);
    said.ended(0);
    for address in ["203.0.113.11", "203.0.113.99", "198.51.100.10"] {
        assert!(said.out.contains(&format!("hello from {address}")), "{said:#?}");
    }
    said.told("nameward: would deny")
        .told("203.0.113.99:80")
        .told("denied.example")
        .told("would have denied");
    assert!(!said.err.contains("allowed.example"), "{said:#?}");
}

// X4: nobody takes a part for the whole.
#[test]
fn what_is_not_all_is_not_called_so() {
    if !privileged() {
        return;
    }
    let lab = Lab::new();
    let file = lab.folder.join("learned.yaml");
    let file = file.to_str().unwrap();
    let flood = "import errno, socket\n\
                 s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n\
                 for n in range(20000):\n\
                 \ttry: s.sendto(b'x', ('203.0.%d.%d' % (113 + n // 250, 1 + n % 250), 9))\n\
                 \texcept OSError as error: assert error.errno in (errno.EPERM, errno.ENETUNREACH), error";
    let said = lab.run(&["--learn", file, "--", "/usr/bin/python3", "-c", flood]);
    said.ended(0)
        .told("to allow part of it, for not all was told one by one: ")
        .told("is not complete. Not in it: ");
    assert!(std::fs::read_to_string(file).unwrap().contains("\n# Not in it: "));
    let said = lab.run(&["--allow", "*.example", "--", "curl", "-s", "http://metadata.example/"]);
    said.ended(6).told("use --allow-cidr 169.254.169.254");
    assert!(!said.err.contains("--allow-private"), "{said:#?}");
}

// X4, X5
#[test]
fn what_was_learned_is_what_a_policy_allows() {
    if !privileged() {
        return;
    }
    let lab = Lab::new();
    let file = lab.folder.join("learned.yaml");
    let file = file.to_str().unwrap();
    let script = "curl -sS http://other.example/ && curl -sS http://six.example:8080/ && curl -sS http://203.0.113.99/ \
                  && curl -sS http://private.example/";
    lab.run(&["--audit", "--learn", file, "--", "sh", "-c", script]).ended(0);
    let said = lab.run(&["--policy", file, "--", "sh", "-c", script]);
    assert_eq!((said.ended(0).err.as_str(), said.out.lines().count()), ("", 4));
    let said = lab.run(&["--policy", file, "--", "curl", "-sS", "http://other.example:8080/"]);
    said.ended(7).told("(other.example): port");
    lab.run(&["--policy", file, "--", "curl", "-sS", "http://denied.example/"]).ended(6).told("filtered");
}

// X5, X2: a policy that only denies isolates all the same.
#[test]
fn a_policy_that_only_denies_isolates() {
    if !privileged() {
        return;
    }
    let lab = Lab::new();
    let policy = "apiVersion: nameward.io/v1alpha1\nkind: EgressPolicy\nmetadata: {name: never, namespace: ci}\nspec:\n  \
                  podSelector: {matchLabels: {app: other}}\n  egress: []\n  deny:\n  - name: d\n    to: [{domainNames: [other.example]}]\n";
    let file = lab.file("deny.yaml", policy);
    lab.run(&["--policy", &file, "--", "curl", "-s", "http://203.0.113.99/"]).ended(7).told("no-match");
    // R2: the deny of a file wins over a flag.
    let said =
        lab.run(&["--policy", &file, "--allow", "*.example", "--", "curl", "-s", "http://other.example/"]);
    said.ended(6).told("other.example").told("EgressPolicy ci/never");
}

// X1, X4, issue 8
#[test]
fn names_that_are_not_answered_are_in_the_api_of_a_run_and_told_once() {
    if !privileged() {
        return;
    }
    let lab = Lab::new();
    let socket = lab.folder.join("api.sock");
    let api = format!("unix:{}", socket.display());
    let script = "curl -s http://denied.example/; read line";
    let mut command = lab.command(&["--api", &api, "--allow", "allowed.example", "--", "sh", "-c", script]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let (started, mut child) = (Instant::now(), command.spawn().unwrap());
    let stdin = child.stdin.take();
    eventually("the name is a decision", || {
        let mut curl = Command::new("curl");
        curl.args(["-s", "--max-time", "5", "--unix-socket"]).arg(&socket);
        let said = curl.arg("http://localhost/v1/decisions?reason=filtered").output().unwrap();
        let said: serde_json::Value = serde_json::from_slice(&said.stdout).unwrap_or_default();
        let denied = |item: &serde_json::Value| {
            item["name"] == "denied.example"
                && item["responseCode"] == "NXDOMAIN"
                && item["verdict"] == "deny"
        };
        said["items"].as_array().is_some_and(|items| items.iter().any(denied))
    });
    // Nothing can be changed over the API of a run, not even by root.
    let mut curl = Command::new("curl");
    curl.args(["-s", "--max-time", "5", "-X", "DELETE", "-w", "%{http_code}", "--unix-socket"]).arg(&socket);
    let refused = curl.arg("http://localhost/v1/bindings?name=*").output().unwrap();
    assert!(refused.stdout.ends_with(b"405"), "{}", String::from_utf8_lossy(&refused.stdout));
    drop(stdin);
    let said = Said::of(&child.wait_with_output().unwrap(), started.elapsed());
    assert_eq!(said.err.matches("nameward: denied name denied.example: filtered").count(), 1, "{said:#?}");
    said.told("nameward: denied 1 destination:").told("to allow all of it: --allow denied.example");
}
