//! Puts the plugin into a node: the program by rename, and a configuration of our own that sorts first.
//!
//! Runtimes take the first configuration by name. Ours is a copy of the CNI's with us at its end, because a CNI's agent
//! writes its own file again whenever it starts, and an entry in there would be lost. Our file stays when this program
//! ends and over reboots: pods that start before the enforcer wait for it instead of being unguarded.

mod conflist;
mod lock;
mod watch;

use std::{
    env,
    ffi::OsStr,
    fs, io,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    time::Duration,
};

use nameward_feed::cni::{CONFLIST, PLUGIN, is_configuration};
use serde_json::{Value, json};
use thiserror::Error;

use crate::stop::Stop;

/// Why the plugin is not in place.
#[derive(Debug, Error)]
pub(crate) enum InstallError {
    /// A file or folder.
    #[error("cannot {action} {path}")]
    File { action: &'static str, path: PathBuf, source: io::Error },
    /// No CNI is installed.
    #[error("{0} holds no CNI configuration yet; install a CNI first, or wait for it with --watch")]
    NoCni(PathBuf),
    /// The CNI's configuration is not one.
    #[error("{path}: {what}; what is in force stays")]
    Configuration { path: PathBuf, what: String },
    /// Another file would be taken in place of ours.
    #[error("{0} sorts before {CONFLIST}, and runtimes take the first: rename it, so that it sorts later")]
    NotFirst(PathBuf),
    /// Somebody would write it again.
    #[error(
        "`nameward-cni install --watch` keeps {0} and would write it again: end it, or wait for its end with --wait"
    )]
    Watched(PathBuf),
}

/// The folders of a node.
#[derive(Debug)]
pub(crate) struct Place {
    conf: PathBuf,
    bin: PathBuf,
}

/// What came of writing our configuration.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Written {
    /// It was as it should be.
    Unchanged,
    /// From this file of the CNI.
    From(PathBuf),
}

impl Place {
    pub(crate) const fn new(conf: PathBuf, bin: PathBuf) -> Self {
        Self { conf, bin }
    }

    /// Our configuration.
    fn conflist(&self) -> PathBuf {
        self.conf.join(CONFLIST)
    }

    /// The configuration that would be in force without ours.
    fn of_cni(&self) -> Result<Option<PathBuf>, InstallError> {
        let entries = fs::read_dir(&self.conf).map_err(file_error("read", &self.conf))?;
        let mut files: Vec<PathBuf> =
            entries.flatten().map(|entry| entry.path()).filter(|path| is_read(path)).collect();
        files.sort();
        Ok(files.into_iter().find(|path| path.file_name() != Some(OsStr::new(CONFLIST))))
    }
}

fn is_read(path: &Path) -> bool {
    is_configuration(path) && path.is_file()
}

/// Our entry in the list of plugins.
pub(crate) fn entry(socket: &Path, timeout_seconds: u64, exempt: &[String]) -> Value {
    let mut entry = json!({"type": PLUGIN, "socket": socket, "timeoutSeconds": timeout_seconds});
    if !exempt.is_empty() {
        entry["onAgentDown"] = "AllowExempt".into();
        entry["exemptNamespaces"] = exempt.into();
    }
    entry
}

/// The program first, so that no configuration names what is not there; then the configuration, and with `watch` again
/// whenever it has to be another, until a signal.
pub(crate) fn install(place: &Place, entry: &Value, watch: Option<&Stop>) -> Result<(), InstallError> {
    let own = env::current_exe().map_err(file_error("find", Path::new(PLUGIN)))?;
    install_program(&own, &place.bin)?;
    if let Some(stop) = watch {
        return watch::watch(place, entry, stop);
    }
    match refresh(place, entry)? {
        Written::Unchanged => eprintln!("nameward-cni: {} is up to date", place.conflist().display()),
        Written::From(cni) => {
            eprintln!("nameward-cni: {} chains it behind {}", place.conflist().display(), cni.display())
        }
    }
    Ok(())
}

/// Writes our configuration when the CNI's is another than that which ours was made of.
pub(crate) fn refresh(place: &Place, entry: &Value) -> Result<Written, InstallError> {
    let Some(cni) = place.of_cni()? else { return Err(InstallError::NoCni(place.conf.clone())) };
    if cni.file_name() < Some(OsStr::new(CONFLIST)) {
        return Err(InstallError::NotFirst(cni));
    }
    let text = fs::read_to_string(&cni).map_err(file_error("read", &cni))?;
    let ours = conflist::chained(&text, entry)
        .map_err(|what| InstallError::Configuration { path: cni.clone(), what })?;
    if fs::read_to_string(place.conflist()).is_ok_and(|there| there == ours) {
        return Ok(Written::Unchanged);
    }
    replace(&place.conflist(), ours.as_bytes(), 0o644)?;
    Ok(Written::From(cni))
}

/// Our configuration goes first; after that no new sandbox needs the program, but old ones are taken down by it. An
/// installer that watches is waited for.
pub(crate) fn uninstall(place: &Place, binary: bool, wait: Duration) -> Result<(), InstallError> {
    let _alone = lock::alone(place, wait)?;
    remove(&place.conflist())?;
    let program = place.bin.join(PLUGIN);
    if binary {
        remove(&program)
    } else {
        eprintln!("nameward-cni: {} stays for pods that were started with it", program.display());
        Ok(())
    }
}

/// Copies a program into the folder of plugins, under our name; one that runs meanwhile goes on with its old file.
fn install_program(own: &Path, folder: &Path) -> Result<(), InstallError> {
    let (bytes, target) = (fs::read(own).map_err(file_error("read", own))?, folder.join(PLUGIN));
    if fs::read(&target).is_ok_and(|there| there == bytes) {
        return Ok(());
    }
    fs::create_dir_all(folder).map_err(file_error("make", folder))?;
    replace(&target, &bytes, 0o755)
}

/// By a file beside it and one rename, so that nobody ever reads a half. Its name has no ending that runtimes read.
fn replace(target: &Path, bytes: &[u8], mode: u32) -> Result<(), InstallError> {
    let name = target.file_name().unwrap_or_default().to_string_lossy();
    let beside = target.with_file_name(format!(".{name}.{}", std::process::id()));
    let written = fs::write(&beside, bytes)
        .and_then(|()| fs::set_permissions(&beside, fs::Permissions::from_mode(mode)))
        .and_then(|()| fs::File::open(&beside)?.sync_all())
        .and_then(|()| fs::rename(&beside, target));
    if written.is_err() {
        fs::remove_file(&beside).ok();
    }
    written.map_err(file_error("write", target))
}

fn remove(path: &Path) -> Result<(), InstallError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(file_error("remove", path)(error)),
        _ => Ok(()),
    }
}

fn file_error(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> InstallError {
    let path = path.to_path_buf();
    move |source| InstallError::File { action, path, source }
}

#[cfg(test)]
#[path = "install_tests.rs"]
mod tests;
