//! What the sandbox sees: a `/proc` of its own, no cgroupfs, no bpffs, no sockets of ours, no socket that
//! answers names around DNS, and name service files that say "plain DNS" (SEMANTICS X2, X7).
//!
//! Runs in the first process of the sandbox, in its new mount namespace, while it still has its privileges.
//! Changes nothing outside: propagation is cut first.
#![allow(unsafe_code, reason = "mount_setattr has no safe wrapper")]

use std::fs::{self, DirBuilder};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use rustix::mount::{MoveMountFlags, OpenTreeFlags, move_mount, open_tree};

/// File systems that lead out of the sandbox: to its cgroup, to the pins, to processes outside.
const HIDDEN_KINDS: [&str; 4] = ["cgroup", "cgroup2", "bpf", "proc"];

/// File systems in which uid 0 can have the kernel start programs outside. Below /sys they are read-only; what is
/// mounted elsewhere is unmounted.
const KERNEL_KINDS: [&str; 5] = ["sysfs", "configfs", "debugfs", "tracefs", "securityfs"];

/// Folders that stay empty.
const HIDDEN_FOLDERS: [&str; 3] = ["/sys/fs/cgroup", "/sys/fs/bpf", "/run/nameward"];

/// Sockets by which the C library, or a program, has names resolved by somebody outside: nscd and its kin,
/// nss-resolve, mDNS.
const NAME_SOCKETS: [&str; 6] = [
    "/run/nscd/socket",
    "/var/run/nscd/socket",
    "/run/systemd/resolve/io.systemd.Resolve",
    "/run/systemd/resolve/io.systemd.Resolve.Monitor",
    "/run/avahi-daemon/socket",
    "/var/run/avahi-daemon/socket",
];

/// Devices by which packets leave without a socket of ours: RDMA (often for everybody), remote disks over a network that
/// the kernel speaks to by itself, and cards that are handed to programs.
const NETWORK_DEVICES: [&str; 3] = ["/dev/infiniband", "/dev/nvme-fabrics", "/dev/vfio"];

/// The same, with a number behind: macvtap links, whose `/dev/tapN` takes what leaves by them, and cards that are handed
/// to programs. (Devices of tun links need a request that the system call filter refuses.)
const NUMBERED_NETWORK_DEVICES: [&str; 2] = ["tap", "uio"];

/// Parts of /proc whose files belong to uid 0: writing to them (`core_pattern`, `modprobe`) starts programs
/// outside. `/sys` is treated likewise.
const READ_ONLY_PROC: [&str; 4] = ["/proc/sys", "/proc/fs", "/proc/bus", "/proc/irq"];

/// What the caller chooses of the sandbox's view.
#[derive(Debug, Default)]
pub(crate) struct View {
    /// Content of /etc/resolv.conf.
    pub(crate) resolv_conf: String,
    /// Content of /etc/nsswitch.conf, when the host has that file.
    pub(crate) nsswitch_conf: Option<String>,
    /// `--private-home`: the folder that becomes an empty one, and who owns that.
    pub(crate) private_home: Option<(PathBuf, nix::unistd::Uid, nix::unistd::Gid)>,
    /// `--hide`.
    pub(crate) hide: Vec<PathBuf>,
}

/// A line of /proc/self/mountinfo, as far as it matters here.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Mount {
    /// Mount point.
    pub(crate) point: PathBuf,
    /// File system type.
    pub(crate) kind: String,
}

/// Parses /proc/self/mountinfo (proc_pid_mountinfo(5)).
pub(crate) fn parse(mountinfo: &str) -> Vec<Mount> {
    mountinfo
        .lines()
        .filter_map(|line| {
            let (front, back) = line.split_once(" - ")?;
            let point = PathBuf::from(unescape(front.split(' ').nth(4)?));
            Some(Mount { point, kind: back.split(' ').next()?.to_owned() })
        })
        .collect()
}

