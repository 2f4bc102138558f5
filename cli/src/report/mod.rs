//! What the user is told: denials as they happen, each once, and a summary at the end (SEMANTICS X4).
//!
//! Owns the words, the folding and the two formats. Gets facts; decides nothing and asks nobody.

mod flag;
mod learn;

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::net::IpAddr;

use serde::Serialize;

use crate::args::LogFormat;
pub(crate) use learn::Learned;

/// Denials that are kept apart; more are only counted.
const KEPT: usize = 1_000;

/// What was tried.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Subject {
    /// A DNS question.
    Question {
        /// The name asked for.
        name: String,
    },
    /// A packet, or several alike.
    Packet {
        /// IP protocol number.
        protocol: u8,
        /// The peer.
        address: IpAddr,
        /// Its port.
        port: u16,
        /// The last name that gave this address.
        name: Option<String>,
        /// Sent to the command, not by it.
        inbound: bool,
    },
}

/// What became of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Verdict {
    /// Let through, answered.
    Pass,
    /// Refused.
    Deny,
    /// Let through because of `--audit`.
    WouldDeny,
}

/// Something that was tried, and what became of it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Fact {
    /// What was tried.
    pub(crate) subject: Subject,
    /// What became of it.
    pub(crate) verdict: Verdict,
    /// A word of SEMANTICS G5.
    pub(crate) reason: String,
    /// The policy that decided, where there is one.
    pub(crate) policy: Option<String>,
    /// An address of the answer that no name may open (A3).
    pub(crate) unopenable: Option<IpAddr>,
}

/// Collects facts and tells them.
#[derive(Debug)]
pub(crate) struct Report {
    format: LogFormat,
    denials: BTreeMap<Fact, u64>,
    not_kept: u64,
    learned: Option<Learned>,
}

impl Report {
    /// An empty report. `learn`: whether to keep what is asked for.
    pub(crate) fn new(format: LogFormat, learn: bool) -> Self {
        Self { format, denials: BTreeMap::new(), not_kept: 0, learned: learn.then(Learned::default) }
    }

    /// Takes a fact that stands for `count` packets or questions; a denial is told the first time.
    pub(crate) fn add(&mut self, fact: Fact, count: u64) {
        if let Some(learned) = &mut self.learned {
            learned.add(&fact.subject);
        }
        if fact.verdict == Verdict::Pass {
            return;
        }
        if let Some(told) = self.denials.get_mut(&fact) {
            *told += count;
        } else if self.denials.len() < KEPT {
            self.tell(&fact);
            self.denials.insert(fact, count);
        } else {
            self.not_kept += count;
        }
    }

    /// What was asked for.
    pub(crate) fn learned(&self) -> Option<&Learned> {
        self.learned.as_ref()
    }

    /// Tells the end, when there is anything to tell. `lost`: events that nobody saw.
    pub(crate) fn summary(&self, lost: u64) {
        if self.denials.is_empty() && lost == 0 {
            return;
        }
        let flags = flag::narrowest(self.denials.keys().filter_map(flag::of));
        let without = self.denials.keys().filter(|fact| flag::of(fact).is_none()).count();
        match self.format {
            LogFormat::Text => self.summary_text(&flags, without, lost),
            LogFormat::Json => say(&json(&Summary {
                event: "summary",
                verdict: self.verdict(),
                kinds: self.denials.len(),
                packets: self.denials.values().sum::<u64>() + self.not_kept,
                lost,
                flags: flags.iter().map(String::as_str).collect(),
                flags_allow_all: without == 0 && self.not_kept == 0 && lost == 0,
            })),
        }
    }

    /// What was asked for and is not among what was learned: none when all is. `lost`: events that nobody saw.
    pub(crate) fn not_learned(&self, lost: u64) -> Option<String> {
        let left_out = self.learned.as_ref().map_or(0, Learned::left_out);
        let parts = [
            (left_out > 0).then(|| format!("{left_out} times something beyond {} destinations", learn::KEPT)),
            (lost > 0).then(|| format!("{lost} events that were not told one by one")),
        ];
        let text = parts.into_iter().flatten().collect::<Vec<_>>().join(" and ");
        (!text.is_empty()).then_some(text)
    }

