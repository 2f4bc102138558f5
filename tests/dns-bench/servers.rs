//! The servers that are compared: all answer for the same zone, each on the same one processor.

use std::{
    env,
    net::{Ipv4Addr, SocketAddrV4},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Result, bail};
use nameward_test_support::{Daemon, Netns, Scratch, program};

use crate::{
    client::{Client, Load},
    cpu::Group,
    questions,
};

/// Where servers run, and where the client and the upstream do.
pub(crate) const SERVERS_CPU: usize = 0;
pub(crate) const CLIENT_CPU: usize = 1;
const UPSTREAM_PORT: u16 = 5_300;
const READY_WITHIN: Duration = Duration::from_secs(30);

/// What a server is to the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    Ours,
    Authoritative,
    Forwarder,
}

/// A server that runs.
pub(crate) struct Server {
    pub(crate) name: &'static str,
    pub(crate) role: Role,
    pub(crate) at: SocketAddrV4,
    pub(crate) group: Group,
    process: Daemon,
}

/// All of them, and what they need.
pub(crate) struct Servers {
    pub(crate) cached: Vec<Server>,
    /// Ours, and one that forwards every question.
    pub(crate) forwarding: Vec<Server>,
    _upstream: Server,
    _folder: Scratch,
}

impl Servers {
    pub(crate) fn start(namespace: &Netns) -> Result<Self> {
        let folder = Scratch::new("dnsbench")?;
        let start = Starter { namespace, folder: &folder };
        let upstream = start.nsd("upstream", UPSTREAM_PORT, CLIENT_CPU)?;
        let mut cached = vec![
            start.nameward("nameward", 5_301)?,
            start.nsd("nsd", 5_302, SERVERS_CPU)?,
            start.unbound(5_303)?,
            start.dnsdist("dnsdist", 5_304, true)?,
            start.dnsmasq(5_305)?,
        ];
        match coredns() {
            Some(program) => cached.push(start.coredns(&program, 5_308)?),
            None => println!("coredns is not on the path: it is left out"),
        }
        let forwarding =
            vec![start.nameward("nameward-misses", 5_306)?, start.dnsdist("dnsdist-misses", 5_307, false)?];
        Ok(Self { cached, forwarding, _upstream: upstream, _folder: folder })
    }

    /// Fails when one has ended.
    pub(crate) fn check(&mut self) -> Result<()> {
        self.cached.iter_mut().chain(&mut self.forwarding).try_for_each(|server| server.process.check())
    }
}

struct Starter<'a> {
    namespace: &'a Netns,
    folder: &'a Scratch,
}

