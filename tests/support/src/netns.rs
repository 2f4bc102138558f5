//! A network namespace of one's own: code and commands run in it, and it goes when the guard does.

use std::{
    fs::File,
    io::Read,
    os::fd::AsFd,
    panic::resume_unwind,
    path::PathBuf,
    process::{Command, Output, Stdio},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use nix::sched::{CloneFlags, setns};

use crate::{
    bounded::output_within,
    leftovers::{fresh_name, remove_namespace},
};

/// How long a command that sets something up may take.
const LIMIT: Duration = Duration::from_secs(60);

/// A namespace with its loopback up.
#[derive(Debug)]
pub struct Netns {
    name: String,
}

impl Netns {
    /// Makes one; `role` ends its name and shows in `ip netns`.
    pub fn new(role: &str) -> Result<Self> {
        let name = fresh_name(role);
        run("ip", &["netns", "add", &name])?;
        let namespace = Self { name };
        namespace.ip("link set lo up")?;
        Ok(namespace)
    }

    /// Its name for `ip netns`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The file that stands for it.
    pub fn path(&self) -> PathBuf {
        PathBuf::from("/run/netns").join(&self.name)
    }

    /// Runs `ip` in it, with words separated by spaces: `ip("link set eth0 up")`.
    pub fn ip(&self, words: &str) -> Result<String> {
        let mut arguments = vec!["-n", &self.name];
        arguments.extend(words.split_whitespace());
        run("ip", &arguments)
    }

    /// Sets kernel parameters of it: `sysctl(&["net.ipv4.ip_forward=1"])`.
    pub fn sysctl(&self, settings: &[&str]) -> Result<()> {
        let mut arguments = vec!["-q", "-w"];
        arguments.extend(settings);
        self.output("sysctl", &arguments).map(drop)
    }

    /// A command that will run in it. Mounts are those of the caller, so cgroups and bpffs stay visible.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", self.path().display())).arg("--").arg(program);
        command.stdin(Stdio::null());
        command
    }

    /// Runs a command that must succeed, and returns what it wrote.
    pub fn output(&self, program: &str, arguments: &[&str]) -> Result<String> {
        checked(self.command(program).args(arguments))
    }

    /// Does `work` in the namespace, on a thread of its own. Sockets opened there stay there.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        let file = File::open(self.path()).with_context(|| format!("namespace {}", self.name))?;
        thread::scope(|scope| {
            let thread = scope.spawn(|| {
                setns(file.as_fd(), CloneFlags::CLONE_NEWNET).context("entering a namespace needs root")?;
                Ok(work())
            });
            thread.join().unwrap_or_else(|panic| resume_unwind(panic))
        })
    }

    /// [`run`](Self::run) for a future, with a tokio runtime whose threads are in the namespace as well.
    pub fn block_on<T: Send>(&self, work: impl AsyncFnOnce() -> T + Send) -> Result<T> {
        self.run(|| {
            let runtime =
                tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
            Ok(runtime.block_on(work()))
        })?
    }

    /// Joins an interface here to one of another namespace.
    pub fn join(&self, interface: &str, other: &Self, others: &str) -> Result<()> {
        self.ip(&format!("link add {interface} type veth peer name {others} netns {}", other.name))?;
        self.ip(&format!("link set {interface} up"))?;
        other.ip(&format!("link set {others} up")).map(drop)
    }

    /// Makes a bridge that is up, with these interfaces as ports.
    pub fn bridge(&self, bridge: &str, ports: &[&str]) -> Result<()> {
        self.ip(&format!("link add {bridge} type bridge"))?;
        for port in ports {
            self.ip(&format!("link set {port} master {bridge}"))?;
        }
        self.ip(&format!("link set {bridge} up")).map(drop)
    }

    /// Gives an interface addresses (`198.51.100.1/24`), usable at once.
    pub fn address(&self, interface: &str, addresses: &[&str]) -> Result<()> {
        for address in addresses {
            let at_once = if address.contains(':') { "nodad" } else { "" };
            self.ip(&format!("addr add {address} dev {interface} {at_once}"))?;
        }
        Ok(())
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        remove_namespace(&self.name);
    }
}

/// Runs a command of the root namespace that must succeed.
pub(crate) fn run(program: &str, arguments: &[&str]) -> Result<String> {
    checked(Command::new(program).args(arguments))
}

fn checked(command: &mut Command) -> Result<String> {
    let Output { status, stdout, stderr } =
        output_within(command, LIMIT).with_context(|| format!("{command:?}"))?;
    if !status.success() {
        bail!("{command:?}: {status}: {}", String::from_utf8_lossy(&stderr).trim());
    }
    let mut text = String::new();
    stdout.as_slice().read_to_string(&mut text)?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;

    use super::*;
    use crate::privileged;

    #[test]
    fn sockets_of_a_namespace_are_its_own() {
        if !privileged() {
            return;
        }
        let (one, two) = (Netns::new("one").unwrap(), Netns::new("two").unwrap());
        one.join("eth0", &two, "eth0").unwrap();
        one.address("eth0", &["198.51.100.1/24", "2001:db8::1/64"]).unwrap();
        two.address("eth0", &["198.51.100.2/24", "2001:db8::2/64"]).unwrap();
        for (here, there) in [("198.51.100.1", "198.51.100.2"), ("2001:db8::1", "2001:db8::2")] {
            let bind = |address: &str| UdpSocket::bind((address, 7)).unwrap();
            let (receiver, sender) = (two.run(|| bind(there)).unwrap(), one.run(|| bind(here)).unwrap());
            sender.send_to(b"hello", (there, 7)).unwrap();
            let mut buffer = [0; 16];
            let (length, from) = receiver.recv_from(&mut buffer).unwrap();
            assert_eq!((&buffer[..length], from.ip().to_string().as_str()), (&b"hello"[..], here));
        }
        let path = one.path();
        assert!(path.exists());
        drop(one);
        assert!(!path.exists(), "the guard removes it");
    }

    #[test]
    fn a_command_that_fails_says_why() {
        if !privileged() {
            return;
        }
        let error = Netns::new("x").unwrap().ip("link set absent up").unwrap_err().to_string();
        assert!(error.contains("Cannot find device"), "{error}");
    }
}
