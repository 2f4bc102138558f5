//! The folder where resolvers and enforcers of one node meet: each resolver has `<name>.feed` (gRPC) and
//! `<name>.sockets` (hand-over of DNS sockets) in it, enforcers look for all of them.
//!
//! Owns names, modes and the removal of what dead resolvers left; what is said over the sockets is elsewhere.

use std::io;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt};
use std::os::unix::net::{UnixListener, UnixStream};
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
    let mut found: Vec<_> = entries(folder)?
        .into_iter()
        .filter(|path| has_extension(path, FEED))
        .map(|path| ResolverSockets { sockets: path.with_extension(SOCKETS), feed: path })
        .collect();
    found.sort();
    Ok(found)
}

/// Makes the folder when it is not there: its owner may change it, its group look into it, others nothing.
pub fn create(folder: &Path) -> io::Result<()> {
    if folder.is_dir() {
        return Ok(());
    }
    if let Some(parent) = folder.parent() {
        std::fs::create_dir_all(parent)?;
    }
    match std::fs::DirBuilder::new().mode(0o750).create(folder) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        result => result,
    }
}

/// Refuses a folder in which somebody else could put sockets that look like ours.
pub fn check(folder: &Path, own_uid: u32) -> io::Result<()> {
    let found = std::fs::metadata(folder)?;
    let refuse = |why: String| Err(io::Error::new(io::ErrorKind::PermissionDenied, why));
    if ![0, own_uid].contains(&found.uid()) {
        return refuse(format!(
            "it belongs to user {}; `chown` it to root or to the resolver's user",
            found.uid()
        ));
    }
    if found.mode() & 0o002 != 0 {
        return refuse("everybody may write to it; `chmod o-w` it".into());
    }
    Ok(())
}

/// Listens at a path that nobody sees before it is listened at.
pub fn listen(path: &Path) -> io::Result<UnixListener> {
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let hidden = path.with_file_name(format!(".{name}"));
    let listener = UnixListener::bind(&hidden)?;
    match std::fs::rename(&hidden, path) {
        Ok(()) => Ok(listener),
        Err(error) => {
            // Best effort: the error that matters is the first one.
            drop(std::fs::remove_file(&hidden));
            Err(error)
        }
    }
}

/// Removes sockets at which nobody listens any more, and returns how many there were.
pub fn clean(folder: &Path) -> io::Result<usize> {
    let mut removed = 0;
    for path in entries(folder)? {
        let ours = has_extension(&path, FEED) || has_extension(&path, SOCKETS);
        if ours && is_abandoned(&path) {
            match std::fs::remove_file(&path) {
                Ok(()) => removed += 1,
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
    }
    Ok(removed)
}

fn is_abandoned(path: &Path) -> bool {
    let is_socket = std::fs::symlink_metadata(path).is_ok_and(|found| found.file_type().is_socket());
    is_socket
        && matches!(UnixStream::connect(path), Err(error) if error.kind() == io::ErrorKind::ConnectionRefused)
}

/// Paths of a folder without hidden ones; none when it is not there.
fn entries(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let paths = entries.map(|entry| Ok(entry?.path())).collect::<io::Result<Vec<_>>>()?;
    let hidden =
        |path: &PathBuf| path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
    Ok(paths.into_iter().filter(|path| !hidden(path)).collect())
}

fn has_extension(path: &Path, wanted: &str) -> bool {
    path.extension().is_some_and(|extension| extension == wanted)
}

#[cfg(test)]
mod tests {
    use std::fs::{Permissions, metadata, set_permissions};
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    struct Scratch(PathBuf);

    impl Scratch {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("nwt{}x0t{name}", std::process::id()));
            create(&path).unwrap();
            Self(path)
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            drop(std::fs::remove_dir_all(&self.0));
        }
    }

    #[test]
    fn a_new_folder_is_closed_to_others() {
        let folder = Scratch::new("folder-mode");
        assert_eq!(metadata(&folder.0).unwrap().mode() & 0o027, 0);
        create(&folder.0).unwrap();
        let own = metadata(&folder.0).unwrap().uid();
        check(&folder.0, own).unwrap();
        set_permissions(&folder.0, Permissions::from_mode(0o777)).unwrap();
        assert!(check(&folder.0, own).unwrap_err().to_string().contains("chmod o-w"));
    }

    #[test]
    fn only_sockets_of_the_dead_are_removed() {
        let folder = Scratch::new("folder-stale");
        let (dead, alive) = (ResolverSockets::of(&folder.0, "dead"), ResolverSockets::of(&folder.0, "alive"));
        drop((listen(&dead.feed).unwrap(), listen(&dead.sockets).unwrap()));
        let _listening = listen(&alive.feed).unwrap();
        std::fs::write(folder.0.join("note.feed"), "no socket").unwrap();
        std::fs::write(folder.0.join("other"), "not ours").unwrap();
        assert_eq!(clean(&folder.0).unwrap(), 2);
        assert!(!dead.feed.exists() && alive.feed.exists());
        assert!(folder.0.join("note.feed").exists() && folder.0.join("other").exists());
    }

    #[test]
    fn a_folder_that_is_not_there_holds_nobody() {
        let folder = Path::new("/nonexistent/feed");
        assert_eq!(resolvers(folder).unwrap(), []);
        assert_eq!(clean(folder).unwrap(), 0);
    }
}
