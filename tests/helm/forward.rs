//! CoreDNS in front of two resolvers behind a Service, from the chart: by name with its cache on, for each pod with its cache off,
//! with a node that is cut off and with a resolver that is killed (DESIGN 5).
//!
//! Each scenario installs what it needs, so that one can be run alone. What is looked up by name stays granted for a while:
//! no two scenarios mean the same address.

use std::{
    fs,
    process::Command,
    time::{Duration, Instant},
};

use nameward_test_support::{Scratch, cluster::Node, patient, program, wait_until};

use crate::{
    World, life,
    pods::{self, Container, Pod, SOON, START, names, pod_of, policy},
};

/// Where the Service of the resolvers is.
const RESOLVERS: &str = "10.96.0.53";
/// How long an enforcer that is cut off is waited for.
const DEAD_AFTER: Duration = Duration::from_secs(2);
/// Asks for a name that nobody has asked for, ten times a second, and writes down what came of it.
const ASKS: &str = "i=0; while true; do i=$((i+1)); \
                    if nslookup -type=a -timeout=4 -retry=1 k$i.many.example. 2>&1 | grep -q 198.51.100.13; then echo ok; else echo failed; fi \
                    >> /tmp/out; sleep 0.1; done";

/// How CoreDNS and the resolvers are set.
#[derive(Clone, Copy)]
enum Scope {
    Name,
    Endpoint,
}

impl Scope {
    fn word(self) -> &'static str {
        match self {
            Self::Name => "name",
            Self::Endpoint => "endpoint",
        }
    }

    /// The Corefile that docs/forward.md has for it.
    fn corefile(self) -> String {
        let cache = match self {
            Self::Name => "cache 30 {\n        servfail 0\n    }\n",
            Self::Endpoint => "",
        };
        format!(
            ".:53 {{\n    errors\n    ready\n    rewrite edns0 local set 0xffee {{client_ip}}\n    \
             kubernetes cluster.local in-addr.arpa ip6.arpa {{\n        pods insecure\n    }}\n    forward . {RESOLVERS}\n    {cache}}}\n"
        )
    }
}

/// The chart in this mode, and the Corefile for it.
fn install(world: &pods::World, scope: Scope) {
    let value = match scope {
        Scope::Name => "Name",
        Scope::Endpoint => "Endpoint",
    };
    let values = format!(
        "forward.enabled=true,forward.scope={value},forward.clusterIP={RESOLVERS},forward.upstreams={{{}}}",
        world.internet.dns()
    );
    life::helm(world, &["upgrade", "--install", "nameward"], &["--create-namespace", "--set", &values])
        .unwrap();
    write_corefile(world, &scope.corefile());
    world.kubectl("-n nameward rollout status deployment/nameward-resolver --timeout=50s");
}

/// Has CoreDNS read another Corefile.
fn write_corefile(world: &pods::World, corefile: &str) {
    let text = serde_json::json!({
        "apiVersion": "v1", "kind": "ConfigMap", "data": {"Corefile": corefile},
        "metadata": {"name": "coredns", "namespace": "kube-system"},
    });
    world.apply(&text.to_string());
    world.kubectl("-n kube-system rollout restart deployment/coredns");
    world.kubectl("-n kube-system rollout status deployment/coredns --timeout=50s");
}

/// Whether `nameward check corefile` finds nothing to change, and what it says.
fn check(corefile: &str, scope: Scope) -> (bool, String) {
    let folder = Scratch::new("corefile").unwrap();
    let file = folder.file("Corefile", corefile).unwrap();
    let mut command = Command::new(program("nameward").unwrap());
    command.args(["check", "corefile"]).arg(file).args(["--resolver", RESOLVERS, "--scope", scope.word()]);
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    (output.status.success(), said)
}

/// Looks a name up once, and says how long it took.
fn look_up(pod: &Pod<'_>, name: &str) -> (Result<String, String>, Duration) {
    let started = Instant::now();
    let said = ask(pod, name, None);
    (said, started.elapsed())
}

/// The same at a server of its own choice. An error is an answer without an address, or none.
fn ask(pod: &Pod<'_>, name: &str, server: Option<&str>) -> Result<String, String> {
    let name = format!("{name}.");
    let words = ["nslookup", "-type=a", "-timeout=6", "-retry=1", &name];
    let said = pod.exec(&words.into_iter().chain(server).collect::<Vec<_>>())?;
    if said.contains("Name:") { Ok(said) } else { Err(said) }
}

/// Connects to an address without asking for any name, once.
fn connects(pod: &Pod<'_>, address: &str) -> bool {
    pod.exec(&["curl", "-sS", "--max-time", "5", &format!("http://{address}/")]).is_ok()
}

