//! `nameward-enforcer`: see [`nameward_enforcer::wiring`].

use std::process::ExitCode;

fn main() -> ExitCode {
    nameward_enforcer::wiring::main()
}
