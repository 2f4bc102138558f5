//! `nameward-resolver` as a child process.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Command, Output},
    time::Duration,
};

use nameward_feed::folder::{self, ResolverSockets};
use nameward_test_support::{Daemon, Scratch, program, wait_until};

const READY: Duration = Duration::from_secs(20);

/// The process, and the folder of its files.
pub(crate) struct Resolver {
    pub(crate) process: Daemon,
    pub(crate) folder: Scratch,
}

/// The command, without arguments and without what this process is told.
pub(crate) fn command() -> Command {
    let mut command = Command::new(program("nameward-resolver").unwrap());
    command.env_remove("RUST_LOG");
    command
}

/// Runs it to its end, which must come by itself.
pub(crate) fn run(arguments: &[&str]) -> Output {
    let mut command = command();
    command.args(arguments);
    finish(command)
}

/// Runs a prepared command to its end, which must come by itself.
pub(crate) fn finish(mut command: Command) -> Output {
    let folder = Scratch::new("run").unwrap();
    let log = folder.path().join("log");
    let file = std::fs::File::create(&log).unwrap();
    command.stdin(std::process::Stdio::null()).stdout(file.try_clone().unwrap()).stderr(file);
    let mut child = command.spawn().unwrap();
    let ended = wait_until_ended(&mut child);
    let text = std::fs::read(&log).unwrap();
    let Some(status) = ended else {
        child.kill().unwrap();
        child.wait().unwrap();
        panic!("it goes on: {}", String::from_utf8_lossy(&text));
    };
    Output { status, stdout: Vec::new(), stderr: text }
}

fn wait_until_ended(child: &mut std::process::Child) -> Option<std::process::ExitStatus> {
    let end = std::time::Instant::now() + READY;
    while std::time::Instant::now() < end {
        if let Some(status) = child.try_wait().unwrap() {
            return Some(status);
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    None
}

impl Resolver {
    /// With endpoints of a file, at a free port of each of the addresses.
    pub(crate) fn with_endpoints(endpoints: &str, upstream: SocketAddr, more: &[&str]) -> (Self, SocketAddr) {
        let folder = Scratch::new("resolver").unwrap();
        let file = folder.file("endpoints.yaml", endpoints).unwrap();
        let mut command = command();
        command.args(["--listen", "127.0.0.1:0", "--upstream", &upstream.to_string(), "--endpoints"]);
        command.arg(file).args(more);
        let resolver = Self::start(command, folder, |log| log.contains("serving"));
        let port = resolver.port();
        (resolver, SocketAddr::from(([127, 0, 0, 1], port)))
    }

    /// At the feed in its own folder.
    pub(crate) fn with_feed(upstream: SocketAddr, more: &[&str]) -> Self {
        let folder = Scratch::new("resolver").unwrap();
        let feed = format!("unix:{}", folder.path().join("feed").display());
        let mut command = command();
        command.args(["--feed", &feed, "--upstream", &upstream.to_string()]).args(more);
        Self::start(command, folder, |log| log.contains("serving"))
    }

    fn start(mut command: Command, folder: Scratch, ready: impl Fn(&str) -> bool) -> Self {
        let log = folder.path().join("log");
        let mut process = Daemon::start("nameward-resolver", &mut command, &log).unwrap();
        process.wait(READY, || ready(&std::fs::read_to_string(&log).unwrap_or_default())).unwrap();
        Self { process, folder }
    }

    /// The port that it says it listens at, in either form of the log.
    pub(crate) fn port(&self) -> u16 {
        let log = self.process.log();
        let digits = |text: &str| text.chars().take_while(char::is_ascii_digit).collect::<String>();
        let ports = ["address=127.0.0.1:", "\"address\":\"127.0.0.1:"].map(|before| log.split_once(before));
        let Some((_, rest)) = ports.into_iter().flatten().next() else { panic!("no port in {log}") };
        digits(rest).parse().unwrap()
    }

    /// The folder of its feed.
    pub(crate) fn feed(&self) -> PathBuf {
        self.folder.path().join("feed")
    }

    /// Where enforcers connect.
    pub(crate) fn sockets(&self) -> ResolverSockets {
        sockets(&self.feed())
    }

    /// Waits until the log says this.
    #[track_caller]
    pub(crate) fn wait_for_log(&self, text: &str) {
        wait_until(text, READY, || self.process.log().contains(text).then_some(()));
    }
}

/// The sockets of the only resolver of a folder.
pub(crate) fn sockets(folder: &Path) -> ResolverSockets {
    let mut found = folder::resolvers(folder).unwrap();
    assert_eq!(found.len(), 1, "{found:?}");
    found.remove(0)
}
