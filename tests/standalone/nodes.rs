//! What a chart's containers do around the two processes: a node made ready before, and left clean behind them.

use std::{
    fs,
    os::unix::fs::MetadataExt,
    process::{Command, Stdio},
    time::Duration,
};

use nameward_test_support::{Scratch, privileged, program, wait_until};

use crate::pair_lab::{Host, Part};

const SOON: Duration = Duration::from_secs(10);
const USER: u32 = 65_532;

#[test]
fn a_node_is_made_ready_for_a_resolver_without_rights() {
    if !privileged() {
        return;
    }
    let place = Scratch::new("ready").unwrap();
    let feed = place.path().join("run/feed");
    for _ in 0..2 {
        let mut command = Command::new(program("nameward-enforcer").unwrap());
        command.args(["--prepare-for", &USER.to_string(), "--feed"]).arg(format!("unix:{}", feed.display()));
        let output = command.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let found = fs::metadata(&feed).unwrap();
        assert_eq!((found.uid(), found.gid(), found.mode() & 0o7777), (USER, USER, 0o750));
    }
    let mut command = Command::new(program("nameward-enforcer").unwrap());
    command.args(["--prepare-for", "65532", "--feed", "tls://192.0.2.1:9853#r.example"]);
    let output = command.output().unwrap();
    assert!(!output.status.success());
    assert!(String::from_utf8_lossy(&output.stderr).contains("192.0.2.1:9853"));
}

// Nothing is taken away under the hands of a process that enforces, and all of it when that has ended.
#[test]
fn removal_waits_for_the_enforcer_to_end() {
    if !privileged() {
        return;
    }
    let mut host = Host::running("other.example");
    let pins = format!("/sys/fs/bpf/nameward/{}", host.instance);
    let remove = |host: &Host, seconds: &str| {
        let mut command = host.inside("nameward-enforcer");
        command.args(["--remove", "--wait", seconds, "--instance", &host.instance]);
        command.arg("--feed").arg(format!("unix:{}", host.feed().display())).stderr(Stdio::piped());
        command
    };
    let refused = remove(&host, "0").output().unwrap();
    assert!(String::from_utf8_lossy(&refused.stderr).contains("stop that process first"), "{refused:?}");
    let mut waiting = remove(&host, "30").spawn().unwrap();
    // Longer than one that does not wait would take.
    std::thread::sleep(Duration::from_millis(500));
    assert!(waiting.try_wait().unwrap().is_none() && fs::exists(&pins).unwrap(), "it does not wait");
    host.stop(Part::Resolver);
    host.stop(Part::Enforcer);
    let status = wait_until("it is removed", SOON, || waiting.try_wait().unwrap());
    assert!(status.success() && !fs::exists(&pins).unwrap());
    assert!(!host.feed().exists(), "the folder of the resolver that has ended");
}

// Bad input: a node without a BPF file system. It is told what to do, and `--prepare-for` does it.
#[test]
fn a_node_without_a_bpf_file_system_is_told_what_to_do() {
    if !privileged() {
        return;
    }
    let place = Scratch::new("bpffs").unwrap();
    let config = place.file("config.yaml", "endpoints: []\npolicies: []\n").unwrap();
    let (bpffs, feed) = (place.path().join("bpf"), place.path().join("feed"));
    fs::create_dir(&bpffs).unwrap();
    let run = |script: &str| {
        let mut command = Command::new("unshare");
        command.args(["--mount", "--net", "--propagation", "private", "sh", "-c", script]);
        command.arg(program("nameward-enforcer").unwrap()).arg(&bpffs).arg(&config).arg(place.path());
        command.arg(format!("unix:{}", feed.display())).output().unwrap()
    };
    let refused = run(r#"exec "$0" --bpffs "$1" --config "$2" --state "$3/state" --feed "$4""#);
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(1), "{said}");
    let place = bpffs.display().to_string();
    let wanted = format!("there is no BPF file system at {place}: mount it with `mount -t bpf bpf {place}`");
    assert!(said.contains(&wanted), "{said}");
    let ready = run(r#""$0" --prepare-for 65532 --bpffs "$1" --feed "$4" && grep " $1 bpf " /proc/mounts"#);
    assert!(ready.status.success(), "{ready:?}");
}
