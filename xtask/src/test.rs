//! Runs the tests, level by level, and sums their counts.
//!
//! Levels are `unit` (every crate's own tests and examples in documentation) and each test target of the
//! `nameward-tests` package. As root nothing may be skipped; otherwise what needs root is skipped and counted.

use std::{fs, path::PathBuf, process::Command};

use anyhow::{Result, bail};

use crate::{
    command::{output, run},
    setup::{self, Stage},
    tally::{self, Tally},
    workspace::Workspace,
};

const UNIT: &str = "unit";
const PACKAGE: &str = "nameward-tests";
/// Levels that need neither root nor a kernel of the right kind.
const UNPRIVILEGED: [&str; 2] = [UNIT, "model"];
/// A file to which skipped tests add their names, see `nameward_test_support::privileged`.
const SKIPPED: &str = "NAMEWARD_SKIPPED";

/// Which levels, and which tests of them.
#[derive(Debug, clap::Args)]
pub(crate) struct Selection {
    /// Only the levels that need neither root nor servers
    #[arg(long)]
    quick: bool,
    /// Leave out a level
    #[arg(long, value_name = "LEVEL")]
    skip: Vec<String>,
    /// Run these levels alone
    #[arg(long, value_name = "LEVEL")]
    only: Vec<String>,
    /// Only tests whose names contain this
    filter: Option<String>,
}

/// Runs the selected levels; an error says how many tests failed.
pub(crate) fn test(workspace: &Workspace, selection: &Selection) -> Result<()> {
    let all = levels(workspace);
    let chosen = selection.choose(&all)?;
    setup::prepare(workspace, if selection.quick { Stage::Build } else { Stage::Test })?;
    run(&mut workspace.cargo(&["build", "--workspace", "--all-targets", "--locked"]))?;
    let session = Session::new(workspace)?;
    let mut results = Vec::new();
    for level in chosen {
        results.push((level, session.level(level, selection.filter.as_deref())?));
    }
    report(&results)
}

fn levels(workspace: &Workspace) -> Vec<String> {
    let mut levels = workspace.targets(PACKAGE, "test");
    levels.sort_by_key(|level| !UNPRIVILEGED.contains(&level.as_str()));
    levels.insert(0, UNIT.to_owned());
    levels
}

impl Selection {
    fn choose<'a>(&self, all: &'a [String]) -> Result<Vec<&'a str>> {
        if let Some(unknown) = self.skip.iter().chain(&self.only).find(|level| !all.contains(level)) {
            bail!("there is no level {unknown:?}; levels are {}", all.join(", "));
        }
        let wanted = |level: &&str| {
            let level = (*level).to_owned();
            (self.only.is_empty() || self.only.contains(&level))
                && !self.skip.contains(&level)
                && (!self.quick || UNPRIVILEGED.contains(&level.as_str()))
        };
        Ok(all.iter().map(String::as_str).filter(wanted).collect())
    }
}

/// What the levels of one run have in common.
struct Session<'a> {
    workspace: &'a Workspace,
    root: bool,
    programs: PathBuf,
    skipped: PathBuf,
}

impl<'a> Session<'a> {
    fn new(workspace: &'a Workspace) -> Result<Self> {
        let skipped = workspace.target().join(format!("skipped-{}", std::process::id()));
        fs::write(&skipped, "")?;
        Ok(Self { workspace, root: setup::is_root(), programs: workspace.target().join("debug"), skipped })
    }

    fn level(&self, level: &str, filter: Option<&str>) -> Result<Tally> {
        if !self.root && !UNPRIVILEGED.contains(&level) {
            return self.without_root(level);
        }
        let mut tally = Tally::default();
        for target in targets(level) {
            let mut cargo = self.cargo(&target);
            tally += tally::run(cargo.args(filter))?;
        }
        let skipped = fs::read_to_string(&self.skipped)?.lines().count() as u64;
        fs::write(&self.skipped, "")?;
        tally.passed = tally.passed.saturating_sub(skipped);
        tally.skipped += skipped;
        Ok(tally)
    }

    fn without_root(&self, level: &str) -> Result<Tally> {
        eprintln!("{level} needs root: skipped");
        let mut tally = Tally::default();
        for target in targets(level) {
            let list = output(self.cargo(&target).args(["--", "--list"]))?;
            tally.skipped += list.lines().filter(|line| line.ends_with(": test")).count() as u64;
        }
        Ok(tally)
    }

    fn cargo(&self, target: &[&str]) -> Command {
        let mut cargo = self.workspace.cargo(&["test", "--workspace", "--locked", "--no-fail-fast"]);
        cargo.args(target).env(SKIPPED, &self.skipped);
        cargo.env("NAMEWARD_BIN_DIR", &self.programs).env("NAMEWARD_BIN", self.programs.join("nameward"));
        if self.root {
            cargo.env("NAMEWARD_MUST_RUN", "1");
        }
        cargo
    }
}

impl Drop for Session<'_> {
    fn drop(&mut self) {
        drop(fs::remove_file(&self.skipped));
    }
}

/// What selects a level; documentation has to be asked for apart.
fn targets(level: &str) -> Vec<Vec<&str>> {
    if level == UNIT { vec![vec!["--lib", "--bins"], vec!["--doc"]] } else { vec![vec!["--test", level]] }
}

fn report(results: &[(&str, Tally)]) -> Result<()> {
    let mut sum = Tally::default();
    println!();
    for (level, tally) in results {
        println!("{level:<10} {tally}");
        sum += *tally;
    }
    println!("{sum}");
    match sum {
        Tally { failed: 0, passed: 0, .. } => bail!("no test was run"),
        Tally { failed: 0, .. } => Ok(()),
        Tally { failed, .. } => bail!("{failed} failed"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn choose(selection: &Selection) -> Result<String> {
        let all = [UNIT, "model", "netns", "run"].map(str::to_owned);
        Ok(selection.choose(&all)?.join(" "))
    }

    fn selection(quick: bool, skip: &[&str], only: &[&str]) -> Selection {
        let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
        Selection { quick, skip: words(skip), only: words(only), filter: None }
    }

    #[test]
    fn levels_are_chosen() {
        assert_eq!(choose(&selection(false, &[], &[])).unwrap(), "unit model netns run");
        assert_eq!(choose(&selection(true, &[], &[])).unwrap(), "unit model");
        assert_eq!(choose(&selection(false, &["run"], &[])).unwrap(), "unit model netns");
        assert_eq!(choose(&selection(false, &[], &["run"])).unwrap(), "run");
        assert!(
            choose(&selection(false, &[], &["nets"])).unwrap_err().to_string().contains("levels are unit")
        );
    }
}