    /// `without`: how many of the denials no flag would lift.
    fn summary_text(&self, flags: &BTreeSet<String>, without: usize, lost: u64) {
        let verb = if self.verdict() == Verdict::WouldDeny { "would have denied" } else { "denied" };
        let kinds = self.denials.len();
        let plural = if kinds == 1 { "" } else { "s" };
        say(&format!("nameward: {verb} {kinds} destination{plural}:"));
        for (fact, count) in &self.denials {
            say(&format!("nameward:   {count:>6} x {}: {}", subject_text(&fact.subject), fact.reason));
        }
        if self.not_kept > 0 {
            say(&format!("nameward:   {:>6} x others", self.not_kept));
        }
        if lost > 0 {
            say(&format!("nameward: {lost} more events were not told one by one"));
        }
        if !flags.is_empty() {
            let flags = flags.iter().map(String::as_str).collect::<Vec<_>>().join(" ");
            let part = match self.not_kept + lost {
                0 if without == 0 => "all of it",
                0 => "all of it that a flag can allow",
                _ => "part of it, for not all was told one by one",
            };
            say(&format!("nameward: to allow {part}: {flags}"));
        }
    }

    fn verdict(&self) -> Verdict {
        let audit = self.denials.keys().any(|fact| fact.verdict == Verdict::WouldDeny);
        if audit { Verdict::WouldDeny } else { Verdict::Deny }
    }

    fn tell(&self, fact: &Fact) {
        match self.format {
            LogFormat::Text => say(&denial_text(fact)),
            LogFormat::Json => say(&json(&DenialLine::of(fact))),
        }
    }
}

fn denial_text(fact: &Fact) -> String {
    let verb = if fact.verdict == Verdict::WouldDeny { "would deny" } else { "denied" };
    let what = subject_text(&fact.subject);
    // For other reasons it is the policy that came nearest, and does not deny.
    let denies = matches!(fact.subject, Subject::Question { .. }) || fact.reason == "denied-cidr";
    let by =
        fact.policy.as_ref().filter(|_| denies).map(|policy| format!(" by {policy}")).unwrap_or_default();
    let advice = match flag::of(fact) {
        Some(flag) => format!("; allow it with {flag}"),
        None => flag::advice(fact).map(|text| format!("; {text}")).unwrap_or_default(),
    };
    format!("nameward: {verb} {what}: {}{by}{advice}", fact.reason)
}

fn subject_text(subject: &Subject) -> String {
    match subject {
        Subject::Question { name } => format!("name {}", printable(name)),
        Subject::Packet { protocol, address, port, name, inbound } => {
            let name = name.as_deref().map_or_else(|| "never resolved".to_owned(), printable);
            let from = if *inbound { "from " } else { "" };
            let place = flag::place(*address, *protocol, *port);
            format!("{} {from}{place} ({name})", flag::protocol_word(*protocol))
        }
    }
}

/// Names come from the command: nothing of them may steer the terminal.
fn printable(text: &str) -> String {
    text.chars().map(|character| if character.is_control() { '?' } else { character }).collect()
}

/// A denial as one JSON object.
#[derive(Serialize)]
struct DenialLine<'a> {
    event: &'static str,
    verdict: Verdict,
    reason: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    protocol: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    address: Option<IpAddr>,
    #[serde(skip_serializing_if = "Option::is_none")]
    port: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    policy: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    allow_with: Option<String>,
}

impl<'a> DenialLine<'a> {
    fn of(fact: &'a Fact) -> Self {
        let (name, protocol, address, port) = match &fact.subject {
            Subject::Question { name } => (Some(name.as_str()), None, None, None),
            Subject::Packet { protocol, address, port, name, .. } => {
                (name.as_deref(), Some(flag::protocol_word(*protocol)), Some(*address), Some(*port))
            }
        };
        Self {
            event: "denial",
            verdict: fact.verdict,
            reason: &fact.reason,
            name,
            protocol,
            address,
            port,
            policy: fact.policy.as_deref(),
            allow_with: flag::of(fact),
        }
    }
}

