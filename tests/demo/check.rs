//! The demo itself is tested: it ends well, says what it should, and leaves nothing behind, however it ends.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::{
    fs,
    io::{BufRead, BufReader, Read},
    path::Path,
    process::{Child, Command, Output, Stdio},
    time::Duration,
};

use nameward_test_support::{privileged, wait_until};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

fn demo() -> Command {
    Command::new(env!("CARGO_BIN_EXE_demo"))
}

/// Everything with the demo's process number in its name, in every place where something is made.
fn left_behind(process: u32) -> Vec<String> {
    let places = ["/run/netns", "/run/nameward", "/sys/fs/bpf/nameward", "/tmp", "/sys/class/net"];
    let entries = places.iter().filter_map(|place| fs::read_dir(place).ok()).flatten().flatten();
    let paths = entries.map(|entry| entry.path().display().to_string());
    let (instance, world) = (format!("nwd{process}"), format!("nwt{process}x"));
    paths.filter(|path| path.ends_with(&instance) || path.contains(&world)).collect()
}

fn start() -> Child {
    demo().stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

/// Reads until a line contains this, so that the demo is in the middle of its work.
fn until(child: &mut Child, text: &str) -> BufReader<std::process::ChildStdout> {
    let mut reader = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    while !line.contains(text) {
        line.clear();
        if reader.read_line(&mut line).unwrap() == 0 {
            let mut error = String::new();
            child.stderr.take().unwrap().read_to_string(&mut error).unwrap();
            panic!("it ended before it said {text:?}: {error}");
        }
    }
    reader
}

#[test]
fn it_ends_well_and_tells_why() {
    if !privileged() {
        return;
    }
    let child = start();
    let process = child.id();
    let Output { status, stdout, stderr } = child.wait_with_output().unwrap();
    let (said, errors) = (String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr));
    assert!(status.success(), "{said}\n{errors}");
    for expected in [
        "why: allowed: name, rule `registries` of EgressPolicy ci/ci-runners; 198.51.100.10 is registry.example",
        "why: denied: port, rule `registries`",
        "why: denied: no-match; 203.0.113.10 was never resolved; no rule allows it",
        "why: denied: expired",
        "why: denied: denied-cidr, rule `no-metadata` of ClusterEgressPolicy guardrails",
        "(registry.example): port",
        "steps went as they should",
    ] {
        assert!(said.contains(expected), "{expected:?} is not in:\n{said}\n{errors}");
    }
    assert_eq!(left_behind(process), [""; 0], "{errors}");
}

#[test]
fn ctrl_c_removes_everything() {
    if !privileged() {
        return;
    }
    let mut child = start();
    let mut rest = until(&mut child, "the connection passes (IPv4)");
    kill(Pid::from_raw(child.id().cast_signed()), Signal::SIGINT).unwrap();
    let mut said = String::new();
    rest.read_to_string(&mut said).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(130), "{said}");
    assert!(said.contains("everything was removed"), "{said}");
    assert_eq!(left_behind(child.id()), [""; 0]);
}

#[test]
fn what_a_killed_one_left_is_removed_by_the_next() {
    if !privileged() {
        return;
    }
    let mut child = start();
    let process = child.id();
    drop(until(&mut child, "the connection passes (IPv4)"));
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(!left_behind(process).is_empty(), "the kill came too late to leave anything");
    assert!(!Path::new("/proc").join(process.to_string()).exists());
    // Another test's demo may be removing it just now; then this one finds nothing to do.
    wait_until("everything is removed", Duration::from_secs(60), || {
        Command::new(env!("CARGO_BIN_EXE_clean-up")).status().unwrap();
        left_behind(process).is_empty().then_some(())
    });
}
