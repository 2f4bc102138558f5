//! Rust itself: the source of `core` for the kernel's target, clippy and rustfmt.

use std::{path::Path, process::Command};

use anyhow::{Context, Result, anyhow, bail};

use super::{Stage, linker, packages::find_command};
use crate::{
    command::{output, run, succeeds},
    workspace::Workspace,
};

/// Installs the components of a stage that are missing.
pub(super) fn prepare(workspace: &Workspace, stage: Stage) -> Result<()> {
    check_llvm()?;
    let sysroot = output(Command::new("rustc").args(["--print", "sysroot"]))?;
    let core = Path::new(sysroot.trim()).join("lib/rustlib/src/rust/library/core/src/lib.rs");
    if !core.exists() {
        add("rust-src", "the kernel programs are compiled with a `core` of their own")
            .context(WITHOUT_RUST_SRC)?;
    }
    if stage >= Stage::Lint {
        for (component, tool) in [("clippy", "clippy"), ("rustfmt", "fmt")] {
            if !succeeds(workspace.cargo(&[tool]).arg("--version")) {
                add(component, "lint uses it")?;
            }
        }
    }
    Ok(())
}

const WITHOUT_RUST_SRC: &str = "the source of Rust's core library is missing. Install it by rustup (`rustup component add rust-src`), \
     or use Debian's Rust: apt-get install rustc-web cargo-web rust-web-src";

fn add(component: &str, why: &str) -> Result<()> {
    if find_command("rustup").is_none() {
        bail!("{component} is missing ({why}), and rustup, which adds it, is not installed");
    }
    eprintln!("adding {component} to the Rust toolchain: {why}");
    run(Command::new("rustup").args(["component", "add", component]))
}

/// The linker reads what the compiler writes, so its LLVM must not be the older one.
fn check_llvm() -> Result<()> {
    let text = output(Command::new("rustc").arg("-vV"))?;
    let major = llvm_major(&text).ok_or_else(|| anyhow!("`rustc -vV` names no LLVM version"))?;
    if major > linker::LLVM && !linker::is_chosen() {
        bail!(
            "this Rust compiles with LLVM {major}, the linker of the kernel programs is built with LLVM {}; \
             use Rust 1.95 (`rustup toolchain install 1.95`, then `cargo +1.95 xtask ...`), or name a bpf-linker \
             of LLVM {major} in NAMEWARD_BPF_LINKER",
            linker::LLVM
        );
    }
    Ok(())
}

fn llvm_major(text: &str) -> Option<u32> {
    let version = text.lines().find_map(|line| line.strip_prefix("LLVM version: "))?;
    version.split('.').next()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_llvm_version_is_read() {
        assert_eq!(llvm_major("release: 1.95.0\nLLVM version: 22.1.2\n"), Some(22));
        assert_eq!(llvm_major("release: 1.95.0\n"), None);
    }
}
