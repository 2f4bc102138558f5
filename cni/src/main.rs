//! `nameward-cni`: a chained CNI plugin that lets no sandbox start unguarded, and its own installer.
//!
//! A container runtime starts it with `CNI_COMMAND` in the environment; then it asks the enforcer of its node by a unix
//! socket and nobody else: no API server, no kubeconfig, no state of its own. Started by hand it is its installer.
//! Nothing depends on this crate.

mod args;
mod call;
mod failure;
mod install;
mod plugin;
mod sandbox;
mod stop;

use std::{env, io, process::ExitCode};

fn main() -> ExitCode {
    // Variables that are not text are none that a runtime sets.
    let variables = env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
    match env::var(call::COMMAND) {
        Ok(command) => plugin::run(&command, &variables.collect(), io::stdin().lock(), io::stdout().lock()),
        Err(_) => args::run(),
    }
}
