//! Asks the enforcer's REST on its unix socket, with curl, as an administrator would.

use std::{path::PathBuf, process::Command, time::Duration};

use anyhow::{Context, Result, ensure};
use nameward_test_support::output_within;
use serde_json::Value;

/// How long an answer may take.
const LIMIT: Duration = Duration::from_secs(10);

/// The socket.
#[derive(Debug)]
pub(crate) struct Rest {
    socket: PathBuf,
}

impl Rest {
    /// At a path; nothing is connected yet.
    pub(crate) fn new(socket: PathBuf) -> Self {
        Self { socket }
    }

    /// What a path answers.
    pub(crate) fn get(&self, path: &str) -> Result<Value> {
        let output = output_within(&mut self.curl(path), LIMIT)?;
        let text = String::from_utf8_lossy(&output.stdout);
        ensure!(output.status.success(), "GET {path}: {text}{}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_str(&text).with_context(|| format!("GET {path}: {text}"))
    }

    /// The list that a path answers.
    pub(crate) fn items(&self, path: &str) -> Result<Vec<Value>> {
        Ok(self.get(path)?["items"].as_array().cloned().unwrap_or_default())
    }

    /// Shows how a path is asked for.
    pub(crate) fn show(&self, path: &str) {
        println!("   host $ curl --unix-socket {} 'http://localhost{path}'", self.socket.display());
    }

    /// Why a destination may or may not be reached, in one line.
    pub(crate) fn explain(&self, uid: &str, destination: &str, port: u16, protocol: &str) -> Result<String> {
        let path =
            format!("/v1/explain?endpoint={uid}&destination={destination}&port={port}&protocol={protocol}");
        let explained = self.get(&path)?;
        Ok(explained["text"].as_str().with_context(|| format!("{path}: {explained}"))?.to_owned())
    }

    fn curl(&self, path: &str) -> Command {
        let mut command = Command::new("curl");
        command.args(["-sS", "--fail-with-body", "--unix-socket"]).arg(&self.socket);
        command.arg(format!("http://localhost{path}"));
        command
    }
}
