//! `nameward`, the user's command: runs a program behind an egress firewall that knows names.

mod args;
mod report;
mod resolver_conf;
mod rules;
mod run;
mod sandbox;
mod texts;

use std::process::ExitCode;

use clap::Parser;

use crate::args::{Arguments, Command};

/// Exit status when nameward itself failed (SEMANTICS X3).
const OWN_FAILURE: u8 = 125;

fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => return texts::explain(&error),
    };
    let result = match arguments.command {
        Command::Run(arguments) => run::run(&arguments),
        Command::Completions { shell } => texts::completions(shell),
        Command::Man => texts::man(),
    };
    result.unwrap_or_else(|error| {
        eprintln!("nameward: {error:#}");
        ExitCode::from(OWN_FAILURE)
    })
}
