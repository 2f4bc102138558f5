//! The demo itself is tested: it ends well, says what it should, and leaves nothing behind, however it ends.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::{
    fs,
    io::{BufRead, BufReader},
    os::unix::fs::PermissionsExt,
    path::Path,
    process::{Child, Command, ExitStatus, Stdio},
    sync::mpsc::{Receiver, channel},
    thread,
    time::Duration,
};

use nameward_test_support::{output_within, privileged, wait_until};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

/// Longer than the demo allows itself.
const LIMIT: Duration = Duration::from_secs(150);

/// Everything with the demo's process number in its name, in every place where something is made.
fn left_behind(process: u32) -> Vec<String> {
    let places = ["/run/netns", "/run/nameward", "/sys/fs/bpf/nameward", "/tmp", "/sys/class/net"];
    let entries = places.iter().filter_map(|place| fs::read_dir(place).ok()).flatten().flatten();
    let paths = entries.map(|entry| entry.path().display().to_string());
    let (instance, world) = (format!("nwd{process}"), format!("nwt{process}x"));
    paths.filter(|path| path.ends_with(&instance) || path.contains(&world)).collect()
}

/// A demo whose lines are read one by one. It is killed when the test ends before it does.
struct Demo {
    process: Child,
    lines: Receiver<String>,
    said: Vec<String>,
}

impl Demo {
    fn start() -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_demo"));
        let mut process = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
        let (stdout, (sender, lines)) = (process.stdout.take().unwrap(), channel());
        thread::spawn(move || {
            BufReader::new(stdout)
                .lines()
                .map_while(Result::ok)
                .try_for_each(|line| sender.send(line).map_err(|_| ()))
        });
        Self { process, lines, said: Vec::new() }
    }

    /// Reads until a line contains this, so that the demo is in the middle of its work.
    fn until(&mut self, text: &str) {
        while !self.said.last().is_some_and(|line| line.contains(text)) {
            match self.lines.recv_timeout(LIMIT) {
                Ok(line) => self.said.push(line),
                Err(error) => panic!("it did not say {text:?} ({error}):\n{}", self.said.join("\n")),
            }
        }
    }

    /// Its end, and all that it said.
    fn end(&mut self) -> (ExitStatus, String) {
        let status = wait_until("the demo ends", LIMIT, || self.process.try_wait().unwrap());
        self.said.extend(self.lines.iter());
        (status, self.said.join("\n"))
    }
}

impl Drop for Demo {
    fn drop(&mut self) {
        self.process.kill().ok();
        self.process.wait().ok();
    }
}

#[test]
fn it_ends_well_and_tells_why() {
    if !privileged() {
        return;
    }
    let mut demo = Demo::start();
    let (status, said) = demo.end();
    assert!(status.success(), "{said}");
    for expected in [
        "why: allowed: name, rule `registries` of EgressPolicy ci/ci-runners; 198.51.100.10 is registry.example",
        "why: denied: port, rule `registries`",
        "why: denied: no-match; 203.0.113.10 was never resolved; no rule allows it",
        "why: denied: expired",
        "the connection that was open before goes on",
        "EDE: 17 (Filtered): 'nameward: no rule allows evil.example; isolated by EgressPolicy ci/ci-runners'",
        "why: denied: denied-cidr, rule `no-metadata` of ClusterEgressPolicy guardrails",
        "(registry.example): port",
        "steps went as they should",
    ] {
        assert!(said.contains(expected), "{expected:?} is not in:\n{said}");
    }
    assert_eq!(left_behind(demo.process.id()), [""; 0]);
}

#[test]
fn ctrl_c_removes_everything() {
    if !privileged() {
        return;
    }
    let mut demo = Demo::start();
    demo.until("the connection passes (IPv4)");
    kill(Pid::from_raw(demo.process.id().cast_signed()), Signal::SIGINT).unwrap();
    let (status, said) = demo.end();
    assert_eq!(status.code(), Some(130), "{said}");
    assert!(said.contains("everything was removed"), "{said}");
    assert_eq!(left_behind(demo.process.id()), [""; 0]);
}

#[test]
fn programs_that_do_not_serve_end_it_with_their_words() {
    if !privileged() {
        return;
    }
    let folder = nameward_test_support::Scratch::new("programs").unwrap();
    for program in ["nameward", "nameward-resolver", "nameward-enforcer"] {
        let path = folder.file(program, "#!/bin/sh\necho this one is broken >&2\nexit 7\n").unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    }
    let mut command = Command::new(env!("CARGO_BIN_EXE_demo"));
    let output = output_within(command.env("NAMEWARD_BIN_DIR", folder.path()), LIMIT).unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{errors}");
    assert!(errors.contains("nameward-resolver ended: exit status: 7"), "{errors}");
    assert!(errors.contains("this one is broken"), "{errors}");
}

#[test]
fn what_a_killed_one_left_is_removed_by_the_next() {
    if !privileged() {
        return;
    }
    let mut demo = Demo::start();
    let process = demo.process.id();
    demo.until("the connection passes (IPv4)");
    drop(demo);
    assert!(!left_behind(process).is_empty(), "the kill came too late to leave anything");
    assert!(!Path::new("/proc").join(process.to_string()).exists());
    // Another test's demo may be removing it just now; then this one finds nothing to do.
    wait_until("everything is removed", Duration::from_secs(60), || {
        let clean_up = output_within(&mut Command::new(env!("CARGO_BIN_EXE_clean-up")), LIMIT).unwrap();
        assert!(clean_up.status.success(), "{}", String::from_utf8_lossy(&clean_up.stderr));
        left_behind(process).is_empty().then_some(())
    });
}
