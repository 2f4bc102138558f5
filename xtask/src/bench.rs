//! Starts measurements: each is a program `bench-NAME` of the `nameward-tests` package.

use anyhow::{Result, bail};

use crate::{
    build,
    command::run,
    setup::{self, Stage, go},
    workspace::Workspace,
};

const PACKAGE: &str = "nameward-tests";
const PREFIX: &str = "bench-";

/// Programs in Go that a measurement compares with.
fn go_programs(name: &str) -> &'static [&'static str] {
    match name {
        "dns" => &["coredns"],
        "kubernetes" => go::CLUSTER,
        _ => &[],
    }
}

/// Builds for release and measures; without a name, lists what there is.
pub(crate) fn bench(workspace: &Workspace, name: Option<&str>, options: &[String]) -> Result<()> {
    let all = workspace.targets(PACKAGE, "bin");
    let all: Vec<&str> = all.iter().filter_map(|target| target.strip_prefix(PREFIX)).collect();
    let Some(name) = name else {
        println!("{}", all.join("\n"));
        return Ok(());
    };
    if !all.contains(&name) {
        bail!("there is no measurement {name:?}; there are: {}", all.join(", "));
    }
    setup::prepare(workspace, Stage::Bench)?;
    let program = format!("{PREFIX}{name}");
    // Apart from each other: what is selected together shares features, and would be compiled again.
    build::programs(workspace, false)?;
    run(&mut workspace.cargo(&["build", "--release", "--locked", "--package", PACKAGE, "--bin", &program]))?;
    let folder = workspace.target().join("release");
    let path = go::prepare(go_programs(name))?;
    let mut bench = std::process::Command::new(folder.join(&program));
    bench.args(options).env("PATH", path).current_dir(workspace.root()).env("NAMEWARD_MUST_RUN", "1");
    bench.env("NAMEWARD_BIN_DIR", &folder).env("NAMEWARD_BIN", folder.join("nameward"));
    run(&mut bench)?;
    println!("written: {}", workspace.target().join("bench").join(format!("{name}.json")).display());
    Ok(())
}
