//! Network namespaces: making one that has a name, and doing something inside one.
//!
//! A thread belongs to one namespace, so what is done inside is done on a thread of its own.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    thread,
};

use nix::{
    mount::{MntFlags, MsFlags, mount, umount2},
    sched::{CloneFlags, setns, unshare},
};

/// A namespace that a file keeps alive.
#[derive(Debug)]
pub(crate) struct NamedNamespace {
    path: PathBuf,
    file: File,
}

impl NamedNamespace {
    /// Opens the namespace at `path`, or makes a new one there.
    pub(crate) fn open_or_create(path: &Path) -> io::Result<Self> {
        if is_namespace(path) {
            return Ok(Self { path: path.into(), file: File::open(path)? });
        }
        Self::create(path)
    }

    fn create(path: &Path) -> io::Result<Self> {
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)?;
        }
        File::create(path)?;
        on_thread(|| {
            unshare(CloneFlags::CLONE_NEWNET)?;
            let own = Path::new("/proc/thread-self/ns/net");
            mount(Some(own), path, None::<&str>, MsFlags::MS_BIND, None::<&str>)?;
            Ok(())
        })?;
        Ok(Self { path: path.into(), file: File::open(path)? })
    }

    /// A descriptor of the namespace.
    pub(crate) fn file(&self) -> &File {
        &self.file
    }

    /// Does `work` inside, on a thread of its own.
    pub(crate) fn inside<T: Send>(&self, work: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
        on_thread(|| {
            setns(&self.file, CloneFlags::CLONE_NEWNET)?;
            work()
        })
    }

    /// Takes the name away; the namespace goes when no socket and no process is in it.
    pub(crate) fn remove(&self) -> io::Result<()> {
        remove(&self.path)
    }
}

/// Takes the name of a namespace away; it may be absent.
pub(crate) fn remove(path: &Path) -> io::Result<()> {
    if is_namespace(path) {
        umount2(path, MntFlags::MNT_DETACH)?;
    }
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Does `work` on a thread of its own, which starts in the caller's namespace.
pub(crate) fn on_thread<T: Send>(work: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
    thread::scope(|scope| {
        scope
            .spawn(work)
            .join()
            .unwrap_or_else(|_| Err(io::Error::other("a thread inside a namespace panicked")))
    })
}

fn is_namespace(path: &Path) -> bool {
    nix::sys::statfs::statfs(path)
        .is_ok_and(|status| status.filesystem_type() == nix::sys::statfs::NSFS_MAGIC)
}