/// Pods `NAMESPACE/one` on the first node and `NAMESPACE/two` on the second that may ask for these names.
fn pair<'a>(world: &'a pods::World, namespace: &str, allowed: &str) -> [Pod<'a>; 2] {
    world.namespace(namespace, &policy(namespace, &names(allowed)));
    for (name, node) in [("one", "n1"), ("two", "n2")] {
        world.apply(&pod_of(namespace, name, "app: runner", &[], &Container::sleeps().on(node)));
    }
    ["one", "two"].map(|name| world.running(namespace, name))
}

// Q9, promise 1: an answer that CoreDNS keeps is usable on both nodes before it leaves.
pub(crate) fn forward_by_name(world: &World) {
    let world = world.cluster();
    install(world, Scope::Name);
    let (is_good, said) = check(&Scope::Name.corefile(), Scope::Name);
    assert!(is_good, "{said}");
    let (is_good, said) = check(&Scope::Name.corefile(), Scope::Endpoint);
    assert!(!is_good && said.contains("[cache]"), "{said}");
    let [one, two] = pair(world, "by-name", "allowed.example, other.example");
    world.namespace("narrow", &policy("narrow", &names("allowed.example")));
    world.apply(&pod_of("narrow", "narrow", "app: runner", &[], &Container::sleeps().on("n2")));
    let narrow = world.running("narrow", "narrow");
    one.reaches("http://allowed.example/");
    two.reaches("http://allowed.example/");
    let (filtered, _) = look_up(&one, "denied.example");
    assert!(filtered.is_err(), "no policy allows it: {filtered:?}");
    one.may_not("http://denied.example/");
    // Nobody on the second node has asked.
    let (answer, took) = look_up(&one, "other.example");
    assert!(answer.as_ref().is_ok_and(|text| text.contains("198.51.100.11")), "{answer:?}");
    println!("a name that is new to the cluster is answered after {took:?}, with the start of the client");
    assert!(connects(&two, "198.51.100.11"), "its enforcer has it before the answer leaves");
    assert!(!connects(&narrow, "198.51.100.11"), "by its own rules");
    let elsewhere = ask(&one, "allowed.example", Some("198.51.100.53"));
    assert!(elsewhere.is_err(), "another server: {elsewhere:?}");
    // Whom no policy selects is answered every name, and CoreDNS keeps that for others: what opens is decided by the kernel.
    let free = world.pod("by-name", "free", "app: none");
    free.reaches("http://denied.example/");
    one.may_not("http://denied.example/");
    assert!(!connects(&one, "203.0.113.10"));
}

/// A node whose enforcer reaches no resolver, until this is dropped.
struct CutOff<'a>(&'a Node);

impl<'a> CutOff<'a> {
    fn begin(node: &'a Node) -> Self {
        // Both ways: what arrives is granted, also when nobody hears of that.
        let words = "add table ip cut; add chain ip cut out { type filter hook output priority 0; }; \
                     add rule ip cut out tcp dport 9853 drop; \
                     add chain ip cut in { type filter hook input priority 0; }; \
                     add rule ip cut in tcp sport 9853 drop";
        node.machine().output("nft", &[words]).unwrap();
        Self(node)
    }
}

impl Drop for CutOff<'_> {
    fn drop(&mut self) {
        self.0.machine().output("nft", &["delete table ip cut"]).unwrap();
    }
}

// DESIGN 5: a node that is cut off holds up nobody for long, opens nothing, and has what it missed before it asks.
pub(crate) fn forward_with_a_node_cut_off(world: &World) {
    let world = world.cluster();
    install(world, Scope::Name);
    let [one, two] = pair(world, "cut", "allowed.example, short.example");
    two.reaches("http://allowed.example/");
    one.reaches("http://allowed.example/");
    let cut = CutOff::begin(&world.cluster.nodes()[1]);
    let since = Instant::now();
    let (early, _) = look_up(&one, "short.example");
    assert!(early.is_err() || since.elapsed() >= DEAD_AFTER, "an answer without the other node: {early:?}");
    let known = look_up(&one, "allowed.example");
    assert!(known.0.is_ok(), "what is known is answered: {known:?}");
    wait_until("the node is given up", SOON, || look_up(&one, "short.example").0.ok());
    println!("new names are answered {:?} after a node was cut off", since.elapsed());
    assert!(since.elapsed() < patient(Duration::from_secs(10)));
    assert!(connects(&one, "198.51.100.12"));
    assert!(!connects(&two, "198.51.100.12"), "its enforcer does not know the name: it fails closed");
    assert!(connects(&two, "198.51.100.10"), "what was granted stays");
    let (said, _) = look_up(&two, "short.example");
    assert!(said.is_ok(), "CoreDNS answers it all the same, which is what this mode is weaker in: {said:?}");
    drop(cut);
    wait_until("it has what it missed", SOON * 2, || connects(&two, "198.51.100.12").then_some(()));
}

