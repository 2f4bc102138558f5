//! Cgroup endpoints: packet and socket hooks on pinned links.

use std::path::Path;

use aya::Ebpf;

use super::KernelError;

/// A cgroup as the kernel programs know it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    /// cgroup v2 id.
    pub(super) id: u64,
    /// Level below the root, which is 0.
    pub(super) level: u32,
}

/// Reads where a folder stands in the cgroup v2 tree.
pub(super) fn place(path: &Path) -> Result<Place, KernelError> {
    Err(KernelError::NotCgroup { path: path.into() })
}

/// Attaches all hooks, or puts the programs in the place of those that are attached.
pub(super) fn attach(_ebpf: &mut Ebpf, path: &Path, _pins: &Path) -> Result<(), KernelError> {
    Err(KernelError::NotCgroup { path: path.into() })
}
