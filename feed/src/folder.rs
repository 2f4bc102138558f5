//! The folder where resolvers and enforcers of one node meet: each resolver has `<name>.feed` (gRPC) and
//! `<name>.sockets` (hand-over of DNS sockets) in it, enforcers look for all of them.

use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// Where the folder is unless told otherwise.
pub const DEFAULT: &str = "/run/nameward/feed";

const FEED: &str = "feed";
const SOCKETS: &str = "sockets";

/// The two sockets of one resolver.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ResolverSockets {
    /// gRPC.
    pub feed: PathBuf,
    /// Hand-over of DNS sockets.
    pub sockets: PathBuf,
}

impl ResolverSockets {
    /// The paths of the resolver called `name`.
    pub fn of(folder: &Path, name: &str) -> Self {
        Self {
            feed: folder.join(format!("{name}.{FEED}")),
            sockets: folder.join(format!("{name}.{SOCKETS}")),
        }
    }
}

/// All resolvers that have a feed socket in the folder, in order. A folder that is not there holds none.
pub fn resolvers(folder: &Path) -> io::Result<Vec<ResolverSockets>> {
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut found = Vec::new();
    for entry in entries {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == FEED) {
            found.push(ResolverSockets { sockets: path.with_extension(SOCKETS), feed: path });
        }
    }
    found.sort();
    Ok(found)
}

/// Makes the folder when it is not there, for its owner and group only.
pub fn create(folder: &Path) -> io::Result<()> {
    if folder.is_dir() {
        return Ok(());
    }
    std::fs::create_dir_all(folder)?;
    std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o770))
}
