//! Two real enforcers with a cgroup each, a resolver that grants by name, and a forwarder: what was looked up through it opens
//! in the kernel to whom it may open, and to nobody else (Q9, promises 1, 2 and 6).

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::atomic::{AtomicU8, Ordering},
    time::{Duration, Instant},
};

use nameward_test_support::{
    CgroupGuard, Daemon, Netns, Scratch, SmallInternet, output_within, privileged, program, wait_until,
};
use nix::sys::signal::Signal;
use serde_json::Value;

use crate::nodes::SOON;

/// Where the forwarder asks.
const PORT: &str = "5399";
const DNS: &str = "198.51.100.53";

/// A host with a resolver.
struct Host {
    resolver: Daemon,
    folder: Scratch,
    internet: SmallInternet,
}

/// A workload with an enforcer of its own.
struct Fenced<'a> {
    host: &'a Host,
    cgroup: CgroupGuard,
    instance: String,
    config: PathBuf,
    enforcer: Option<Daemon>,
}

impl Host {
    fn new() -> Self {
        let (internet, folder) = (SmallInternet::new().unwrap(), Scratch::new("by-name").unwrap());
        let mut command = command(internet.host(), "nameward-resolver");
        command.arg("--feed").arg(feed(&folder)).args(["--scope", "name", "--upstream", DNS]);
        command.args(["--listen", &format!("127.0.0.1:{PORT}"), "--trusted-forwarder", "127.0.0.1"]);
        let log = folder.path().join("resolver.log");
        let mut resolver = Daemon::start("nameward-resolver", &mut command, &log).unwrap();
        resolver.wait(SOON, || read(&log).contains("serving")).unwrap();
        Self { resolver, folder, internet }
    }

    /// What a forwarder is answered: a response code, and whether there is an address.
    fn forward(&self, name: &str) -> String {
        let mut kdig = self.internet.host().command("kdig");
        kdig.args(["@127.0.0.1", "-p", PORT, "+time=6", "+retry=0", name, "A"]);
        let output = output_within(&mut kdig, SOON).unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let code = text.split_once("status: ").and_then(|(_, rest)| rest.split(';').next());
        code.unwrap_or("silence").to_owned()
    }

    /// Asks until it is answered: a busy machine may be late with a grant (G1).
    fn forward_until_answered(&self, name: &str) {
        wait_until(name, SOON, || (self.forward(name) == "NOERROR").then_some(()));
    }
}

impl<'a> Fenced<'a> {
    /// In a cgroup of its own, allowed to reach port 80 of these names.
    fn start(host: &'a Host, names: &str) -> Self {
        static NEXT: AtomicU8 = AtomicU8::new(0);
        let letter = char::from(b'a' + NEXT.fetch_add(1, Ordering::Relaxed) % 26);
        let (instance, cgroup) =
            (format!("nwt{}{letter}", std::process::id()), CgroupGuard::new("named").unwrap());
        let config = host.folder.path().join(format!("{instance}.yaml"));
        let mut fenced = Self { host, cgroup, instance, config, enforcer: None };
        fenced.write(names);
        fenced.run();
        fenced
    }

    fn write(&self, names: &str) {
        let text = format!(
            "endpoints:
- {{name: {name}, namespace: ci, labels: {{app: ci}}, cgroup: {cgroup}}}
policies:
- apiVersion: nameward.io/v1alpha1
  kind: EgressPolicy
  metadata: {{name: ci, namespace: ci}}
  spec:
    podSelector: {{}}
    egress:
    - name: web
      to: [{{domainNames: [{names}]}}]
      ports: [{{protocol: TCP, port: 80}}]
",
            name = self.instance,
            cgroup = self.cgroup.path().display()
        );
        std::fs::write(&self.config, text).unwrap();
    }

    fn run(&mut self) {
        let mut command = self.command();
        command.arg("--feed").arg(feed(&self.host.folder)).args(["--node", &self.instance, "--config"]);
        command
            .arg(&self.config)
            .arg("--state")
            .arg(self.host.folder.path().join(format!("{}.state", self.instance)));
        command.arg("--api").arg(format!("unix:{}", self.api().display()));
        let log = self.host.folder.path().join(format!("{}.log", self.instance));
        let before = read(&log).matches("a resolver is connected").count();
        let mut enforcer = Daemon::start("nameward-enforcer", &mut command, &log).unwrap();
        let connected = || read(&log).matches("a resolver is connected").count() > before;
        enforcer.wait(SOON, || connected() && self.rules() > 0).unwrap();
        self.enforcer = Some(enforcer);
    }

    fn reload(&self, names: &str) {
        let before = self.rules();
        self.write(names);
        self.signal(Signal::SIGHUP);
        wait_until("the new rules", SOON, || (self.rules() > before).then_some(()));
    }

    fn signal(&self, signal: Signal) {
        self.enforcer.as_ref().unwrap().signal(signal).unwrap();
    }

    fn kill(&mut self) {
        self.signal(Signal::SIGKILL);
        drop(self.enforcer.take().unwrap().stop());
    }

    fn command(&self) -> Command {
        let mut command = command(self.host.internet.host(), "nameward-enforcer");
        command.args(["--instance", &self.instance]);
        command
    }

    fn api(&self) -> PathBuf {
        self.host.folder.path().join(format!("{}.sock", self.instance))
    }

