//! The programs that users start, and the kernel programs.

use std::{env, process::Command};

use anyhow::Result;

use crate::{
    command::run,
    setup::{self, Stage},
    workspace::Workspace,
};

/// What `cargo xtask build` leaves in `target/release`, and the package of each.
pub(crate) const PROGRAMS: [(&str, &str); 5] = [
    ("nameward", "nameward"),
    ("nameward-resolver", "nameward-resolver"),
    ("nameward-enforcer", "nameward-enforcer"),
    ("nameward-cni", "nameward-cni"),
    ("nameward-api", "nameward-api-server"),
];

/// Builds [`PROGRAMS`] and says where they are.
pub(crate) fn programs(workspace: &Workspace, dev: bool) -> Result<()> {
    setup::prepare(workspace, Stage::Build)?;
    let mut cargo = workspace.cargo(&["build", "--locked"]);
    for (_, package) in PROGRAMS {
        cargo.args(["--package", package]);
    }
    if !dev {
        cargo.arg("--release");
    }
    run(&mut cargo)?;
    let folder = workspace.target().join(if dev { "debug" } else { "release" });
    for (program, _) in PROGRAMS {
        println!("{}", folder.join(program).display());
    }
    Ok(())
}

/// Builds the kernel programs the way `enforcer/build.rs` does, in its own target folder.
pub(crate) fn kernel_programs(workspace: &Workspace) -> Result<()> {
    setup::prepare(workspace, Stage::Build)?;
    run(&mut kernel_cargo(workspace, "build")?)?;
    println!("{}", workspace.target().join("ebpf/bpfel-unknown-none/release/nameward").display());
    Ok(())
}

/// A cargo command for the kernel programs: another target with a `core` of its own.
pub(crate) fn kernel_cargo(workspace: &Workspace, task: &str) -> Result<Command> {
    let flags = [
        format!("-Clinker={}", setup::linker::find()?.display()),
        "-Cdebuginfo=2".into(),
        "-Clink-arg=--btf".into(),
        format!("--cfg=bpf_target_arch=\"{}\"", env::consts::ARCH),
    ];
    let mut cargo = workspace.cargo(&[task, "--release", "--locked", "-Zbuild-std=core"]);
    cargo.args(["--target", "bpfel-unknown-none", "--target-dir"]).arg(workspace.target().join("ebpf"));
    cargo.current_dir(workspace.root().join("enforcer-ebpf"));
    cargo.env("RUSTC_BOOTSTRAP", "1").env("CARGO_ENCODED_RUSTFLAGS", flags.join("\x1f"));
    Ok(cargo)
}
