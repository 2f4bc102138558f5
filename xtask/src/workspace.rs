//! Where things are: the tree, Cargo's target folder, the cache outside the tree.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, anyhow};
use serde_json::Value;

use crate::command::output;

/// The tree that this program was built from.
#[derive(Debug)]
pub(crate) struct Workspace {
    root: PathBuf,
    metadata: Value,
}

impl Workspace {
    /// Asks Cargo about it.
    pub(crate) fn find() -> Result<Self> {
        let manifest = env::var_os("CARGO_MANIFEST_DIR").context("start this with `cargo xtask`")?;
        let root = Path::new(&manifest).parent().context("xtask is not inside the workspace")?.to_path_buf();
        let mut command = Command::new(cargo_program());
        command.current_dir(&root).args(["metadata", "--format-version", "1", "--no-deps"]);
        let metadata = serde_json::from_str(&output(&mut command)?).context("output of cargo metadata")?;
        Ok(Self { root, metadata })
    }

    /// The folder of the root Cargo.toml.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// Cargo's target folder.
    pub(crate) fn target(&self) -> PathBuf {
        self.metadata["target_directory"].as_str().map_or_else(|| self.root.join("target"), PathBuf::from)
    }

    /// A cargo command in the tree.
    pub(crate) fn cargo(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(cargo_program());
        command.current_dir(&self.root).args(arguments);
        command
    }

    /// Names of a package's targets of one kind (`bin`, `test`), in alphabetical order.
    pub(crate) fn targets(&self, package: &str, kind: &str) -> Vec<String> {
        let packages = self.metadata["packages"].as_array().into_iter().flatten();
        let targets = packages
            .filter(|found| found["name"] == package)
            .flat_map(|found| found["targets"].as_array().into_iter().flatten())
            .filter(|target| target["kind"][0] == kind);
        let mut names: Vec<String> =
            targets.filter_map(|target| target["name"].as_str().map(str::to_owned)).collect();
        names.sort();
        names
    }
}

fn cargo_program() -> PathBuf {
    env::var_os("CARGO").map_or_else(|| "cargo".into(), PathBuf::from)
}

/// The cache for what is slow to make: `$NAMEWARD_CACHE`, `$XDG_CACHE_HOME/nameward` or `$HOME/.cache/nameward`.
///
/// `enforcer/build.rs` and `.ci/run` look in the same order.
pub(crate) fn cache() -> Result<PathBuf> {
    let set = |name| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let folder = set("NAMEWARD_CACHE")
        .or_else(|| set("XDG_CACHE_HOME").map(|cache| cache.join("nameward")))
        .or_else(|| set("HOME").map(|home| home.join(".cache/nameward")))
        .ok_or_else(|| anyhow!("neither NAMEWARD_CACHE nor HOME is set; set NAMEWARD_CACHE to a folder"))?;
    fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    folder.canonicalize().with_context(|| format!("cannot enter {}", folder.display()))
}
