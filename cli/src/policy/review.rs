//! `nameward policy review`: rules by owner, for those who must look through them from time to time.

use std::{collections::BTreeMap, process::ExitCode};

use anyhow::Result;
use jiff::{Timestamp, ToSpan};
use nameward_api::types::{Item, PolicyStatus};
use nameward_crds::{Policy, Review as Reviewed};
use serde::Serialize;

use super::{args::Review, read_all};
use crate::see::{asking, output};

/// A rule as a reviewer sees it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "camelCase")]
struct Row {
    owner: String,
    policy: String,
    rule: String,
    effect: &'static str,
    state: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    expires_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ticket: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    justification: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_asked_at: Option<Timestamp>,
}

impl Item for Row {
    const FIELDS: &'static [&'static str] = &[
        "owner",
        "policy",
        "rule",
        "effect",
        "state",
        "expiresAt",
        "ticket",
        "justification",
        "lastAskedAt",
    ];
    const COLUMNS: &'static [&'static str] =
        &["OWNER", "POLICY", "RULE", "EFFECT", "STATE", "LAST ASKED", "TICKET", "JUSTIFICATION"];

    fn row(&self) -> Vec<String> {
        let or_dash = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".into());
        vec![
            self.owner.clone(),
            self.policy.clone(),
            self.rule.clone(),
            self.effect.into(),
            self.state.clone(),
            self.last_asked_at.map_or_else(|| "-".into(), |at| at.to_string()),
            or_dash(&self.ticket),
            or_dash(&self.justification),
        ]
    }
}

/// Reviews files.
pub(super) fn review(arguments: &Review) -> Result<ExitCode> {
    let (policies, _) = read_all(&arguments.files)?;
    let used = if arguments.used { Some(last_asked(arguments)?) } else { None };
    let now = Timestamp::now();
    let mut rows: Vec<Row> = policies.iter().flat_map(|policy| rows(policy, now, used.as_ref())).collect();
    rows.sort();
    output::list(&rows, arguments.output)
}

/// When each rule's names were last asked for, by the policy's and the rule's name.
type Used = BTreeMap<(String, String), Option<Timestamp>>;

fn last_asked(arguments: &Review) -> Result<Used> {
    let client = arguments.reach.client()?;
    let policies: Vec<PolicyStatus> =
        asking(async { Ok(client.list("/v1/policies", &[], usize::MAX).await?) })?;
    let each = |policy: PolicyStatus| {
        let name = policy.full_name();
        policy.rules.into_iter().map(move |rule| ((name.clone(), rule.name), rule.last_asked_at))
    };
    Ok(policies.into_iter().flat_map(each).collect())
}

fn rows(policy: &Policy, now: Timestamp, used: Option<&Used>) -> Vec<Row> {
    let (allows, denies) = match policy {
        Policy::Namespaced(own) => (&own.spec.egress, &own.spec.deny),
        Policy::Cluster(own) => (&own.spec.egress, &own.spec.deny),
    };
    let reference = policy.policy_ref();
    let row = |name: &str, effect, expires: Option<&String>, review: Option<&Reviewed>| {
        let full = match &*reference.namespace {
            "" => reference.name.to_string(),
            namespace => format!("{namespace}/{}", reference.name),
        };
        let last = used.map(|used| used.get(&(full.clone(), name.to_owned())).copied().flatten());
        Row {
            owner: review.and_then(|review| review.owner.clone()).unwrap_or_else(|| "-".into()),
            policy: full,
            rule: name.to_owned(),
            effect,
            state: state(expires, last, effect == "allow", now),
            expires_at: expires.cloned(),
            ticket: review.and_then(|review| review.ticket.clone()),
            justification: review.and_then(|review| review.justification.clone()),
            last_asked_at: last.flatten(),
        }
    };
    let allows =
        allows.iter().map(|rule| row(&rule.name, "allow", rule.expires_at.as_ref(), rule.review.as_ref()));
    let denies =
        denies.iter().map(|rule| row(&rule.name, "deny", rule.expires_at.as_ref(), rule.review.as_ref()));
    allows.chain(denies).collect()
}

/// What a reviewer should look at first. `last`: none when nobody was asked.
fn state(expires: Option<&String>, last: Option<Option<Timestamp>>, allows: bool, now: Timestamp) -> String {
    let end = expires.and_then(|text| text.parse::<Timestamp>().ok());
    let soon = now.checked_add((30 * 24).hours()).unwrap_or(now);
    match (end, last) {
        (Some(end), _) if end <= now => "ended".into(),
        (Some(end), _) if end <= soon => "ends soon".into(),
        (_, Some(None)) if allows => "not asked for".into(),
        _ => "in force".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_say_what_to_look_at() {
        let now: Timestamp = "2027-01-01T00:00:00Z".parse().unwrap();
        let end = |text: &str| Some(text.to_owned());
        assert_eq!(state(end("2026-12-31T00:00:00Z").as_ref(), Some(Some(now)), true, now), "ended");
        assert_eq!(state(end("2027-01-15T00:00:00Z").as_ref(), None, true, now), "ends soon");
        assert_eq!(state(end("2027-06-15T00:00:00Z").as_ref(), Some(None), true, now), "not asked for");
        assert_eq!(state(None, Some(None), false, now), "in force");
        assert_eq!(state(None, None, true, now), "in force");
    }
}
