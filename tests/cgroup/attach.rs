//! What is attached stays attached, and is replaced without a gap (promise 4).

use std::{fs, process::Command, time::Duration};

use nameward_abi::Reason;
use nameward_enforcer::kernel::{Attachment, EndpointSpec, Host, HostOptions, KernelError, cgroup2_mount};

use nameward_test_support::wait_until;

use crate::lab::{Sandbox, TCP, must, privileged};

const CONNECT: &str = "show(attempt(lambda: socket(AF_INET, SOCK_STREAM).connect(('198.51.100.2', 80))))";

// Promise 4: programs are replaced in their links; flows, rules and marks of sockets stay.
#[test]
fn programs_are_replaced_in_place() {
    if !privileged() {
        return;
    }
    let mut sandbox = Sandbox::new();
    sandbox.allow_block("198.51.100.2", 128, TCP, 80);
    let links = || must(&format!("bpftool -f cgroup show {} -j", sandbox.path().display()));
    let ids = |text: &str| text.matches("\"id\"").count();
    let pins = format!("/sys/fs/bpf/nameward/{}/v1/endpoints/sandbox", sandbox.name);
    let inodes = || must(&format!("for link in {pins}/link_*; do stat -c %i $link; done"));
    let (programs, pinned) = (links(), inodes());
    assert_eq!(pinned.lines().count(), 16);
    let mut client = sandbox.start(
        "",
        "s = socket(AF_INET, SOCK_STREAM); s.connect(('198.51.100.2', 80)); show('ready')
for line in sys.stdin: s.send(line.encode()); show(s.recv(99).decode().strip())",
    );
    let _server = sandbox.start("", "serve(listen(AF_INET, SOCK_STREAM, '127.0.0.1', 8080))");
    sandbox.attach_again();
    let links = || must(&format!("bpftool -f cgroup show {} -j", sandbox.path().display()));
    let after = links();
    assert_eq!(ids(&after), ids(&programs), "{after}");
    assert_ne!(after, programs, "new programs run");
    client.tell("alive");
    assert_eq!(client.line(), "alive");
    let said =
        sandbox.python("s = socket(AF_INET, SOCK_STREAM); s.connect(('127.0.0.1', 8080)); show(s.recv(9))");
    assert_eq!(said, "b'hello'");
    assert_eq!(sandbox.python(CONNECT), "ok");
}

// Promise 4: a dead enforcer changes nothing.
#[test]
fn the_fence_outlives_its_maker() {
    if !privileged() {
        return;
    }
    let mut sandbox = Sandbox::new();
    drop(sandbox.host.take());
    assert_eq!(sandbox.python(CONNECT), "ECONNREFUSED");
    assert_eq!(sandbox.count(Reason::NoMatch), 1);
    let options = HostOptions { instance: Some(sandbox.name.clone()), ..HostOptions::default() };
    let host = Host::open(&options).unwrap();
    assert_eq!(host.endpoints().unwrap(), ["sandbox"]);
    host.remove("sandbox").unwrap();
    assert_eq!(sandbox.python(CONNECT), "ok", "nothing of it is left");
    sandbox.host = Some(host);
}

// Never the whole host by mistake.
#[test]
fn the_root_cgroup_and_other_folders_are_refused() {
    if !privileged() {
        return;
    }
    let sandbox = Sandbox::new();
    let attach = |path: std::path::PathBuf| {
        let spec = EndpointSpec::new("other", Attachment::Cgroup { path, netns_cookie: 0 });
        sandbox.host().attach(&spec).unwrap_err()
    };
    assert!(matches!(attach(cgroup2_mount().unwrap()), KernelError::RootCgroup { .. }));
    assert!(matches!(attach("/tmp".into()), KernelError::NotCgroup { .. }));
    assert!(matches!(attach("/tmp/nwt-does-not-exist".into()), KernelError::NotCgroup { .. }));
    assert_eq!(sandbox.host().endpoints().unwrap(), ["sandbox"]);
    assert!(fs::exists(sandbox.path()).unwrap());
}

// Checked by bpftool
#[test]
fn removal_frees_every_object() {
    if !privileged() {
        return;
    }
    let sandbox = Sandbox::new();
    // One whose maps nobody else holds.
    let attachment = Attachment::Cgroup { path: sandbox.path().into(), netns_cookie: 0 };
    drop(sandbox.host().attach(&EndpointSpec::new("brief", attachment)).unwrap());
    let pins = format!("/sys/fs/bpf/nameward/{}/v1/endpoints/brief", sandbox.name);
    let mut objects = Vec::new();
    for entry in fs::read_dir(pins).unwrap().flatten() {
        let kind = if entry.file_name().as_encoded_bytes().starts_with(b"link_") { "link" } else { "map" };
        let text = must(&format!("bpftool -j {kind} show pinned {}", entry.path().display()));
        let shown: serde_json::Value = serde_json::from_str(&text).unwrap();
        let shown = shown.as_array().map_or(&shown, |all| &all[0]);
        objects.push((kind, shown["id"].as_u64().unwrap()));
        objects.extend(shown["prog_id"].as_u64().map(|program| ("prog", program)));
    }
    let count = |wanted| objects.iter().filter(|(kind, _)| *kind == wanted).count();
    assert_eq!((count("link"), count("prog"), count("map")), (16, 16, 14));
    sandbox.host().remove("brief").unwrap();
    for (kind, id) in &objects {
        wait_until("the kernel frees it", Duration::from_secs(10), || {
            let shown = Command::new("bpftool").args([kind, "show", "id", &id.to_string()]).output().unwrap();
            (!shown.status.success()).then_some(())
        });
    }
}
