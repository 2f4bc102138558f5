//! Words that must not stand in what is committed: unfinished work, tests that are switched off.

use std::fs;

use anyhow::{Result, bail};

use crate::{command::output, workspace::Workspace};

/// Each is written in two parts, so that this file does not contain it.
const FORBIDDEN: [(&str, &str, &str); 8] = [
    ("todo", "!(", "finish it, or return an error that says what is not supported"),
    ("unimple", "mented!(", "finish it, or return an error that says what is not supported"),
    ("d", "bg!(", "use tracing"),
    ("#[ig", "nore", "a test that is not run protects nothing; remove it or make it work"),
    ("TO", "DO", "write an issue instead"),
    ("FIX", "ME", "write an issue instead"),
    ("XX", "X ", "write an issue instead"),
    ("thread::sl", "eep_ms", "wait for an event"),
];
const TEXTS: [&str; 9] = ["rs", "toml", "md", "yaml", "proto", "sh", "py", "c", "go"];

/// Fails with file, line and word of each place where one stands.
pub(crate) fn check(workspace: &Workspace) -> Result<()> {
    let mut git = std::process::Command::new("git");
    git.current_dir(workspace.root()).args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"]);
    let mut found = Vec::new();
    for file in output(&mut git)?.split('\0').filter(|file| is_text(file)) {
        // A file that is deleted but not yet committed as such is listed, too.
        let Ok(text) = fs::read_to_string(workspace.root().join(file)) else { continue };
        found.extend(places(&text).map(|(line, word, advice)| format!("{file}:{line}: {word}: {advice}")));
    }
    if !found.is_empty() {
        bail!("\n{}", found.join("\n"));
    }
    Ok(())
}

fn is_text(file: &str) -> bool {
    file == ".ci/run" || file.rsplit_once('.').is_some_and(|(_, end)| TEXTS.contains(&end))
}

fn places(text: &str) -> impl Iterator<Item = (usize, String, &'static str)> {
    text.lines().enumerate().flat_map(|(number, line)| {
        FORBIDDEN.iter().filter_map(move |(first, second, advice)| {
            let word = format!("{first}{second}");
            line.contains(&word).then_some((number + 1, word, *advice))
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_found_with_their_line() {
        let text = ["fn main() {", &["    ", "to", "do!()"].concat(), "}"].join("\n");
        assert_eq!(places(&text).map(|(line, ..)| line).collect::<Vec<_>>(), [2]);
        assert_eq!(places("fn main() {}").count(), 0);
    }
}
