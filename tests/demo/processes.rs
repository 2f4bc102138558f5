//! The two processes of a host, started as in production, in the host's namespace.

use std::{fs, path::Path, process::Command, time::Duration};

use anyhow::Result;
use nameward_test_support::{Daemon, Netns, Scratch, program};

use crate::leftovers::{INSTANCE, remove_instance};

const READY: Duration = Duration::from_secs(30);

/// `nameward-resolver` and `nameward-enforcer`; what they put into the kernel goes with the guard.
#[derive(Debug)]
pub(crate) struct Processes {
    instance: String,
    host: String,
    running: Vec<Daemon>,
}

impl Processes {
    /// None yet, for a host's namespace.
    pub(crate) fn new(host: &Netns) -> Self {
        let instance = format!("{INSTANCE}{}", std::process::id());
        Self { instance, host: format!("--net={}", host.path().display()), running: Vec::new() }
    }

    /// Starts both and waits for the resolver's feed and the enforcer's REST.
    pub(crate) fn start(&mut self, folder: &Scratch, config: &Path, upstream: &str) -> Result<()> {
        let path = |name: &str| folder.path().join(name);
        let (feed, socket) = (path("feed"), path("api.sock"));
        let unix = |path: &Path| format!("unix:{}", path.display());
        let mut resolver = self.inside("nameward-resolver")?;
        resolver.args(["--feed", &unix(&feed), "--upstream", upstream]);
        self.begin("nameward-resolver", &mut resolver, &path("resolver.log"), || {
            fs::read_dir(&feed).is_ok_and(|mut entries| entries.next().is_some())
        })?;
        let mut enforcer = self.inside("nameward-enforcer")?;
        enforcer.args(["--feed", &unix(&feed), "--api", &unix(&socket), "--instance", &self.instance]);
        enforcer.arg("--config").arg(config).arg("--state").arg(path("state"));
        drop(fs::remove_file(&socket));
        self.begin("nameward-enforcer", &mut enforcer, &path("enforcer.log"), || socket.exists())
    }

    fn begin(
        &mut self,
        name: &str,
        command: &mut Command,
        log: &Path,
        ready: impl FnMut() -> bool,
    ) -> Result<()> {
        let mut process = Daemon::start(name, command, log)?;
        process.wait(READY, ready)?;
        self.running.push(process);
        Ok(())
    }

    /// Fails with its log when one of them has ended by itself.
    pub(crate) fn check(&mut self) -> Result<()> {
        self.running.iter_mut().try_for_each(Daemon::check)
    }

    /// Ends both with SIGTERM, the enforcer first; what is in the kernel stays.
    pub(crate) fn stop(&mut self) -> Result<()> {
        while let Some(mut process) = self.running.pop() {
            process.stop()?;
        }
        Ok(())
    }

    /// Process numbers of resolver and enforcer.
    pub(crate) fn ids(&self) -> Vec<u32> {
        self.running.iter().map(Daemon::id).collect()
    }

    /// What both wrote so far.
    pub(crate) fn logs(&self) -> String {
        self.running.iter().map(Daemon::log).collect::<Vec<_>>().join("\n")
    }

    fn inside(&self, name: &str) -> Result<Command> {
        let mut command = Command::new("nsenter");
        command.arg(&self.host).arg("--").arg(program(name)?);
        Ok(command)
    }
}

impl Drop for Processes {
    fn drop(&mut self) {
        let removed = self
            .stop()
            .and_then(|()| remove_instance(&mut self.inside("nameward-enforcer")?, &self.instance));
        if let Err(error) = removed {
            eprintln!("not all was removed: {error:#}; `cargo xtask clean-up` does it");
        }
    }
}