    fn get(&self, path: &str) -> Value {
        let mut curl = Command::new("curl");
        curl.args(["-sS", "--max-time", "3", "--unix-socket"])
            .arg(self.api())
            .arg(format!("http://localhost{path}"));
        serde_json::from_slice(&curl.output().unwrap().stdout).unwrap_or_default()
    }

    /// Generation of its rules; 0 before the first.
    fn rules(&self) -> u64 {
        items(&self.get("/v1/endpoints")).first().and_then(|one| one["generation"].as_u64()).unwrap_or(0)
    }

    /// Names of its bindings, as its API tells them.
    fn names(&self) -> Vec<String> {
        let mut names: Vec<_> = items(&self.get("/v1/bindings"))
            .iter()
            .filter_map(|binding| Some(binding["name"].as_str()?.to_owned()))
            .collect();
        names.sort();
        names
    }

    /// Whether port 80 of an address can be reached from inside.
    fn reaches(&self, address: &str) -> bool {
        let mut command = self.cgroup.command("nsenter");
        command.arg(format!("--net={}", self.host.internet.host().path().display()));
        command.args(["--", "curl", "-sS", "--max-time", "5", &format!("http://{address}/")]);
        command.stderr(Stdio::null()).output().unwrap().stdout.starts_with(b"hello from")
    }
}

impl Drop for Fenced<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let enforcer = self.enforcer.as_ref().map(Daemon::log).unwrap_or_default();
            eprintln!("{}\n---\n{enforcer}", self.host.resolver.log());
        }
        if let Some(enforcer) = self.enforcer.take() {
            drop(enforcer.signal(Signal::SIGCONT));
        }
        let removed = output_within(self.command().arg("--remove"), SOON);
        if !removed.as_ref().is_ok_and(|output| output.status.success()) {
            eprintln!("{} was not removed: {removed:?}", self.instance);
        }
        drop(std::fs::remove_dir_all(Path::new("/run/nameward").join(&self.instance)));
    }
}

fn items(list: &Value) -> Vec<Value> {
    list.get("items").unwrap_or(list).as_array().cloned().unwrap_or_default()
}

fn feed(folder: &Scratch) -> String {
    format!("unix:{}", folder.path().join("feed").display())
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

fn command(host: &Netns, name: &str) -> Command {
    let mut command = host.command("env");
    command.args(["-u", "RUST_LOG"]).arg(program(name).unwrap());
    command
}

// Q9, promise 6
#[test]
fn a_name_opens_to_all_that_may_use_it_and_to_nobody_else() {
    if !privileged() {
        return;
    }
    let host = Host::new();
    let both = Fenced::start(&host, "allowed.example, other.example, www.example");
    let one = Fenced::start(&host, "allowed.example");
    assert!(!both.reaches("198.51.100.10") && !one.reaches("198.51.100.10"), "nobody has looked it up");
    host.forward_until_answered("allowed.example");
    assert!(both.reaches("198.51.100.10") && one.reaches("198.51.100.10"), "neither has asked itself");
    host.forward_until_answered("other.example");
    assert!(both.reaches("198.51.100.11") && !one.reaches("198.51.100.11"));
    assert_eq!(host.forward("denied.example"), "NXDOMAIN", "no policy allows it");
    assert_eq!(
        (both.names().join(" "), one.names().join(" ")),
        ("allowed.example other.example".into(), "allowed.example".into())
    );
    // A policy that comes while CoreDNS still gives the answer honours it.
    one.reload("allowed.example, other.example");
    assert!(one.reaches("198.51.100.11"), "its rules allow what others were answered");
    // A workload that comes as late, too.
    let late = Fenced::start(&host, "other.example");
    wait_until("the late one has it", SOON, || late.reaches("198.51.100.11").then_some(()));
    assert!(!late.reaches("198.51.100.10"));
    assert_eq!(late.names(), ["other.example"]);
    // Aliases are told with the name.
    host.forward_until_answered("www.example");
    assert!(both.reaches("203.0.113.11"));
}

// DESIGN 5, promise 1: weaker only for one that is cut off, and only until it is back
#[test]
fn an_enforcer_that_is_cut_off_learns_what_it_missed() {
    if !privileged() {
        return;
    }
    let host = Host::new();
    let names = "allowed.example, other.example, short.example";
    let (near, mut cut) = (Fenced::start(&host, names), Fenced::start(&host, names));
    host.forward_until_answered("allowed.example");
    cut.signal(Signal::SIGSTOP);
    let since = Instant::now();
    let early = host.forward("other.example");
    assert!(
        early == "SERVFAIL" || since.elapsed() > Duration::from_secs(2),
        "{early} before the other had it"
    );
    assert_eq!(host.forward("allowed.example"), "NOERROR", "what is known is answered");
    host.forward_until_answered("other.example");
    assert!(since.elapsed() > Duration::from_millis(1_500), "given up after {:?}", since.elapsed());
    assert!(near.reaches("198.51.100.11") && !cut.reaches("198.51.100.11"), "it fails closed");
    cut.signal(Signal::SIGCONT);
    wait_until("it has what it missed", SOON, || cut.reaches("198.51.100.11").then_some(()));
    // The same for one that died.
    cut.kill();
    host.forward_until_answered("short.example");
    assert!(!cut.reaches("198.51.100.12") && cut.reaches("198.51.100.11"), "what was granted stays");
    cut.run();
    host.forward_until_answered("short.example");
    wait_until("it has what it missed", SOON, || cut.reaches("198.51.100.12").then_some(()));
}
