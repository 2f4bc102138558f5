//! What can go wrong between user space and the kernel, with what to do about it.

use std::path::PathBuf;

use thiserror::Error;

/// An operation on programs, maps, pins or links that failed.
#[derive(Debug, Error)]
pub enum KernelError {
    /// The process may not load programs.
    #[error(
        "loading kernel programs needs root: run it with sudo, or give it CAP_BPF, CAP_NET_ADMIN and CAP_SYS_ADMIN"
    )]
    NotRoot,
    /// The kernel lacks something that every endpoint needs.
    #[error("kernel {found} is too old: {needed} is needed for {purpose}")]
    KernelTooOld {
        /// As `uname -r` says it.
        found: String,
        /// Version.
        needed: &'static str,
        /// What for.
        purpose: &'static str,
    },
    /// There is no BPF file system at the path.
    #[error("there is no BPF file system at {path}: mount it with `mount -t bpf bpf {path}`")]
    NoBpffs {
        /// Where it was looked for.
        path: PathBuf,
    },
    /// Another process holds the folder of pins.
    #[error("another process already enforces from {path}: stop it first, or choose another instance name")]
    InstanceBusy {
        /// Folder of pins.
        path: PathBuf,
    },
    /// A file operation on pins, locks or `/proc`.
    #[error("cannot {operation} {path}")]
    File {
        /// Verb.
        operation: &'static str,
        /// Which file.
        path: PathBuf,
        /// Cause.
        source: std::io::Error,
    },
    /// The object has been refused by the loader or the kernel.
    #[error("the kernel programs cannot be loaded; is BPF built into this kernel and allowed here?")]
    Load(#[from] aya::EbpfError),
    /// A program or map that the object should have.
    #[error("the kernel object has no {what} named {name}: it was built from another version")]
    Missing {
        /// `program` or `map`.
        what: &'static str,
        /// Its name.
        name: String,
    },
    /// A program was refused, or could not be attached.
    #[error("cannot {operation} program {program} {target}")]
    Program {
        /// Verb.
        operation: &'static str,
        /// Which program.
        program: String,
        /// Where.
        target: String,
        /// Cause; boxed, because it is the largest of all.
        source: Box<aya::programs::ProgramError>,
    },
    /// The kernel's verifier does not accept a program.
    #[error("kernel {kernel} refuses program {program} {target}, please report this: {log}")]
    Refused {
        /// As `uname -r` says it.
        kernel: String,
        /// Which program.
        program: String,
        /// Where it was to be attached.
        target: String,
        /// The end of the verifier's log, on one line.
        log: String,
        /// Cause.
        source: std::io::Error,
    },
    /// Pins that a newer version has made.
    #[error(
        "{path} was made by a newer version of nameward, whose programs go on: start that version, or take them away with its `nameward-enforcer --remove`"
    )]
    NewerLayout {
        /// Folder of its pins.
        path: PathBuf,
    },
    /// A link could not be pinned, opened or replaced.
    #[error("cannot {operation} link {path}")]
    Link {
        /// Verb.
        operation: &'static str,
        /// Its pin.
        path: PathBuf,
        /// Cause.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A map operation.
    #[error("cannot {operation} map {map}")]
    Map {
        /// Verb.
        operation: &'static str,
        /// Name of the map.
        map: &'static str,
        /// Cause.
        source: aya::maps::MapError,
    },
    /// An interface that does not exist in this network namespace.
    #[error("there is no interface {name} in this network namespace: check `ip link`")]
    NoInterface {
        /// Its name.
        name: String,
    },
    /// The workload's side of an interface cannot be found.
    #[error(
        "no network namespace is known at the other end of interface {name}: `delivery: Peer` needs a veth pair whose other end is in the workload's"
    )]
    NoFarEnd {
        /// Its name.
        name: String,
    },
    /// An interface that carries the host's own traffic.
    #[error(
        "interface {name} carries the default route of this host: an endpoint there would cut the host off; use --allow-default-route if that is meant"
    )]
    DefaultRoute {
        /// Its name.
        name: String,
    },
    /// The root of the cgroup tree.
    #[error(
        "{path} is the root cgroup: an endpoint there would fence the whole host, this program included; use --allow-root-cgroup if that is meant"
    )]
    RootCgroup {
        /// As given.
        path: PathBuf,
    },
    /// A path that is no cgroup v2 folder.
    #[error("{path} is not a cgroup v2 folder: create one below the mount that `mount -t cgroup2` shows")]
    NotCgroup {
        /// As given.
        path: PathBuf,
    },
    /// Too many addresses for one endpoint.
    #[error("an endpoint may have {limit} addresses, this one has {found}")]
    TooManyAddresses {
        /// What fits.
        limit: usize,
        /// What was given.
        found: usize,
    },
    /// An endpoint identifier that cannot be a file name.
    #[error("endpoint identifier {uid:?} is empty or too long: use at most 64 bytes")]
    BadUid {
        /// As given.
        uid: String,
    },
}

