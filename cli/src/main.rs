//! `nameward`, the user's command: runs a program behind an egress firewall that knows names.

mod args;
mod audit;
mod break_glass;
mod check;
mod policy;
mod report;
mod resolver_conf;
mod rules;
mod run;
mod sandbox;
mod see;
mod texts;

use std::process::ExitCode;

use crate::args::Command;

/// Exit status when nameward itself failed (SEMANTICS X3).
const OWN_FAILURE: u8 = 125;

fn main() -> ExitCode {
    let arguments = match args::read(std::env::args_os()) {
        Ok(arguments) => arguments,
        Err(error) => return texts::explain(&error),
    };
    let result = match arguments.command {
        Command::Run(arguments) => run::run(&arguments),
        Command::Endpoints(arguments) => see::endpoints(&arguments),
        Command::Bindings(arguments) => see::bindings(&arguments),
        Command::Flush(arguments) => see::flush(&arguments),
        Command::Explain(arguments) => see::explain(&arguments),
        Command::Watch(arguments) => see::watch(&arguments),
        Command::Traffic(arguments) => see::traffic(&arguments),
        Command::Policies(arguments) => see::policies(&arguments),
        Command::Policy(command) => policy::policy(&command),
        Command::BreakGlass(arguments) => break_glass::break_glass(&arguments),
        Command::Audit(command) => audit::audit(&command),
        Command::Check(what) => check::run(&what),
        Command::Completions { shell } => texts::completions(shell),
        Command::Man => texts::man(),
    };
    result.unwrap_or_else(|error| {
        eprintln!("nameward: {error:#}");
        ExitCode::from(OWN_FAILURE)
    })
}
