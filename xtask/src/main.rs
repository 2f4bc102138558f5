//! The task runner: `cargo xtask --help`.
//!
//! It depends on little, because it is what a fresh machine builds first. What needs the product or its test
//! support is a program of the `nameward-tests` package that this one builds and starts.

mod args;
mod bench;
mod build;
mod command;
mod demo;
mod fuzz;
mod images;
mod licences;
mod lint;
#[cfg(test)]
mod promises;
mod setup;
mod supervise;
mod tally;
mod test;
mod words;
mod workspace;

fn main() -> std::process::ExitCode {
    args::run()
}
