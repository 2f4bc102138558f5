//! Cgroup endpoints: packet and socket hooks on pinned links, and cgroups of our own.
//!
//! Links outlive the process; the next one puts its programs in their place, so that no packet is judged by an
//! absent program. What the hooks decide is the kernel side's business.
#![allow(unsafe_code, reason = "bpf(2) for links, which aya does not update at cgroups")]

use std::{
    ffi::CString,
    fs::{self, File},
    io,
    net::{IpAddr, SocketAddr, UdpSocket},
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd},
        unix::{ffi::OsStrExt, fs::MetadataExt},
    },
    path::{Path, PathBuf},
};

use aya::{
    Ebpf,
    programs::{
        CgroupAttachMode, CgroupSkbAttachType, Program, ProgramError,
        links::{FdLink, LinkError},
    },
};
use nameward_abi::programs;
use nix::sys::statfs::{CGROUP2_SUPER_MAGIC, statfs};

use super::{KernelError, cgroup_sockets, links, loading};

/// The hooks of a cgroup, in the order of attaching: sockets are marked before anything looks for the mark, and
/// programs are shown the servers they meant before the first query is redirected. What takes long to load comes last,
/// see [`loading`].
const HOOKS: [&str; 16] = [
    programs::POST_BIND4,
    programs::POST_BIND6,
    programs::BIND4,
    programs::BIND6,
    programs::RECVMSG4,
    programs::RECVMSG6,
    programs::GETPEERNAME4,
    programs::GETPEERNAME6,
    programs::GETSOCKNAME4,
    programs::GETSOCKNAME6,
    programs::CONNECT4,
    programs::CONNECT6,
    programs::SENDMSG4,
    programs::SENDMSG6,
    programs::CGROUP_INGRESS,
    programs::CGROUP_EGRESS,
];

/// A cgroup as the kernel programs know it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    /// cgroup v2 id.
    pub(super) id: u64,
    /// Level below the root, which is 0.
    pub(super) level: u32,
}

/// Identifier of a cgroup, which is never given to another, not even to one of the same name.
///
/// # Errors
/// [`KernelError::NotCgroup`] when it is gone.
pub fn cgroup_id(path: &Path) -> Result<u64, KernelError> {
    fs::metadata(path).map(|folder| folder.ino()).map_err(|_| KernelError::NotCgroup { path: path.into() })
}

/// Reads where a folder stands in the cgroup v2 tree.
pub(super) fn place(path: &Path) -> Result<Place, KernelError> {
    let not_cgroup = || KernelError::NotCgroup { path: path.into() };
    if !is_cgroup2(path) {
        return Err(not_cgroup());
    }
    let path = fs::canonicalize(path).map_err(|error| KernelError::file("find", path, error))?;
    let root = path.ancestors().take_while(|ancestor| is_cgroup2(ancestor)).last().ok_or_else(not_cgroup)?;
    let below = path.strip_prefix(root).map_or(0, |below| below.components().count());
    let id = fs::metadata(&path).map_err(|error| KernelError::file("read", &path, error))?.ino();
    // The kernel counts from the root of the whole tree. Where a mount shows only a part of it, the level is too
    // small, no socket counts as one of the sandbox, and loopback between its processes is denied.
    Ok(Place { id, level: u32::try_from(below).unwrap_or(u32::MAX) })
}

fn is_cgroup2(path: &Path) -> bool {
    statfs(path).is_ok_and(|status| status.filesystem_type() == CGROUP2_SUPER_MAGIC)
}

/// Where cgroup v2 is mounted, from `/proc/self/mountinfo`: `/sys/fs/cgroup`, or elsewhere on hybrid hosts.
///
/// # Errors
/// [`KernelError::File`] when the mounts cannot be read, [`KernelError::NotCgroup`] when there is none.
pub fn cgroup2_mount() -> Result<PathBuf, KernelError> {
    const MOUNTS: &str = "/proc/self/mountinfo";
    let text = fs::read_to_string(MOUNTS).map_err(|error| KernelError::file("read", MOUNTS, error))?;
    find_mount(&text).ok_or_else(|| KernelError::NotCgroup { path: "/sys/fs/cgroup".into() })
}

