//! `nameward policy diff --live`: what a change of policies would cut or open, of what was seen.
//!
//! What is in force and what was seen come from the API; both are judged here, by the code that enforces ([`judge`]).

mod judge;
mod seen;

use std::{collections::BTreeSet, process::ExitCode};

use anyhow::{Context, Result, bail};
use jiff::Timestamp;
use nameward_api::{
    client::Client,
    table::printable,
    types::{BindingStatus, Decision, Item, SubjectStatus, TrafficStatus},
};
use nameward_crds::{ClusterEgressPolicy, EgressPolicy, Policy};
use serde::Serialize;
use serde_json::Value;

use self::{
    judge::{Judged, Rules},
    seen::{Seen, Sightings},
};
use super::{NO, args::Diff, read_all, test::in_namespace};
use crate::see::{asking, output};

/// Decisions that a node keeps.
const KEPT: usize = 10_000;

/// What would become of something that was seen.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "camelCase")]
struct Change {
    change: &'static str,
    endpoint: String,
    /// A name, or an address that no name gave.
    destination: String,
    /// `TCP 443` and the like; none where the name alone is asked about.
    #[serde(skip_serializing_if = "Option::is_none")]
    port: Option<String>,
    /// Connections that live now.
    live: u64,
    /// When it was last seen; none for what lives.
    #[serde(skip_serializing_if = "Option::is_none")]
    last_at: Option<Timestamp>,
    /// Why it is as it is, and would be as it would.
    before: String,
    after: String,
}

impl Item for Change {
    const FIELDS: &'static [&'static str] =
        &["change", "endpoint", "destination", "port", "live", "lastAt", "before", "after"];
    const COLUMNS: &'static [&'static str] =
        &["CHANGE", "ENDPOINT", "DESTINATION", "PORT", "LIVE", "LAST SEEN", "BEFORE", "AFTER"];

    fn row(&self) -> Vec<String> {
        vec![
            self.change.into(),
            self.endpoint.clone(),
            self.destination.clone(),
            self.port.clone().unwrap_or_else(|| "-".into()),
            self.live.to_string(),
            self.last_at.map_or_else(|| "-".into(), |at| at.strftime("%F %H:%M:%S").to_string()),
            self.before.clone(),
            self.after.clone(),
        ]
    }
}

/// Shows the difference.
pub(super) fn diff(arguments: &Diff) -> Result<ExitCode> {
    let (policies, warnings) = read_all(&arguments.files)?;
    for warning in warnings {
        eprintln!("{warning}");
    }
    let client = arguments.reach.client()?;
    let known = asking(Known::ask(&client, &arguments.filter.query()))?;
    if known.subjects.is_empty() {
        bail!("the node has no endpoint of this kind whose policies are known; see `nameward endpoints`");
    }
    let policies = policies.iter().map(in_namespace).collect();
    let next = Next { policies, deleted: arguments.delete.iter().map(String::as_str).collect() };
    next.tell_unused(&known.subjects)?;
    let changes = changes(&known, &next, Timestamp::now())?;
    let shown = match changes.is_empty()
        && matches!(arguments.output, output::Format::Table | output::Format::Wide)
    {
        true => {
            eprintln!("nameward: nothing that was seen changes");
            ExitCode::SUCCESS
        }
        false => output::list(&changes, arguments.output)?,
    };
    Ok(if changes.is_empty() { shown } else { ExitCode::from(NO) })
}

/// What a node knows.
#[derive(Debug, Default)]
struct Known {
    subjects: Vec<SubjectStatus>,
    bindings: Vec<BindingStatus>,
    traffic: Vec<TrafficStatus>,
    decisions: Vec<Decision>,
}

impl Known {
    async fn ask(client: &Client, query: &[(&str, String)]) -> Result<Self> {
        // Decisions know their endpoint's identifier alone: they are put to their subjects here.
        Ok(Self {
            subjects: client.list("/v1/subjects", query, usize::MAX).await?,
            bindings: client.list("/v1/bindings", query, usize::MAX).await?,
            traffic: client.list("/v1/traffic", query, usize::MAX).await?,
            decisions: client.list("/v1/decisions", &[], KEPT).await?,
        })
    }
}

/// What would be in force.
struct Next<'a> {
    policies: Vec<Policy>,
    deleted: BTreeSet<&'a str>,
}