impl Starter<'_> {
    fn nameward(&self, name: &'static str, port: u16) -> Result<Server> {
        let endpoints = self.folder.file("endpoints.yaml", &endpoints())?;
        let program = program("nameward-resolver")?;
        let listen = format!("127.0.0.1:{port}");
        let upstream = format!("127.0.0.1:{UPSTREAM_PORT}");
        let arguments =
            ["--listen", &listen, "--upstream", &upstream, "--endpoints", text(&endpoints), "--log", "json"];
        self.start(name, Role::Ours, port, SERVERS_CPU, text(&program), &arguments)
    }

    fn nsd(&self, name: &'static str, port: u16, cpu: usize) -> Result<Server> {
        let folder = self.folder.path().display();
        self.folder.file("zone", &questions::zone())?;
        let file = self.folder.file(
            &format!("{name}.conf"),
            &format!(
                "server:\n  ip-address: 127.0.0.1@{port}\n  username: \"\"\n  chroot: \"\"\n  zonesdir: \"{folder}\"\n  \
                 database: \"\"\n  pidfile: \"\"\n  xfrdir: \"{folder}\"\n  xfrdfile: \"{folder}/{name}.xfrd\"\n  \
                 zonelistfile: \"{folder}/{name}.list\"\n  cookie-secret-file: \"{folder}/{name}.cookies\"\n  \
                 server-count: 1\n  rrl-ratelimit: 0\nremote-control:\n  control-enable: no\n\
                 zone:\n  name: \".\"\n  zonefile: zone\n"
            ),
        )?;
        self.start(name, Role::Authoritative, port, cpu, "nsd", &["-d", "-c", text(&file)])
    }

    fn unbound(&self, port: u16) -> Result<Server> {
        let file = self.folder.file(
            "unbound.conf",
            &format!(
                "server:\n  interface: 127.0.0.1@{port}\n  access-control: 127.0.0.0/8 allow\n  num-threads: 1\n  \
                 do-daemonize: no\n  use-syslog: no\n  username: \"\"\n  chroot: \"\"\n  pidfile: \"\"\n  \
                 do-not-query-localhost: no\n  so-rcvbuf: 4m\n  module-config: \"iterator\"\n  msg-cache-size: 64m\n  \
                 rrset-cache-size: 128m\nremote-control:\n  control-enable: no\n\
                 forward-zone:\n  name: \".\"\n  forward-addr: 127.0.0.1@{UPSTREAM_PORT}\n"
            ),
        )?;
        self.start("unbound", Role::Forwarder, port, SERVERS_CPU, "unbound", &["-d", "-c", text(&file)])
    }

    fn dnsdist(&self, name: &'static str, port: u16, cache: bool) -> Result<Server> {
        let mut config = format!(
            "setLocal('127.0.0.1:{port}')\nsetACL({{'127.0.0.0/8'}})\nsetSecurityPollSuffix('')\n\
             newServer('127.0.0.1:{UPSTREAM_PORT}')\n"
        );
        if cache {
            config.push_str("getPool(''):setCache(newPacketCache(100000))\n");
        }
        let file = self.folder.file(&format!("{name}.lua"), &config)?;
        let arguments = ["--supervised", "--disable-syslog", "-C", text(&file)];
        self.start(name, Role::Forwarder, port, SERVERS_CPU, "dnsdist", &arguments)
    }

    fn dnsmasq(&self, port: u16) -> Result<Server> {
        let (port_is, server) = (format!("--port={port}"), format!("--server=127.0.0.1#{UPSTREAM_PORT}"));
        let arguments = [
            "--keep-in-foreground",
            &port_is,
            "--listen-address=127.0.0.1",
            "--bind-interfaces",
            "--conf-file=/dev/null",
            "--no-resolv",
            "--no-hosts",
            "--pid-file=",
            "--user=root",
            "--cache-size=10000",
            "--dns-forward-max=2000",
            &server,
        ];
        self.start("dnsmasq", Role::Forwarder, port, SERVERS_CPU, "dnsmasq", &arguments)
    }

    fn coredns(&self, program: &Path, port: u16) -> Result<Server> {
        let file = self.folder.file(
            "Corefile",
            &format!(
                ".:{port} {{\n  bind 127.0.0.1\n  cache 3600 {{\n    success 10000\n  }}\n  \
                 forward . 127.0.0.1:{UPSTREAM_PORT}\n}}\n"
            ),
        )?;
        self.start("coredns", Role::Forwarder, port, SERVERS_CPU, text(program), &["-conf", text(&file)])
    }

    fn start(
        &self,
        name: &'static str,
        role: Role,
        port: u16,
        cpu: usize,
        program: &str,
        arguments: &[&str],
    ) -> Result<Server> {
        let mut command = self.namespace.command("taskset");
        // Decisions are not logged: no other server here writes a line for each name.
        command.args(["-c", &cpu.to_string(), program]).args(arguments).env("RUST_LOG", "warn");
        let process = Daemon::start(name, &mut command, &self.folder.path().join(format!("{name}.log")))?;
        let at = SocketAddrV4::new(Ipv4Addr::LOCALHOST, port);
        let mut server = Server { name, role, at, group: Group::of(process.id()), process };
        self.wait(&mut server)?;
        server.group = Group::of(server.process.id());
        Ok(server)
    }

    fn wait(&self, server: &mut Server) -> Result<()> {
        let end = Instant::now() + READY_WITHIN;
        let load = Load { target: server.at, window: 1, pace: None, time: Duration::from_millis(200) };
        let mut client = self.namespace.run(Client::new)??;
        while Instant::now() < end {
            server.process.check()?;
            let mut asked = false;
            let done = client.run(&load, &mut |message| {
                questions::cached(0, message);
                (!std::mem::replace(&mut asked, true)).then(|| questions::source(0))
            })?;
            if done.answers == 1 && done.wrong == 0 {
                return Ok(());
            }
        }
        bail!("{} does not answer: {}", server.name, server.process.log())
    }
}

/// CoreDNS is in no distribution: xtask builds it, and puts its folder on the path.
fn coredns() -> Option<PathBuf> {
    let path = env::var_os("PATH")?;
    env::split_paths(&path).map(|folder| folder.join("coredns")).find(|program| program.is_file())
}

/// The policy of all endpoints, and the endpoints by their source addresses.
fn endpoints() -> String {
    let mut text = String::from(
        "settings:\n  limits: {queriesPerSecond: 1000000, names: 100000, addresses: 100000, pendingQueries: 1000}\n\
         policies:\n- apiVersion: nameward.io/v1alpha1\n  kind: EgressPolicy\n  metadata: {name: bench, namespace: bench}\n  \
         spec:\n    podSelector: {}\n    egress:\n    - name: web\n      to: [{domainNames: [\"*.bench.example\"]}]\n      \
         ports: [{protocol: TCP, port: 443}]\n      graceSeconds: 0\nendpoints:\n",
    );
    text.extend((0..questions::ENDPOINTS).map(|endpoint| {
        let address = questions::source(endpoint);
        format!("- {{name: e{endpoint}, namespace: bench, addresses: [{address}]}}\n")
    }));
    text
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap_or_default()
}
