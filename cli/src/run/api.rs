//! The socket of `--api`. It is opened before there is a sandbox, so that the sandbox can hide it: a command that runs as
//! uid 0 could ask it, or fill it. What was made for it goes with the run.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use nameward_api::serve::{ApiListener, ApiPlace};

/// Files and folders that go with the end of the run, in this order.
#[derive(Debug, Default)]
pub(super) struct Made(Vec<PathBuf>);

impl Drop for Made {
    fn drop(&mut self) {
        for path in &self.0 {
            let removed = if path.is_dir() { fs::remove_dir(path) } else { fs::remove_file(path) };
            if let Err(error) = removed {
                tracing::debug!(path = %path.display(), %error, "what was made for --api stays");
            }
        }
    }
}

/// Listens at `place`. Gives what the command may not see, and what is to be removed at the end.
pub(super) fn listen(
    place: &ApiPlace,
    token_file: Option<&Path>,
) -> Result<(ApiListener, Vec<PathBuf>, Made)> {
    let mut made = Made::default();
    if let ApiPlace::Unix(path) = place {
        made.0.push(path.clone());
        made.0.extend(path.ancestors().skip(1).take_while(|folder| !folder.exists()).map(PathBuf::from));
    }
    let listening = place.listen(token_file).with_context(|| format!("cannot serve --api {place}"));
    let listening = match listening {
        Ok(listening) => listening,
        Err(error) => {
            // What is at its path is not ours.
            if !made.0.is_empty() {
                made.0.remove(0);
            }
            return Err(error);
        }
    };
    let socket = match place {
        ApiPlace::Unix(path) => Some(path.as_path()),
        ApiPlace::Address(_) => None,
    };
    let hidden = socket.into_iter().chain(token_file).map(Path::canonicalize).collect::<io::Result<_>>();
    Ok((listening, hidden.context("cannot find what --api has made")?, made))
}
