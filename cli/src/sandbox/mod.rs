//! The sandbox of `nameward run`: the command and all its descendants in a cgroup, new mount, PID and IPC
//! namespaces, without privileges (SEMANTICS X2).
//!
//! Owns: the cgroup, the first process of the sandbox ([`init`]), what it sees ([`mounts`]), what it may do
//! ([`privileges`], [`seccomp`]), and the record that lets the next run remove what a killed one left behind
//! ([`lease`]). Knows nothing of names, rules or packets: the caller fences the cgroup before it calls
//! [`Sandbox::go`].

mod cgroup;
mod init;
mod lease;
mod mounts;
mod privileges;
mod seccomp;
mod spawn;
mod terminal;
mod user;

use std::ffi::CString;
use std::path::PathBuf;

pub(crate) use cgroup::Cgroup;
pub(crate) use lease::{Holdings, Lease};
pub(crate) use mounts::View;
pub(crate) use spawn::{Report, Sandbox};
pub(crate) use terminal::Terminal;
pub(crate) use user::Credentials;

/// Everything the first process of a sandbox needs to know; prepared before it exists.
#[derive(Debug)]
pub(crate) struct Plan {
    /// The command and its arguments.
    pub(crate) command: Vec<CString>,
    /// `NAME=value` strings.
    pub(crate) environment: Vec<CString>,
    /// Directory the command starts in.
    pub(crate) directory: PathBuf,
    /// Whom it runs as.
    pub(crate) credentials: Credentials,
    /// What it sees of the file system.
    pub(crate) view: View,
    /// Not in the session of who started us, and so in no process group with anybody outside. Without a terminal nobody
    /// misses it.
    pub(crate) own_session: bool,
}
