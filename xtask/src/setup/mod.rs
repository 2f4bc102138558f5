//! Makes a machine ready: packages, Rust components, bpf-linker, the BPF file system.
//!
//! Each task asks for its stage, and what is there already costs milliseconds. What is installed is said with its
//! reason; where this program may not install, it says what to install.

pub(crate) mod go;
pub(crate) mod linker;
mod mounts;
mod old_kernel;
mod packages;
mod toolchain;
mod unpacked;

use anyhow::Result;

use crate::workspace::Workspace;

/// How far a machine must be ready; each stage includes those before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Stage {
    /// To compile the linker of the kernel programs.
    Linker,
    /// To build.
    Build,
    /// To check without running anything.
    Lint,
    /// To run the demo.
    Demo,
    /// To run a cluster.
    Cluster,
    /// To run all tests.
    Test,
    /// To measure.
    Bench,
}

/// Installs what is missing for a stage.
pub(crate) fn prepare(workspace: &Workspace, stage: Stage) -> Result<()> {
    toolchain::prepare(workspace, stage)?;
    linker::prepare()?;
    packages::prepare(stage)?;
    if stage >= Stage::Demo {
        mounts::prepare()?;
    }
    if stage >= Stage::Test {
        old_kernel::prepare()?;
        unpacked::prepare()?;
    }
    Ok(())
}

/// Whether this process is root.
pub(crate) fn is_root() -> bool {
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata("/proc/self").is_ok_and(|process| process.uid() == 0)
}
