//! The log on standard error.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

/// What is logged without `RUST_LOG`. The client of the API server tells each request that fails, also those that whoever
/// asked tries again and tells once.
const STANDARD: &str = "info,kube_client=off";

/// Form of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum LogForm {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// Starts logging. `RUST_LOG` says what; without it, everything from `info` on. Must be called once.
pub fn start(form: LogForm) {
    let (filter, mistake) = match EnvFilter::try_from_default_env() {
        Ok(filter) => (filter, None),
        Err(error) if std::env::var_os(EnvFilter::DEFAULT_ENV).is_some() => {
            (EnvFilter::new(STANDARD), Some(error))
        }
        Err(_) => (EnvFilter::new(STANDARD), None),
    };
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match form {
        LogForm::Text => log.with_ansi(std::io::stderr().is_terminal()).init(),
        LogForm::Json => log.json().flatten_event(true).init(),
    }
    if let Some(error) = mistake {
        tracing::warn!(%error, "RUST_LOG is not understood; everything from info on is logged");
    }
}
