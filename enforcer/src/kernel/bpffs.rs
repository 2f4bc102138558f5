//! The folders of pins. Owns their names, their lock and their removal; knows nothing of what is pinned in them.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

use nix::{
    fcntl::{Flock, FlockArg},
    mount::{MsFlags, mount},
    sys::statfs::{BPF_FS_MAGIC, statfs},
};

use super::KernelError;

/// Longest identifier of an endpoint, in bytes; escaped it stays below the 255 bytes of a file name.
const UID_LENGTH: usize = 64;

/// Whether a BPF file system is mounted at `path`.
pub fn is_bpffs(path: &Path) -> bool {
    statfs(path).is_ok_and(|status| status.filesystem_type() == BPF_FS_MAGIC)
}

/// Mounts a BPF file system at `path` unless there is one.
///
/// # Errors
/// [`KernelError::File`] when the folder cannot be made or the mount is refused.
pub fn ensure_mounted(path: &Path) -> Result<(), KernelError> {
    if is_bpffs(path) {
        return Ok(());
    }
    fs::create_dir_all(path).map_err(|source| KernelError::file("create", path, source))?;
    mount(Some("bpf"), path, Some("bpf"), MsFlags::MS_NOSUID | MsFlags::MS_NODEV, Some("mode=0700"))
        .map_err(|errno| KernelError::file("mount a BPF file system at", path, errno.into()))
}

/// The folder of one instance, held by a lock while this lives: two processes never write the same maps.
#[derive(Debug)]
pub(super) struct Folder {
    path: PathBuf,
    _lock: Flock<File>,
}

impl Folder {
    /// Opens or creates `<bpffs>/nameward[/<instance>]/<layout>/` and locks it.
    pub(super) fn open(bpffs: &Path, instance: Option<&str>) -> Result<Self, KernelError> {
        if !is_bpffs(bpffs) {
            return Err(KernelError::NoBpffs { path: bpffs.into() });
        }
        let root = instance_path(bpffs, instance);
        if let Some(path) = newer_layout(&root) {
            return Err(KernelError::NewerLayout { path });
        }
        let path = root.join(nameward_abi::LAYOUT);
        fs::create_dir_all(path.join("endpoints")).map_err(|e| KernelError::file("create", &path, e))?;
        let directory = File::open(&path).map_err(|e| KernelError::file("open", &path, e))?;
        match Flock::lock(directory, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => Ok(Self { path, _lock: lock }),
            Err((_, nix::errno::Errno::EWOULDBLOCK)) => Err(KernelError::InstanceBusy { path }),
            Err((_, errno)) => Err(KernelError::file("lock", path, errno.into())),
        }
    }

    /// Where a shared map is pinned.
    pub(super) fn shared(&self, map: &str) -> PathBuf {
        self.path.join(map)
    }

    /// Where a link that belongs to no endpoint is pinned.
    pub(super) fn root(&self) -> &Path {
        &self.path
    }

    /// The folder of an endpoint.
    pub(super) fn endpoint(&self, uid: &str) -> Result<PathBuf, KernelError> {
        Ok(self.path.join("endpoints").join(escape(uid)?))
    }

    /// The endpoints that have a folder.
    pub(super) fn endpoints(&self) -> Result<Vec<String>, KernelError> {
        let folder = self.path.join("endpoints");
        let entries = fs::read_dir(&folder).map_err(|e| KernelError::file("read", &folder, e))?;
        let mut uids: Vec<String> =
            entries.flatten().filter_map(|entry| unescape(entry.file_name().to_str()?)).collect();
        uids.sort();
        Ok(uids)
    }

    /// Removes every pin of this instance.
    pub(super) fn remove(&self) -> Result<(), KernelError> {
        remove_folder(&self.path)?;
        remove_empty_parents(&self.path);
        Ok(())
    }
}

/// Instances whose folder nobody holds, by name; those with a name that starts with `prefix`.
pub(super) fn abandoned(bpffs: &Path, prefix: &str) -> Vec<String> {
    let Ok(entries) = fs::read_dir(bpffs.join("nameward")) else { return Vec::new() };
    let names = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok());
    names
        .filter(|name| name.starts_with(prefix) && name != nameward_abi::LAYOUT)
        .filter(|name| Folder::open(bpffs, Some(name)).is_ok())
        .collect()
}

/// The folder of a layout that is newer than ours. Folders of other instances have no endpoints themselves.
fn newer_layout(root: &Path) -> Option<PathBuf> {
    let number = |name: &str| name.strip_prefix('v')?.parse::<u32>().ok();
    let ours = number(nameward_abi::LAYOUT)?;
    let folders = fs::read_dir(root).ok()?.flatten().map(|entry| entry.path());
    folders
        .filter(|path| path.file_name().and_then(|name| number(name.to_str()?)).is_some_and(|it| it > ours))
        .find(|path| path.join("endpoints").is_dir())
}

/// Removes a folder and the pins in it; links go first, so that no program is left with half of its pins.
pub(super) fn remove_folder(path: &Path) -> Result<(), KernelError> {
    let entries = match fs::read_dir(path) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(KernelError::file("read", path, error)),
    };
    let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    paths.sort_by_key(|path| {
        !path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"link_"))
    });
    for entry in paths {
        if entry.is_dir() {
            remove_folder(&entry)?;
        } else {
            fs::remove_file(&entry).map_err(|e| KernelError::file("remove", &entry, e))?;
        }
    }
    fs::remove_dir(path).map_err(|e| KernelError::file("remove", path, e))
}

fn instance_path(bpffs: &Path, instance: Option<&str>) -> PathBuf {
    let root = bpffs.join("nameward");
    instance.map_or(root.clone(), |name| root.join(name))
}

/// Removes the instance's folder and `nameward` itself where they are empty now.
fn remove_empty_parents(path: &Path) {
    for parent in path.ancestors().skip(1).take(2) {
        let ours = parent.ancestors().any(|path| path.file_name().is_some_and(|name| name == "nameward"));
        if !ours || fs::remove_dir(parent).is_err() {
            return;
        }
    }
}

/// File names on bpffs hold no dot, and ours no slash: both and the escape itself are written as `~xx`.
fn escape(uid: &str) -> Result<String, KernelError> {
    if uid.is_empty() || uid.len() > UID_LENGTH {
        return Err(KernelError::BadUid { uid: uid.into() });
    }
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    Ok(uid.bytes().map(|b| if plain(b) { (b as char).to_string() } else { format!("~{b:02x}") }).collect())
}

fn unescape(name: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(name.len());
    let mut rest = name;
    while let Some(character) = rest.chars().next() {
        if character == '~' {
            bytes.push(u8::from_str_radix(rest.get(1..3)?, 16).ok()?);
            rest = &rest[3..];
        } else {
            bytes.push(u8::try_from(character).ok()?);
            rest = &rest[character.len_utf8()..];
        }
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identifiers_survive_as_file_names() {
        for uid in ["ci/runner", "a.b.c", "x~y", "grün", "0f3e-11"] {
            let name = escape(uid).unwrap();
            assert!(!name.contains(['.', '/']), "{name}");
            assert_eq!(unescape(&name).as_deref(), Some(uid));
        }
        assert!(escape("").is_err());
        assert!(escape(&"x".repeat(65)).is_err());
        assert_eq!(unescape("~zz"), None);
    }
}
