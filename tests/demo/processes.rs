//! The two processes of a host, started as in production, in the host's namespace.

use std::{path::Path, process::Command, time::Duration};

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

    /// Starts both and waits for the enforcer's REST.
    pub(crate) fn start(&mut self, folder: &Scratch, config: &Path, upstream: &str) -> Result<()> {
        let feed = format!("unix:{}", folder.path().join("feed").display());
        let socket = folder.path().join("api.sock");
        let api = format!("unix:{}", socket.display());
        let state = folder.path().join("state");
        let log = |name: &str| folder.path().join(format!("{name}.log"));
        let mut resolver = self.inside("nameward-resolver")?;
        resolver.args(["--feed", &feed, "--upstream", upstream]);
        self.running.push(Daemon::start("nameward-resolver", &mut resolver, &log("resolver"))?);
        let mut enforcer = self.inside("nameward-enforcer")?;
        enforcer.args(["--feed", &feed, "--api", &api, "--instance", &self.instance, "--config"]).arg(config);
        enforcer.arg("--state").arg(state);
        drop(std::fs::remove_file(&socket));
        let mut enforcer = Daemon::start("nameward-enforcer", &mut enforcer, &log("enforcer"))?;
        enforcer.wait(READY, || socket.exists())?;
        self.running.push(enforcer);
        Ok(())
    }

    /// Ends both with SIGTERM, the enforcer first; what is in the kernel stays.
    pub(crate) fn stop(&mut self) -> Result<()> {
        while let Some(mut process) = self.running.pop() {
            process.stop()?;
        }
        Ok(())
    }

    /// Process numbers.
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
