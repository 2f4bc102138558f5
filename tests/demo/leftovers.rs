//! What a killed demo leaves: pins and the namespace of its DNS link, both named after its process.

use std::{fs, path::Path, process::Command, time::Duration};

use anyhow::Result;
use nameward_test_support::{output_within, program, remove_leftovers};

/// What names of enforcer instances begin with; the number of the demo's process follows.
pub(crate) const INSTANCE: &str = "nwd";
/// How long the enforcer may take to remove an instance.
const REMOVAL: Duration = Duration::from_secs(30);
const PLACES: [&str; 2] = ["/sys/fs/bpf/nameward", "/run/nameward"];

/// Removes what dead demos and tests left; namespaces first, with what still runs in them.
pub(crate) fn remove() -> Result<()> {
    remove_leftovers();
    for instance in abandoned() {
        println!("removing what an earlier run left: {instance}");
        remove_instance(&mut Command::new(program("nameward-enforcer")?), &instance)?;
    }
    Ok(())
}

/// Lets the enforcer take everything of an instance away.
pub(crate) fn remove_instance(enforcer: &mut Command, instance: &str) -> Result<()> {
    let output = output_within(enforcer.args(["--remove", "--instance", instance]), REMOVAL)?;
    let said = String::from_utf8_lossy(&output.stderr);
    anyhow::ensure!(output.status.success(), "nameward-enforcer --remove --instance {instance}: {said}");
    let folder = Path::new("/run/nameward").join(instance);
    if folder.exists() {
        fs::remove_dir_all(folder)?;
    }
    Ok(())
}

fn abandoned() -> Vec<String> {
    let entries = PLACES.iter().filter_map(|place| fs::read_dir(place).ok()).flatten().flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    let mut names: Vec<String> = names.filter(|name| is_abandoned(name)).collect();
    names.sort();
    names.dedup();
    names
}

fn is_abandoned(name: &str) -> bool {
    let process = name.strip_prefix(INSTANCE).and_then(|rest| rest.parse::<u32>().ok());
    process.is_some_and(|process| !Path::new("/proc").join(process.to_string()).exists())
}
