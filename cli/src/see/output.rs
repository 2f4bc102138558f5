//! The formats: tables for people, JSON and YAML for programs. In all of them what came from outside is data.

use std::{
    io::{self, IsTerminal, Write},
    process::ExitCode,
};

use anyhow::{Context, Result};
use clap::ValueEnum;
use nameward_api::{
    table,
    types::{Item, Verdict},
};
use serde::Serialize;

/// How something is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// Columns, cut to the terminal's width
    Table,
    /// Columns, whole
    Wide,
    /// JSON
    Json,
    /// YAML
    Yaml,
}

/// Shows a list.
pub(crate) fn list<T: Item>(items: &[T], format: Format) -> Result<ExitCode> {
    match format {
        Format::Table | Format::Wide if items.is_empty() => {
            eprintln!("nothing found");
            Ok(ExitCode::SUCCESS)
        }
        Format::Table => print(&cut(&table::of_items(items), terminal_width())),
        Format::Wide => print(&table::of_items(items)),
        Format::Json | Format::Yaml => value(&items, format),
    }
}

/// Shows one thing for programs.
pub(crate) fn value<T: Serialize>(value: &T, format: Format) -> Result<ExitCode> {
    let value = serde_json::to_value(value).context("cannot write the answer")?;
    let text = match format {
        Format::Yaml => nameward_crds::to_yaml(&value),
        Format::Json | Format::Table | Format::Wide => format!("{value:#}\n"),
    };
    print(&inert(&text))
}

/// JSON, or JSON within YAML, with everything that a terminal might obey as `\uXXXX`: such characters stand only
/// within quotes.
pub(crate) fn inert(json: &str) -> String {
    let mut text = String::with_capacity(json.len());
    for character in json.chars() {
        let steers = character != '\n'
            && table::printable(character.encode_utf8(&mut [0; 4])).len() > character.len_utf8();
        if steers {
            let mut units = [0; 2];
            text.extend(character.encode_utf16(&mut units).iter().map(|unit| format!("\\u{unit:04x}")));
        } else {
            text.push(character);
        }
    }
    text
}

/// Prints; a reader that has gone (`| head`) is no failure.
pub(crate) fn print(text: &str) -> Result<ExitCode> {
    write(text).map(|_| ExitCode::SUCCESS)
}

/// Prints. Returns whether anybody still reads.
pub(crate) fn write(text: &str) -> Result<bool> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
        other => other.context("cannot write to standard output").map(|()| true),
    }
}

/// The columns of the terminal; none when there is none.
pub(crate) fn terminal_width() -> Option<usize> {
    if !io::stdout().is_terminal() {
        return None;
    }
    let size = rustix::termios::tcgetwinsize(io::stdout()).ok()?;
    (size.ws_col > 0).then(|| size.ws_col.into())
}

fn cut(text: &str, width: Option<usize>) -> String {
    let Some(width) = width else { return text.to_owned() };
    let line = |line: &str| match line.chars().count() > width {
        true => line.chars().take(width.saturating_sub(1)).chain(['…', '\n']).collect(),
        false => format!("{line}\n"),
    };
    text.lines().map(line).collect()
}

/// Colours of verdicts; none where there is no terminal, or NO_COLOR is set (no-color.org).
#[derive(Debug, Clone, Copy)]
pub(crate) struct Colours(bool);

impl Colours {
    /// As standard output wants it.
    pub(crate) fn of_stdout() -> Self {
        let unwanted = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        Self(io::stdout().is_terminal() && !unwanted)
    }

    /// A text in the colour of a verdict.
    pub(crate) fn paint(self, verdict: Verdict, text: &str) -> String {
        let colour = match verdict {
            Verdict::Pass => 32,
            Verdict::Deny => 31,
            Verdict::WouldDeny => 33,
        };
        if self.0 { format!("\u{1b}[{colour}m{text}\u{1b}[0m") } else { text.to_owned() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_read_what_was_said_and_terminals_obey_nothing() {
        let hostile =
            serde_json::json!({"name": "a\u{1b}[2J\u{9b}31m\u{202e}\u{7f}\n\u{e0001}", "k\u{9b}": 1});
        let text = inert(&format!("{hostile:#}\n"));
        assert_eq!(serde_json::from_str::<serde_json::Value>(&text).unwrap(), hostile);
        assert!(text.chars().all(|character| character == '\n' || !character.is_control()), "{text:?}");
        let yaml = inert(&nameward_crds::to_yaml(&hostile));
        assert!(yaml.chars().all(|character| character == '\n' || !character.is_control()), "{yaml:?}");
        assert!(!yaml.contains('\u{202e}'), "{yaml:?}");
    }

    #[test]
    fn tables_are_cut_to_the_terminal() {
        assert_eq!(cut("abc\nabcdef\n", Some(4)), "abc\nabc…\n");
        assert_eq!(cut("abcdef\n", None), "abcdef\n");
    }

    #[test]
    fn no_colour_where_there_is_no_terminal() {
        assert_eq!(Colours(false).paint(Verdict::Deny, "deny"), "deny");
        assert_eq!(Colours(true).paint(Verdict::Deny, "deny"), "\u{1b}[31mdeny\u{1b}[0m");
    }
}
