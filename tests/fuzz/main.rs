//! The fuzz targets of `fuzz/` for a short time, from the committed corpus on. `cargo xtask fuzz` runs them longer.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use nameward_test_support::{Scratch, output_within};

const SECONDS: u32 = 20;
const WITHIN: Duration = Duration::from_secs(240);
/// A few thousand are tried in the first second, also on a busy machine. Fewer: it does not run.
const LEAST: u64 = 5_000;

fn fuzz(target: &str) {
    let Some(folder) = env::var_os("NAMEWARD_FUZZERS") else {
        panic!("the fuzz targets are not built: start this with `cargo xtask test --only fuzz`");
    };
    let (scratch, corpus) = (Scratch::new("fuzz").unwrap(), corpus(target));
    let mut fuzzer = Command::new(Path::new(&folder).join(target));
    fuzzer.arg(format!("-max_total_time={SECONDS}")).args([
        "-timeout=10",
        "-print_final_stats=1",
        "-verbosity=0",
    ]);
    fuzzer.arg(format!("-artifact_prefix={}/", scratch.path().display()));
    // New inputs go to the first folder.
    fuzzer.arg(scratch.path()).arg(&corpus);
    let output = output_within(&mut fuzzer, WITHIN).unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "`cargo xtask fuzz {target}` finds it again:\n{said}");
    let runs = said.lines().find_map(|line| line.strip_prefix("stat::number_of_executed_units:"));
    let runs: u64 = runs.and_then(|number| number.trim().parse().ok()).unwrap_or_else(|| panic!("{said}"));
    println!("{target}: {runs} messages in {SECONDS} s");
    assert!(runs >= LEAST, "{runs} messages only");
}

fn corpus(target: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join("fuzz/corpus").join(target)
}

// Promise 7
#[test]
fn queries_are_answered_or_not_and_nothing_else_happens() {
    fuzz("query");
}

// Promises 1 and 7
#[test]
fn answers_of_upstreams_grant_what_is_passed_on() {
    fuzz("upstream");
}
