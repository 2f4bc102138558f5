//! A host with `nameward-enforcer` and `nameward-resolver` as processes, a workload behind a veth and one in a
//! cgroup, and a small internet.

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Once,
        atomic::{AtomicU8, Ordering},
    },
    time::Duration,
};

use nameward_test_support::{
    CgroupGuard, Daemon, Netns, Scratch, SmallInternet, Workload, program, wait_until,
};
use nix::sys::signal::Signal;

/// The server that workloads mean, and that the resolver asks.
pub(crate) const DNS: &str = "198.51.100.53";
const READY: Duration = Duration::from_secs(30);
/// Instances of these tests are named `nwt<process><letter>`.
const PREFIX: &str = "nwt";

static INSTANCES: AtomicU8 = AtomicU8::new(0);
static STARTS: AtomicU8 = AtomicU8::new(0);
static CLEAN: Once = Once::new();

/// A process of the host, as far as it runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    Resolver,
    Enforcer,
}

/// The host. What it put into the kernel goes with it.
pub(crate) struct Host {
    resolver: Option<Daemon>,
    pub(crate) enforcer: Option<Daemon>,
    pub(crate) instance: String,
    pub(crate) config: PathBuf,
    pub(crate) workloads: [Box<dyn Place>; 2],
    pub(crate) folder: Scratch,
    pub(crate) internet: SmallInternet,
}

/// Where a workload's commands run.
pub(crate) trait Place: Send + Sync {
    fn name(&self) -> &'static str;
    fn command(&self, program: &str) -> Command;
    /// Removes its interface or cgroup.
    fn take_away(&self, host: &Netns);
    /// Makes it anew under the same name.
    fn bring_back(&self, host: &Netns);
}

impl Place for Workload {
    fn name(&self) -> &'static str {
        "veth"
    }

    fn command(&self, program: &str) -> Command {
        Self::command(self, program)
    }

    fn take_away(&self, host: &Netns) {
        host.ip(&format!("link del {}", self.interface())).unwrap();
    }

    fn bring_back(&self, host: &Netns) {
        host.join(self.interface(), self.namespace(), "eth0").unwrap();
        for (address, length) in self.addresses().iter().zip([24, 64]) {
            let text = address.to_string();
            let gateway = format!("{}1", &text[..text.len() - 1]);
            host.address(self.interface(), &[&format!("{gateway}/{length}")]).unwrap();
            self.namespace().address("eth0", &[&format!("{address}/{length}")]).unwrap();
            self.namespace().ip(&format!("route add default via {gateway}")).unwrap();
        }
    }
}

/// Processes of the host's own namespace.
struct CgroupPlace {
    cgroup: CgroupGuard,
    namespace: PathBuf,
    resolv_conf: PathBuf,
}

impl Place for CgroupPlace {
    fn name(&self) -> &'static str {
        "cgroup"
    }

    fn command(&self, program: &str) -> Command {
        let mut command = self.cgroup.command("nsenter");
        command.arg(format!("--net={}", self.namespace.display()));
        command.args(["--", "unshare", "--mount", "--propagation", "private", "sh", "-c"]);
        command.arg(r#"mount --bind "$0" /etc/resolv.conf && exec "$@""#).arg(&self.resolv_conf).arg(program);
        command
    }

    fn take_away(&self, _: &Netns) {
        // Processes that have ended leave it a moment later.
        wait_until("the cgroup can be removed", READY, || fs::remove_dir(self.cgroup.path()).ok());
    }

    fn bring_back(&self, _: &Netns) {
        fs::create_dir(self.cgroup.path()).unwrap();
    }
}

impl Host {
    /// With both workloads allowed to reach `allowed.example` and what `names` lists, and no process yet.
    pub(crate) fn new(names: &str) -> Self {
        CLEAN.call_once(remove_leftovers);
        let mut internet = SmallInternet::new().unwrap();
        let veth = internet.add_workload(DNS.parse().unwrap()).unwrap();
        let folder = Scratch::new("pair").unwrap();
        let resolv_conf = folder.file("resolv.conf", &format!("nameserver {DNS}\n")).unwrap();
        let cgroup = CgroupGuard::new("box").unwrap();
        let config = folder.file("host.yaml", &config(&veth, cgroup.path(), names)).unwrap();
        let namespace = internet.host().path();
        let boxed = CgroupPlace { cgroup, namespace, resolv_conf };
        let letter = char::from(b'a' + INSTANCES.fetch_add(1, Ordering::Relaxed) % 26);
        Self {
            resolver: None,
            enforcer: None,
            instance: format!("{PREFIX}{}{letter}", std::process::id()),
            config,
            workloads: [Box::new(veth), Box::new(boxed)],
            folder,
            internet,
        }
    }

    /// A host on which both run, and workloads are served.
    pub(crate) fn running(names: &str) -> Self {
        let mut host = Self::new(names);
        host.start(Part::Resolver);
        host.start(Part::Enforcer);
        host.wait_until_served();
        host
    }

