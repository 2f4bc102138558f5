//! Whether a log is complete, from its lines alone. Pure.

use std::{collections::BTreeMap, fmt};

use serde_json::Value;

/// What the lines of one or more files say about themselves.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verified {
    /// Records, without those about the log itself.
    pub records: u64,
    /// Runs of the process.
    pub runs: u64,
    /// Records that the log itself says were not written.
    pub declared_lost: u64,
    /// What is wrong, in the order of the lines.
    pub faults: Vec<Fault>,
    /// Runs that did not end as planned: what waited in memory then is not known.
    pub broken_off: u64,
}

/// Something that is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// No record of ours.
    Unreadable {
        /// Counted from 1 over all files.
        line: u64,
    },
    /// Numbers that never came.
    Missing {
        /// Counted from 1 over all files.
        line: u64,
        /// The first.
        from: u64,
        /// The last.
        to: u64,
    },
    /// A number that came before.
    Repeated {
        /// Counted from 1 over all files.
        line: u64,
        /// The number.
        sequence: u64,
    },
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreadable { line } => write!(f, "line {line} is no record of an audit log"),
            Self::Missing { line, from, to } if from == to => {
                write!(f, "record {from} is missing before line {line}")
            }
            Self::Missing { line, from, to } => {
                write!(f, "records {from} to {to} are missing before line {line}")
            }
            Self::Repeated { line, sequence } => {
                write!(f, "line {line} has the number {sequence}, which came before")
            }
        }
    }
}

impl Verified {
    /// Whether nothing is missing but what the log says itself.
    pub fn is_complete(&self) -> bool {
        self.faults.is_empty()
    }
}

/// One run, as far as it was read.
#[derive(Debug)]
struct Run {
    last: u64,
    ended: bool,
}

/// Reads lines, oldest first. A log that was turned over may begin in the middle of a run.
pub fn verify<'a>(lines: impl Iterator<Item = &'a str>) -> Verified {
    let mut verified = Verified::default();
    let mut runs: BTreeMap<String, Run> = BTreeMap::new();
    for (line, text) in (1..).zip(lines) {
        match Entry::read(text) {
            Some(entry) => entry.follow(line, &mut runs, &mut verified),
            None => verified.faults.push(Fault::Unreadable { line }),
        }
    }
    verified.runs = runs.len() as u64;
    verified.broken_off = runs.values().filter(|run| !run.ended).count() as u64;
    verified
}

struct Entry {
    run: String,
    sequence: u64,
    about: Option<About>,
}

enum About {
    Begin,
    Loss { from: u64, to: u64 },
    End,
}

impl Entry {
    fn read(text: &str) -> Option<Self> {
        let record: Value = serde_json::from_str(text).ok()?;
        let metadata = record.get("metadata")?;
        let about = match record["unmapped"]["log"].as_str() {
            None => None,
            Some("begin") => Some(About::Begin),
            Some("end") => Some(About::End),
            Some("loss") => {
                let lost = &record["unmapped"]["lost"];
                Some(About::Loss { from: lost["from"].as_u64()?, to: lost["to"].as_u64()? })
            }
            Some(_) => return None,
        };
        let run = metadata["correlation_uid"].as_str()?.to_owned();
        Some(Self { run, sequence: metadata["sequence"].as_u64()?, about })
    }

    fn follow(self, line: u64, runs: &mut BTreeMap<String, Run>, verified: &mut Verified) {
        // Without its begin it was turned away before: counting begins here.
        let begins_at = match &self.about {
            Some(About::Begin) => 0,
            Some(About::Loss { from, .. }) => from.saturating_sub(1),
            Some(About::End) => self.sequence,
            None => self.sequence.saturating_sub(1),
        };
        let run = runs.entry(self.run).or_insert(Run { last: begins_at, ended: false });
        match self.about {
            Some(About::Begin) => {}
            Some(About::End) => {
                run.ended = true;
                expect(line, self.sequence, run.last, verified);
                run.last = run.last.max(self.sequence);
            }
            Some(About::Loss { from, to }) => {
                expect(line, from.saturating_sub(1), run.last, verified);
                verified.declared_lost += to.saturating_sub(from) + 1;
                run.last = run.last.max(to);
            }
            None => {
                verified.records += 1;
                if self.sequence <= run.last {
                    verified.faults.push(Fault::Repeated { line, sequence: self.sequence });
                    return;
                }
                expect(line, self.sequence - 1, run.last, verified);
                run.last = self.sequence;
            }
        }
    }
}

/// Everything up to `before` must have come.
fn expect(line: u64, before: u64, last: u64, verified: &mut Verified) {
    if before > last {
        verified.faults.push(Fault::Missing { line, from: last + 1, to: before });
    }
}
