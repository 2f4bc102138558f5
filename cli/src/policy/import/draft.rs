//! Policies on their way out: split to what an object may hold, named, and checked as any file of ours is.

use std::{collections::HashSet, path::Path};

use nameward_crds::{ClusterPlace, IpBlock, LabelSelector, Peer, Port, ProtocolName, Subject, file, to_yaml};
use serde_json::{Value, json};

use super::notes::{Notes, Origin, Weight};

/// Most rules of a list, peers of a rule, names of a peer and ports of a rule; the schema says the same.
const MAX_RULES: usize = 64;
const MAX_PEERS: usize = 16;
const MAX_NAMES: usize = 256;
const MAX_PORTS: usize = 32;

/// Whom a policy is about.
#[derive(Clone, Debug)]
pub(super) enum Whose {
    /// An `EgressPolicy`.
    Namespace { namespace: Option<String>, pods: LabelSelector },
    /// A `ClusterEgressPolicy`.
    Cluster { subject: Subject, isolate: bool },
}

/// A rule of any size.
#[derive(Clone, Debug)]
pub(super) struct RuleDraft {
    /// What its name is made of.
    pub(super) name: String,
    pub(super) to: Vec<Peer>,
    /// Of an allow rule at least one; of a deny rule none means all.
    pub(super) ports: Vec<Port>,
}

/// A policy of any size.
#[derive(Clone, Debug)]
pub(super) struct Draft {
    pub(super) name: String,
    pub(super) whose: Whose,
    pub(super) allow: Vec<RuleDraft>,
    pub(super) deny: Vec<RuleDraft>,
    /// Where it comes from.
    pub(super) origin: Origin,
}

/// The objects of all drafts. One that is not in order is refused whole: what it denies must not get lost.
pub(super) fn objects(drafts: Vec<Draft>, notes: &mut Notes) -> Vec<Value> {
    let mut taken = HashSet::new();
    let mut objects = Vec::new();
    for draft in drafts {
        notes.again(&draft.origin);
        let says_nothing = draft.allow.is_empty() && draft.deny.is_empty();
        if matches!(draft.whose, Whose::Cluster { isolate: false, .. }) && says_nothing {
            notes.whole(Weight::Left, "nothing is left of it that a policy could say");
            continue;
        }
        let parts = parts(&draft, &mut taken);
        let mistakes: Vec<String> = parts.iter().flat_map(mistakes).collect();
        if mistakes.is_empty() {
            objects.extend(parts);
        }
        for mistake in mistakes {
            notes.whole(Weight::Refused, format!("what it would become is not in order: {mistake}"));
        }
    }
    objects
}

/// What `nameward policy check` would say of an object.
fn mistakes(object: &Value) -> Vec<String> {
    let found = file::read(&to_yaml(object), Path::new("import")).err();
    let line = |mistake: nameward_crds::Mistake| format!("{}: {}", mistake.path, mistake.message);
    found.into_iter().flat_map(|mistakes| mistakes.0).map(line).collect()
}

/// One object, or as many as its rules need. Each selects the same workloads, so together they say the same.
fn parts(draft: &Draft, taken: &mut HashSet<String>) -> Vec<Value> {
    let (allow, deny) = (split(&draft.allow, "egress"), split(&draft.deny, "deny"));
    let count = allow.len().div_ceil(MAX_RULES).max(deny.len().div_ceil(MAX_RULES)).max(1);
    let chunk = |rules: &[Value], part: usize| -> Vec<Value> {
        rules.iter().skip(part * MAX_RULES).take(MAX_RULES).cloned().collect()
    };
    (0..count).map(|part| object(draft, &chunk(&allow, part), &chunk(&deny, part), taken)).collect()
}

fn object(draft: &Draft, allow: &[Value], deny: &[Value], taken: &mut HashSet<String>) -> Value {
    let (kind, namespace) = match &draft.whose {
        Whose::Namespace { namespace, .. } => ("EgressPolicy", namespace.as_deref()),
        Whose::Cluster { .. } => ("ClusterEgressPolicy", None),
    };
    let scope = format!("{kind}/{}/", namespace.unwrap_or("default"));
    let name = unique(&draft.name, 253, |name| taken.insert(format!("{scope}{name}")));
    let mut metadata = json!({ "name": name });
    if let Some(namespace) = namespace {
        metadata["namespace"] = namespace.into();
    }
    let mut spec = match &draft.whose {
        Whose::Namespace { pods, .. } => json!({ "podSelector": pods }),
        Whose::Cluster { subject, isolate } => json!({ "subject": subject, "isolate": isolate }),
    };
    spec["egress"] = allow.into();
    if !deny.is_empty() {
        spec["deny"] = deny.into();
    }
    json!({ "apiVersion": file::API_VERSION, "kind": kind, "metadata": metadata, "spec": spec })
}

/// Rules of the size an object may have, each with a name of its own.
fn split(rules: &[RuleDraft], fallback: &str) -> Vec<Value> {
    let mut taken = HashSet::new();
    let mut out = Vec::new();
    for rule in rules {
        let base = label(&rule.name, fallback);
        let peers = peers(&rule.to);
        // Without ports a deny rule is about all of them.
        let ports: Vec<&[Port]> =
            if rule.ports.is_empty() { vec![&[]] } else { rule.ports.chunks(MAX_PORTS).collect() };
        for to in peers.chunks(MAX_PEERS) {
            for ports in &ports {
                let name = unique(&base, 63, |name| taken.insert(name.to_owned()));
                let mut value = json!({ "name": name, "to": to });
                if !ports.is_empty() {
                    value["ports"] = json!(ports);
                }
                out.push(value);
            }
        }
    }
    out
}

