//! A host with workloads behind interfaces, a small internet, and the two processes.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result};
use nameward_test_support::{Daemon, Scratch, SmallInternet, Workload, output_within, program};

const READY: Duration = Duration::from_secs(60);
const LIMIT: Duration = Duration::from_secs(30);

/// The host. What it put into the kernel goes with it.
pub(crate) struct World {
    enforcer: Option<Daemon>,
    resolver: Option<Daemon>,
    instance: String,
    folder: Scratch,
    pub(crate) workloads: Vec<Workload>,
    pub(crate) internet: SmallInternet,
}

impl World {
    /// With so many workloads, and no process yet.
    pub(crate) fn new(workloads: u8) -> Result<Self> {
        let mut internet = SmallInternet::new()?;
        let dns = internet.dns();
        let workloads = (0..workloads).map(|_| internet.add_workload(dns)).collect::<Result<Vec<_>>>()?;
        let instance = format!("nwt{}d", std::process::id());
        Ok(Self {
            enforcer: None,
            resolver: None,
            instance,
            folder: Scratch::new("dnsworld")?,
            workloads,
            internet,
        })
    }

    /// The folder in which resolvers listen.
    pub(crate) fn feed(&self) -> PathBuf {
        self.folder.path().join("feed")
    }

    /// Starts the resolver, which asks this server.
    pub(crate) fn start_resolver(&mut self, upstream: SocketAddr) -> Result<()> {
        let mut command = self.command("nameward-resolver")?;
        command.args(["--feed", &self.feed_place(), "--upstream", &upstream.to_string()]);
        let log = self.folder.path().join("resolver.log");
        let mut process = Daemon::start("nameward-resolver", &mut command, &log)?;
        process.wait(READY, || fs::read_to_string(&log).is_ok_and(|said| said.contains("serving")))?;
        self.resolver = Some(process);
        Ok(())
    }

    /// Starts the enforcer, and returns when rules are in force everywhere.
    pub(crate) fn start_enforcer(&mut self) -> Result<()> {
        let config = self.folder.file("host.yaml", &self.config())?;
        let mut command = self.enforcer()?;
        command.args(["--feed", &self.feed_place(), "--config"]).arg(config);
        command.arg("--state").arg(self.folder.path().join("state"));
        command.arg("--api").arg(format!("unix:{}", self.api().display()));
        let log = self.folder.path().join("enforcer.log");
        let mut process = Daemon::start("nameward-enforcer", &mut command, &log)?;
        process.wait(READY, || self.has_rules())?;
        self.enforcer = Some(process);
        Ok(())
    }

    /// The processes that run, by name.
    pub(crate) fn processes(&self) -> impl Iterator<Item = (&'static str, u32)> {
        let enforcer = self.enforcer.iter().map(|process| ("nameward-enforcer", process.id()));
        enforcer.chain(self.resolver.iter().map(|process| ("nameward-resolver", process.id())))
    }

    /// Packets that were denied so far, by reason.
    pub(crate) fn denied(&self) -> Result<Vec<(String, u64)>> {
        let text = self.get("metrics")?;
        let denied = text
            .lines()
            .filter(|line| line.starts_with("nameward_packets_total") && line.contains(r#"verdict="deny""#));
        let read = |line: &str| {
            let (_, rest) = line.split_once(r#"reason=""#)?;
            Some((rest.split('"').next()?.to_owned(), line.rsplit(' ').next()?.parse().ok()?))
        };
        denied.map(|line| read(line).with_context(|| format!("a metric without a number: {line}"))).collect()
    }

    fn has_rules(&self) -> bool {
        let metrics = self.get("metrics").unwrap_or_default();
        let generations = metrics.lines().filter(|line| line.starts_with("nameward_endpoint_generation{"));
        generations.filter(|line| !line.ends_with(" 0")).count() == self.workloads.len()
    }

    fn get(&self, path: &str) -> Result<String> {
        let mut curl = Command::new("curl");
        curl.args(["-sS", "--max-time", "10", "--unix-socket"]).arg(self.api());
        let output = output_within(curl.arg(format!("http://localhost/{path}")), LIMIT)?;
        Ok(String::from_utf8(output.stdout)?)
    }

    fn api(&self) -> PathBuf {
        self.folder.path().join("api.sock")
    }

    fn feed_place(&self) -> String {
        format!("unix:{}", self.feed().display())
    }

    fn command(&self, name: &str) -> Result<Command> {
        let mut command = self.internet.host().command("env");
        // Decisions are not logged.
        command.arg("RUST_LOG=info,audit=warn").arg(program(name)?);
        Ok(command)
    }

    fn enforcer(&self) -> Result<Command> {
        let mut command = self.command("nameward-enforcer")?;
        command.args(["--instance", &self.instance]);
        Ok(command)
    }

    fn config(&self) -> String {
        let mut text = String::from(CONFIG);
        text.extend(self.workloads.iter().map(|workload| {
            let addresses: Vec<_> = workload.addresses().iter().map(|one| format!("\"{one}\"")).collect();
            let (interface, addresses) = (workload.interface(), addresses.join(", "));
            format!("- {{name: {interface}, namespace: bench, addresses: [{addresses}], interface: {interface}}}\n")
        }));
        text
    }
}

/// Names without grace are gone with their TTL; the others would hide an expiry that comes too early.
const CONFIG: &str = "settings:
  limits: {queriesPerSecond: 100000, names: 20000, addresses: 20000, pendingQueries: 1000}
policies:
- apiVersion: nameward.io/v1alpha1
  kind: EgressPolicy
  metadata: {name: bench, namespace: bench}
  spec:
    podSelector: {}
    egress:
    - name: many
      to: [{domainNames: [\"*.many.example\"]}]
      ports: [{protocol: UDP, port: 443}]
    - name: strict
      to: [{domainNames: [\"*.strict.example\"]}]
      ports: [{protocol: UDP, port: 443}]
      graceSeconds: 0
endpoints:
";

impl Drop for World {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let all = [&self.resolver, &self.enforcer].into_iter().flatten();
            all.for_each(|process| eprintln!("{}", process.log()));
        }
        drop((self.enforcer.take(), self.resolver.take()));
        let removed = self.enforcer().and_then(|mut command| output_within(command.arg("--remove"), LIMIT));
        if !removed.as_ref().is_ok_and(|output| output.status.success()) {
            eprintln!("{} was not removed: {removed:?}", self.instance);
        }
        drop(fs::remove_dir_all(Path::new("/run/nameward").join(&self.instance)));
    }
}
