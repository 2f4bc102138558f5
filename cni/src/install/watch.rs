//! Keeps our configuration a copy of the CNI's: whenever a file of the folder changes it is compared and, where it
//! differs, written again.
//!
//! Nothing that the CNI does takes ours away: neither a file that makes no sense nor one that is gone, since agents remove
//! their file when they stop, and pods that started then would be unguarded.

use std::{fs, io, mem::MaybeUninit, path::Path, time::Duration};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fd::OwnedFd,
    fs::inotify,
};
use serde_json::Value;

use super::{InstallError, Place, Written, file_error, lock, refresh};
use crate::stop::Stop;

/// Changes are looked for this often also when the kernel reports none: it drops reports when they are too many.
const AT_LEAST_EVERY: Timespec = Timespec { tv_sec: 60, tv_nsec: 0 };
/// A CNI that writes its file in several steps is read when it has rested for this long.
const REST: Duration = Duration::from_millis(20);

/// Returns at a signal, or by an error of the folder itself. A folder that does not exist yet is made, so that it can be watched.
pub(super) fn watch(place: &Place, entry: &Value, stop: &Stop) -> Result<(), InstallError> {
    fs::create_dir_all(&place.conf).map_err(file_error("make", &place.conf))?;
    let changes = Changes::new().map_err(file_error("watch", &place.conf))?;
    let mut _held;
    eprintln!("nameward-cni: watching {}", place.conf.display());
    let mut last = String::new();
    loop {
        // Each time: a folder that was removed and made anew is another one. Before looking, so that nothing is missed.
        changes.of(&place.conf).map_err(file_error("watch", &place.conf))?;
        _held = lock::shared(place)?;
        let said = match refresh(place, entry) {
            Ok(Written::Unchanged) => String::new(),
            Ok(Written::From(cni)) => {
                format!("{} chains it behind {}", place.conflist().display(), cni.display())
            }
            Err(error) => describe(&error),
        };
        // The same complaint is worth one line, not one for each change of the folder.
        if !said.is_empty() && said != last {
            eprintln!("nameward-cni: {said}");
        }
        last = said;
        if changes.wait(stop).map_err(file_error("watch", &place.conf))? == Waited::Stop {
            return Ok(());
        }
    }
}

fn describe(error: &InstallError) -> String {
    std::error::Error::source(error).map_or_else(|| error.to_string(), |cause| format!("{error}: {cause}"))
}

/// What was waited for.
#[derive(Debug, PartialEq, Eq)]
enum Waited {
    Look,
    Stop,
}

/// Changes of folders, as the kernel reports them.
struct Changes {
    reports: OwnedFd,
}

impl Changes {
    fn new() -> io::Result<Self> {
        use inotify::CreateFlags;
        Ok(Self { reports: inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)? })
    }

    /// Of this folder from now on; saying it again changes nothing.
    fn of(&self, folder: &Path) -> io::Result<()> {
        use inotify::WatchFlags;
        let moves =
            WatchFlags::MOVED_TO | WatchFlags::MOVED_FROM | WatchFlags::DELETE | WatchFlags::DELETE_SELF;
        let writes = WatchFlags::CREATE | WatchFlags::MODIFY | WatchFlags::CLOSE_WRITE;
        inotify::add_watch(&self.reports, folder, moves | writes)?;
        Ok(())
    }

    /// Returns after a change and a rest, when it is time to look anyway, or at a signal.
    fn wait(&self, stop: &Stop) -> io::Result<Waited> {
        let mut polled = [PollFd::new(&self.reports, PollFlags::IN), PollFd::new(stop, PollFlags::IN)];
        match poll(&mut polled, Some(&AT_LEAST_EVERY)) {
            Err(rustix::io::Errno::INTR) | Ok(_) => {}
            Err(error) => return Err(error.into()),
        }
        if polled[1].revents().contains(PollFlags::IN) {
            return Ok(Waited::Stop);
        }
        std::thread::sleep(REST);
        self.forget().map(|()| Waited::Look)
    }

    /// Which file it was does not matter: all are looked at.
    fn forget(&self) -> io::Result<()> {
        let mut buffer = [MaybeUninit::<u8>::uninit(); 4096];
        let mut reader = inotify::Reader::new(&self.reports, &mut buffer);
        loop {
            match reader.next() {
                Ok(_) => {}
                Err(rustix::io::Errno::AGAIN) => return Ok(()),
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}
