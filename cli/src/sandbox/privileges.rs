//! Giving up every privilege, for good, and checking that it is so (SEMANTICS X2).
//!
//! Runs in the first process of the sandbox. A command that runs as uid 0 is treated like any other: what makes
//! it harmless is that no set holds a capability, that none can come back, and what [`super::mounts`] hides.
#![allow(unsafe_code, reason = "prctl has no safe wrapper for these options")]

use anyhow::{Context, Result, bail, ensure};
use nix::unistd::{setgroups, setresgid, setresuid};
use rustix::thread::{CapabilitySet, CapabilitySets, set_capabilities};
use seccompiler::BpfProgram;

use super::Credentials;

/// uid 0 gains nothing by exec, capabilities cannot be made ambient or kept; all of it locked
/// (`SECBIT_NOROOT`, `SECBIT_NO_CAP_AMBIENT_RAISE`, `SECBIT_KEEP_CAPS_LOCKED`, capabilities(7)).
const SECURE_BITS: libc::c_ulong = 0b1110_0011;

/// Becomes `credentials`, with nothing else left.
pub(crate) fn drop_all(credentials: &Credentials, filters: &[BpfProgram]) -> Result<()> {
    empty_bounding_set()?;
    prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_CLEAR_ALL as libc::c_ulong)
        .context("cannot clear the ambient capabilities")?;
    prctl(libc::PR_SET_SECUREBITS, SECURE_BITS).context("cannot set the secure bits")?;
    setgroups(&credentials.groups).context("cannot set the supplementary groups")?;
    setresgid(credentials.gid, credentials.gid, credentials.gid).context("cannot set the group")?;
    setresuid(credentials.uid, credentials.uid, credentials.uid).context("cannot set the user")?;
    let none = CapabilitySet::empty();
    set_capabilities(None, CapabilitySets { effective: none, permitted: none, inheritable: none })
        .context("cannot give up the capabilities")?;
    prctl(libc::PR_SET_NO_NEW_PRIVS, 1).context("cannot set no_new_privs")?;
    for filter in filters {
        seccompiler::apply_filter(filter).context("cannot install the system call filter")?;
    }
    Ok(())
}

/// Asks the kernel whether all of that holds.
pub(crate) fn verify(credentials: &Credentials) -> Result<()> {
    let status = std::fs::read_to_string("/proc/self/status").context("cannot read /proc/self/status")?;
    let field = |name: &str| {
        status
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
            .map(str::trim)
            .unwrap_or_default()
    };
    for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        ensure!(
            field(set) == "0000000000000000",
            "the sandbox would keep capabilities: {set} is {}",
            field(set)
        );
    }
    ensure!(field("NoNewPrivs") == "1", "no_new_privs does not hold");
    ensure!(field("Seccomp") == "2", "the system call filter is not in force");
    let uid = credentials.uid.to_string();
    ensure!(field("Uid").split_whitespace().all(|id| id == uid), "the user is {}, not {uid}", field("Uid"));
    Ok(())
}

fn empty_bounding_set() -> Result<()> {
    for capability in 0..64 {
        match prctl(libc::PR_CAPBSET_DROP, capability) {
            Ok(()) => {}
            // The kernel knows no more.
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => return Ok(()),
            Err(error) => bail!("cannot empty the bounding set: {error}"),
        }
    }
    Ok(())
}

/// `prctl` with one argument that matters.
pub(crate) fn prctl(option: libc::c_int, argument: libc::c_ulong) -> std::io::Result<()> {
    let zero: libc::c_ulong = 0;
    // SAFETY: none of the options used here takes a pointer.
    match unsafe { libc::prctl(option, argument, zero, zero, zero) } {
        0 => Ok(()),
        _ => Err(std::io::Error::last_os_error()),
    }
}
