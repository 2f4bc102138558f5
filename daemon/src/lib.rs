//! What our long-running processes have in common: the log, the signals that end them, the word to a supervisor,
//! tasks of which none may end unseen, the form of metrics, the audit log, the clock. It knows nothing of what they do.
//!
//! Used by `nameward-resolver`, `nameward-enforcer` and `nameward run`.

pub mod audit;
pub mod clock;
pub mod log;
pub mod metrics;
mod signals;
pub mod supervisor;
mod tasks;

pub use log::LogForm;
pub use signals::StopSignals;
pub use tasks::Tasks;
