//! Findings for people, and for programs.

use std::{
    io::{self, IsTerminal, Write},
    path::Path,
    process::ExitCode,
};

use anyhow::{Context, Result};
use serde::Serialize;

use super::Output;

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Severity {
    /// A promise is broken.
    Error,
    /// It works otherwise than one may expect.
    Warning,
    /// What cannot be seen in the file.
    Note,
}

/// Something that is wrong, and what to write.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Finding {
    /// Of the file; none for what is missing everywhere.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) line: Option<usize>,
    pub(super) severity: Severity,
    /// A word that stays the same.
    pub(super) code: &'static str,
    pub(super) message: String,
    /// What to write, or to do.
    pub(super) write: String,
}

#[derive(Serialize)]
struct Report<'a> {
    file: String,
    errors: usize,
    findings: &'a [Finding],
}

/// Prints them to standard output. The exit status says whether something has to be changed.
pub(super) fn print(file: &Path, findings: &[Finding], output: Output) -> Result<ExitCode> {
    let errors = findings.iter().filter(|finding| finding.severity == Severity::Error).count();
    let text = match output {
        Output::Text => text(file, findings, io::stdout().is_terminal()),
        Output::Json => {
            let report = Report { file: file.display().to_string(), errors, findings };
            format!("{}\n", serde_json::to_string_pretty(&report)?)
        }
    };
    match io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            return Err(error).context("cannot write to standard output");
        }
        _ => {}
    }
    Ok(ExitCode::from(u8::from(errors > 0)))
}

fn text(file: &Path, findings: &[Finding], coloured: bool) -> String {
    let mut text = String::new();
    for finding in findings {
        let line = finding.line.map(|line| format!(":{line}")).unwrap_or_default();
        let (word, colour) = match finding.severity {
            Severity::Error => ("error", "31"),
            Severity::Warning => ("warning", "33"),
            Severity::Note => ("note", "36"),
        };
        let word = if coloured { format!("\x1b[1;{colour}m{word}\x1b[0m") } else { word.to_owned() };
        let Finding { code, message, .. } = finding;
        let write = finding.write.replace('\n', "\n         ");
        text.push_str(&format!("{}{line}: {word}: {message} [{code}]\n  write: {write}\n", file.display()));
    }
    if findings.iter().all(|finding| finding.severity == Severity::Note) {
        text.push_str(&format!("{}: nothing has to be changed\n", file.display()));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn findings_are_lines_that_editors_understand() {
        let finding = Finding {
            line: Some(3),
            severity: Severity::Error,
            code: "serve-stale",
            message: "too old".into(),
            write: "nothing".into(),
        };
        let plain = text(Path::new("Corefile"), std::slice::from_ref(&finding), false);
        assert_eq!(plain, "Corefile:3: error: too old [serve-stale]\n  write: nothing\n");
        assert!(text(Path::new("Corefile"), &[finding], true).contains("\x1b[1;31merror\x1b[0m"));
        assert_eq!(text(Path::new("Corefile"), &[], false), "Corefile: nothing has to be changed\n");
    }
}
