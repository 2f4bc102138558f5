//! `nameward run`, from the arguments to the exit status (SEMANTICS X1-X8).
//!
//! ```text
//! rules, servers, credentials   all mistakes are known here; nothing exists yet
//! lease, cgroup, sandbox        one thread: the sandbox is a fork. It arranges itself and waits
//! fence                         programs on the cgroup, resolver on its ports
//! go                            the command starts; denials are told until the last process has ended
//! summary, --learn, removal
//! ```
#![allow(unsafe_code, reason = "registering a descriptor with the runtime")]

mod api;
mod fence;
mod learn_file;
pub(crate) mod pins;
mod questions;
mod signals;
mod upstream;

use std::ffi::CString;
use std::fs;
use std::io::IsTerminal;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use nameward_api::serve::ApiListener;
use nix::sys::signalfd::SignalFd;
use rustix::io::Errno;
use rustix::net::AddressFamily;
use rustix::net::sockopt::socket_domain;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use self::fence::{Fence, FenceOptions};
use self::learn_file::LearnFile;
use self::pins::Pins;
use self::signals::{Request, Requests, Signals};
use self::upstream::Upstream;
use crate::args::{LogFormat, Run};
use crate::report::Report;
use crate::resolver_conf;
use crate::rules::Rules;
use crate::sandbox::{self, Cgroup, Credentials, Lease, Plan, Sandbox, Terminal, View};

/// Runs a command behind the fence.
pub(crate) fn run(arguments: &Run) -> Result<ExitCode> {
    let logging = tracing_subscriber::EnvFilter::try_from_env("NAMEWARD_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("error,audit=off"));
    tracing_subscriber::fmt()
        .with_env_filter(logging)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr)
        .init();
    let prepared = Prepared::read(arguments)?;
    let signals = Signals::block()?;
    let terminal = Terminal::remember();
    let result = prepared.start(signals);
    terminal.restore();
    result
}

/// Folders that `--hide` cannot cover: a cover of `/` would not be seen, and every sandbox has a `/proc` of its own.
const WITHOUT_HIDING: [&str; 2] = ["/", "/proc"];

/// What is known before anything is made.
struct Prepared<'a> {
    arguments: &'a Run,
    rules: Rules,
    upstream: Upstream,
    plan: Plan,
    learn: Option<LearnFile>,
}

impl<'a> Prepared<'a> {
    fn read(arguments: &'a Run) -> Result<Self> {
        refuse_network_sockets()?;
        let rules = Rules::collect(arguments, &read_or_empty("/etc/hosts")?)?;
        if arguments.log == LogFormat::Text {
            rules.warnings.iter().for_each(|warning| eprintln!("nameward: warning: {warning}"));
        }
        ensure!(
            nix::unistd::Uid::effective().is_root(),
            "`nameward run` needs root to load its kernel programs; run it as `sudo nameward run ...`: \
             the command itself will run as you"
        );
        let resolv_conf = read_or_empty("/etc/resolv.conf")?;
        let servers = match arguments.dns {
            Some(server) => vec![server],
            None => resolver_conf::servers(&resolv_conf),
        };
        let upstream = Upstream::probe(servers, rules.need_dns())?;
        let plan = plan(arguments, &resolv_conf, &upstream)?;
        let learn = match &arguments.learn {
            Some(file) => Some(LearnFile::open(file, &Credentials::find(None)?)?),
            None => None,
        };
        Ok(Self { arguments, rules, upstream, plan, learn })
    }

    /// Makes the sandbox, then the fence around it, then lets the command go.
    fn start(mut self, signals: Signals) -> Result<ExitCode> {
        let name = unique_name()?;
        let (mut api, mut _made) = (None, api::Made::default());
        if let Some(place) = &self.arguments.api {
            let (listening, hidden, made) = api::listen(place, self.arguments.api_token_file.as_deref())?;
            self.plan.view.hide.extend(hidden);
            (api, _made) = (Some(listening), made);
        }
        let lease = Lease::take(&name)?;
        let place = Cgroup::place(&format!("nameward-{name}"))?;
        let pins = Pins::of(&name);
        let lease = lease.record(&sandbox::Holdings { cgroup: place.clone(), pins: pins.path().into() })?;
        let cgroup = Cgroup::create(place)?;
        // One thread until here: the sandbox is a copy of this process.
        let sandbox = Sandbox::spawn(&self.plan, &cgroup)?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .context("cannot start the runtime")?;
        let result = runtime.block_on(self.guard(&name, &sandbox, &cgroup, api, signals));
        // The processes first: none may live without the fence. Then who looks after the fence, or its end would
        // be reported as a fault.
        drop(sandbox);
        drop(runtime);
        // The kernel may still send what they had to say: the fence outlives that, too.
        let is_silent = pins::end_connections(cgroup.path());
        drop(cgroup);
        pins.take_down(is_silent);
        drop(lease);
        result
    }

    async fn guard(
        self,
        name: &str,
        sandbox: &Sandbox,
        cgroup: &Cgroup,
        api: Option<ApiListener>,
        signals: Signals,
    ) -> Result<ExitCode> {
        let mut report = Report::new(self.arguments.log, self.arguments.learn.is_some());
        let mut fence = Fence::raise(FenceOptions {
            name,
            cgroup: cgroup.path(),
            rules: self.rules,
            audit: self.arguments.audit,
            upstream: self.upstream.servers(),
            api,
        })?;
        self.upstream.answered_or_fail()?;
        wait_until_ready(sandbox)?;
        sandbox.go()?;
        let status = supervise(sandbox, &mut fence, &mut report, signals.listen()?).await?;
        let lost = fence.finish(&mut report).await?;
        report.summary(lost);
        if let (Some(file), Some(learned)) = (self.learn, report.learned()) {
            let words: Vec<_> = self.arguments.command.iter().map(|word| word.to_string_lossy()).collect();
            let title = format!("What this asked for: {}", words.join(" "));
            let missing = report.not_learned(lost).map(|what| format!("Not in it: {what}"));
            let title: Vec<&str> = std::iter::once(&title).chain(&missing).map(String::as_str).collect();
            file.write(&learned.to_policy(&title, ("default", "learned")))?;
            if let (Some(missing), Some(path)) = (&missing, &self.arguments.learn) {
                eprintln!("nameward: warning: --learn {} is not complete. {missing}", path.display());
            }
        }
        Ok(ExitCode::from(u8::try_from(status).unwrap_or(crate::OWN_FAILURE)))
    }
}

