//! `nameward audit verify`: whether an audit log is complete, from its files alone.

use std::{fs, path::PathBuf, process::ExitCode};

use anyhow::{Context, Result};
use clap::{Args, Subcommand};
use nameward_daemon::audit::verify::verify;

use crate::see::output::print;

/// Something is missing.
const NO: u8 = 1;
/// Faults that are said one by one.
const SAID: usize = 20;

/// What `nameward audit` does.
#[derive(Debug, Subcommand)]
pub(crate) enum AuditCommand {
    Verify(Verify),
}

const VERIFY_EXAMPLES: &str = "\
Examples:
  nameward audit verify audit.log
  nameward audit verify audit.log.2 audit.log.1 audit.log   # oldest first

Exit status: 0 complete; 1 records are missing, doubled or unreadable; 125 when it could not be read.";

/// Show whether an audit log is complete
///
/// Every run of a process numbers its records from 1. What the log itself says was lost (its disk or its queue was full)
/// is counted, and is no fault of the file; numbers that are missing without a word are.
#[derive(Debug, Args)]
#[command(after_help = VERIFY_EXAMPLES)]
pub(crate) struct Verify {
    /// Files of one log, oldest first
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
}

/// Does one of the commands.
pub(crate) fn audit(command: &AuditCommand) -> Result<ExitCode> {
    match command {
        AuditCommand::Verify(arguments) => verify_files(arguments),
    }
}

fn verify_files(arguments: &Verify) -> Result<ExitCode> {
    let read =
        |path: &PathBuf| fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()));
    let texts: Vec<String> = arguments.files.iter().map(read).collect::<Result<_>>()?;
    let verified = verify(texts.iter().flat_map(|text| text.lines()));
    let mut text: String = verified.faults.iter().take(SAID).map(|fault| format!("{fault}\n")).collect();
    if verified.faults.len() > SAID {
        text += &format!("and {} more\n", verified.faults.len() - SAID);
    }
    let word = if verified.is_complete() { "complete" } else { "NOT COMPLETE" };
    text += &format!(
        "{word}: {} records of {} runs, {} said to be lost, {} runs without an end\n",
        verified.records, verified.runs, verified.declared_lost, verified.broken_off
    );
    print(&text)?;
    Ok(if verified.is_complete() { ExitCode::SUCCESS } else { ExitCode::from(NO) })
}
