//! The rules of the workload that asks.
#![allow(dead_code, reason = "each target has one of them")]

use std::{sync::Arc, time::Duration};

use nameward_policy::{
    DeniedNames, DnsMode, DnsRules, DnsRulesData, DnsSettings, Hints, Limits, NameRule, NameRuleEntry,
    PolicyKind, PolicyRef, TtlBounds,
};

/// Names under `example`, less one.
pub(crate) fn rules() -> Arc<DnsRules> {
    build(false, Hints::Remove)
}

/// The same; CNAME targets need a rule, and address hints are learned.
pub(crate) fn strict_rules() -> Arc<DnsRules> {
    build(true, Hints::Learn)
}

fn build(strict_chain: bool, hints: Hints) -> Arc<DnsRules> {
    let policy = PolicyRef::new(PolicyKind::EgressPolicy, "ci", "runners");
    let rule = NameRule { grace: Duration::from_secs(600), private_addresses: false, strict_chain };
    let allow = |pattern: &str| NameRuleEntry {
        pattern: pattern.parse().expect("a pattern"),
        policy: policy.clone(),
        rule,
        classes: 1,
    };
    Arc::new(DnsRules::new(DnsRulesData {
        mode: DnsMode::Filter,
        allowed: vec![allow("allowed.example"), allow("*.wild.example")],
        denied: vec![DeniedNames {
            pattern: "denied.wild.example".parse().expect("a pattern"),
            policy: policy.clone(),
        }],
        reachable: Vec::new(),
        own_node: Vec::new(),
        isolated_by: Some(policy),
        settings: DnsSettings { hints, ..DnsSettings::default() },
        ttl: TtlBounds::default(),
        limits: Limits { queries_per_second: u32::MAX, ..Limits::default() },
    }))
}
