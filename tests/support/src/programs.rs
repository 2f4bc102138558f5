//! Where the programs under test are.

use std::{env, path::PathBuf};

use anyhow::{Context, Result, bail};

/// The path of `nameward`, `nameward-resolver` or `nameward-enforcer`: in the folder that `NAMEWARD_BIN_DIR` names,
/// else beside the calling program, where Cargo puts them.
///
/// # Errors
/// When it is not there; the text says how to build it.
pub fn program(name: &str) -> Result<PathBuf> {
    let folder = match env::var_os("NAMEWARD_BIN_DIR") {
        Some(folder) => PathBuf::from(folder),
        None => beside_us()?,
    };
    let path = folder.join(name);
    if !path.is_file() {
        bail!("{} is missing; `cargo build -p {name}` builds it", path.display());
    }
    path.canonicalize().with_context(|| path.display().to_string())
}

fn beside_us() -> Result<PathBuf> {
    let own = env::current_exe()?;
    let folder = own.ancestors().skip(1).find(|folder| !folder.ends_with("deps"));
    Ok(folder.context("this program lies in no folder")?.to_path_buf())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_says_how_to_build_it() {
        let error = program("nameward-absent").unwrap_err().to_string();
        assert!(error.contains("cargo build -p nameward-absent"), "{error}");
    }
}
