//! The status of a policy, from what nodes report and what is wrong with the object.

use jiff::Timestamp;
use nameward_crds::{Condition, ConditionStatus, EndpointCounts, PolicyReport, PolicyStatus};

/// Longest message of a condition, in bytes: as metav1.Condition has it.
const MAX_MESSAGE: usize = 32_768;

/// What is known of a policy.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// Its generation.
    pub generation: i64,
    /// Why the object, or a part of it, is not understood.
    pub problems: Vec<String>,
    /// What its author should know.
    pub warnings: Vec<String>,
    /// What nodes say of it.
    pub reports: Vec<PolicyReport>,
    /// Nodes that have not reported for a while.
    pub silent_nodes: Vec<String>,
    /// Enforcement that is suspended for some of its workloads: until when, and why.
    pub suspended: Vec<String>,
}

/// The status to write. Times of conditions whose status is as `before` stay.
#[must_use]
pub fn status(facts: &Facts, before: &PolicyStatus, now: Timestamp) -> PolicyStatus {
    let counts = sum(facts.reports.iter().map(|report| report.endpoints));
    let conditions = [accepted(facts), programmed(facts, counts), covered(facts, counts)];
    let conditions = conditions
        .into_iter()
        .map(|(kind, verdict)| condition(kind, verdict, facts.generation, &before.conditions, now));
    PolicyStatus {
        observed_generation: Some(facts.generation),
        endpoints: Some(counts),
        conditions: conditions.collect(),
    }
}

