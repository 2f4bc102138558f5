//! The command line: what can be asked for, and who does it.

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

use crate::{
    bench, build, demo, fuzz, images, lint,
    setup::{self, Stage},
    test,
    workspace::Workspace,
};

/// Builds, checks, tests and shows Nameward. Each task installs what it needs first, and says so.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Args {
    #[command(subcommand)]
    task: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Install and build everything that building, testing and measuring need (half an hour on a bare machine)
    Setup,
    /// Build the programs; they are then in target/release
    Build {
        /// Build quickly and without optimisation, into target/debug
        #[arg(long)]
        dev: bool,
    },
    /// Build the kernel programs alone
    Ebpf,
    /// Formatting, clippy, generated files, licences, forbidden words
    Lint,
    /// All tests; as root, none may be skipped
    Test(test::Selection),
    /// Try damaged messages on the DNS path, by chance and by what the code does with them
    Fuzz(fuzz::Selection),
    /// Two workloads, a small internet, resolver and enforcer, in network namespaces
    Demo,
    /// A real Kubernetes with Nameward on this machine: up, down, status, load
    Cluster(demo::Words),
    /// Make images of the programs, as archives that `ctr images import` and a registry's tools take
    Images(images::Words),
    /// Measure, print a table, write target/bench/NAME.json
    Bench {
        /// What to measure; without a name, the measurements there are
        name: Option<String>,
        /// What it is told; --help after the name says what there is
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        options: Vec<String>,
    },
    /// Remove what killed tests and demos left behind
    CleanUp,
}

/// Reads the command line and does what it says.
pub(crate) fn run() -> ExitCode {
    match perform(Args::parse().task) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn perform(task: Task) -> Result<()> {
    let workspace = Workspace::find()?;
    match task {
        Task::Setup => {
            setup::prepare(&workspace, Stage::Bench)?;
            setup::go::prepare(&setup::go::all())?;
            println!("everything is there");
            Ok(())
        }
        Task::Build { dev } => build::programs(&workspace, dev),
        Task::Ebpf => build::kernel_programs(&workspace),
        Task::Lint => lint::lint(&workspace),
        Task::Test(selection) => test::test(&workspace, &selection),
        Task::Fuzz(selection) => fuzz::fuzz(&workspace, &selection),
        Task::Cluster(words) => demo::cluster(&workspace, &words),
        Task::Images(words) => images::images(&workspace, &words),
        Task::Demo => demo::demo(&workspace),
        Task::Bench { name, options } => bench::bench(&workspace, name.as_deref(), &options),
        Task::CleanUp => demo::clean_up(&workspace),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Args::command().debug_assert();
    }
}
