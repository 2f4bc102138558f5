//! Runs a real client inside a workload and shows what was typed and what came out.

use std::process::Stdio;

use anyhow::{Context, Result};
use nameward_test_support::Workload;

use crate::stop;

/// What a command said.
#[derive(Debug)]
pub(crate) struct Said {
    /// Whether it succeeded.
    pub(crate) success: bool,
    /// Both outputs, without empty lines.
    pub(crate) lines: Vec<String>,
}

/// Shows a command as it is typed in a workload, runs it there, and shows its output.
pub(crate) fn try_in(name: &str, workload: &Workload, line: &str) -> Result<Said> {
    println!("   {name} $ {line}");
    let said = quietly(workload, line)?;
    for line in &said.lines {
        println!("      {line}");
    }
    Ok(said)
}

/// The same without showing it.
pub(crate) fn quietly(workload: &Workload, line: &str) -> Result<Said> {
    stop::check()?;
    let mut words = line.split_whitespace();
    let program = words.next().context("an empty command")?;
    let mut command = workload.command(program);
    let child = command.args(words).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    stop::current(child.id());
    let output = child.wait_with_output();
    stop::current(0);
    stop::check()?;
    let output = output?;
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text).into_owned();
    let interesting = |line: &&str| if program == "kdig" { tells(line) } else { !line.is_empty() };
    let lines = text.lines().filter(interesting).map(str::to_owned).collect();
    Ok(Said { success: output.status.success(), lines })
}

/// Lines of kdig with a status, a record, an error.
fn tells(line: &str) -> bool {
    let noise =
        line.is_empty() || (line.starts_with(";;") && !line.contains("WARNING") && !line.contains("ERROR"));
    line.contains("status: ") || line.contains("EDE") || !noise
}