/// Sets up the view. The current directory is kept across `--private-home`.
pub(crate) fn arrange(view: &View, directory: &Path) -> Result<()> {
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)
        .context("cannot cut the sandbox's mounts off from the host's")?;
    unmount_hidden_kinds()?;
    for folder in HIDDEN_FOLDERS {
        hide(Path::new(folder))?;
    }
    for socket in NAME_SOCKETS {
        hide(Path::new(socket))?;
    }
    hide_network_devices()?;
    if let Some((home, uid, gid)) = &view.private_home {
        private_home(home, *uid, *gid, directory)?;
    }
    for path in &view.hide {
        hide(path)?;
    }
    name_service(view)?;
    fresh_proc()?;
    read_only_recursive("/sys")
}

/// Makes sure that nothing that leads out is left but our own /proc.
pub(crate) fn verify() -> Result<()> {
    let text = fs::read_to_string("/proc/self/mountinfo").context("cannot read the sandbox's mounts")?;
    for Mount { point, kind } in parse(&text) {
        if leads_out(&point, &kind) && !point.starts_with("/proc") {
            bail!("the sandbox would see {kind} at {}; unmount it and try again", point.display());
        }
    }
    Ok(())
}

fn leads_out(point: &Path, kind: &str) -> bool {
    HIDDEN_KINDS.contains(&kind) || KERNEL_KINDS.contains(&kind) && !point.starts_with("/sys")
}

fn hide_network_devices() -> Result<()> {
    for path in NETWORK_DEVICES {
        hide(Path::new(path))?;
    }
    for entry in fs::read_dir("/dev").context("cannot read /dev")? {
        let entry = entry.context("cannot read /dev")?;
        let name = entry.file_name();
        if NUMBERED_NETWORK_DEVICES.iter().any(|start| name.as_encoded_bytes().starts_with(start.as_bytes()))
        {
            hide(&entry.path())?;
        }
    }
    Ok(())
}

/// Innermost first, because outer mounts are busy as long as there are inner ones.
fn unmount_hidden_kinds() -> Result<()> {
    let text = fs::read_to_string("/proc/self/mountinfo").context("cannot read the mounts")?;
    for Mount { point, kind } in parse(&text).into_iter().rev() {
        if leads_out(&point, &kind) && point != Path::new("/proc") {
            match umount2(&point, MntFlags::MNT_DETACH) {
                // Gone with a mount above it, or out of reach below another one.
                Ok(()) | Err(nix::Error::EINVAL | nix::Error::ENOENT) => {}
                Err(error) => bail!("cannot hide {kind} at {}: {error}", point.display()),
            }
        }
    }
    Ok(())
}

/// Covers a folder by an empty one, anything else by /dev/null. What is not there needs no cover.
fn hide(path: &Path) -> Result<()> {
    let say = || format!("cannot hide {}", path.display());
    match fs::metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error).with_context(say),
        Ok(found) if found.is_dir() => empty_folder(path, "mode=0555,nr_inodes=2", true).with_context(say),
        Ok(_) => bind("/dev/null", path).with_context(say),
    }
}

fn empty_folder(path: &Path, options: &str, read_only: bool) -> nix::Result<()> {
    let mut flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    if read_only {
        flags |= MsFlags::MS_RDONLY | MsFlags::MS_NOEXEC;
    }
    mount(Some("nameward"), path, Some("tmpfs"), flags, Some(options))
}

fn bind<P: ?Sized + nix::NixPath>(from: &P, to: &Path) -> nix::Result<()> {
    mount(Some(from), to, None::<&str>, MsFlags::MS_BIND, None::<&str>)
}

