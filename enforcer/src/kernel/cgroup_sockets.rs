//! Sockets that were there before the endpoint: marked as its own, as the kernel marks those that come later.
//!
//! Without it, `connect` would take the listeners of a service that is fenced while it runs for somebody else's.
#![allow(unsafe_code, reason = "pidfd_open(2) and pidfd_getfd(2), for which there is no safe wrapper")]

use std::{
    fs, io,
    os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd},
    path::Path,
};

use aya::{Ebpf, maps::SkStorage};
use nameward_abi::maps;

use super::KernelError;

/// Marks the sockets of all processes in a cgroup and below it. Processes that end meanwhile, and those that may
/// not be looked into, are passed over: what is not marked is denied.
pub(super) fn mark_existing(ebpf: &mut Ebpf, cgroup: &Path) -> Result<(), KernelError> {
    let map = ebpf
        .map_mut(maps::OWN_SOCKETS)
        .ok_or_else(|| KernelError::Missing { what: "map", name: maps::OWN_SOCKETS.into() })?;
    let mut marks: SkStorage<_, u32> =
        SkStorage::try_from(map).map_err(KernelError::map("open", maps::OWN_SOCKETS))?;
    for process in processes(cgroup) {
        for socket in sockets(process).unwrap_or_default() {
            // Sockets of other families have no place for a mark, and need none.
            let _unmarked = marks.insert(&socket, 1, 0);
        }
    }
    Ok(())
}

/// Processes in a cgroup and below it.
fn processes(cgroup: &Path) -> Vec<libc::pid_t> {
    let list = fs::read_to_string(cgroup.join("cgroup.procs")).unwrap_or_default();
    let mut found: Vec<_> = list.lines().filter_map(|line| line.parse().ok()).collect();
    for entry in fs::read_dir(cgroup).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            found.extend(processes(&entry.path()));
        }
    }
    found
}

/// Descriptors of our own for the sockets of a process.
fn sockets(process: libc::pid_t) -> io::Result<Vec<OwnedFd>> {
    // SAFETY: takes and returns numbers; the kernel makes the descriptor for us.
    let handle = owned(unsafe { libc::syscall(libc::SYS_pidfd_open, process, 0) })?;
    let mut found = Vec::new();
    for entry in fs::read_dir(format!("/proc/{process}/fd"))?.flatten() {
        let is_socket = fs::read_link(entry.path())
            .is_ok_and(|to| to.as_os_str().as_encoded_bytes().starts_with(b"socket:"));
        let number = entry.file_name().to_str().and_then(|name| name.parse::<RawFd>().ok());
        let Some(number) = number.filter(|_| is_socket) else { continue };
        // SAFETY: as above.
        found.extend(
            owned(unsafe { libc::syscall(libc::SYS_pidfd_getfd, handle.as_raw_fd(), number, 0) }).ok(),
        );
    }
    Ok(found)
}

fn owned(result: libc::c_long) -> io::Result<OwnedFd> {
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    let number = RawFd::try_from(result).map_err(io::Error::other)?;
    // SAFETY: a descriptor that a system call has just made for us.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}
