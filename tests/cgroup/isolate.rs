//! A cgroup that is fenced while processes run in it, by a whole enforcer: what lives goes on (R11), and what hooks of a
//! cgroup cannot hold is said (DESIGN 4).

use std::{sync::Arc, time::Duration};

use nameward_enforcer::{
    EndpointConfig, Enforcer, EnforcerOptions,
    kernel::{Attachment, HostOptions},
};
use nameward_policy::{Adopt, ClusterRanges, Isolation, RuleSet, Settings};
use nameward_test_support::wait_until;

use crate::lab::{Running, Sandbox, in_namespace, must, privileged};

const WAIT: Duration = Duration::from_secs(10);
const UID: &str = "box";
/// A connection to an echo server, which is used whenever a line is read.
const CLIENT: &str = "s = socket(AF_INET, SOCK_STREAM); s.connect(('198.51.100.2', 80)); show('ready')
for line in sys.stdin: show(attempt(lambda: s.send(line.encode()) and (None if s.recv(99) else 'EOF')))";

/// A cgroup that nobody fences yet, with an enforcer beside it.
struct Scene {
    sandbox: Sandbox,
    instance: String,
}

impl Scene {
    fn new() -> Self {
        let sandbox = Sandbox::new();
        sandbox.host().remove("sandbox").unwrap();
        let instance = format!("{}e", sandbox.name);
        Self { sandbox, instance }
    }

    /// Isolates it, with rules that allow nothing.
    fn isolate(&self, settings: &Settings) -> Enforcer {
        let host = HostOptions { instance: Some(self.instance.clone()), ..HostOptions::default() };
        let enforcer = Enforcer::open(EnforcerOptions { host, ..EnforcerOptions::default() }).unwrap();
        let (ranges, now) = (ClusterRanges::default(), jiff::Timestamp::now());
        let rules = RuleSet::compile(Isolation::Isolated, &[], settings, &ranges, now).unwrap();
        in_namespace(&self.sandbox.inside(), || {
            let path = self.sandbox.path().to_path_buf();
            let config = EndpointConfig {
                uid: UID.into(),
                name: UID.into(),
                attachment: Attachment::Cgroup { path, netns_cookie: 0 },
                addresses: vec![],
                settings: settings.clone(),
                allow_host: false,
            };
            enforcer.apply_endpoint(config).unwrap();
            enforcer.apply_rules(UID, Arc::new(rules)).unwrap();
        });
        enforcer
    }

    fn client(&self, below: &str) -> Running {
        if !below.is_empty() {
            must(&format!("mkdir {}/{below}", self.sandbox.path().display()));
        }
        self.sandbox.start(below, CLIENT)
    }

    fn new_connection(&self) -> String {
        self.sandbox
            .python("show(attempt(lambda: socket(AF_INET, SOCK_STREAM).connect(('198.51.100.2', 80))))")
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        let host = HostOptions { instance: Some(self.instance.clone()), ..HostOptions::default() };
        drop(nameward_enforcer::kernel::Host::open(&host).map(|host| host.remove_all()));
    }
}

fn works(client: &mut Running) -> bool {
    client.tell("ping");
    client.line() == "ok"
}

// R11
#[test]
fn live_connections_of_a_cgroup_go_on() {
    if !privileged() {
        return;
    }
    let scene = Scene::new();
    let (mut client, mut below) = (scene.client(""), scene.client("below"));
    let enforcer = scene.isolate(&Settings::default());
    assert!(works(&mut client) && works(&mut below));
    assert_eq!(scene.new_connection(), "ECONNREFUSED");
    let status = enforcer.endpoint(UID).unwrap();
    let remotes: Vec<String> =
        status.adopted.iter().filter_map(|one| Some(one.remote?.to_string())).collect();
    assert_eq!(remotes, ["198.51.100.2:80", "198.51.100.2:80"]);
    assert!(status.counters["adopted"].packets >= 2, "{:?}", status.counters);
    drop(enforcer);
    let enforcer = scene.isolate(&Settings::default());
    assert_eq!(enforcer.endpoint(UID).unwrap().adopted.len(), 2);
    assert!(works(&mut client) && works(&mut below));
}

// R11
#[test]
fn live_connections_of_a_cgroup_are_cut() {
    if !privileged() {
        return;
    }
    let scene = Scene::new();
    let mut client = scene.client("");
    let enforcer = scene.isolate(&Settings { adopt: Adopt::Cut, ..Settings::default() });
    assert!(!works(&mut client));
    assert_eq!(enforcer.endpoint(UID).unwrap().adopted, []);
}

// DESIGN 4, B26
#[test]
fn processes_that_could_pass_the_hooks_by_are_told() {
    if !privileged() {
        return;
    }
    let scene = Scene::new();
    let enforcer = scene.isolate(&Settings::default());
    let told = || {
        in_namespace(&scene.sandbox.inside(), || enforcer.upkeep());
        enforcer.endpoint(UID).unwrap().not_covered
    };
    assert_eq!(told(), Vec::<String>::new(), "nobody is there");
    let wait = "show('ready'); sys.stdin.read()";
    let plain = format!(
        "import ctypes, os
libc = ctypes.CDLL(None)
for capability in range(64): libc.prctl(24, capability)
os.setgroups([]); os.setresgid(65534, 65534, 65534); os.setresuid(65534, 65534, 65534)
{wait}"
    );
    let harmless = scene.sandbox.start("", &plain);
    assert_eq!(told(), Vec::<String>::new());
    let root = scene.sandbox.start("", wait);
    let text = told().join("; ");
    assert!(text.contains("(python3)") && text.contains("CAP_NET_RAW") && text.contains("CAP_BPF"), "{text}");
    drop(root);
    wait_until("it is gone", WAIT, || told().is_empty().then_some(()));
    drop(harmless);
}
