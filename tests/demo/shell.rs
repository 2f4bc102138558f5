//! Runs a real client inside a workload and shows what was typed and what came out.

use std::{
    process::{Child, Command},
    time::Duration,
};

use anyhow::{Context, Result};
use nameward_test_support::{Workload, finish, start};

use crate::stop;

/// How long a client may take; each is told to give up earlier.
const LIMIT: Duration = Duration::from_secs(30);

/// What a command said.
#[derive(Debug)]
pub(crate) struct Said {
    /// Whether it succeeded.
    pub(crate) success: bool,
    /// Both outputs, without empty lines and what only repeats the question.
    pub(crate) lines: Vec<String>,
}

/// Shows a command as it is typed in a workload, runs it there, and shows its output.
pub(crate) fn try_in(name: &str, workload: &Workload, line: &str) -> Result<Said> {
    println!("   {name} $ {line}");
    let said = quietly(workload, line)?;
    said.show();
    Ok(said)
}

/// The same without showing it.
pub(crate) fn quietly(workload: &Workload, line: &str) -> Result<Said> {
    let child = begin(workload, line)?;
    stop::current(child.id());
    let said = end(child, line);
    stop::current(0);
    stop::check()?;
    said
}

/// Starts a command whose end is asked for later, by [`end`].
pub(crate) fn begin(workload: &Workload, line: &str) -> Result<Child> {
    stop::check()?;
    let mut words = line.split_whitespace();
    let mut command: Command = workload.command(words.next().context("an empty command")?);
    start(command.args(words))
}

/// Waits for the end of a command.
pub(crate) fn end(child: Child, line: &str) -> Result<Said> {
    let output = finish(child, LIMIT).with_context(|| line.to_owned())?;
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text);
    let lines =
        text.lines().filter_map(|text| if line.starts_with("kdig") { telling(text) } else { Some(text) });
    let lines = lines.filter(|line| !line.trim().is_empty()).map(str::to_owned).collect();
    Ok(Said { success: output.status.success(), lines })
}

impl Said {
    /// Shows what was said.
    pub(crate) fn show(&self) {
        for line in &self.lines {
            println!("      {line}");
        }
    }
}

/// The part of a line of kdig's that tells something: the status, records, errors, Extended DNS Errors.
fn telling(line: &str) -> Option<&str> {
    if let Some((_, status)) = line.split_once("opcode: QUERY; ") {
        return status.split(';').next();
    }
    let Some(comment) = line.strip_prefix(";; ") else { return Some(line) };
    ["WARNING", "ERROR", "EDE"].iter().any(|word| comment.starts_with(word)).then_some(comment)
}
