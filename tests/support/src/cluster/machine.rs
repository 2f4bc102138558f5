//! A machine of a cluster: a network, mount and PID namespace that live and die with their first process.
//!
//! Its `/run`, `/var/log`, `/proc` and BPF file system are its own; the rest of the files are this machine's. Programs
//! are started by `nsenter`, detached, with their process number in `/run/processes/NAME`.

use std::{
    collections::BTreeSet,
    ffi::OsStr,
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use super::{PREFIX, folder};
use crate::{bounded::checked, leftovers::lives};

/// The first process of a machine; its argument is the machine's folder.
const INIT: &str = include_str!("init.sh");
/// Marks what belongs to a cluster, in the environment of what is started outside of its PID namespaces.
pub const MARK: &str = "NAMEWARD_CLUSTER";
const LIMIT: Duration = Duration::from_secs(60);
const STEP: Duration = Duration::from_millis(20);

/// One machine.
#[derive(Debug)]
pub struct Machine {
    cluster: String,
    name: String,
    init: u32,
}

impl Machine {
    /// Makes one without any interface but loopback.
    pub(super) fn start(cluster: &str, name: &str) -> Result<Self> {
        let place = folder(cluster).join(name);
        fs::create_dir_all(place.join("logs"))?;
        let script = place.join("init.sh");
        fs::write(&script, INIT)?;
        let namespace = namespace(cluster, name);
        checked(Command::new("ip").args(["netns", "add", &namespace]))?;
        checked(Command::new("ip").args(["-n", &namespace, "link", "set", "lo", "up"]))?;
        make_cgroup(&namespace)?;
        let mut command = Command::new("setsid");
        command.args(["--fork", "nsenter", &format!("--net=/run/netns/{namespace}"), "--"]);
        command.args(["unshare", "--mount", "--propagation", "private", "--pid", "--fork", "bash"]);
        detached(command.arg(script).arg(&place).env(MARK, cluster), &place.join("logs/init.log"))?;
        let end = Instant::now() + LIMIT;
        while !place.join("init").exists() {
            ensure!(Instant::now() < end, "the machine {name} does not start");
            thread::sleep(STEP);
        }
        Self::open(cluster, name)
    }

    /// One that was made.
    pub(super) fn open(cluster: &str, name: &str) -> Result<Self> {
        let file = folder(cluster).join(name).join("init");
        let text = fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
        let init = text.trim().parse()?;
        ensure!(
            is_marked(init, cluster),
            "the machine {name} of the cluster {cluster} does not run any more"
        );
        Ok(Self { cluster: cluster.to_owned(), name: name.to_owned(), init })
    }

    /// Its cluster's name.
    pub(super) fn cluster(&self) -> &str {
        &self.cluster
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its folder: what is kept there is the same file inside and outside.
    pub fn folder(&self) -> PathBuf {
        folder(&self.cluster).join(&self.name)
    }

    /// Name of its network namespace, as `ip netns` has it.
    pub fn namespace(&self) -> String {
        namespace(&self.cluster, &self.name)
    }

    /// The cgroup of what runs on it, below the root of each hierarchy.
    pub fn cgroup(&self) -> String {
        format!("/{}", self.namespace())
    }

    /// A folder of it, where `/proc/PROCESS/cgroup` names what is below.
    pub fn cgroup_folder(&self) -> PathBuf {
        let all = hierarchies();
        all.into_iter().next_back().unwrap_or_default().join(self.namespace())
    }

    /// Where a path of the machine is to be found from outside.
    pub fn path(&self, inside: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root{inside}", self.init))
    }

    /// A command that will run on it.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["--target", &self.init.to_string(), "--net", "--mount", "--pid", "--"]);
        command.arg(program).stdin(Stdio::null());
        command
    }

    /// Runs one that must succeed, and returns what it wrote.
    ///
    /// # Errors
    /// When it fails, with what it wrote.
    pub fn output(&self, program: impl AsRef<OsStr>, arguments: &[&str]) -> Result<String> {
        checked(self.command(program).args(arguments))
    }

    /// Runs `ip` on it, with words separated by spaces.
    ///
    /// # Errors
    /// When it fails.
    pub fn ip(&self, words: &str) -> Result<String> {
        let namespace = self.namespace();
        checked(Command::new("ip").args(["-n", &namespace]).args(words.split_whitespace()))
    }

    /// Starts a program that serves. It goes on when this process ends.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn serve(&self, name: &str, program: &Path, arguments: &[String]) -> Result<()> {
        // What others start by name, containerd its shim for one, is beside it.
        let beside = program.parent().unwrap_or(Path::new("/")).display().to_string();
        let mut folders = vec![beside];
        for other in ["containerd-shim-runc-v2", "runc", "conntrack", "nft"] {
            folders
                .extend(super::tool(other).ok().and_then(|path| Some(path.parent()?.display().to_string())));
        }
        folders.extend(["/usr/sbin", "/usr/bin", "/sbin", "/bin"].map(str::to_owned));
        let mut command = Command::new("setsid");
        command.args([
            "--fork",
            "nsenter",
            "--target",
            &self.init.to_string(),
            "--net",
            "--mount",
            "--pid",
            "--",
        ]);
        command.args(["sh", "-c", r#"echo $$ > "/run/processes/$0" && exec "$@""#, name]);
        command.arg(program).args(arguments).env("PATH", folders.join(":")).env(MARK, &self.cluster);
        detached(&mut command, &self.log_of(name))
    }

    /// Sends a signal to a program that [`serve`](Self::serve) started.
    ///
    /// # Errors
    /// When it does not run.
    pub fn signal(&self, name: &str, signal: Signal) -> Result<()> {
        let number = (signal as i32).to_string();
        let script = r#"kill -"$1" "$(cat "/run/processes/$0")""#;
        self.output("sh", &["-c", script, name, &number]).map(drop)
    }

    /// Whether it runs.
    pub fn runs(&self, name: &str) -> bool {
        let script = r#"kill -0 "$(cat "/run/processes/$0")""#;
        self.output("sh", &["-c", script, name]).is_ok()
    }

    /// What it wrote so far.
    pub fn log(&self, name: &str) -> String {
        String::from_utf8_lossy(&fs::read(self.log_of(name)).unwrap_or_default()).into_owned()
    }

    /// The last lines that each program of the machine wrote.
    pub(super) fn logs(&self, lines: usize) -> String {
        let mut text = String::new();
        for name in names_in(&self.folder().join("logs")) {
            let name = name.trim_end_matches(".log");
            let log = self.log(name);
            let log: Vec<&str> = log.lines().collect();
            text += &format!("--- {} of {}\n", name, self.name);
            for line in &log[log.len().saturating_sub(lines)..] {
                text += line;
                text.push('\n');
            }
        }
        text
    }

    fn log_of(&self, name: &str) -> PathBuf {
        self.folder().join("logs").join(format!("{name}.log"))
    }
}

/// Names in a folder.
pub(super) fn names_in(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
    names.sort();
    names
}

/// Ends all machines of a cluster, and removes their namespaces and cgroups.
pub(super) fn remove_all(cluster: &str, end: Instant) -> Result<()> {
    let mut members = BTreeSet::new();
    loop {
        // One that ends has no environment any more, long before it has ended.
        members.retain(|member| lives(*member));
        members.extend(marked(cluster));
        if members.is_empty() {
            break;
        }
        // With the first process of a PID namespace the kernel ends all others.
        for member in &members {
            kill(Pid::from_raw(member.cast_signed()), Signal::SIGKILL).ok();
        }
        ensure!(Instant::now() < end, "processes {members:?} of the cluster {cluster} do not end");
        thread::sleep(STEP);
    }
    let ours = |name: &String| name.starts_with(&format!("{PREFIX}{cluster}-"));
    for namespace in names_in(Path::new("/run/netns")).iter().filter(|name| ours(name)) {
        checked(Command::new("ip").args(["netns", "del", namespace]))?;
    }
    for hierarchy in hierarchies() {
        for name in names_in(&hierarchy).iter().filter(|name| ours(name)) {
            remove_cgroup(&hierarchy.join(name), end)?;
        }
    }
    Ok(())
}

fn namespace(cluster: &str, name: &str) -> String {
    format!("{PREFIX}{cluster}-{name}")
}

/// Processes of a cluster as this process sees them, without those that have ended and wait for their parent.
fn marked(cluster: &str) -> Vec<u32> {
    let processes = names_in(Path::new("/proc")).into_iter().filter_map(|name| name.parse().ok());
    processes.filter(|process| *process != std::process::id() && is_marked(*process, cluster)).collect()
}

fn is_marked(process: u32, cluster: &str) -> bool {
    let wanted = format!("{MARK}={cluster}");
    let variables = fs::read(format!("/proc/{process}/environ")).unwrap_or_default();
    variables.split(|byte| *byte == 0).any(|variable| variable == wanted.as_bytes())
}

/// Where the hierarchies of cgroups are: one of version 2, or many of version 1, or both.
fn hierarchies() -> Vec<PathBuf> {
    let mounts = fs::read_to_string("/proc/mounts").unwrap_or_default();
    let fields = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>());
    let cgroups = fields.filter(|fields| fields.len() > 2 && fields[2].starts_with("cgroup"));
    cgroups.map(|fields| PathBuf::from(fields[1])).collect()
}

/// A cgroup of one's own in each hierarchy, as kubelet wants it for the root of its own.
fn make_cgroup(name: &str) -> Result<()> {
    for hierarchy in hierarchies() {
        let path = hierarchy.join(name);
        fs::create_dir_all(&path).with_context(|| format!("cannot make {}", path.display()))?;
        // Version 1 wants these before any process may be inside.
        for file in ["cpuset.cpus", "cpuset.mems"] {
            if path.join(file).exists() && hierarchy.join(file).exists() {
                fs::write(path.join(file), fs::read_to_string(hierarchy.join(file))?.trim())?;
            }
        }
    }
    Ok(())
}

fn remove_cgroup(path: &Path, end: Instant) -> Result<()> {
    for child in names_in(path) {
        if path.join(&child).is_dir() {
            remove_cgroup(&path.join(child), end)?;
        }
    }
    // Processes that were killed leave it a moment later.
    while let Err(error) = fs::remove_dir(path) {
        if error.kind() == std::io::ErrorKind::NotFound {
            break;
        }
        if Instant::now() > end {
            return Err(error).with_context(|| format!("cannot remove {}", path.display()));
        }
        thread::sleep(STEP);
    }
    Ok(())
}

/// Starts what goes on without us, with both outputs in a file.
fn detached(command: &mut Command, log: &Path) -> Result<()> {
    let file = fs::File::options().create(true).append(true).open(log)?;
    command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file);
    let status = command.status().with_context(|| format!("cannot start {command:?}"))?;
    ensure!(status.success(), "{command:?}: {status}");
    Ok(())
}
