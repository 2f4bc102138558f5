//! Whether tests that need root and BPF can run here. It owns the one decision between skipping and failing.

use std::{env, fs, io::Write, sync::Once, thread};

use aya::{programs::ProgramType, sys::is_program_supported};

use crate::leftovers::remove_leftovers;

static CLEAN: Once = Once::new();

/// Whether privileged tests can run. Where they can, what killed runs left behind is removed first.
///
/// A test returns when this is false. It is never false where [`must_run`].
///
/// # Panics
/// When something is missing and [`must_run`] says that nothing may be skipped.
pub fn privileged() -> bool {
    match missing() {
        None => {
            CLEAN.call_once(remove_leftovers);
            true
        }
        Some(what) => {
            assert!(!must_run(), "NAMEWARD_MUST_RUN is set, but {what}");
            eprintln!("skipped: {what}");
            note_skipped();
            false
        }
    }
}

/// Whether a skipped test is a failure: `NAMEWARD_MUST_RUN=1`, as CI and `cargo xtask test` as root set it.
pub fn must_run() -> bool {
    env::var_os("NAMEWARD_MUST_RUN").is_some_and(|value| !value.is_empty() && value != "0")
}

/// Adds this test's name to the file that `NAMEWARD_SKIPPED` names, so that skipped tests can be counted.
fn note_skipped() {
    let Some(path) = env::var_os("NAMEWARD_SKIPPED") else { return };
    let name = thread::current().name().unwrap_or("unnamed").to_owned();
    let file = fs::OpenOptions::new().append(true).open(path);
    if let Err(error) = file.and_then(|mut file| writeln!(file, "{name}")) {
        eprintln!("NAMEWARD_SKIPPED cannot be written: {error}");
    }
}

fn missing() -> Option<&'static str> {
    if !nix::unistd::Uid::effective().is_root() {
        return Some("this is not root; run it by sudo");
    }
    let mounts = fs::read_to_string("/proc/mounts").unwrap_or_default();
    if !mounts.lines().any(|line| line.split(' ').nth(2) == Some("bpf")) {
        return Some("no BPF file system is mounted; run `cargo xtask setup`");
    }
    if !is_program_supported(ProgramType::SchedClassifier).unwrap_or(false) {
        return Some("the kernel does not let this process load BPF programs");
    }
    None
}