/// The mount point of the cgroup v2 root in the text of `mountinfo` (proc(5)).
fn find_mount(mountinfo: &str) -> Option<PathBuf> {
    mountinfo.lines().find_map(|line| {
        let (mount, kind) = line.split_once(" - ")?;
        let mut fields = mount.split(' ');
        let (root, point) = (fields.nth(3)?, fields.next()?);
        (kind.starts_with("cgroup2 ") && root == "/").then(|| PathBuf::from(point.replace("\\040", " ")))
    })
}

/// A cgroup of our own; dropping it removes it, which the kernel refuses while processes are in it.
#[derive(Debug)]
pub struct OwnCgroup {
    path: PathBuf,
}

impl OwnCgroup {
    /// Makes a cgroup below the root of the tree.
    ///
    /// # Errors
    /// [`KernelError::File`]; also when the name is taken.
    pub fn create(name: &str) -> Result<Self, KernelError> {
        let path = cgroup2_mount()?.join(name);
        fs::create_dir(&path).map_err(|error| KernelError::file("create cgroup", &path, error))?;
        Ok(Self { path })
    }

    /// Its folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// An open handle, for spawning into it (`CLONE_INTO_CGROUP`).
    ///
    /// # Errors
    /// [`KernelError::File`].
    pub fn open(&self) -> Result<File, KernelError> {
        File::open(&self.path).map_err(|error| KernelError::file("open", &self.path, error))
    }

    /// Whether a process is left in it or below.
    ///
    /// # Errors
    /// [`KernelError::File`].
    pub fn is_populated(&self) -> Result<bool, KernelError> {
        is_populated(&self.path)
    }

    /// Kills every process in it and below. They are gone when [`is_populated`](Self::is_populated) says so.
    ///
    /// # Errors
    /// [`KernelError::File`].
    pub fn kill(&self) -> Result<(), KernelError> {
        let kill = self.path.join("cgroup.kill");
        fs::write(&kill, "1").map_err(|error| KernelError::file("write to", kill, error))
    }
}

impl Drop for OwnCgroup {
    fn drop(&mut self) {
        if let Err(error) = remove_tree(&self.path) {
            tracing::warn!(cgroup = %self.path.display(), %error, "cannot remove the cgroup");
        }
    }
}

/// Whether a process is in a cgroup or below.
///
/// # Errors
/// [`KernelError::File`].
pub fn is_populated(path: &Path) -> Result<bool, KernelError> {
    let events = path.join("cgroup.events");
    let text = fs::read_to_string(&events).map_err(|error| KernelError::file("read", events, error))?;
    Ok(text.lines().any(|line| line == "populated 1"))
}

/// Whether a cgroup that is removed is still fenced by the links that are pinned in a folder or below: each of its sockets,
/// whoever has it, keeps its programs in force, and with the last one the kernel takes them off the links. Unix sockets
/// count, too. Also says so of a cgroup that is there.
///
/// # Errors
/// When the pins cannot be read.
pub fn is_fenced_by(pins: &Path) -> io::Result<bool> {
    let entries = match fs::read_dir(pins) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        other => other?,
    };
    for entry in entries {
        let path = entry?.path();
        // All hooks of a cgroup fall together; this one has what is sent.
        let stands = match path.file_name().and_then(|name| name.to_str()?.strip_prefix("link_")) {
            Some(programs::CGROUP_EGRESS) => has_cgroup(&path)?,
            Some(_) => false,
            None => path.is_dir() && is_fenced_by(&path)?,
        };
        if stands {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Whether a pinned link has a cgroup, by what the kernel says of its descriptor (`bpf_cgroup_link_show_fdinfo`).
fn has_cgroup(pin: &Path) -> io::Result<bool> {
    let Some(link) = open_link(pin)? else { return Ok(false) };
    let said = fs::read_to_string(format!("/proc/self/fdinfo/{}", link.as_raw_fd()))?;
    let id = said.lines().find_map(|line| line.strip_prefix("cgroup_id:"));
    Ok(id.is_none_or(|id| id.trim() != "0"))
}

/// Removes cgroups below the root of the tree whose names start with `prefix` and that hold no process.
///
/// # Errors
/// [`KernelError::File`] when the tree cannot be read.
pub fn remove_empty_cgroups(prefix: &str) -> Result<(), KernelError> {
    let root = cgroup2_mount()?;
    let entries = fs::read_dir(&root).map_err(|error| KernelError::file("read", &root, error))?;
    for entry in entries.flatten() {
        if entry.file_name().as_encoded_bytes().starts_with(prefix.as_bytes()) {
            // One with processes in it is somebody's.
            let _busy = remove_tree(&entry.path());
        }
    }
    Ok(())
}

/// Removes a cgroup and those below it, deepest first.
fn remove_tree(path: &Path) -> io::Result<()> {
    for entry in fs::read_dir(path)?.flatten() {
        if entry.file_type()?.is_dir() {
            remove_tree(&entry.path())?;
        }
    }
    fs::remove_dir(path)
}

/// The cookie of the network namespace that the calling thread makes sockets in.
///
/// # Errors
/// [`KernelError::File`] when the kernel does not tell (`SO_NETNS_COOKIE`, 5.14).
pub fn netns_cookie() -> Result<u64, KernelError> {
    let failed = |error| KernelError::file("ask for the cookie of", "this network namespace", error);
    // Not bound: a namespace whose loopback is down has a cookie, too.
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::DGRAM, None).map_err(failed)?;
    let mut cookie = 0u64;
    let mut length = size_of::<u64>() as libc::socklen_t;
    // SAFETY: the option writes a u64, and both pointers outlive the call.
    let status = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            SO_NETNS_COOKIE,
            (&raw mut cookie).cast(),
            &raw mut length,
        )
    };
    if status == 0 { Ok(cookie) } else { Err(failed(io::Error::last_os_error())) }
}

