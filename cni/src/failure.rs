//! Errors as the CNI specification wants them: JSON on standard output, with a code that runtimes know.

use serde_json::{Value, json};
use thiserror::Error;

/// Why a call failed.
#[derive(Debug, Error)]
pub(crate) enum Failure {
    /// A version that this plugin does not speak.
    #[error("cniVersion {0:?} is not supported; this plugin speaks 0.3.0 to 1.1.0")]
    Version(String),
    /// A command that does not exist, or not in this version.
    #[error("CNI_COMMAND {command:?} does not exist in CNI {version}")]
    Command {
        /// As given.
        command: String,
        /// Of the configuration.
        version: String,
    },
    /// The runtime left out what the command needs.
    #[error("the container runtime did not set {0}")]
    Environment(&'static str),
    /// Standard input is not a network configuration.
    #[error("the network configuration is not valid JSON: {0}")]
    Decode(#[from] serde_json::Error),
    /// It cannot be read.
    #[error("the network configuration cannot be read: {0}")]
    Read(#[from] std::io::Error),
    /// It makes no sense.
    #[error("{0}")]
    Configuration(String),
    /// The enforcer does not answer, or says that it is too early.
    #[error("{0}")]
    TryLater(String),
    /// The enforcer refuses.
    #[error("{0}")]
    Refused(String),
}

impl Failure {
    /// The code of the specification; from 100 on they are the plugin's own.
    const fn code(&self) -> u32 {
        match self {
            Self::Version(_) => 1,
            Self::Command { .. } | Self::Environment(_) => 4,
            Self::Read(_) => 5,
            Self::Decode(_) => 6,
            Self::Configuration(_) => 7,
            Self::TryLater(_) => 11,
            Self::Refused(_) => 100,
        }
    }

    /// What is written for the runtime, which puts it into the pod's events.
    pub(crate) fn to_json(&self, version: &str) -> Value {
        json!({"cniVersion": version, "code": self.code(), "msg": format!("nameward: {self}"), "details": ""})
    }
}
