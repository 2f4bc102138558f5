//! Counts of tests, read from what the test programs print.

use std::{ops::AddAssign, process::Command, time::Instant};

use anyhow::Result;

use crate::{
    command::show,
    supervise::{self, Ended},
};

/// How many tests ended how.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Tally {
    /// Did what they should.
    pub(crate) passed: u64,
    /// Did not, or could not be run at all.
    pub(crate) failed: u64,
    /// Were not run.
    pub(crate) skipped: u64,
}

impl AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
    }
}

impl std::fmt::Display for Tally {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} passed, {} failed, {} skipped", self.passed, self.failed, self.skipped)
    }
}

/// What came of test programs.
#[derive(Debug, Default)]
pub(crate) struct Report {
    /// How many tests ended how.
    pub(crate) tally: Tally,
    /// What else went wrong, one sentence each.
    pub(crate) faults: Vec<String>,
}

/// Runs test programs until `deadline` at most, passes on what they write, and counts. What fails without a failed
/// test counts as one.
pub(crate) fn run(command: &mut Command, deadline: Instant) -> Result<Report> {
    let shown = show(command);
    let mut report = Report::default();
    let mut slow = Slow::default();
    let outcome = supervise::run(command, deadline, |line| {
        let line = String::from_utf8_lossy(line);
        println!("{line}");
        report.tally += result_line(&line).unwrap_or_default();
        slow.read(&line);
        Ok(())
    })?;
    match outcome.ended {
        Ended::Itself(status) if !status.success() && report.tally.failed == 0 => {
            report.fault(format!("{shown}: {status}"));
        }
        Ended::Itself(_) => {}
        Ended::TimeUp => report.fault(format!("{shown} was killed: its time was up{}", slow.told())),
    }
    if !outcome.survivors.is_empty() {
        report.fault(format!("{shown} left processes behind: {}", outcome.survivors.join(", ")));
    }
    Ok(report)
}

impl Report {
    fn fault(&mut self, what: String) {
        eprintln!("error: {what}");
        self.tally.failed += 1;
        self.faults.push(what);
    }
}

impl AddAssign for Report {
    fn add_assign(&mut self, other: Self) {
        self.tally += other.tally;
        self.faults.extend(other.faults);
    }
}

/// Tests that the test programs called slow, and that have not ended since.
#[derive(Debug, Default)]
struct Slow(Vec<String>);

impl Slow {
    fn read(&mut self, line: &str) {
        let Some(rest) = line.strip_prefix("test ") else { return };
        if let Some((name, _)) = rest.split_once(" has been running for over") {
            self.0.push(name.to_owned());
        } else if let Some((name, _)) = rest.split_once(" ... ") {
            self.0.retain(|slow| slow != name);
        }
    }

    fn told(&self) -> String {
        if self.0.is_empty() {
            return String::new();
        }
        format!("; tests that had not ended: {}", self.0.join(", "))
    }
}

/// Reads `test result: ok. 5 passed; 0 failed; 0 ignored; 0 measured; 2 filtered out; ...`.
fn result_line(line: &str) -> Option<Tally> {
    let (_, counts) = line.strip_prefix("test result: ")?.split_once(". ")?;
    let count = |what: &str| {
        counts.split(';').find_map(|part| part.trim().strip_suffix(what)?.trim().parse::<u64>().ok())
    };
    Some(Tally { passed: count("passed")?, failed: count("failed")?, skipped: count("ignored")? })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn result_lines_are_counted_and_others_are_not() {
        let line = "test result: FAILED. 51 passed; 2 failed; 1 ignored; 0 measured; 3 filtered out; finished in 0.22s";
        assert_eq!(result_line(line), Some(Tally { passed: 51, failed: 2, skipped: 1 }));
        assert_eq!(result_line("test result::x ... ok"), None);
        assert_eq!(result_line("running 3 tests"), None);
    }

    fn shell(script: &str, limit: Duration) -> Report {
        run(Command::new("sh").args(["-c", script]), Instant::now() + limit).unwrap()
    }

    #[test]
    fn a_program_that_ends_badly_is_a_failure() {
        let report =
            shell("echo 'test result: ok. 2 passed; 0 failed; 0 ignored;'; exit 3", Duration::from_secs(60));
        assert_eq!(report.tally, Tally { passed: 2, failed: 1, skipped: 0 });
    }

    #[test]
    fn a_program_that_does_not_end_is_a_failure_with_the_tests_that_hang() {
        let said = "test a has been running for over 60 seconds\ntest b has been running for over 60 seconds\n\
                    test a ... ok\n";
        let report = shell(&format!("printf '{said}'; sleep 1000"), Duration::from_millis(500));
        assert_eq!(report.tally.failed, 1);
        let fault = &report.faults[0];
        assert!(fault.ends_with("its time was up; tests that had not ended: b"), "{fault}");
    }

    #[test]
    fn what_a_test_leaves_behind_is_a_failure() {
        let report = shell("sleep 1000 >/dev/null & true", Duration::from_secs(60));
        assert_eq!(report.tally.failed, 1);
        assert!(report.faults[0].contains("left processes behind: sleep ("), "{:?}", report.faults);
    }
}