/// Tells decisions and passes signals on until the sandbox has ended. Gives its status.
async fn supervise(
    sandbox: &Sandbox,
    fence: &mut Fence,
    report: &mut Report,
    signals: AsyncFd<SignalFd>,
) -> Result<i32> {
    // SAFETY: the sandbox, which is borrowed for longer, keeps the descriptor open.
    let control =
        unsafe { AsyncFd::register_with_interest(sandbox.control().as_raw_fd(), Interest::READABLE) };
    let control = control.map_err(std::io::Error::from).context("cannot listen to the sandbox")?;
    let mut requests = Requests::default();
    let mut command_lives = true;
    loop {
        tokio::select! {
            ready = control.readable() => {
                ready.context("cannot listen to the sandbox")?.clear_ready();
                match sandbox.report()? {
                    sandbox::Report::CommandEnded => command_lives = false,
                    sandbox::Report::Failed(text) => bail!(text),
                    sandbox::Report::Ready => {}
                    sandbox::Report::Closed => return Ok(sandbox.wait()?.status),
                }
            }
            signal = signals::next(&signals) => {
                match requests.judge(&signal?, command_lives, Instant::now()) {
                    Request::Nothing => {}
                    Request::Forward(number) => sandbox.forward(number)?,
                    Request::Kill => sandbox.kill(),
                }
            }
            result = fence.tell(report) => result?,
        }
    }
}

/// The sandbox has been arranging itself since it was spawned; what is left of that is waited for.
fn wait_until_ready(sandbox: &Sandbox) -> Result<()> {
    match sandbox.report()? {
        sandbox::Report::Ready => Ok(()),
        sandbox::Report::Failed(text) => bail!(text),
        sandbox::Report::CommandEnded | sandbox::Report::Closed => bail!("the sandbox ended before it began"),
    }
}

fn plan(arguments: &Run, resolv_conf: &str, upstream: &Upstream) -> Result<Plan> {
    let credentials = Credentials::find(arguments.user.as_deref())?;
    let private_home = arguments.private_home.then(|| (credentials.home(), credentials.uid, credentials.gid));
    if let Some((home, _, _)) = &private_home {
        ensure!(
            home.is_dir() && home.parent().is_some(),
            "--private-home: {} is no home folder",
            home.display()
        );
    }
    let mut hide = Vec::with_capacity(arguments.hide.len());
    for path in &arguments.hide {
        let real = path.canonicalize().with_context(|| {
            format!("--hide {}: write a path that is there, or leave the flag away", path.display())
        })?;
        ensure!(
            !WITHOUT_HIDING.iter().any(|folder| real == Path::new(folder)),
            "--hide {}: a command cannot run without it; hide what is below it",
            path.display()
        );
        hide.push(real);
    }
    let nsswitch = read_or_empty("/etc/nsswitch.conf")?;
    let view = View {
        resolv_conf: resolver_conf::for_sandbox(resolv_conf, upstream.servers()),
        nsswitch_conf: (!nsswitch.is_empty()).then(|| resolver_conf::plain_dns(&nsswitch)),
        private_home,
        hide,
    };
    let mut command = Vec::with_capacity(arguments.command.len());
    for word in &arguments.command {
        command.push(CString::new(word.as_bytes()).context("the command contains a null byte")?);
    }
    let directory =
        std::env::current_dir().context("the current directory is gone; change to another one")?;
    let environment = credentials.environment();
    Ok(Plan { command, environment, directory, credentials, view, own_session: !Terminal::is_there() })
}

/// What the command inherits would pass the fence by: sockets are judged where they were made (bypass row B37).
fn refuse_network_sockets() -> Result<()> {
    let (input, output, error) = (std::io::stdin(), std::io::stdout(), std::io::stderr());
    for (descriptor, name) in [(input.as_fd(), "input"), (output.as_fd(), "output"), (error.as_fd(), "error")]
    {
        // Not by its own address: some families have none (AF_XDP).
        let is_harmless = match socket_domain(descriptor) {
            Ok(family) => family == AddressFamily::UNIX,
            Err(error) => matches!(error, Errno::NOTSOCK | Errno::BADF),
        };
        ensure!(
            is_harmless,
            "standard {name} is a network socket, which the fence could not judge; connect it by a pipe, \
             for instance through cat"
        );
    }
    Ok(())
}

fn read_or_empty(path: &str) -> Result<String> {
    match fs::read(path) {
        Ok(bytes) => Ok(String::from_utf8_lossy(&bytes).into_owned()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(String::new()),
        Err(error) => Err(error).with_context(|| format!("cannot read {path}")),
    }
}

/// Distinct among all runs since the boot.
fn unique_name() -> Result<String> {
    let now =
        nix::time::clock_gettime(nix::time::ClockId::CLOCK_BOOTTIME).context("cannot read the clock")?;
    Ok(format!("run-{}-{:x}{:08x}", std::process::id(), now.tv_sec(), now.tv_nsec()))
}