/// A condition before it has its time.
pub type Verdict = (ConditionStatus, &'static str, String);

/// A condition with its time: `now`, or that of the same condition before when its status is the same.
#[must_use]
pub fn condition(
    kind: &str,
    (status, reason, mut message): Verdict,
    generation: i64,
    before: &[Condition],
    now: Timestamp,
) -> Condition {
    let same = before.iter().find(|known| known.kind == kind && known.status == status);
    let since = || now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    let mut end = message.len().min(MAX_MESSAGE);
    while !message.is_char_boundary(end) {
        end -= 1;
    }
    message.truncate(end);
    Condition {
        kind: kind.into(),
        status,
        observed_generation: Some(generation),
        last_transition_time: same.map_or_else(since, |known| known.last_transition_time.clone()),
        reason: reason.into(),
        message,
    }
}

fn accepted(facts: &Facts) -> (&'static str, Verdict) {
    let does_not_fit = facts.reports.iter().find_map(|report| report.problem.clone());
    let verdict = match (facts.problems.is_empty(), does_not_fit) {
        (false, _) => (ConditionStatus::False, "Invalid", facts.problems.join("; ")),
        (true, Some(problem)) => (
            ConditionStatus::False,
            "DoesNotFit",
            format!("with the other policies of a workload: {problem}; the rules before stay in force there"),
        ),
        (true, None) => (ConditionStatus::True, "Accepted", facts.warnings.join("; ")),
    };
    ("Accepted", verdict)
}

fn programmed(facts: &Facts, counts: EndpointCounts) -> (&'static str, Verdict) {
    let wanted = counts.selected - counts.not_covered;
    let is_old = facts.reports.iter().any(|report| report.generation < facts.generation);
    let suspended = facts.suspended.iter().map(|text| format!("; {text}")).collect::<String>();
    let verdict = if !facts.silent_nodes.is_empty() {
        let nodes = facts.silent_nodes.join(", ");
        (
            ConditionStatus::Unknown,
            "NodesNotReporting",
            format!("nothing was heard of {nodes} lately{suspended}"),
        )
    } else if counts.selected == 0 {
        let text = format!("no workload is selected{suspended}");
        (ConditionStatus::True, "NothingSelected", text)
    } else if counts.programmed < wanted || is_old {
        let text = format!("in force in {} of {wanted} workloads{suspended}", counts.programmed);
        (ConditionStatus::False, "Pending", text)
    } else {
        (ConditionStatus::True, "Programmed", format!("in force in {wanted} workloads{suspended}"))
    };
    ("Programmed", verdict)
}

fn covered(facts: &Facts, counts: EndpointCounts) -> (&'static str, Verdict) {
    if counts.not_covered == 0 {
        return ("Covered", (ConditionStatus::True, "Covered", String::new()));
    }
    let reason = facts.reports.iter().find_map(|report| report.not_covered_reason.as_deref());
    let word = match reason {
        Some("HostNetwork") => "HostNetwork",
        Some("Interface") => "Interface",
        _ => "NoInterface",
    };
    let text = format!(
        "{} of {} workloads cannot be guarded; the EgressNode of their node names them",
        counts.not_covered, counts.selected
    );
    ("Covered", (ConditionStatus::False, word, text))
}

fn sum(counts: impl Iterator<Item = EndpointCounts>) -> EndpointCounts {
    counts.fold(EndpointCounts::default(), |sum, one| EndpointCounts {
        selected: sum.selected.saturating_add(one.selected),
        programmed: sum.programmed.saturating_add(one.programmed),
        not_covered: sum.not_covered.saturating_add(one.not_covered),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(selected: i32, programmed: i32, not_covered: i32) -> PolicyReport {
        PolicyReport {
            generation: 2,
            endpoints: EndpointCounts { selected, programmed, not_covered },
            not_covered_reason: (not_covered > 0).then(|| "HostNetwork".into()),
            ..PolicyReport::default()
        }
    }

    fn facts(reports: Vec<PolicyReport>) -> Facts {
        Facts { generation: 2, reports, ..Facts::default() }
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    /// Status, reason and message of the three conditions.
    fn words(facts: &Facts) -> Vec<String> {
        let status = status(facts, &PolicyStatus::default(), at(0));
        let words = status.conditions.iter().map(|one| {
            format!("{}={:?} {} {}", one.kind, one.status, one.reason, one.message).trim_end().to_owned()
        });
        words.collect()
    }

    #[test]
    fn nodes_are_added_up() {
        let status = status(&facts(vec![report(3, 3, 0), report(2, 1, 1)]), &PolicyStatus::default(), at(0));
        assert_eq!(status.endpoints, Some(EndpointCounts { selected: 5, programmed: 4, not_covered: 1 }));
        assert_eq!(status.observed_generation, Some(2));
    }

    #[test]
    fn each_word() {
        let all = facts(vec![report(3, 3, 0)]);
        assert_eq!(
            words(&all),
            [
                "Accepted=True Accepted",
                "Programmed=True Programmed in force in 3 workloads",
                "Covered=True Covered"
            ]
        );
        assert_eq!(words(&facts(vec![]))[1], "Programmed=True NothingSelected no workload is selected");
        let some = facts(vec![report(3, 1, 1)]);
        assert_eq!(words(&some)[1], "Programmed=False Pending in force in 1 of 2 workloads");
        assert_eq!(
            words(&some)[2],
            "Covered=False HostNetwork 1 of 3 workloads cannot be guarded; the EgressNode of their node names them"
        );
        let old = facts(vec![PolicyReport { generation: 1, ..report(3, 3, 0) }]);
        assert!(words(&old)[1].starts_with("Programmed=False Pending"), "an older generation is in force");
        let silent = Facts { silent_nodes: vec!["n2".into()], ..all.clone() };
        assert_eq!(words(&silent)[1], "Programmed=Unknown NodesNotReporting nothing was heard of n2 lately");
        let warned = Facts { warnings: vec!["`*` allows every name".into()], ..all.clone() };
        assert_eq!(words(&warned)[0], "Accepted=True Accepted `*` allows every name");
        let bad = Facts { problems: vec!["spec: no".into()], ..all.clone() };
        assert_eq!(words(&bad)[0], "Accepted=False Invalid spec: no");
        let suspended = Facts { suspended: vec!["suspended by `incident`".into()], ..all };
        assert_eq!(
            words(&suspended)[1],
            "Programmed=True Programmed in force in 3 workloads; suspended by `incident`"
        );
    }

    #[test]
    fn times_are_those_of_changes() {
        let first = status(&facts(vec![report(2, 1, 0)]), &PolicyStatus::default(), at(100));
        let second = status(&facts(vec![report(2, 2, 0)]), &first, at(200));
        let times = |status: &PolicyStatus| -> Vec<String> {
            status.conditions.iter().map(|one| one.last_transition_time.clone()).collect()
        };
        assert_eq!(times(&first), ["1970-01-01T00:01:40Z"; 3]);
        assert_eq!(times(&second), ["1970-01-01T00:01:40Z", "1970-01-01T00:03:20Z", "1970-01-01T00:01:40Z"]);
    }
}
