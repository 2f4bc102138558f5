//! Live connections of a workload, wherever it is attached: reads and ends them.

use std::{collections::BTreeSet, fs, io, os::unix::fs::MetadataExt, path::Path};

use crate::{
    connections::{self, Connection},
    kernel::{self, Attachment, FarEnd},
};

/// The live TCP connections of a workload that leave it; none where its namespace cannot be found.
///
/// # Errors
/// When the kernel cannot be asked.
pub(crate) fn live_connections(attachment: &Attachment) -> io::Result<Option<Vec<Connection>>> {
    match attachment {
        Attachment::Interface { name } => {
            let Some(far) = FarEnd::find(name)? else { return Ok(None) };
            let mut found = far.inside(connections::live)?;
            // What stays in the namespace does not pass the interface.
            found.retain(|one| !one.remote.ip().is_loopback() && one.local.ip() != one.remote.ip());
            Ok(Some(found))
        }
        Attachment::Cgroup { path, .. } => {
            if !kernel::is_populated(path).map_err(io::Error::other)? {
                return Ok(Some(Vec::new()));
            }
            let own = cgroups(path)?;
            let mut found = connections::live()?;
            found.retain(|one| one.cgroup.is_some_and(|cgroup| own.contains(&cgroup)));
            Ok(Some(found))
        }
    }
}

/// Ends connections of a workload. Returns how many were ended.
///
/// # Errors
/// When the kernel cannot be asked.
pub(crate) fn end_connections(attachment: &Attachment, all: &[&Connection]) -> io::Result<usize> {
    if all.is_empty() {
        return Ok(0);
    }
    let end = || {
        let ended = all.iter().map(|one| connections::end(one)).collect::<io::Result<Vec<bool>>>()?;
        Ok(ended.into_iter().filter(|ended| *ended).count())
    };
    match attachment {
        Attachment::Interface { name } => FarEnd::find(name)?.map_or(Ok(0), |far| far.inside(end)),
        Attachment::Cgroup { .. } => end(),
    }
}

/// Ends the connections of a cgroup in the calling thread's network namespace, also those that no process holds any more:
/// the kernel goes on to send what they had to say. Returns how many there were; once there are none, the kernel sends
/// nothing for the cgroup by itself. Those that it cannot end (`CONFIG_INET_DIAG_DESTROY`, SCTP) end by themselves.
///
/// # Errors
/// When the kernel cannot be asked.
pub fn end_sockets(cgroup: &Path) -> io::Result<usize> {
    let own = cgroups(cgroup)?;
    let mut all = connections::sending()?;
    all.retain(|one| one.cgroup.is_some_and(|cgroup| own.contains(&cgroup)));
    for one in &all {
        connections::end(one)?;
    }
    Ok(all.len())
}

/// Identifiers of a cgroup and those below it.
fn cgroups(path: &Path) -> io::Result<BTreeSet<u64>> {
    let mut found = BTreeSet::from([fs::metadata(path)?.ino()]);
    for entry in fs::read_dir(path)?.flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            // One that is removed meanwhile has no sockets.
            found.extend(cgroups(&entry.path()).unwrap_or_default());
        }
    }
    Ok(found)
}