// Promise 4: with one of two resolvers killed questions go on, and nothing opens that was closed.
pub(crate) fn forward_with_a_resolver_killed(world: &World) {
    let world = world.cluster();
    install(world, Scope::Name);
    world.namespace("killed", &policy("killed", &names("allowed.example, '*.many.example'")));
    world.apply(&pod_of("killed", "asks", "app: runner", &[], &Container::shell(ASKS).on("n1")));
    world.apply(&pod_of("killed", "two", "app: runner", &[], &Container::sleeps().on("n2")));
    let (asks, two) = (world.running("killed", "asks"), world.running("killed", "two"));
    let count = |word: &str| {
        let counted = asks.exec(&["grep", "-c", word, "/tmp/out"]);
        counted.ok().and_then(|count| count.parse::<usize>().ok()).unwrap_or(0)
    };
    wait_until("questions are answered", SOON * 2, || (count("ok") > 20).then_some(()));
    two.reaches("http://allowed.example/");
    let before = (count("ok"), count("failed"));
    let machine = world.cluster.nodes()[0].machine();
    let process = machine.output("pgrep", &["-x", "nameward-resolv"]).unwrap();
    machine.output("sh", &["-c", "kill -9 $0", process.trim()]).unwrap();
    let killed = Instant::now();
    wait_until("questions go on", SOON * 2, || (count("ok") > before.0 + 20).then_some(()));
    let after = (count("ok") - before.0, count("failed") - before.1);
    println!(
        "{} questions answered and {} not in {:?} after a resolver was killed",
        after.0,
        after.1,
        killed.elapsed()
    );
    two.may_not("http://denied.example/");
    assert!(!connects(&two, "203.0.113.10"));
    let wrong = asks.exec(&["curl", "-sS", "--max-time", "5", "http://203.0.113.10/"]);
    assert!(wrong.is_err(), "{wrong:?}");
    // The one that comes back is told by both enforcers before it is asked anything.
    world.kubectl("-n nameward rollout status deployment/nameward-resolver --timeout=50s");
    let failed = count("failed");
    let answered = count("ok");
    wait_until("both answer", SOON * 2, || (count("ok") > answered + 40).then_some(()));
    assert!(
        count("failed") <= failed + 1,
        "{} questions failed with both there again",
        count("failed") - failed
    );
    assert!(
        connects(&two, "198.51.100.13"),
        "all that was answered is usable on the node that asked for nothing"
    );
    world.kubectl("delete namespace killed --wait=false");
}

// Q1, promise 6: without a cache each pod is known by what CoreDNS says of it.
pub(crate) fn forward_each_pod_for_itself(world: &World) {
    let world = world.cluster();
    install(world, Scope::Endpoint);
    let (is_good, said) = check(&Scope::Endpoint.corefile(), Scope::Endpoint);
    assert!(is_good, "{said}");
    world.namespace("own", &policy("own", &names("www.example")));
    for name in ["one", "two"] {
        world.apply(&pod_of("own", name, "app: runner", &[], &Container::sleeps().on("n1")));
    }
    let [one, two] = ["one", "two"].map(|name| world.running("own", name));
    one.reaches("http://www.example/");
    assert!(
        !connects(&two, "203.0.113.11"),
        "one pod's lookup opens nothing for another, though its rules allow the name"
    );
    two.reaches("http://www.example/");
    let free = world.pod("own", "free", "app: none");
    free.reaches("http://a.pkg.example/");
    let (filtered, _) = look_up(&one, "a.pkg.example");
    assert!(filtered.is_err(), "what a pod without policies is answered is no other's: {filtered:?}");
    one.may_not("http://a.pkg.example/");
    // Nobody speaks for another: the resolver believes CoreDNS alone.
    let direct = ask(&free, "www.example", Some(RESOLVERS));
    assert!(direct.is_err(), "{direct:?}");
}

// Back to a resolver on each node, under the same policies.
pub(crate) fn forward_and_back(world: &World) {
    let world = world.cluster();
    install(world, Scope::Name);
    let [one, two] = pair(world, "back", "allowed.example");
    one.reaches("http://allowed.example/");
    life::helm(world, &["upgrade", "nameward"], &["--set", "forward.enabled=false"]).unwrap();
    write_corefile(world, &original());
    let started = Instant::now();
    for pod in [&one, &two] {
        pod.reaches("http://allowed.example/");
        pod.may_not("http://denied.example/");
        assert!(!connects(pod, "203.0.113.10"));
    }
    assert!(started.elapsed() < patient(START));
    let all = world.kubectl("-n nameward get deployments,services -o name");
    assert!(!all.contains("nameward-resolver"), "{all}");
}

/// The Corefile that the cluster began with.
fn original() -> String {
    let objects =
        fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/support/src/cluster/coredns.yaml")).unwrap();
    let (_, rest) = objects.split_once("  Corefile: |\n").unwrap();
    let (text, _) = rest.split_once("---").unwrap();
    text.replace("    .:53", ".:53").replace("UPSTREAM", "198.51.100.53")
}
