//! What is checked without running the product.

use anyhow::{Result, bail};

use crate::{
    build::kernel_cargo,
    command::run,
    licences,
    setup::{self, Stage},
    words,
    workspace::Workspace,
};

type Check = fn(&Workspace) -> Result<()>;

const CHECKS: [(&str, Check); 7] = [
    ("formatting", formatting),
    ("forbidden words", words::check),
    ("licences and sources", licences::check),
    ("clippy", clippy),
    ("clippy of the kernel programs", kernel_clippy),
    ("documentation", documentation),
    ("generated files", generated_files),
];

/// Performs all checks, and fails with the names of those that failed.
pub(crate) fn lint(workspace: &Workspace) -> Result<()> {
    setup::prepare(workspace, Stage::Lint)?;
    let mut failed = Vec::new();
    for (name, check) in CHECKS {
        if let Err(error) = check(workspace) {
            eprintln!("{name}: {error:#}");
            failed.push(name);
        }
    }
    if !failed.is_empty() {
        bail!("lint: {}", failed.join(", "));
    }
    println!("lint: {} checks passed", CHECKS.len());
    Ok(())
}

fn formatting(workspace: &Workspace) -> Result<()> {
    run(&mut workspace.cargo(&["fmt", "--all", "--check"]))?;
    run(&mut workspace.cargo(&["fmt", "--manifest-path", "enforcer-ebpf/Cargo.toml", "--check"]))?;
    run(&mut workspace.cargo(&["fmt", "--manifest-path", "fuzz/Cargo.toml", "--check"]))
}

fn clippy(workspace: &Workspace) -> Result<()> {
    let arguments = ["clippy", "--workspace", "--all-targets", "--locked", "--", "-D", "warnings"];
    run(&mut workspace.cargo(&arguments))
}

fn kernel_clippy(workspace: &Workspace) -> Result<()> {
    run(kernel_cargo(workspace, "clippy")?.args(["--", "-D", "warnings"]))
}

fn documentation(workspace: &Workspace) -> Result<()> {
    let arguments = ["doc", "--workspace", "--no-deps", "--document-private-items", "--locked"];
    run(workspace.cargo(&arguments).env("RUSTDOCFLAGS", "-D warnings -A rustdoc::private_intra_doc_links"))
}

/// Programs that write committed files; each says with `--check` whether it would write others.
const GENERATORS: [(&str, &str); 4] = [
    ("nameward-crds", "crdgen"),
    ("nameward-api", "openapigen"),
    ("nameward-tests", "metricsgen"),
    ("nameward-tests", "chartgen"),
];

fn generated_files(workspace: &Workspace) -> Result<()> {
    for (package, program) in GENERATORS {
        let program = ["--package", package, "--bin", program, "--", "--check"];
        run(workspace.cargo(&["run", "--quiet", "--locked"]).args(program))?;
    }
    Ok(())
}