/// An empty home; a current directory below it is kept in it.
fn private_home(home: &Path, uid: nix::unistd::Uid, gid: nix::unistd::Gid, directory: &Path) -> Result<()> {
    let say = || format!("cannot make {} private", home.display());
    let inside = directory.strip_prefix(home).ok().filter(|rest| !rest.as_os_str().is_empty());
    let kept: Option<OwnedFd> = inside
        .map(|_| {
            let flags = OpenTreeFlags::OPEN_TREE_CLONE
                | OpenTreeFlags::OPEN_TREE_CLOEXEC
                | OpenTreeFlags::AT_RECURSIVE;
            open_tree(rustix::fs::CWD, directory, flags)
        })
        .transpose()
        .with_context(say)?;
    empty_folder(home, &format!("mode=0700,uid={uid},gid={gid}"), false).with_context(say)?;
    if let Some(kept) = kept {
        DirBuilder::new().recursive(true).mode(0o755).create(directory).with_context(say)?;
        move_mount(&kept, "", rustix::fs::CWD, directory, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
            .with_context(say)?;
    }
    Ok(())
}

/// Puts our files over resolv.conf and nsswitch.conf. They are written to a tmpfs that shows nowhere: it is
/// mounted on /proc for as long as that takes.
fn name_service(view: &View) -> Result<()> {
    let stage = Path::new("/proc");
    empty_folder(stage, "mode=0755", false)
        .context("cannot make room for the sandbox's name service files")?;
    let files = [("resolv.conf", Some(&view.resolv_conf)), ("nsswitch.conf", view.nsswitch_conf.as_ref())];
    for (name, content) in files {
        let target = Path::new("/etc").join(name);
        if let Some(content) = content
            && target.is_file()
        {
            let source = stage.join(name);
            fs::write(&source, content).with_context(|| format!("cannot write the sandbox's {name}"))?;
            bind(&source, &target).with_context(|| format!("cannot replace {}", target.display()))?;
        }
    }
    umount2(stage, MntFlags::MNT_DETACH).context("cannot clear up after the sandbox's name service files")
}

fn fresh_proc() -> Result<()> {
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(Some("proc"), "/proc", Some("proc"), flags, None::<&str>)
        .context("cannot mount the sandbox's /proc")?;
    for path in READ_ONLY_PROC.iter().filter(|path| Path::new(path).exists()) {
        let say = || format!("cannot make {path} read-only");
        bind(*path, Path::new(path)).with_context(say)?;
        read_only_recursive(path)?;
    }
    hide(Path::new("/proc/sysrq-trigger"))
}

fn read_only_recursive(path: &str) -> Result<()> {
    let attributes =
        libc::mount_attr { attr_set: libc::MOUNT_ATTR_RDONLY, attr_clr: 0, propagation: 0, userns_fd: 0 };
    let target = std::ffi::CString::new(path)?;
    // SAFETY: both pointers are to live values of this function, the size is that of the structure.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            libc::AT_FDCWD,
            target.as_ptr(),
            libc::AT_RECURSIVE,
            &raw const attributes,
            std::mem::size_of::<libc::mount_attr>(),
        )
    };
    if result != 0 {
        return Err(io::Error::last_os_error()).with_context(|| format!("cannot make {path} read-only"));
    }
    Ok(())
}

/// Mount points write space, tab, newline and backslash as `\ooo`.
fn unescape(text: &str) -> std::ffi::OsString {
    use std::os::unix::ffi::OsStringExt;
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, tail)) = rest.split_first() {
        let octal = (*first == b'\\').then(|| tail.get(..3)).flatten();
        match octal.and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok()) {
            Some(byte) => {
                bytes.push(byte);
                rest = &tail[3..];
            }
            None => {
                bytes.push(*first);
                rest = tail;
            }
        }
    }
    std::ffi::OsString::from_vec(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mountinfo_is_read_with_optional_fields_and_escapes() {
        let text = "36 35 98:0 /mnt1 /mnt\\0402 rw,noatime master:1 shared:2 - ext3 /dev/root rw\n\
                    37 35 0:31 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n";
        assert_eq!(
            parse(text),
            [
                Mount { point: "/mnt 2".into(), kind: "ext3".into() },
                Mount { point: "/sys/fs/cgroup/unified".into(), kind: "cgroup2".into() }
            ]
        );
    }
}
