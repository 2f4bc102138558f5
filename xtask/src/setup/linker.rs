//! bpf-linker: built once into the cache, found by `enforcer/build.rs` in the same order.
//!
//! A version is built in a folder of its own and put in place by one rename under a lock, so that two processes
//! do not meet, and what a killed build left is never mistaken for the whole.

use std::{
    env,
    fs::{self, File},
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, anyhow, bail};

use super::packages;
use crate::{
    command::{run, succeeds},
    workspace::cache,
};

const VERSION: &str = "0.13.0";
/// Major version of the LLVM that it is built with.
pub(super) const LLVM: u32 = 22;
const LLVM_FOLDER: &str = "/usr/lib/llvm-22";
const CHOSEN: &str = "NAMEWARD_BPF_LINKER";

/// Whether somebody named a linker of their own.
pub(super) fn is_chosen() -> bool {
    env::var_os(CHOSEN).is_some()
}

/// The linker: the one that [`CHOSEN`] names, else the cache's, else that of `PATH`.
pub(crate) fn find() -> Result<PathBuf> {
    if let Some(path) = env::var_os(CHOSEN) {
        return Ok(path.into());
    }
    let cached = program(&installed(&cache()?.join("tools")));
    let found = cached.is_file().then_some(cached).or_else(|| packages::find_command("bpf-linker"));
    found.ok_or_else(|| anyhow!("bpf-linker is not installed; run `cargo xtask setup`"))
}

/// Builds it unless a linker that works is there.
pub(super) fn prepare() -> Result<()> {
    if is_chosen() {
        let path = find()?;
        let works = succeeds(Command::new(&path).arg("--version"));
        return if works { Ok(()) } else { bail!("{CHOSEN}: {} cannot be run", path.display()) };
    }
    let tools = cache()?.join("tools");
    let folder = installed(&tools);
    if works(&folder) {
        return Ok(());
    }
    packages::prepare_linker()?;
    fs::create_dir_all(&tools)?;
    let lock = File::create(tools.join(format!(".lock-bpf-linker-{VERSION}")))?;
    lock.lock().context("cannot lock the tools' folder")?;
    // Another process may have built it meanwhile, or the packages were all that it lacked.
    if works(&folder) {
        return Ok(());
    }
    eprintln!("building bpf-linker {VERSION}, which links the kernel programs (a few minutes, once)");
    let half_built = tools.join(format!(".building-bpf-linker-{VERSION}"));
    remove(&half_built)?;
    build(&half_built)?;
    remove(&half_built.join("target"))?;
    remove(&folder)?;
    fs::rename(&half_built, &folder).with_context(|| format!("cannot put {} in place", folder.display()))?;
    if !works(&folder) {
        bail!("{} was built but cannot be run; remove its folder and try again", program(&folder).display());
    }
    Ok(())
}

fn build(folder: &Path) -> Result<()> {
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args(["install", "bpf-linker", "--version", VERSION, "--locked", "--no-track"]);
    cargo.args(["--no-default-features", "--features", "llvm-22", "--root"]).arg(folder);
    cargo.env("LLVM_PREFIX", LLVM_FOLDER).env("LLVM_SYS_221_PREFIX", LLVM_FOLDER);
    cargo.env("CARGO_TARGET_DIR", folder.join("target")).current_dir("/");
    for name in ["RUSTFLAGS", "CARGO_ENCODED_RUSTFLAGS", "CARGO_BUILD_TARGET", "RUSTC_WRAPPER"] {
        cargo.env_remove(name);
    }
    run(&mut cargo)
}

fn installed(tools: &Path) -> PathBuf {
    tools.join(format!("bpf-linker-{VERSION}"))
}

fn program(folder: &Path) -> PathBuf {
    folder.join("bin/bpf-linker")
}

fn works(folder: &Path) -> bool {
    succeeds(Command::new(program(folder)).arg("--version"))
}

fn remove(folder: &Path) -> Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", folder.display()))
        }
        _ => Ok(()),
    }
}