/// The peers, all names first, nothing twice.
fn peers(to: &[Peer]) -> Vec<Peer> {
    let mut seen = HashSet::new();
    let all = to.iter().filter_map(|peer| peer.domain_names.as_deref()).flatten();
    let all: Vec<String> = all.filter(|name| seen.insert(name.as_str())).cloned().collect();
    let mut peers: Vec<Peer> = all.chunks(MAX_NAMES).map(|names| self::names(names.to_vec())).collect();
    for peer in to.iter().filter(|peer| peer.domain_names.is_none()) {
        if !peers.contains(peer) {
            peers.push(peer.clone());
        }
    }
    peers
}

/// The name, or the name with a number behind it when it is taken.
fn unique(name: &str, longest: usize, mut take: impl FnMut(&str) -> bool) -> String {
    let mut candidate = name.to_owned();
    let mut number = 1_usize;
    while !take(&candidate) {
        number += 1;
        let suffix = format!("-{number}");
        let room = longest.saturating_sub(suffix.len());
        let short: String = name.chars().take(room).collect();
        candidate = format!("{}{suffix}", short.trim_end_matches(['-', '.']));
    }
    candidate
}

/// A DNS label of a text.
pub(super) fn label(text: &str, fallback: &str) -> String {
    let plain = |character: char| {
        if character.is_ascii_alphanumeric() { character.to_ascii_lowercase() } else { '-' }
    };
    let label: String = text.chars().map(plain).take(63).collect();
    let label = label.trim_matches('-');
    if label.is_empty() { fallback.into() } else { label.into() }
}

/// A peer of names.
pub(super) fn names(names: Vec<String>) -> Peer {
    Peer { domain_names: Some(names), ..Peer::default() }
}

/// A peer of addresses.
pub(super) fn block(cidr: impl ToString, except: Vec<String>) -> Peer {
    Peer { ip_block: Some(IpBlock { cidr: cidr.to_string(), except }), ..Peer::default() }
}

/// A peer of places in the cluster.
pub(super) fn cluster(places: &[ClusterPlace]) -> Peer {
    Peer { cluster: Some(places.to_vec()), ..Peer::default() }
}

/// Every destination that an allow rule can name, by any name and by address.
pub(super) fn everywhere() -> Vec<Peer> {
    let mut peers = vec![names(vec!["*".into()])];
    peers.extend(every_address());
    peers
}

/// Every address. A deny rule says it so: a denied name is denied on every port.
pub(super) fn every_address() -> Vec<Peer> {
    vec![block("0.0.0.0/0", Vec::new()), block("::/0", Vec::new())]
}

/// Every port of every protocol.
pub(super) fn every_port() -> Vec<Port> {
    vec![port("Any", None, None)]
}

/// A protocol, one of its ports, or a range.
pub(super) fn port(protocol: &str, first: Option<u16>, last: Option<u16>) -> Port {
    Port {
        protocol: ProtocolName::Name(protocol.into()),
        port: first.map(i32::from),
        end_port: last.map(i32::from),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn draft(allow: Vec<RuleDraft>, deny: Vec<RuleDraft>) -> Draft {
        let whose = Whose::Namespace { namespace: Some("ci".into()), pods: LabelSelector::default() };
        Draft { name: "p".into(), whose, allow, deny, origin: Origin::default() }
    }

    fn rule(to: Vec<Peer>, ports: Vec<Port>) -> RuleDraft {
        RuleDraft { name: "Rule One!".into(), to, ports }
    }

    #[test]
    fn what_is_too_large_for_one_object_becomes_several() {
        let many: Vec<String> = (0..5_000).map(|number| format!("n{number}.example.com")).collect();
        let ports: Vec<Port> = (1..=100).map(|number| port("TCP", Some(number), None)).collect();
        let blocks = |count: u32| -> Vec<Peer> {
            (0..count)
                .map(|number| block(format!("198.51.{}.{}/32", number / 256, number % 256), vec![]))
                .collect()
        };
        let allow = vec![rule(vec![names(many)], ports), rule(blocks(1_100), every_port())];
        let mut notes = Notes::default();
        let objects = objects(vec![draft(allow, vec![rule(blocks(2_000), vec![])])], &mut notes);
        assert_eq!(notes.lost(), 0, "{:?}", notes.list());
        assert_eq!(objects.len(), 2, "125 deny rules");
        let texts: Vec<String> = objects.iter().map(to_yaml).collect();
        let file =
            file::read(&texts.join("---\n"), Path::new("p.yaml")).unwrap_or_else(|error| panic!("{error}"));
        // 5,000 names are 20 peers and two rules, each for the four parts of 100 ports.
        let denies = file.rules().iter().filter(|rule| rule.ports.is_empty()).count();
        assert_eq!((denies, file.rules().len() - denies), (125, 8 + 69));
    }

    #[test]
    fn names_do_not_collide() {
        let mut notes = Notes::default();
        let objects = objects(vec![draft(vec![], vec![]), draft(vec![], vec![])], &mut notes);
        let named: Vec<&str> =
            objects.iter().filter_map(|object| object["metadata"]["name"].as_str()).collect();
        assert_eq!(named, ["p", "p-2"]);
        assert_eq!(label("--Rule One!", "x"), "rule-one");
        assert_eq!(label("!!", "x"), "x");
    }

    #[test]
    fn a_policy_that_is_not_in_order_is_not_written() {
        let mut notes = Notes::default();
        let broken = rule(vec![block("198.51.100.7/24", vec![])], every_port());
        let objects = objects(vec![draft(vec![broken], vec![])], &mut notes);
        assert!(objects.is_empty() && notes.lost() == 1, "{:?}", notes.list());
    }
}
