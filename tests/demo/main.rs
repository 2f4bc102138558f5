//! The main job on one machine, without Kubernetes: two workloads behind veths with different policies, a small
//! internet, `nameward-resolver` and `nameward-enforcer` as separate processes; `cargo xtask demo` builds and starts it.
//!
//! Everything lives in network namespaces, so the machine's own network is not touched. What is told as the reason
//! of an outcome comes from the enforcer's REST, never from this program.

mod leftovers;
mod processes;
mod rest;
mod shell;
mod stop;
mod story;
mod world;

use std::process::ExitCode;

fn main() -> ExitCode {
    match play() {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) if stop::was_asked() => {
            println!("stopped; everything was removed");
            ExitCode::from(130)
        }
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn play() -> anyhow::Result<()> {
    stop::watch()?;
    anyhow::ensure!(nameward_test_support::privileged(), "the demo cannot run here, see above");
    leftovers::remove()?;
    println!("building a small internet, a host and two workloads; starting resolver and enforcer ...");
    let mut world = world::World::new()?;
    story::tell(&mut world).inspect_err(|_| {
        if !stop::was_asked() {
            eprintln!("{}", world.processes.logs());
        }
    })
}
