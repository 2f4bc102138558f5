//! Writes the API's description to `api/openapi.json`; with `--check`, fails when the file there differs.

use std::{fs, path::Path, process::ExitCode};

use nameward_api::openapi;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("openapi.json");
    let outcome = match arguments.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        [] => fs::write(&file, openapi::json())
            .map_err(|error| format!("cannot write {}: {error}", file.display())),
        ["--check"] if fs::read_to_string(&file).is_ok_and(|text| text == openapi::json()) => Ok(()),
        ["--check"] => Err(format!(
            "{} differs; run `cargo run -p nameward-api --bin openapigen` and commit what it writes",
            file.display()
        )),
        _ => Err("usage: openapigen [--check]".to_owned()),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("openapigen: {message}");
            ExitCode::FAILURE
        }
    }
}
