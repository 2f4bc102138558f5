//! `nameward-api`: see [`nameward_api_server::wiring`].

use std::process::ExitCode;

fn main() -> ExitCode {
    nameward_api_server::wiring::main()
}
