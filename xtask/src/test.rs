//! Runs the tests, level by level, and sums their counts.
//!
//! Levels are `unit` (every crate's own tests and examples in documentation) and each test target of the
//! `nameward-tests` package. As root nothing may be skipped; otherwise what needs root is skipped and counted.
//! A level that does not end in time is killed with all that it started, what it left is removed, and the next runs.

use std::{
    ffi::OsString,
    fs,
    path::PathBuf,
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};

use crate::{
    command::{output, run},
    fuzz,
    setup::{self, Stage, go},
    supervise::{self, Ended},
    tally::{self, Report, Tally},
    workspace::Workspace,
};

const UNIT: &str = "unit";
const PACKAGE: &str = "nameward-tests";
/// Packages with tests in a folder of their own, which belong to [`UNIT`].
const WITH_TESTS: [&str; 1] = ["nameward-crds"];
/// The fuzz targets, which are built apart.
const FUZZ: &str = "fuzz";
/// Levels that need neither root nor a kernel of the right kind.
const UNPRIVILEGED: [&str; 5] = [UNIT, "http", "model", "policy", FUZZ];
/// A file to which skipped tests add their names, see `nameward_test_support::privileged`.
const SKIPPED: &str = "NAMEWARD_SKIPPED";
/// How long the removal of what a killed level left may take.
const CLEAN_UP: Duration = Duration::from_secs(120);

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
    /// How long a level may take, in minutes; then it is killed and has failed
    #[arg(long, value_name = "MINUTES", default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=1440))]
    limit: u64,
    /// Only tests whose names contain this
    filter: Option<String>,
}

/// Runs the selected levels; an error says how many tests failed.
pub(crate) fn test(workspace: &Workspace, selection: &Selection) -> Result<()> {
    let all = levels(workspace);
    let chosen = selection.choose(&all)?;
    setup::prepare(workspace, if selection.quick { Stage::Build } else { Stage::Test })?;
    run(&mut workspace.cargo(&["build", "--workspace", "--all-targets", "--locked"]))?;
    let mut session = Session::new(workspace, &chosen)?;
    if chosen.contains(&FUZZ) {
        session.fuzzers = Some(fuzz::build(workspace)?);
    }
    let mut results = Vec::new();
    for level in chosen {
        let started = Instant::now();
        let report = session.level(level, selection)?;
        results.push(LevelResult { level, report, took: started.elapsed() });
    }
    tell(&results)
}

fn levels(workspace: &Workspace) -> Vec<String> {
    let mut levels = workspace.targets(PACKAGE, "test");
    levels.sort_by_key(|level| !UNPRIVILEGED.contains(&level.as_str()));
    levels.insert(0, UNIT.to_owned());
    levels
}

/// Programs in Go that a level runs.
fn go_programs(level: &str) -> &'static [&'static str] {
    match level {
        "cluster" => go::CLUSTER,
        "forward" => &["coredns"],
        "helm" => &go::HELM,
        "kubernetes" => &["kube-apiserver", "kubectl"],
        _ => &[],
    }
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
                && (!self.quick || (UNPRIVILEGED.contains(&level.as_str()) && level != FUZZ))
        };
        Ok(all.iter().map(String::as_str).filter(wanted).collect())
    }
}

/// What the levels of one run have in common.
struct Session<'a> {
    workspace: &'a Workspace,
    root: bool,
    programs: PathBuf,
    /// The caller's, behind the folders of programs that were built for a level.
    path: OsString,
    /// Where the fuzz targets are, when they are to be run.
    fuzzers: Option<PathBuf>,
    skipped: PathBuf,
}

impl<'a> Session<'a> {
    fn new(workspace: &'a Workspace, levels: &[&str]) -> Result<Self> {
        let root = setup::is_root();
        let programs = levels.iter().flat_map(|level| go_programs(level)).copied();
        let path = go::prepare(&programs.filter(|_| root).collect::<Vec<_>>())?;
        let skipped = workspace.target().join(format!("skipped-{}", std::process::id()));
        fs::write(&skipped, "")?;
        let programs = workspace.target().join("debug");
        Ok(Self { workspace, root, programs, path, fuzzers: None, skipped })
    }

