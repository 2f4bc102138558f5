//! Pinned links: what is attached stays attached without us, and the next process finds it again.

use std::{fs, io, path::Path};

use aya::{
    programs::{
        ProgramError,
        links::{FdLink, LinkError, PinnedLink},
    },
    sys::SyscallError,
};

use super::KernelError;

/// Opens a pinned link; `None` when nothing is pinned there.
pub(super) fn open(pin: &Path) -> Result<Option<FdLink>, KernelError> {
    match PinnedLink::from_pin(pin) {
        Ok(link) => Ok(Some(link.into())),
        Err(LinkError::SyscallError(SyscallError { io_error, .. }))
            if io_error.kind() == io::ErrorKind::NotFound =>
        {
            Ok(None)
        }
        Err(source) => Err(KernelError::Link { operation: "open", path: pin.into(), source: source.into() }),
    }
}

/// Pins a link; from here on it outlives this process.
pub(super) fn pin(link: FdLink, pin: &Path) -> Result<(), KernelError> {
    link.pin(pin).map(drop).map_err(|source| KernelError::Link {
        operation: "pin",
        path: pin.into(),
        source: source.into(),
    })
}

/// Pins a link where another may be pinned, which goes at the same moment.
pub(super) fn pin_over(link: FdLink, at: &Path) -> Result<(), KernelError> {
    let fresh = at.with_file_name(format!("{}~new", at.file_name().unwrap_or_default().display()));
    unpin(&fresh)?;
    pin(link, &fresh)?;
    fs::rename(&fresh, at).map_err(|error| KernelError::file("replace", at, error))
}

/// Removes a pin that may be absent; the link goes when nobody else holds it.
pub(super) fn unpin(pin: &Path) -> Result<(), KernelError> {
    match fs::remove_file(pin) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(KernelError::file("remove", pin, error)),
        _ => Ok(()),
    }
}

/// Whether an update failed because what the link was attached to is gone.
pub(super) fn is_severed(error: &ProgramError) -> bool {
    match error {
        ProgramError::SyscallError(SyscallError { io_error, .. }) => {
            io_error.raw_os_error() == Some(libc::ENOLINK)
        }
        _ => false,
    }
}
