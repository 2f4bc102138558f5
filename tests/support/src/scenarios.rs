//! Tests that share something that is slow to make, and that must be taken down at the end: what the harness of the
//! standard library cannot do. What is printed, and what the command line means, is as with that one.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    process::ExitCode,
    thread,
    time::Instant,
};

use anyhow::Result;

use crate::privileged;

/// A test: its name, and what it does with what all share.
pub type Scenario<W> = (&'static str, fn(&W));

/// Runs those that the command line selects, one after the other, and takes `W` down. One that fails does not hold up
/// the others; then `tell` says what may help to understand it.
pub fn run_scenarios<W: Sync>(
    scenarios: &[Scenario<W>],
    make: impl FnOnce() -> Result<W>,
    tell: impl Fn(&W) -> String,
    take_down: impl FnOnce(W) -> Result<()>,
) -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments.iter().any(|argument| argument == "--list") {
        scenarios.iter().for_each(|(name, _)| println!("{name}: test"));
        return ExitCode::SUCCESS;
    }
    let exact = arguments.iter().any(|argument| argument == "--exact");
    let filters: Vec<&String> = arguments.iter().filter(|argument| !argument.starts_with("--")).collect();
    let is_meant = |name: &str| {
        filters.is_empty()
            || filters
                .iter()
                .any(|filter| if exact { name == **filter } else { name.contains(filter.as_str()) })
    };
    let chosen: Vec<_> = scenarios.iter().filter(|(name, _)| is_meant(name)).collect();
    println!("\nrunning {} tests", chosen.len());
    let (mut passed, mut failed) = (0, 0);
    if !chosen.iter().all(|(name, _)| named(name, privileged)) {
        chosen.iter().for_each(|(name, _)| println!("test {name} ... ok"));
        passed = chosen.len();
    } else if !chosen.is_empty() {
        match make() {
            Ok(world) => {
                for (name, scenario) in &chosen {
                    if run(name, || scenario(&world)) {
                        passed += 1;
                    } else {
                        failed += 1;
                        eprintln!("{}", tell(&world));
                    }
                }
                if !run("taking all down", || take_down(world).expect("something is left")) {
                    failed += 1;
                }
            }
            Err(error) => {
                eprintln!("error: {error:#}");
                chosen.iter().for_each(|(name, _)| println!("test {name} ... FAILED"));
                failed = chosen.len();
            }
        }
    }
    let (word, left_out) = (if failed == 0 { "ok" } else { "FAILED" }, scenarios.len() - chosen.len());
    println!(
        "\ntest result: {word}. {passed} passed; {failed} failed; 0 ignored; 0 measured; {left_out} filtered out"
    );
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Runs one on this thread, and says how it ended.
fn run(name: &str, scenario: impl FnOnce()) -> bool {
    let started = Instant::now();
    let succeeded = catch_unwind(AssertUnwindSafe(scenario)).is_ok();
    let word = if succeeded { "ok" } else { "FAILED" };
    println!("test {name} ... {word} ({:.1} s)", started.elapsed().as_secs_f32());
    succeeded
}

/// Does something on a thread of this name: tests that are skipped are counted by it.
fn named<T: Send>(name: &str, work: impl FnOnce() -> T + Send) -> T {
    thread::scope(|scope| {
        let thread = thread::Builder::new().name(name.to_owned()).spawn_scoped(scope, work);
        thread.expect("a thread can be started").join().expect("no test is in it")
    })
}
