//! The command line of the installer.

use std::{
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use anyhow::Result;
use clap::{Args, Parser, Subcommand};

use crate::{
    install::{self, Place},
    stop::Stop,
};

/// Between two looks whether an enforcer listens.
const PAUSE: Duration = Duration::from_millis(200);

const EXAMPLES: &str = "Examples:
  nameward-cni install                    chain the plugin behind this node's CNI, once
  nameward-cni install --watch            the same, and again whenever the CNI rewrites its configuration
  nameward-cni install --conf-dir /var/lib/rancher/k3s/agent/etc/cni/net.d --bin-dir /var/lib/rancher/k3s/data/cni
  nameward-cni uninstall                  pods that start from now on are not guarded

A container runtime starts this program as a CNI plugin, with CNI_COMMAND in its environment.";

/// The CNI plugin of Nameward, and its installer.
#[derive(Debug, Parser)]
#[command(name = "nameward-cni", version, after_help = EXAMPLES)]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Put the plugin into place, with a configuration that chains it behind this node's CNI
    Install(Install),
    /// Take the configuration away; the program stays for pods that were started with it. End `install --watch` before
    Uninstall(Uninstall),
}

#[derive(Debug, Args)]
struct Folders {
    /// Where the container runtime reads CNI configurations
    #[arg(long, value_name = "DIR", default_value = "/etc/cni/net.d")]
    conf_dir: PathBuf,
    /// Where it finds CNI plugins
    #[arg(long, value_name = "DIR", default_value = "/opt/cni/bin")]
    bin_dir: PathBuf,
}

#[derive(Debug, Args)]
struct Install {
    #[command(flatten)]
    folders: Folders,
    /// Where the enforcer of this node listens
    #[arg(long, value_name = "PATH", default_value = nameward_feed::cni::SOCKET)]
    socket: PathBuf,
    /// How long a new pod may wait for the enforcer, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=100))]
    timeout: u64,
    /// Start pods of this namespace unguarded while the enforcer does not answer; may be given several times
    #[arg(long, value_name = "NAMESPACE")]
    exempt_when_down: Vec<String>,
    /// Go on, and write the configuration again whenever the CNI writes its own
    #[arg(long)]
    watch: bool,
    /// Do nothing before an enforcer listens, so that a node on which none can start goes on without it
    #[arg(long)]
    await_enforcer: bool,
}

#[derive(Debug, Args)]
struct Uninstall {
    #[command(flatten)]
    folders: Folders,
    /// Remove the program, too; pods that were started with it can then not be stopped cleanly
    #[arg(long)]
    binary: bool,
    /// Wait so long for `install --watch` to end, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 0)]
    wait: u64,
    /// Stay until SIGTERM: for a container that may not end by itself
    #[arg(long)]
    stay: bool,
}

/// Does what the command line says.
pub(crate) fn run() -> ExitCode {
    match perform(Arguments::parse().task) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("nameward-cni: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn perform(task: Task) -> Result<()> {
    match task {
        Task::Install(arguments) => {
            let place = Place::new(arguments.folders.conf_dir, arguments.folders.bin_dir);
            let entry = install::entry(&arguments.socket, arguments.timeout, &arguments.exempt_when_down);
            let stop = Stop::listen()?;
            if arguments.await_enforcer && !enforcer_listens(&arguments.socket, &stop)? {
                return Ok(());
            }
            Ok(install::install(&place, &entry, arguments.watch.then_some(&stop))?)
        }
        Task::Uninstall(arguments) => {
            let place = Place::new(arguments.folders.conf_dir, arguments.folders.bin_dir);
            let stop = arguments.stay.then(Stop::listen).transpose()?;
            install::uninstall(&place, arguments.binary, Duration::from_secs(arguments.wait))?;
            stop.map_or(Ok(()), |stop| Ok(stop.wait()?))
        }
    }
}

/// Waits until somebody listens; a signal says not to wait any longer.
fn enforcer_listens(socket: &Path, stop: &Stop) -> Result<bool> {
    let mut told = false;
    while UnixStream::connect(socket).is_err() {
        if !told {
            eprintln!("nameward-cni: waiting for an enforcer at {}", socket.display());
        }
        told = true;
        if stop.within(PAUSE)? {
            return Ok(false);
        }
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Arguments::command().debug_assert();
    }
}
