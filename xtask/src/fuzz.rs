//! The fuzz targets of `fuzz/`: built with the instrumentation that libFuzzer reads, and run.
//!
//! cargo-fuzz would do the same with a nightly compiler. The flags are stable ones; without the address sanitizer, which
//! is not, and which has little to find where `unsafe` is denied (docs/decisions/0014).

use std::{env, fs, path::PathBuf, process::Command};

use anyhow::{Result, bail};

use crate::{
    command::run,
    setup::{self, Stage},
    workspace::Workspace,
};

/// What `fuzz/Cargo.toml` has.
const TARGETS: [&str; 2] = ["query", "upstream"];
const MANIFEST: &str = "fuzz/Cargo.toml";

/// Which targets, and for how long.
#[derive(Debug, clap::Args)]
pub(crate) struct Selection {
    /// The target; without one, each in turn
    target: Option<String>,
    /// How long each is run
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    seconds: u32,
}

/// Builds and runs; what is found lies in `target/fuzz/found`, from where it goes to the corpus with the fix.
pub(crate) fn fuzz(workspace: &Workspace, selection: &Selection) -> Result<()> {
    setup::prepare(workspace, Stage::Test)?;
    if let Some(unknown) = selection.target.as_deref().filter(|target| !TARGETS.contains(target)) {
        bail!("there is no fuzz target {unknown:?}; there are: {}", TARGETS.join(", "));
    }
    let programs = build(workspace)?;
    for target in
        TARGETS.iter().filter(|target| selection.target.as_deref().is_none_or(|one| one == **target))
    {
        let found = workspace.target().join("fuzz/found").join(target);
        fs::create_dir_all(&found)?;
        let mut fuzzer = Command::new(programs.join(target));
        fuzzer.arg(format!("-max_total_time={}", selection.seconds)).arg("-timeout=10");
        fuzzer.arg(format!("-artifact_prefix={}/", found.display()));
        // New inputs go to the first folder.
        fuzzer.arg(&found).arg(workspace.root().join("fuzz/corpus").join(target));
        run(&mut fuzzer)?;
    }
    Ok(())
}

/// Builds all targets and says in which folder they are.
pub(crate) fn build(workspace: &Workspace) -> Result<PathBuf> {
    // Host programs (build scripts) are not instrumented when a target is named.
    let triple = format!("{}-unknown-linux-gnu", env::consts::ARCH);
    let folder = workspace.target().join("fuzz");
    // Not locked: its lock file follows the other crates'.
    let mut cargo = workspace.cargo(&["build", "--release", "--manifest-path", MANIFEST]);
    cargo.args(["--bins", "--target", &triple, "--target-dir"]).arg(&folder);
    cargo.env("CARGO_ENCODED_RUSTFLAGS", flags().join("\x1f")).env("CARGO_INCREMENTAL", "0");
    run(&mut cargo)?;
    Ok(folder.join(triple).join("release"))
}

/// LLVM's SanitizerCoverage: a counter for each edge, and what is compared.
fn flags() -> Vec<String> {
    let llvm = ["level=4", "inline-8bit-counters", "pc-table", "trace-compares"];
    let mut flags = vec!["--cfg=fuzzing".to_owned(), "-Cpasses=sancov-module".to_owned()];
    flags.extend(llvm.iter().map(|one| format!("-Cllvm-args=-sanitizer-coverage-{one}")));
    flags
}
