//! Starts the demo and the cluster, and removes what killed runs left: programs of the `nameward-tests` package.

use std::{os::unix::process::CommandExt, process::Command};

use anyhow::{Context, Result, bail};

use crate::{
    build::PROGRAMS,
    command::run,
    setup::{self, Stage, go},
    workspace::Workspace,
};

const PACKAGE: &str = "nameward-tests";

/// What is handed on; the program itself knows what it means.
#[derive(Debug, clap::Args)]
#[command(disable_help_flag = true)]
pub(crate) struct Words {
    /// up [--dns ADDR] [--nodes N] | down | status | load FILE
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    words: Vec<String>,
}

/// Builds what the demo shows and becomes the demo.
pub(crate) fn demo(workspace: &Workspace) -> Result<()> {
    start(workspace, Stage::Demo, "demo", &[], &[])
}

/// Builds what a cluster consists of, Kubernetes once, and becomes the program that makes one.
pub(crate) fn cluster(workspace: &Workspace, words: &Words) -> Result<()> {
    start(workspace, Stage::Cluster, "cluster", go::CLUSTER, &words.words)
}

/// Removes namespaces, cgroups, pins and files of tests and demos whose process is gone.
pub(crate) fn clean_up(workspace: &Workspace) -> Result<()> {
    start(workspace, Stage::Demo, "clean-up", &[], &[])
}

fn start(
    workspace: &Workspace,
    stage: Stage,
    program: &str,
    from_go: &[&str],
    words: &[String],
) -> Result<()> {
    setup::prepare(workspace, stage)?;
    if !setup::is_root() {
        bail!(
            "network namespaces and BPF need root: run `sudo --preserve-env=PATH,HOME cargo xtask {program}`"
        );
    }
    let path = go::prepare(from_go)?;
    let mut cargo = workspace.cargo(&["build", "--locked", "--package", PACKAGE, "--bin", program]);
    for (_, package) in PROGRAMS {
        cargo.args(["--package", package, "--bin", package]);
    }
    run(&mut cargo)?;
    let folder = workspace.target().join("debug");
    let mut command = Command::new(folder.join(program));
    command.args(words).current_dir(workspace.root()).env("NAMEWARD_BIN_DIR", &folder).env("PATH", path);
    // In place of this process, so that ctrl-C reaches the one that has something to remove.
    let error = command.exec();
    Err(error).with_context(|| format!("cannot start {}", folder.join(program).display()))
}