/// The end as one JSON object.
#[derive(Serialize)]
struct Summary<'a> {
    event: &'static str,
    verdict: Verdict,
    kinds: usize,
    packets: u64,
    lost: u64,
    flags: Vec<&'a str>,
    flags_allow_all: bool,
}

fn json(value: &impl Serialize) -> String {
    serde_json::to_string(value).unwrap_or_default()
}

/// Writes a line to stderr. When nobody reads it, the command goes on all the same.
fn say(line: &str) {
    let mut line = line.to_owned();
    line.push('\n');
    let _nobody_reads = std::io::stderr().write_all(line.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packet(name: Option<&str>, reason: &str, verdict: Verdict) -> Fact {
        let subject = Subject::Packet {
            protocol: 6,
            address: "203.0.113.9".parse().unwrap(),
            port: 443,
            name: name.map(str::to_owned),
            inbound: false,
        };
        Fact { subject, verdict, reason: reason.into(), policy: None, unopenable: None }
    }

    // X4, G8
    #[test]
    fn a_denial_names_the_flag_that_would_allow_it() {
        assert_eq!(
            denial_text(&packet(Some("files.example.net"), "port", Verdict::Deny)),
            "nameward: denied tcp 203.0.113.9:443 (files.example.net): port; \
             allow it with --allow files.example.net:443/tcp"
        );
        assert_eq!(
            denial_text(&packet(None, "no-match", Verdict::WouldDeny)),
            "nameward: would deny tcp 203.0.113.9:443 (never resolved): no-match; \
             allow it with --allow-cidr 203.0.113.9:443/tcp"
        );
        let near = Fact {
            policy: Some("--allow files.example.net:80".into()),
            ..packet(None, "port", Verdict::Deny)
        };
        assert!(!denial_text(&near).contains(" by "), "it allows another port: {}", denial_text(&near));
        let denied =
            Fact { policy: Some("EgressPolicy a".into()), ..packet(None, "denied-cidr", Verdict::Deny) };
        assert!(denial_text(&denied).ends_with(": denied-cidr by EgressPolicy a"));
    }

    fn question(name: &str, reason: &str, unopenable: Option<&str>) -> Fact {
        let unopenable = unopenable.map(|address| address.parse().unwrap());
        let subject = Subject::Question { name: name.into() };
        Fact { subject, unopenable, ..packet(None, reason, Verdict::Deny) }
    }

    // X4, A3
    #[test]
    fn a_flag_that_would_not_help_is_not_named() {
        assert_eq!(
            denial_text(&question("evil\u{1b}.example", "filtered", None)),
            "nameward: denied name evil?.example: filtered"
        );
        assert!(
            denial_text(&question("a.example", "private-address", None))
                .contains("--allow-private a.example")
        );
        assert_eq!(
            denial_text(&question("a.example", "private-address", Some("127.0.0.1"))),
            "nameward: denied name a.example: private-address; no name may open 127.0.0.1: use --allow-cidr 127.0.0.1"
        );
    }

    // X4
    #[test]
    fn what_was_not_learned_is_said() {
        let mut report = Report::new(LogFormat::Text, true);
        assert_eq!(report.not_learned(0), None);
        for number in 0..=learn::KEPT {
            report.add(question(&format!("n{number}.example"), "name", None), 1);
        }
        let text = report.not_learned(7).unwrap();
        assert_eq!(
            text,
            "1 times something beyond 4000 destinations and 7 events that were not told one by one"
        );
    }

    // X4
    #[test]
    fn denials_are_folded() {
        let mut report = Report::new(LogFormat::Text, false);
        report.add(packet(None, "no-match", Verdict::Deny), 3);
        report.add(packet(None, "no-match", Verdict::Deny), 4);
        report.add(packet(None, "name", Verdict::Pass), 4);
        assert_eq!(report.denials.into_values().collect::<Vec<_>>(), [7]);
    }

    // F3
    #[test]
    fn a_flood_of_destinations_is_counted_not_kept() {
        let mut report = Report::new(LogFormat::Json, false);
        for number in 0..=KEPT as u64 {
            let mut fact = packet(None, "no-match", Verdict::Deny);
            fact.reason = number.to_string();
            report.add(fact, 1);
        }
        assert_eq!((report.denials.len(), report.not_kept), (KEPT, 1));
    }
}