/// Octets of a verifier's log that are told.
const LOG_END: usize = 800;

impl KernelError {
    /// A program that could not be loaded or attached; `target` says where.
    pub(super) fn program(
        operation: &'static str,
        program: &str,
        target: String,
        source: aya::programs::ProgramError,
    ) -> Self {
        let program = program.to_owned();
        match source {
            aya::programs::ProgramError::LoadError { io_error, verifier_log } => {
                let kernel = super::host::release().unwrap_or_else(|_| String::from("of unknown version"));
                let log = end_of(&verifier_log.to_string());
                Self::Refused { kernel, program, target, log, source: io_error }
            }
            source => Self::Program { operation, program, target, source: source.into() },
        }
    }

    /// What went wrong, in one word: for counters.
    pub const fn word(&self) -> &'static str {
        match self {
            Self::NotRoot => "privileges",
            Self::KernelTooOld { .. } => "kernel-version",
            Self::NoBpffs { .. } => "bpffs",
            Self::InstanceBusy { .. } => "busy",
            Self::File { .. } => "file",
            Self::Load(_) => "object",
            Self::Missing { .. } => "object",
            Self::Program { .. } => "program",
            Self::Refused { .. } => "verifier",
            Self::NewerLayout { .. } => "layout",
            Self::Link { .. } => "link",
            Self::Map { .. } => "map",
            Self::NoInterface { .. } => "interface",
            Self::NoFarEnd { .. } => "far-end",
            Self::DefaultRoute { .. } | Self::RootCgroup { .. } => "host",
            Self::NotCgroup { .. } => "cgroup",
            Self::TooManyAddresses { .. } | Self::BadUid { .. } => "configuration",
        }
    }

    /// Whether a map had no room.
    pub fn is_full(&self) -> bool {
        match self {
            Self::Map { source: aya::maps::MapError::SyscallError(error), .. } => {
                matches!(error.io_error.raw_os_error(), Some(libc::E2BIG | libc::ENOSPC))
            }
            _ => false,
        }
    }

    pub(crate) fn file(operation: &'static str, path: impl Into<PathBuf>, source: std::io::Error) -> Self {
        Self::File { operation, path: path.into(), source }
    }

    pub(crate) fn map(
        operation: &'static str,
        map: &'static str,
    ) -> impl FnOnce(aya::maps::MapError) -> Self {
        move |source| Self::Map { operation, map, source }
    }
}

/// The last lines of a log as one.
fn end_of(log: &str) -> String {
    let mut lines = Vec::new();
    let mut left = LOG_END;
    for line in log.lines().rev().map(str::trim).filter(|line| !line.is_empty()) {
        let Some(after) = left.checked_sub(line.len()) else { break };
        left = after;
        lines.push(line);
    }
    lines.reverse();
    lines.join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_log_is_told_on_one_line() {
        let log =
            format!("{}\n5: (79) r1 = *(u64 *)(r10 +8)\n\ninvalid read from stack\n", "noise\n".repeat(400));
        let end = end_of(&log);
        assert!(end.ends_with("5: (79) r1 = *(u64 *)(r10 +8); invalid read from stack"), "{end}");
        assert!(end.len() < 2 * LOG_END);
    }
}
