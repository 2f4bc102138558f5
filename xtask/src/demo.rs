//! Starts the demo, and removes what killed runs left: both are programs of the `nameward-tests` package.

use std::{os::unix::process::CommandExt, process::Command};

use anyhow::{Context, Result, bail};

use crate::{
    build::PROGRAMS,
    command::run,
    setup::{self, Stage},
    workspace::Workspace,
};

const PACKAGE: &str = "nameward-tests";

/// Builds what the demo shows and becomes the demo.
pub(crate) fn demo(workspace: &Workspace) -> Result<()> {
    start(workspace, "demo")
}

/// Removes namespaces, cgroups, pins and files of tests and demos whose process is gone.
pub(crate) fn clean_up(workspace: &Workspace) -> Result<()> {
    start(workspace, "clean-up")
}

fn start(workspace: &Workspace, program: &str) -> Result<()> {
    setup::prepare(workspace, Stage::Demo)?;
    if !setup::is_root() {
        bail!(
            "network namespaces and BPF need root: run `sudo --preserve-env=PATH,HOME cargo xtask {program}`"
        );
    }
    let mut cargo = workspace.cargo(&["build", "--locked", "--package", PACKAGE, "--bin", program]);
    for package in PROGRAMS {
        cargo.args(["--package", package, "--bin", package]);
    }
    run(&mut cargo)?;
    let folder = workspace.target().join("debug");
    let mut command = Command::new(folder.join(program));
    // In place of this process, so that ctrl-C reaches the one that has something to remove.
    let error = command.current_dir(workspace.root()).env("NAMEWARD_BIN_DIR", &folder).exec();
    Err(error).with_context(|| format!("cannot start {}", folder.join(program).display()))
}
