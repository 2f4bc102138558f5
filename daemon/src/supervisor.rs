//! The word to a supervisor that waits for it (sd_notify(3)); nothing where nobody asked for one.

use sd_notify::NotifyState;

/// The process serves.
pub fn ready() {
    tell(NotifyState::Ready);
}

/// The process is about to end.
pub fn stopping() {
    tell(NotifyState::Stopping);
}

fn tell(state: NotifyState<'_>) {
    if let Err(error) = sd_notify::notify(&[state]) {
        tracing::warn!(%error, "the supervisor cannot be told");
    }
}