    fn level(&self, level: &str, selection: &Selection) -> Result<Report> {
        if !self.root && !UNPRIVILEGED.contains(&level) {
            return self.without_root(level);
        }
        let deadline = Instant::now() + Duration::from_secs(60 * selection.limit);
        let mut report = Report::default();
        for target in targets(self.workspace, level) {
            let mut cargo = self.cargo(&target);
            report += tally::run(cargo.args(&selection.filter), deadline)?;
        }
        if Instant::now() >= deadline {
            self.clean_up();
        }
        let skipped = fs::read_to_string(&self.skipped)?.lines().count() as u64;
        fs::write(&self.skipped, "")?;
        report.tally.passed = report.tally.passed.saturating_sub(skipped);
        report.tally.skipped += skipped;
        Ok(report)
    }

    /// Removes what a killed level left. The next levels' results say whether that was enough.
    fn clean_up(&self) {
        if !self.root {
            return;
        }
        let mut program = Command::new(self.programs.join("clean-up"));
        let deadline = Instant::now() + CLEAN_UP;
        let outcome = supervise::run(program.env("NAMEWARD_BIN_DIR", &self.programs), deadline, |line| {
            eprintln!("{}", String::from_utf8_lossy(line));
            Ok(())
        });
        match outcome {
            Ok(outcome) if matches!(outcome.ended, Ended::Itself(status) if status.success()) => {}
            other => eprintln!("error: what the level left could not be removed: {other:?}"),
        }
    }

    fn without_root(&self, level: &str) -> Result<Report> {
        eprintln!("{level} needs root: skipped");
        let mut report = Report::default();
        for target in targets(self.workspace, level) {
            let list = output(self.cargo(&target).args(["--", "--list"]))?;
            report.tally.skipped += list.lines().filter(|line| line.ends_with(": test")).count() as u64;
        }
        Ok(report)
    }

    fn cargo(&self, target: &[String]) -> Command {
        let mut cargo = self.workspace.cargo(&["test", "--workspace", "--locked", "--no-fail-fast"]);
        cargo.args(target).env(SKIPPED, &self.skipped).env("PATH", &self.path);
        cargo.env("NAMEWARD_BIN_DIR", &self.programs).env("NAMEWARD_BIN", self.programs.join("nameward"));
        if let Some(fuzzers) = &self.fuzzers {
            cargo.env("NAMEWARD_FUZZERS", fuzzers);
        }
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
fn targets(workspace: &Workspace, level: &str) -> Vec<Vec<String>> {
    let words = |words: &[&str]| words.iter().map(ToString::to_string).collect::<Vec<_>>();
    if level != UNIT {
        return vec![words(&["--test", level])];
    }
    let mut own = words(&["--lib", "--bins"]);
    for package in WITH_TESTS {
        workspace.targets(package, "test").iter().for_each(|test| own.extend(words(&["--test", test])));
    }
    vec![own, words(&["--doc"])]
}

/// What came of a level.
struct LevelResult<'a> {
    level: &'a str,
    report: Report,
    took: Duration,
}

fn tell(results: &[LevelResult<'_>]) -> Result<()> {
    let (mut sum, mut took) = (Tally::default(), Duration::ZERO);
    println!();
    for result in results {
        println!("{:<10} {:>4} s  {}", result.level, result.took.as_secs(), result.report.tally);
        for fault in &result.report.faults {
            println!("{:<10} {fault}", "");
        }
        sum += result.report.tally;
        took += result.took;
    }
    println!("{:<10} {:>4} s", "all", took.as_secs());
    // The last line is the sum alone, for programs that read it.
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
        Selection { quick, skip: words(skip), only: words(only), limit: 10, filter: None }
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
