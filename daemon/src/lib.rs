//! What our long-running processes have in common: the log, the signals that end them, the word to a supervisor,
//! tasks of which none may end unseen, the form of metrics, the audit log. It knows nothing of what they do.
//!
//! Used by `nameward-resolver` and `nameward-enforcer`.

pub mod audit;
pub mod log;
pub mod metrics;
mod signals;
pub mod supervisor;
mod tasks;

pub use log::LogForm;
pub use signals::StopSignals;
pub use tasks::Tasks;
