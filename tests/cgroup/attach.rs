//! What is attached stays attached, and is replaced without a gap (promise 4).

use std::fs;

use nameward_abi::Reason;
use nameward_enforcer::kernel::{Attachment, EndpointSpec, Host, HostOptions, KernelError, cgroup2_mount};

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
    assert_eq!(pinned.lines().count(), 14);
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
