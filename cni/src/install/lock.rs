//! Who may write our configuration: installers that watch hold a shared lock on the folder of configurations, who takes
//! ours away wants it alone. The kernel releases the locks of a process that dies.

use std::{
    fs::File,
    io, thread,
    time::{Duration, Instant},
};

use rustix::{
    fs::{FlockOperation, flock},
    io::Errno,
};

use super::{InstallError, Place, file_error};

/// Between two looks whether the others have ended.
const STEP: Duration = Duration::from_millis(100);

/// Held by each installer that watches. Waits for one who takes the configuration away, which takes no time.
pub(super) fn shared(place: &Place) -> Result<File, InstallError> {
    let folder = File::open(&place.conf).map_err(file_error("open", &place.conf))?;
    flock(&folder, FlockOperation::LockShared)
        .map_err(|error| file_error("lock", &place.conf)(error.into()))?;
    Ok(folder)
}

/// Waits until no installer watches. Without the folder there is nothing to take away and nobody to wait for.
pub(super) fn alone(place: &Place, wait: Duration) -> Result<Option<File>, InstallError> {
    let folder = match File::open(&place.conf) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other.map_err(file_error("open", &place.conf))?,
    };
    let end = Instant::now() + wait;
    loop {
        match flock(&folder, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(Some(folder)),
            Err(Errno::WOULDBLOCK) if Instant::now() < end => thread::sleep(STEP),
            Err(Errno::WOULDBLOCK) => return Err(InstallError::Watched(place.conflist())),
            Err(error) => return Err(file_error("lock", &place.conf)(error.into())),
        }
    }
}