    /// Starts a process, and returns when it serves.
    pub(crate) fn start(&mut self, part: Part) {
        let feed = format!("unix:{}", self.feed().display());
        match part {
            Part::Resolver => {
                let mut command = self.inside("nameward-resolver");
                command.args(["--feed", &feed, "--upstream", DNS]);
                command
                    .arg("--metrics")
                    .arg(format!("unix:{}", self.folder.path().join("metrics.sock").display()));
                let log = self.folder.path().join(format!("resolver{}.log", fresh()));
                let mut process = Daemon::start("nameward-resolver", &mut command, &log).unwrap();
                process.wait(READY, || read(&log).contains("serving")).unwrap();
                self.resolver = Some(process);
            }
            Part::Enforcer => {
                let api = self.api();
                let mut command = self.enforcer_command();
                command.arg("--api").arg(format!("unix:{}", api.display()));
                let log = self.folder.path().join(format!("enforcer{}.log", fresh()));
                let mut process = Daemon::start("nameward-enforcer", &mut command, &log).unwrap();
                process.wait(READY, || self.has_rules(&api)).unwrap();
                self.enforcer = Some(process);
            }
        }
    }

    /// `nameward-enforcer` of this host, with everything but `--api`.
    pub(crate) fn enforcer_command(&self) -> Command {
        let mut command = self.inside("nameward-enforcer");
        command.arg("--feed").arg(format!("unix:{}", self.feed().display()));
        command.args(["--instance", &self.instance, "--config"]).arg(&self.config);
        command.arg("--state").arg(self.folder.path().join("state"));
        command.arg("--audit-log").arg(self.folder.path().join("audit.log"));
        command
    }

    /// Where its API is.
    pub(crate) fn api(&self) -> PathBuf {
        self.folder.path().join("api.sock")
    }

    fn has_rules(&self, api: &Path) -> bool {
        let curl = ["-sS", "--max-time", "2", "--unix-socket"];
        let output = Command::new("curl").args(curl).arg(api).arg("http://localhost/v1/endpoints").output();
        let Ok(value) = serde_json::from_slice::<serde_json::Value>(&output.unwrap().stdout) else {
            return false;
        };
        let items = value.get("items").unwrap_or(&value).as_array().cloned().unwrap_or_default();
        items.len() == self.workloads.len() && items.iter().all(|one| one["generation"].as_u64() > Some(0))
    }

    /// Ends a process without giving it a chance.
    pub(crate) fn kill(&mut self, part: Part) {
        let process = match part {
            Part::Resolver => self.resolver.take(),
            Part::Enforcer => self.enforcer.take(),
        };
        let mut process = process.unwrap();
        process.signal(Signal::SIGKILL).unwrap();
        process.stop().unwrap();
    }

    /// Ends a process as a supervisor would.
    pub(crate) fn stop(&mut self, part: Part) {
        let process = match part {
            Part::Resolver => self.resolver.take(),
            Part::Enforcer => self.enforcer.take(),
        };
        let status = process.unwrap().stop().unwrap();
        assert_eq!(status.code(), Some(0), "{part:?}");
    }

    /// Waits until both workloads get an answer with addresses for the name that is always allowed.
    pub(crate) fn wait_until_served(&self) {
        for workload in &self.workloads {
            wait_until("the workload is served", READY, || {
                (ask(&**workload, "allowed.example", 1).status == "NOERROR").then_some(())
            });
        }
    }

    /// Allows these names from now on.
    pub(crate) fn reload(&self, names: &str) {
        let text = read(&self.config);
        let (before, rest) = text.split_once("domainNames: [").unwrap();
        let (_, after) = rest.split_once(']').unwrap();
        fs::write(&self.config, format!("{before}domainNames: [allowed.example, {names}]{after}")).unwrap();
        self.enforcer.as_ref().unwrap().signal(Signal::SIGHUP).unwrap();
    }

    pub(crate) fn feed(&self) -> PathBuf {
        self.folder.path().join("feed")
    }

    /// What both said, for the message of a failure.
    pub(crate) fn logs(&self) -> String {
        let all = [&self.resolver, &self.enforcer].into_iter().flatten();
        all.map(Daemon::log).collect::<Vec<_>>().join("\n---\n")
    }

    pub(crate) fn inside(&self, name: &str) -> Command {
        let mut command = self.internet.host().command("env");
        command.args(["-u", "RUST_LOG"]).arg(program(name).unwrap());
        command
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.logs());
        }
        drop((self.enforcer.take(), self.resolver.take()));
        let mut command = self.inside("nameward-enforcer");
        remove_instance(&mut command, &self.instance);
    }
}

/// Numbers logs, so that one of an earlier start is never read.
pub(crate) fn fresh() -> u8 {
    STARTS.fetch_add(1, Ordering::Relaxed)
}

