//! CiliumNetworkPolicy and CiliumClusterwideNetworkPolicy (cilium.io/v2).
//!
//! Fields as in Cilium's `pkg/policy/api`: members of an egress rule narrow each other, lists add up, `egressDeny` wins.
//! What narrows a rule and cannot be said here (L7, TLS names, authentication, ports by name) takes the rule away. What
//! denies and cannot be said takes the policy away.

mod peers;
mod ports;
mod subject;

use nameward_crds::{Subject, Value};

use super::{
    Options,
    at::At,
    draft::{Draft, RuleDraft, Whose, every_address, everywhere},
    kubernetes::{DNS_NEEDS_NO_RULE, NO_INGRESS, Object, namespace_selector},
    notes::{Notes, Weight},
};

/// Fields of `spec`; the last three change nothing that is enforced.
const SPEC: &[&str] = &[
    "endpointSelector",
    "nodeSelector",
    "ingress",
    "ingressDeny",
    "egress",
    "egressDeny",
    "enableDefaultDeny",
    "description",
    "labels",
    "log",
];
/// Who is meant by a rule: one of these, as Cilium combines none of them.
const MEMBERS: &[&str] =
    &["toEndpoints", "toCIDR", "toCIDRSet", "toEntities", "toServices", "toFQDNs", "toGroups", "toNodes"];
/// What may stand beside them.
const RULE: &[&str] = &["toPorts", "icmps", "toRequires", "authentication"];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Effect {
    Allow,
    Deny,
}

/// The policies of one object: one for each of its specs.
pub(super) fn import(object: &Object<'_>, options: &Options, notes: &mut Notes) -> Vec<Draft> {
    object.announce(notes);
    let mut specs: Vec<At<'_>> = object.at.get("spec").into_iter().collect();
    specs.extend(object.at.list("specs", notes));
    if specs.is_empty() {
        notes.whole(Weight::Refused, "it has neither `spec` nor `specs`");
    }
    specs.iter().filter_map(|spec| policy(object, spec, options, notes)).collect()
}

fn policy(object: &Object<'_>, spec: &At<'_>, options: &Options, notes: &mut Notes) -> Option<Draft> {
    if !spec.only(SPEC, notes) {
        notes.refused(spec, "a part of it is not understood, so whom and what it is about is not, either");
        return None;
    }
    if let Some(selector) = spec.get("nodeSelector") {
        notes.refused(&selector, "policies for nodes have no counterpart: Nameward guards workloads");
        return None;
    }
    for field in ["ingress", "ingressDeny"] {
        if let Some(ingress) = spec.get(field) {
            notes.left(&ingress, NO_INGRESS);
        }
    }
    let has_rules = spec.lists("egress") || spec.lists("egressDeny");
    let asked = spec.get("enableDefaultDeny").and_then(|at| at.get("egress"));
    let isolate = match asked.as_ref().map(|at| &at.node.value) {
        Some(Value::Bool(asked)) => *asked,
        Some(_) => {
            notes.refused(asked.as_ref().unwrap_or(spec), "`true` or `false` is expected here");
            return None;
        }
        None => has_rules,
    };
    if !has_rules && !isolate {
        notes.told(spec, "it says nothing of what may leave");
        return None;
    }
    let Some(subject) = subject::subject(object, spec, options, notes) else {
        notes.refused(spec, "whom it is about cannot be said here");
        return None;
    };
    let allow = spec.list("egress", notes);
    let allow: Vec<RuleDraft> =
        allow.iter().filter_map(|at| rule(at, Effect::Allow, options, notes)).collect();
    let before = notes.lost();
    let deny = spec.list("egressDeny", notes);
    let deny: Vec<RuleDraft> = deny.iter().filter_map(|at| rule(at, Effect::Deny, options, notes)).collect();
    if notes.lost() > before {
        notes.refused(
            spec,
            "without a part of `egressDeny` it would allow more than it did; write that part anew",
        );
        return None;
    }
    let whose = whose(object, subject, isolate, options, spec, notes);
    Some(Draft { name: object.policy_name(), whose, allow, deny, origin: notes.origin().clone() })
}