impl Next<'_> {
    /// The policies of a subject, when these are in force, too.
    fn of(&self, subject: &SubjectStatus, current: &[Policy]) -> Vec<Policy> {
        let replaced: BTreeSet<_> = self.policies.iter().map(Policy::policy_ref).collect();
        let stays = current.iter().filter(|policy| {
            !replaced.contains(&policy.policy_ref()) && !self.deleted.contains(full_name(policy).as_str())
        });
        let workload = nameward_crds::Workload {
            namespace: &subject.namespace,
            namespace_labels: &subject.namespace_labels,
            labels: &subject.labels,
            exempt: subject.exempt,
        };
        let comes = self.policies.iter().filter(|policy| policy.selects(&workload));
        stays.chain(comes).cloned().collect()
    }

    /// Says which of them make no difference on this node at all; what is to be deleted has to be there.
    fn tell_unused(&self, subjects: &[SubjectStatus]) -> Result<()> {
        for policy in &self.policies {
            let alone = Next { policies: vec![policy.clone()], deleted: BTreeSet::new() };
            if subjects.iter().all(|subject| alone.of(subject, &[]).is_empty()) {
                eprintln!(
                    "nameward: {} selects no endpoint of this node",
                    printable(&policy.policy_ref().to_string())
                );
            }
        }
        let mut there = BTreeSet::new();
        for object in subjects.iter().flat_map(|subject| &subject.policies) {
            there.insert(full_name(&policy(object)?));
        }
        match self.deleted.iter().find(|name| !there.contains(**name)) {
            Some(name) => bail!(
                "--delete {name}: no such policy binds an endpoint of this node; see `nameward policies`"
            ),
            None => Ok(()),
        }
    }
}

/// `NAMESPACE/NAME`, or the name alone.
fn full_name(policy: &Policy) -> String {
    let policy = policy.policy_ref();
    if policy.namespace.is_empty() {
        policy.name.to_string()
    } else {
        format!("{}/{}", policy.namespace, policy.name)
    }
}

/// What of all that was seen would change, the worst first.
fn changes(known: &Known, next: &Next<'_>, now: Timestamp) -> Result<Vec<Change>> {
    let mut changes = Vec::new();
    for subject in &known.subjects {
        let current = subject.policies.iter().map(policy).collect::<Result<Vec<_>>>()?;
        let cluster = judge::ranges(subject)?;
        let before = Rules::compile(&current, &cluster, now);
        let after = Rules::compile(&next.of(subject, &current), &cluster, now);
        let before = before.with_context(|| format!("what is in force for {}", subject.endpoint))?;
        let after = after.with_context(|| format!("what would be in force for {}", subject.endpoint))?;
        let seen = Sightings::of(&subject.endpoint, known);
        for one in seen.all() {
            let (before, after) = (before.judge(one, &seen), after.judge(one, &seen));
            changes
                .extend(change(&before, &after).map(|word| described(word, subject, one, &before, &after)));
        }
    }
    let order =
        |change: &Change| ["cut", "opened", "would-cut"].iter().position(|word| *word == change.change);
    changes.sort_by_key(|change| (order(change), std::cmp::Reverse(change.live)));
    Ok(changes)
}

/// The word for a difference.
fn change(before: &Judged, after: &Judged) -> Option<&'static str> {
    match (before.passes, after.passes) {
        (true, false) => Some("cut"),
        (false, true) => Some("opened"),
        (true, true) if !before.would_be_denied && after.would_be_denied => Some("would-cut"),
        (true, true) | (false, false) => None,
    }
}

fn described(
    word: &'static str,
    subject: &SubjectStatus,
    seen: &Seen,
    before: &Judged,
    after: &Judged,
) -> Change {
    Change {
        change: word,
        endpoint: subject.endpoint.to_string(),
        destination: seen.destination(),
        port: seen.port_text(),
        live: seen.live,
        last_at: seen.last_at,
        before: before.why.clone(),
        after: after.why.clone(),
    }
}

/// A policy as the API has it.
fn policy(object: &Value) -> Result<Policy> {
    let read = match object.get("kind").and_then(Value::as_str) {
        Some("EgressPolicy") => {
            serde_json::from_value::<EgressPolicy>(object.clone()).map(Policy::Namespaced)
        }
        Some("ClusterEgressPolicy") => {
            serde_json::from_value::<ClusterEgressPolicy>(object.clone()).map(Policy::Cluster)
        }
        kind => bail!(
            "the API has a policy of a kind that this version does not know ({kind:?}): upgrade `nameward`"
        ),
    };
    read.context("the API has a policy that this version does not understand: upgrade `nameward`")
}

#[cfg(test)]
mod tests;
