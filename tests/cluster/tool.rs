//! A real Kubernetes with Nameward on this machine, to be tried by hand: `cargo xtask cluster up`.
//!
//! A process of its own holds the small internet and a port of the loopback network that leads to the API server; the
//! network of this machine is not changed otherwise. `down` removes everything, also what a killed `up` has left.

mod gate;

use std::{
    fs,
    net::IpAddr,
    path::{Path, PathBuf},
    process::{Command, ExitCode, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use clap::{Parser, Subcommand};
use nameward_test_support::{
    SmallInternet,
    cluster::{self, Cluster, ClusterOptions, Kind},
    privileged, remove_leftovers,
};

/// Name of the one cluster that people make.
const NAME: &str = "own";
/// How long it may take to be ready.
const READY: Duration = Duration::from_secs(600);
const STEP: Duration = Duration::from_millis(100);
const KUBECONFIG: &str = "kubeconfig";
/// What the process in the background has to say at the end of its start.
const OUTCOME: &str = "outcome";

/// A real Kubernetes with Nameward on this machine, in namespaces.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask cluster", bin_name = "cargo xtask cluster")]
struct Args {
    #[command(subcommand)]
    task: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Make one, and say how to use it
    Up {
        /// Whom its DNS asks for names of others, a server that this machine reaches [default: the small internet's]
        #[arg(long, value_name = "ADDR")]
        dns: Option<IpAddr>,
        /// How many nodes it has
        #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=9))]
        nodes: u8,
    },
    /// End it and remove everything
    Down,
    /// Say how it is
    Status,
    /// Import an archive of an image on every node
    Load {
        /// The archive
        file: PathBuf,
    },
    /// What `up` starts in the background
    #[command(hide = true)]
    Serve { nodes: u8, folder: PathBuf, dns: Option<IpAddr> },
}

fn main() -> ExitCode {
    match perform(Args::parse().task) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn perform(task: Task) -> Result<()> {
    ensure!(privileged(), "a cluster cannot run here, see above");
    match task {
        Task::Up { dns, nodes } => up(dns, nodes),
        Task::Down => down(),
        Task::Status => status(),
        Task::Load { file } => Cluster::open(NAME)?.load(&file.canonicalize()?),
        Task::Serve { nodes, folder, dns } => serve(nodes, &folder, dns),
    }
}

/// Where the process in the background and this one meet.
fn meeting_place() -> PathBuf {
    std::env::temp_dir().join("nameward-cluster")
}

fn up(dns: Option<IpAddr>, nodes: u8) -> Result<()> {
    down()?;
    let folder = meeting_place();
    fs::create_dir_all(&folder)?;
    let log = fs::File::create(folder.join("log"))?;
    let mut command = Command::new("setsid");
    command.arg("--fork").arg(std::env::current_exe()?).arg("serve");
    command.arg(nodes.to_string()).arg(&folder).args(dns.map(|dns| dns.to_string()));
    command.env(cluster::MARK, NAME).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
    ensure!(command.status()?.success(), "cannot start {command:?}");
    println!("starting etcd, API server and {nodes} node(s); it takes about a minute ...");
    let (outcome, end) = (folder.join(OUTCOME), Instant::now() + READY);
    while !outcome.exists() {
        ensure!(folder.exists(), "somebody has ended it");
        ensure!(Instant::now() < end, "not ready after {READY:?}; see {}", folder.join("log").display());
        thread::sleep(STEP);
    }
    match fs::read_to_string(&outcome)?.as_str() {
        "" => {}
        error => bail!("{error}\n`cargo xtask cluster down` removes what is left"),
    }
    println!(
        "ready; images nameward.test/tools:1 and nameward.test/coredns:1 are there, `cargo xtask cluster down` ends it"
    );
    println!("export KUBECONFIG={}", folder.join(KUBECONFIG).display());
    Ok(())
}

fn down() -> Result<()> {
    cluster::remove(NAME)?;
    // The small internet's namespaces have the number of the process that has just ended in their names.
    remove_leftovers();
    match fs::remove_dir_all(meeting_place()) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error.into()),
        _ => Ok(()),
    }
}

fn status() -> Result<()> {
    let cluster = Cluster::open(NAME)?;
    print!("{}", cluster.kubectl(&["get", "nodes,egressnodes", "-o", "wide"])?);
    print!("{}", cluster.kubectl(&["get", "pods", "-A", "-o", "wide"])?);
    println!("export KUBECONFIG={}", meeting_place().join(KUBECONFIG).display());
    Ok(())
}

/// Makes the cluster and stays, with what only lives as long as a process.
fn serve(nodes: u8, folder: &Path, dns: Option<IpAddr>) -> Result<()> {
    let made = make(nodes, folder, dns);
    let text = made.as_ref().err().map(|error| format!("{error:#}")).unwrap_or_default();
    fs::write(folder.join("outcome.new"), text)?;
    fs::rename(folder.join("outcome.new"), folder.join(OUTCOME))?;
    let _all = made?;
    loop {
        thread::park();
    }
}

fn make(nodes: u8, folder: &Path, dns: Option<IpAddr>) -> Result<(SmallInternet, Cluster)> {
    let internet = SmallInternet::new()?;
    // Another server is reached by a port of ours.
    let asked = if dns.is_some() { gate::DNS } else { internet.dns() };
    let options = ClusterOptions { kind: Kind::Whole, name: NAME.into(), nodes, dns: asked };
    let cluster = Cluster::up(&options, Some(&internet))?;
    let namespace = Path::new("/run/netns").join(cluster.control().namespace());
    if let Some(server) = dns {
        gate::lead_dns_to(server, &namespace)?;
    }
    let port = gate::open(&namespace)?;
    let inside = fs::read_to_string(cluster.kubeconfig())?;
    let server = format!("https://127.0.0.1:{port}', tls-server-name: 'kubernetes.default.svc");
    fs::write(folder.join(KUBECONFIG), inside.replace(cluster::SERVER, &server))
        .context("cannot write the kubeconfig")?;
    Ok((internet, cluster))
}
