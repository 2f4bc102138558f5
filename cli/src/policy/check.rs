//! `nameward policy check`: mistakes and warnings, a line each.

use std::process::ExitCode;

use anyhow::Result;
use jiff::Timestamp;

use super::{NO, args::Check, lint, read_all};
use crate::see::output::print;

/// Checks files.
pub(super) fn check(arguments: &Check) -> Result<ExitCode> {
    let (policies, warnings) = match read_all(&arguments.files) {
        Ok(read) => read,
        Err(mistakes) => {
            print(&format!("{mistakes}\n"))?;
            let plural = if mistakes.0.len() == 1 { "" } else { "s" };
            eprintln!("nameward: {} mistake{plural}", mistakes.0.len());
            return Ok(ExitCode::from(NO));
        }
    };
    let mut lines: Vec<String> = warnings.iter().map(|warning| format!("warning: {warning}")).collect();
    lines.extend(lint::lint(&policies, Timestamp::now()).iter().map(|found| format!("warning: {found}")));
    print(&lines.iter().map(|line| format!("{line}\n")).collect::<String>())?;
    let (count, plural) = (policies.len(), if policies.len() == 1 { "y" } else { "ies" });
    match lines.len() {
        0 => eprintln!("nameward: {count} polic{plural} in order"),
        1 => eprintln!("nameward: {count} polic{plural} without mistakes, 1 warning"),
        warnings => eprintln!("nameward: {count} polic{plural} without mistakes, {warnings} warnings"),
    }
    Ok(if arguments.strict && !lines.is_empty() { ExitCode::from(NO) } else { ExitCode::SUCCESS })
}