/// A policy of a namespace that does not isolate becomes one of the cluster: those of a namespace always do (R1).
fn whose(
    object: &Object<'_>,
    subject: Subject,
    isolate: bool,
    options: &Options,
    spec: &At<'_>,
    notes: &mut Notes,
) -> Whose {
    let namespace = object.namespace.map(str::to_owned).or_else(|| options.namespace.clone());
    if object.kind == "CiliumNetworkPolicy" && isolate {
        return Whose::Namespace { namespace, pods: subject.pod_selector };
    }
    if object.kind == "CiliumNetworkPolicy" {
        let reason = "it isolates nobody, so it becomes a ClusterEgressPolicy for its namespace: an EgressPolicy always isolates";
        notes.told(spec, reason);
        let namespace_selector = namespace_selector(namespace.as_deref().unwrap_or("default"));
        return Whose::Cluster { subject: Subject { namespace_selector, ..subject }, isolate };
    }
    if subject.namespace_selector.is_empty() {
        let reason = "Nameward's own namespace and exempt ones (by default kube-system) are meant only when a policy names them";
        notes.told(spec, reason);
    }
    Whose::Cluster { subject, isolate }
}

/// One rule, or nothing with the reason noted.
fn rule(at: &At<'_>, effect: Effect, options: &Options, notes: &mut Notes) -> Option<RuleDraft> {
    let known: Vec<&str> = RULE.iter().chain(MEMBERS).copied().collect();
    if !at.only(&known, notes) {
        return None;
    }
    let members: Vec<&str> = MEMBERS.iter().copied().filter(|member| at.get(member).is_some()).collect();
    if members.len() > 1 {
        notes.left(
            at,
            format!("{} stand together, which Cilium refuses; write a rule for each", members.join(", ")),
        );
        return None;
    }
    if let Some(required) = at.get("toRequires").filter(|_| at.lists("toRequires")) {
        notes.left(&required, "this narrows the rule and cannot be said here, so the rule is not written");
        return None;
    }
    if let Some(mode) = at.get("authentication").filter(|at| at.word("mode") != "disabled") {
        notes.left(
            &mode,
            "authentication narrows the rule and cannot be said here, so the rule is not written",
        );
        return None;
    }
    let member = members.first().copied();
    if effect == Effect::Allow && is_lookup(at, member) {
        notes.told(at, DNS_NEEDS_NO_RULE);
        return None;
    }
    let ports = ports::ports(at, notes);
    if ports.is_empty() {
        return None;
    }
    let to = match member {
        Some(member) => peers::peers(at, member, effect, options, notes),
        // A rule of ports alone is about every destination; one of nothing selects none, and only isolates.
        None if at.lists("toPorts") || at.lists("icmps") => match effect {
            Effect::Allow => everywhere(),
            Effect::Deny => every_address(),
        },
        None => Vec::new(),
    };
    let prefix = if effect == Effect::Allow { "egress" } else { "deny" };
    let number = at.path.rsplit('[').next().unwrap_or_default().trim_end_matches(']');
    let name = number.parse::<usize>().map_or_else(|_| prefix.to_owned(), |n| format!("{prefix}-{}", n + 1));
    (!to.is_empty()).then_some(RuleDraft { name, to, ports })
}

/// Whether it is the rule that lets pods ask the cluster's DNS, which every policy with names needs in Cilium.
fn is_lookup(at: &At<'_>, member: Option<&str>) -> bool {
    if !matches!(member, Some("toEndpoints" | "toServices" | "toEntities")) {
        return false;
    }
    let mut quiet = Notes::default();
    let entries = at.list("toPorts", &mut quiet);
    let dns_port = |at: &At<'_>| {
        let end = at.get("endPort");
        at.get("port").is_some_and(|port| port.port(&mut Notes::default()) == Some(53))
            && end.is_none_or(|end| matches!(end.port(&mut Notes::default()), Some(53)))
            && matches!(at.word("protocol"), "" | "ANY" | "UDP" | "TCP")
    };
    let dns_entry = |at: &At<'_>| {
        let ports = at.list("ports", &mut Notes::default());
        let l7_other = at.get("rules").is_some_and(|rules| !rules.only(&["dns"], &mut Notes::default()));
        at.only(&["ports", "rules"], &mut Notes::default())
            && !l7_other
            && !ports.is_empty()
            && ports.iter().all(dns_port)
    };
    !entries.is_empty() && entries.iter().all(dns_entry)
}
