//! Loading one instance of the kernel object: its maps pinned in the endpoint's folder, the shared ones above it.
//!
//! Maps that are pinned already are used as they are, which is what adoption means. Programs are loaded by those
//! who attach them.

use std::{borrow::Cow, fs, path::Path, thread};

use aya::{Ebpf, EbpfLoader};
use nameward_abi::maps;
use nix::{
    sched::{CloneFlags, unshare},
    unistd::chroot,
};

use super::{KernelError, bpffs::Folder, endpoint::MapSizes};

/// Maps that each endpoint has for itself.
pub(super) const OWN_MAPS: [&str; 14] = [
    maps::ALLOW,
    maps::ADMITTED,
    maps::CIDRS,
    maps::PORTS,
    maps::FLOWS,
    maps::FLEETING,
    maps::FRAGMENTS,
    maps::NEIGHBOURS,
    maps::DNS_FLOWS,
    maps::OWN_SOCKETS,
    maps::CONFIG,
    maps::STATS,
    maps::FOLDS,
    maps::EVENT_BUDGET,
];

/// Loads the object with an endpoint's maps, made or found in `pins`.
pub(super) fn load(
    folder: &Folder,
    pins: &Path,
    sizes: &MapSizes,
    object: &[u8],
) -> Result<Ebpf, KernelError> {
    fs::create_dir_all(pins).map_err(|error| KernelError::file("create", pins, error))?;
    let mut loader = loader(folder);
    for name in OWN_MAPS {
        loader.map_pin_path(name, Cow::Owned(pins.join(name)));
    }
    for (name, entries) in sizes.by_map() {
        loader.map_max_entries(name, entries);
    }
    Ok(loader.load(object)?)
}

/// Loads the object for programs that use shared maps only; its own maps vanish with what is returned.
pub(super) fn load_shared(folder: &Folder, object: &[u8]) -> Result<Ebpf, KernelError> {
    let mut loader = loader(folder);
    for (name, entries) in MapSizes::SMALLEST.by_map() {
        loader.map_max_entries(name, entries);
    }
    Ok(loader.load(object)?)
}

fn loader(folder: &Folder) -> EbpfLoader<'static> {
    let mut loader = without_kernel_types();
    for name in maps::SHARED {
        loader.map_pin_path(name, Cow::Owned(folder.shared(name)));
    }
    loader
}

/// A loader that has not read the kernel's types: the programs need no relocation against them.
///
/// [`EbpfLoader::new`] reads and parses all of them (several megabytes, half of what `nameward run` needs to start),
/// and offers no way to say that they are not wanted before it has. So it is called on a thread that does not see
/// the file. Where a thread may not change its root, they are read and dropped.
fn without_kernel_types() -> EbpfLoader<'static> {
    let unseen = || {
        unshare(CloneFlags::CLONE_FS).and_then(|()| chroot(ELSEWHERE)).ok()?;
        Some(EbpfLoader::new())
    };
    let made =
        thread::Builder::new().name("loader".into()).spawn(unseen).ok().and_then(|made| made.join().ok());
    let mut loader = made.flatten().unwrap_or_else(EbpfLoader::new);
    loader.btf(None);
    loader
}

/// A folder below which there is no `/sys/kernel/btf/vmlinux`.
const ELSEWHERE: &str = "/sys/kernel";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_thread_sees_what_it_saw() {
        let before = fs::read_link("/proc/thread-self/root").unwrap();
        drop(without_kernel_types());
        assert_eq!(fs::read_link("/proc/thread-self/root").unwrap(), before);
        assert_eq!(fs::read_link("/proc/self/root").unwrap(), before, "nor do other threads");
    }
}