/// `include/uapi/asm-generic/socket.h`; `libc` has no name for it.
const SO_NETNS_COOKIE: libc::c_int = 71;

/// The addresses that sockets of this network namespace send from by default: what `getsockname` of a redirected
/// DNS socket shows. Sends nothing.
pub(super) fn default_sources() -> Vec<IpAddr> {
    let anywhere: [(&str, &str); 2] = [("0.0.0.0:0", "192.0.2.1:53"), ("[::]:0", "[2001:db8::1]:53")];
    anywhere.into_iter().filter_map(|(from, to)| source_towards(from, to).ok()).collect()
}

fn source_towards(from: &str, to: &str) -> io::Result<IpAddr> {
    let socket = UdpSocket::bind(from)?;
    socket.connect(to)?;
    socket.local_addr().as_ref().map(SocketAddr::ip).map_err(|error| io::Error::from(error.kind()))
}

/// Attaches all hooks, or puts the programs in the place of those that are attached.
pub(super) fn attach(ebpf: &mut Ebpf, path: &Path, pins: &Path) -> Result<(), KernelError> {
    let cgroup = File::open(path).map_err(|error| KernelError::file("open", path, error))?;
    loading::load(&mut loading::select(ebpf, &HOOKS)?, &format!("at cgroup {}", path.display()))?;
    for name in HOOKS {
        let hook = Hook { name, cgroup: &cgroup, path };
        let program = ebpf
            .program_mut(name)
            .ok_or_else(|| KernelError::Missing { what: "program", name: name.into() })?;
        hook.attach_or_replace(program, &pins.join(format!("link_{name}")))?;
        if name == programs::POST_BIND6 {
            cgroup_sockets::mark_existing(ebpf, path)?;
        }
    }
    Ok(())
}

/// One program and the cgroup it belongs to.
struct Hook<'a> {
    name: &'static str,
    cgroup: &'a File,
    path: &'a Path,
}

