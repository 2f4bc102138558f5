//! What rules say of what was seen: the code that enforces, without a kernel.

use std::{net::IpAddr, time::Duration};

use anyhow::{Context, Result};
use ipnet::IpNet;
use jiff::Timestamp;
use nameward_api::types::SubjectStatus;
use nameward_crds::{Policy, isolation};
use nameward_policy::{
    Bindings, BootTime, ClusterRanges, CompiledRule, Destination, Effect, Explanation, KernelMode, Limits,
    Name, Outcome, QueryDecision, RuleSet, Settings, explain,
};

use super::seen::{Seen, Sightings, Target};

/// What a name is taken to have given when that is not known: documentation addresses count as external (A3).
const EXTERNAL: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(203, 0, 113, 1));
/// Everything that was seen counts as granted.
const NOW: BootTime = BootTime(1_000_000_000);

/// The rules of an endpoint.
pub(super) struct Rules(RuleSet);

/// What rules say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Judged {
    pub(super) passes: bool,
    /// It passes, and policies in Audit would deny it.
    pub(super) would_be_denied: bool,
    pub(super) why: String,
}

impl Rules {
    pub(super) fn compile(policies: &[Policy], cluster: &ClusterRanges, now: Timestamp) -> Result<Self> {
        let rules: Vec<_> = policies.iter().flat_map(|policy| policy.to_rules().rules).collect();
        let compiled = RuleSet::compile(isolation(policies), &rules, &Settings::default(), cluster, now)?;
        Ok(Self(compiled))
    }

    pub(super) fn judge(&self, seen: &Seen, all: &Sightings) -> Judged {
        let own = judge(&self.0, seen, all);
        let staged = self.0.staged().map(|staged| judge(staged, seen, all));
        let is_audited = self.0.kernel.mode == KernelMode::Audit;
        let passes = own.0 || is_audited;
        Judged {
            passes,
            would_be_denied: passes && (!own.0 || staged.is_some_and(|(passes, _)| !passes)),
            why: own.1,
        }
    }
}

/// Whether it passes, were the rules enforced, and why.
fn judge(rules: &RuleSet, seen: &Seen, all: &Sightings) -> (bool, String) {
    let Some((protocol, port)) = seen.port else {
        let Target::Name(name) = &seen.target else { return (true, "not judged".into()) };
        return judge_name(rules, name);
    };
    let said = |explanation: Explanation| {
        let rule = explanation.rules.first().map(|rule| format!(" ({} rule {})", rule.policy, rule.rule));
        let why = format!("{}{}", explanation.reason, rule.unwrap_or_default());
        (explanation.verdict == Outcome::Allowed, why)
    };
    match &seen.target {
        Target::Address(address) => {
            let bindings = Bindings::new(Limits::default());
            said(explain(rules, &bindings, &Destination::Address(*address), protocol, port, NOW))
        }
        Target::Name(name) => {
            let (passes, why) = judge_name(rules, name);
            if !passes && rules.kernel.mode != KernelMode::Audit {
                return (false, why);
            }
            let (bindings, address) = granted(name, all);
            said(explain(rules, &bindings, &Destination::Address(address), protocol, port, NOW))
        }
    }
}

/// Whether the name is answered.
fn judge_name(rules: &RuleSet, name: &Name) -> (bool, String) {
    let by = |word: &str| {
        let policy = rules.dns.refused_by(name).map(|policy| format!(" ({policy})"));
        format!("{word}{}", policy.unwrap_or_default())
    };
    match rules.dns.decide(name) {
        QueryDecision::Allowed(_) => {
            let allows = |one: &&CompiledRule| one.rule.effect == Effect::Allow && one.classes != 0;
            let rule = rules.rules_of(name).find(allows);
            let rule = rule.map(|one| format!(" ({} rule {})", one.rule.policy, one.rule.name));
            (true, format!("name{}", rule.unwrap_or_default()))
        }
        QueryDecision::Unfiltered { would_filter: false } => (true, "not-isolated".into()),
        QueryDecision::Unfiltered { would_filter: true }
        | QueryDecision::Filtered { .. }
        | QueryDecision::Denied { .. }
        | QueryDecision::SearchExpansion => (false, by("filtered")),
    }
}

/// The name with the addresses that it was seen to give, and one of them.
fn granted(name: &Name, all: &Sightings) -> (Bindings, IpAddr) {
    let seen: Vec<IpAddr> = all.addresses.get(name).into_iter().flatten().copied().collect();
    let address = seen.first().copied().unwrap_or(EXTERNAL);
    let limits = Limits { addresses: u32::MAX, addresses_per_name: u32::MAX, ..Limits::default() };
    let mut bindings = Bindings::new(limits);
    let hour = Duration::from_secs(3_600);
    let addresses: Vec<_> = [address].into_iter().chain(seen).map(|address| (address, hour)).collect();
    // Without limits that it could reach, nothing is refused.
    let _never_refused = bindings.record(name, &[], &addresses, Duration::ZERO, NOW);
    (bindings, address)
}

/// What `cluster` peers stand for.
pub(super) fn ranges(subject: &SubjectStatus) -> Result<ClusterRanges> {
    let of = |kind: &str| {
        let texts = subject.cluster.get(kind).into_iter().flatten();
        let read = texts.map(|text| text.parse::<IpNet>()).collect::<Result<_, _>>();
        read.with_context(|| format!("the API's ranges of {kind}"))
    };
    Ok(ClusterRanges {
        pods: of("Pods")?,
        services: of("Services")?,
        nodes: of("Nodes")?,
        api_server: of("APIServer")?,
        own_node: Vec::new(),
    })
}
