//! `nameward-resolver`: see [`nameward_resolver::wiring`].

use std::process::ExitCode;

fn main() -> ExitCode {
    nameward_resolver::wiring::main()
}