pub(crate) fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

fn config(veth: &Workload, cgroup: &Path, names: &str) -> String {
    let [four, six] = veth.addresses() else { panic!("two addresses") };
    let (interface, cgroup) = (veth.interface(), cgroup.display());
    format!(
        "endpoints:
- {{name: veth, namespace: ci, labels: {{app: ci}}, addresses: [{four}, \"{six}\"], interface: {interface}}}
- {{name: box, namespace: ci, labels: {{app: ci}}, cgroup: {cgroup}}}
policies:
- apiVersion: nameward.io/v1alpha1
  kind: EgressPolicy
  metadata: {{name: ci, namespace: ci}}
  spec:
    podSelector: {{}}
    egress:
    - name: web
      to: [{{domainNames: [allowed.example, {names}]}}]
      ports: [{{protocol: TCP, port: 80}}]
"
    )
}

/// What a workload was answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Said {
    /// A response code, or `silence`.
    pub(crate) status: String,
    pub(crate) addresses: Vec<String>,
}

/// Asks for the IPv4 addresses of a name, once, for so many seconds.
pub(crate) fn ask(workload: &dyn Place, name: &str, seconds: u8) -> Said {
    understand(&asking(workload, name, seconds).output().unwrap().stdout)
}

/// The command that asks.
pub(crate) fn asking(workload: &dyn Place, name: &str, seconds: u8) -> Command {
    let mut command = workload.command("kdig");
    command.args([&format!("+time={seconds}"), "+retry=0", &format!("@{DNS}"), name, "A"]);
    command.stderr(Stdio::null());
    command
}

/// What `kdig` wrote.
pub(crate) fn understand(output: &[u8]) -> Said {
    let text = String::from_utf8_lossy(output);
    let status = text.split_once("status: ").and_then(|(_, rest)| rest.split(';').next());
    let addresses = text.lines().filter(|line| !line.starts_with(';')).filter_map(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        (words.len() == 5 && words[3] == "A").then(|| words[4].to_owned())
    });
    Said { status: status.unwrap_or("silence").to_owned(), addresses: addresses.collect() }
}

/// Whether a web page can be had, by name or address.
pub(crate) fn reaches(workload: &dyn Place, host: &str) -> bool {
    let mut curl = workload.command("curl");
    curl.args(["-4", "-sS", "--max-time", "5", &format!("http://{host}/")]).stderr(Stdio::null());
    curl.output().unwrap().stdout.starts_with(b"hello from")
}

/// A connection that a workload keeps open.
pub(crate) struct Held {
    process: Child,
    said: BufReader<std::process::ChildStdout>,
}

impl Held {
    /// Opens one to port 80 of an address.
    pub(crate) fn open(workload: &dyn Place, address: &str) -> Self {
        let script = r#"exec 3<>"/dev/tcp/$0/80" || exit 1
            echo open
            while read -r _; do
                printf 'GET / HTTP/1.1\r\n\r\n' >&3
                while true; do
                    read -r -t 5 line <&3 || { echo lost; exit 1; }
                    case $line in hello*) echo "$line"; break ;; esac
                done
            done"#;
        let mut command = workload.command("bash");
        command.args(["-c", script, address]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut process = command.spawn().unwrap();
        let said = BufReader::new(process.stdout.take().unwrap());
        let mut held = Self { process, said };
        assert_eq!(held.line(), "open\n", "{}", workload.name());
        held
    }

    /// Whether a request over it is answered.
    pub(crate) fn works(&mut self) -> bool {
        self.process.stdin.as_mut().unwrap().write_all(b"\n").unwrap();
        self.line().starts_with("hello from")
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.said.read_line(&mut line).unwrap();
        line
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        drop(self.process.stdin.take());
        drop(self.process.kill());
        drop(self.process.wait());
    }
}

fn remove_instance(enforcer: &mut Command, instance: &str) {
    let output = enforcer.args(["--remove", "--instance", instance]).output().unwrap();
    if !output.status.success() {
        eprintln!("{instance} was not removed: {}", String::from_utf8_lossy(&output.stderr));
    }
    drop(fs::remove_dir_all(Path::new("/run/nameward").join(instance)));
}

/// Instances of dead test processes.
fn remove_leftovers() {
    let places = ["/sys/fs/bpf/nameward", "/run/nameward"];
    let entries = places.iter().filter_map(|place| fs::read_dir(place).ok()).flatten().flatten();
    for name in entries.filter_map(|entry| entry.file_name().into_string().ok()) {
        let number =
            name.strip_prefix(PREFIX).map(|rest| rest.trim_end_matches(|c: char| c.is_ascii_lowercase()));
        let process = number.and_then(|number| number.parse::<u32>().ok());
        if process.is_some_and(|process| !Path::new("/proc").join(process.to_string()).exists()) {
            remove_instance(&mut Command::new(program("nameward-enforcer").unwrap()), &name);
        }
    }
}
