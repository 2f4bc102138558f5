//! The file of `--learn`. The command may write to the folder that it is in, and nameward is root: so the file is
//! opened once, before the command starts, with the rights of who asked for it, and never through a link. What the
//! command puts in its place meanwhile is not touched.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use nix::unistd::{Uid, getegid, getgroups, setegid, seteuid, setgroups};

use crate::sandbox::Credentials;

/// An open file, and what it is called.
#[derive(Debug)]
pub(super) struct LearnFile {
    path: PathBuf,
    file: File,
}

impl LearnFile {
    /// Opens it as `caller`; what it holds stays until [`write`](Self::write). There must be one thread.
    pub(super) fn open(path: &Path, caller: &Credentials) -> Result<Self> {
        let say = || format!("cannot write --learn {}", path.display());
        let file = as_user(caller, || {
            OpenOptions::new()
                .write(true)
                .create(true)
                .truncate(false)
                .mode(0o644)
                // A pipe that nobody reads would be waited for.
                .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
                .open(path)
        })?;
        let file = match file {
            Err(error) if error.raw_os_error() == Some(libc::ELOOP) => {
                bail!("{}: it is a symbolic link; name the file that it leads to", say())
            }
            Err(error) if error.kind() == ErrorKind::NotFound => {
                bail!("{}: {error}; make its folder first, or name another file", say())
            }
            Err(error) if error.kind() == ErrorKind::PermissionDenied => {
                bail!("{}: {error}; name a file that you may write, it is opened with your rights", say())
            }
            Err(error) => bail!("{}: {error}; name a regular file, or one that is not there yet", say()),
            Ok(file) => file,
        };
        ensure!(
            file.metadata().with_context(say)?.is_file(),
            "{}: it is no regular file; name another one",
            say()
        );
        Ok(Self { path: path.into(), file })
    }

    /// Replaces what it holds.
    pub(super) fn write(mut self, text: &str) -> Result<()> {
        let say = || format!("cannot write --learn {}", self.path.display());
        self.file.set_len(0).with_context(say)?;
        self.file.write_all(text.as_bytes()).with_context(say)?;
        let links = self.file.metadata().with_context(say)?.nlink();
        ensure!(links > 0, "{}: the command has removed or replaced it", say());
        Ok(())
    }
}

/// Does something with the rights of a user.
fn as_user<T>(user: &Credentials, work: impl FnOnce() -> T) -> Result<T> {
    if user.uid == Uid::effective() {
        return Ok(work());
    }
    let (own, group, groups) = (Uid::effective(), getegid(), getgroups()?);
    setgroups(&user.groups).context("cannot take the groups of the user")?;
    setegid(user.gid).context("cannot take the group of the user")?;
    seteuid(user.uid).context("cannot take the place of the user")?;
    let result = work();
    seteuid(own).context("cannot be root again")?;
    setegid(group).context("cannot have root's group again")?;
    setgroups(&groups).context("cannot have root's groups again")?;
    Ok(result)
}
