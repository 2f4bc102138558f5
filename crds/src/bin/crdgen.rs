//! Writes the CustomResourceDefinitions to `crds/generated`; with `--check`, fails when the files there differ.

use std::{fs, io, path::Path, process::ExitCode};

use nameward_crds::schema::definitions;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("generated");
    let outcome = match arguments.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        [] => write(&folder).map_err(|error| format!("cannot write to {}: {error}", folder.display())),
        ["--check"] => check(&folder),
        _ => Err("usage: crdgen [--check]".to_owned()),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("crdgen: {message}");
            ExitCode::FAILURE
        }
    }
}

fn write(folder: &Path) -> io::Result<()> {
    fs::create_dir_all(folder)?;
    definitions().iter().try_for_each(|one| fs::write(folder.join(&one.file_name), one.to_yaml()))
}

fn check(folder: &Path) -> Result<(), String> {
    let stale: Vec<&str> = definitions()
        .iter()
        .filter(|one| fs::read_to_string(folder.join(&one.file_name)).ok() != Some(one.to_yaml()))
        .map(|one| one.file_name.as_str())
        .collect();
    if stale.is_empty() {
        return Ok(());
    }
    Err(format!(
        "{} differ in {}; run `cargo run -p nameward-crds --bin crdgen` and commit what it writes",
        stale.join(", "),
        folder.display()
    ))
}