impl Hook<'_> {
    fn failed(&self, operation: &'static str, source: ProgramError) -> KernelError {
        KernelError::program(operation, self.name, format!("at cgroup {}", self.path.display()), source)
    }

    fn attach_or_replace(&self, program: &mut Program, pin: &Path) -> Result<(), KernelError> {
        let failed = |operation| {
            move |error: io::Error| {
                let source = Box::new(error);
                KernelError::Link { operation, path: pin.into(), source }
            }
        };
        if let Some(link) = open_link(pin).map_err(failed("open"))? {
            let new = program.fd().map_err(|source| self.failed("find", source))?;
            match update_link(link.as_fd(), new.as_fd()) {
                Ok(()) => return Ok(()),
                // What the link was attached to is gone; its pin is a leftover.
                Err(error) if error.raw_os_error() == Some(libc::ENOLINK) => links::unpin(pin)?,
                Err(error) => return Err(failed("replace")(error)),
            }
        }
        links::pin(self.attach(program).map_err(|source| self.failed("attach", source))?, pin)
    }

    /// `Single` is the only mode that links know; it lets others attach beside us all the same.
    fn attach(&self, program: &mut Program) -> Result<FdLink, ProgramError> {
        let mode = CgroupAttachMode::Single;
        match program {
            Program::CgroupSkb(program) => {
                let hook = if self.name == programs::CGROUP_EGRESS {
                    CgroupSkbAttachType::Egress
                } else {
                    CgroupSkbAttachType::Ingress
                };
                let id = program.attach(self.cgroup, hook, mode)?;
                program.take_link(id)?.try_into().map_err(not_a_link)
            }
            Program::CgroupSock(program) => {
                let id = program.attach(self.cgroup, mode)?;
                program.take_link(id)?.try_into().map_err(not_a_link)
            }
            Program::CgroupSockAddr(program) => {
                let id = program.attach(self.cgroup, mode)?;
                program.take_link(id)?.try_into().map_err(not_a_link)
            }
            _ => Err(ProgramError::UnexpectedProgramType),
        }
    }
}

/// Kernels below 5.7 attach without links, and are refused before.
fn not_a_link(_: LinkError) -> ProgramError {
    ProgramError::NotAttached
}

/// `BPF_OBJ_GET` of bpf(2): the link that is pinned at a path, if any. aya's handles do not show their descriptor.
fn open_link(pin: &Path) -> io::Result<Option<OwnedFd>> {
    /// The part of `union bpf_attr` for pins.
    #[repr(C)]
    struct Pin {
        path: u64,
        fd: u32,
        flags: u32,
    }
    /// `enum bpf_cmd`.
    const BPF_OBJ_GET: libc::c_int = 7;
    let path = CString::new(pin.as_os_str().as_bytes())?;
    let attributes = Pin { path: path.as_ptr() as u64, fd: 0, flags: 0 };
    match bpf(BPF_OBJ_GET, &attributes) {
        // SAFETY: the kernel has just made this descriptor for us.
        Ok(fd) => Ok(Some(unsafe { OwnedFd::from_raw_fd(fd) })),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// `BPF_LINK_UPDATE` of bpf(2): puts a program in the place of the one that a link holds.
fn update_link(link: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
    /// The part of `union bpf_attr` for `link_update`.
    #[repr(C)]
    struct LinkUpdate {
        link: u32,
        new_program: u32,
        flags: u32,
        old_program: u32,
    }
    /// `enum bpf_cmd`.
    const BPF_LINK_UPDATE: libc::c_int = 29;
    let attributes = LinkUpdate {
        link: link.as_raw_fd().cast_unsigned(),
        new_program: program.as_raw_fd().cast_unsigned(),
        flags: 0,
        old_program: 0,
    };
    bpf(BPF_LINK_UPDATE, &attributes).map(drop)
}

/// bpf(2), with a prefix of `union bpf_attr`.
fn bpf<T>(command: libc::c_int, attributes: &T) -> io::Result<RawFd> {
    // SAFETY: the kernel reads as many bytes as it is told, and keeps no pointer.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, &raw const *attributes, size_of::<T>()) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    RawFd::try_from(result).map_err(io::Error::other)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_root_of_cgroup2_is_found() {
        let hybrid = "30 24 0:26 / /sys/fs/cgroup rw shared:4 - tmpfs tmpfs rw\n\
                      31 30 0:27 /part /mnt rw - cgroup2 cgroup2 rw\n\
                      32 30 0:28 / /sys/fs/cgroup/unified rw,nosuid shared:9 - cgroup2 cgroup2 rw\n";
        assert_eq!(find_mount(hybrid), Some("/sys/fs/cgroup/unified".into()));
        assert_eq!(find_mount("1 2 0:3 / /proc rw - proc proc rw\n"), None);
    }

    #[test]
    fn what_is_no_cgroup_is_refused() {
        assert!(matches!(place(Path::new("/proc")), Err(KernelError::NotCgroup { .. })));
    }
}
