//! FQDNNetworkPolicy (networking.gke.io): GKE's own (`egress[].matches`, v1alpha1), and that of the controllers which
//! resolve names themselves (`egress[].to[].fqdns`, v1alpha3).
//!
//! Both add up and isolate whom they select, as NetworkPolicy does. In GKE's patterns a star stands for one label
//! (cloud.google.com/kubernetes-engine/docs/how-to/fqdn-network-policies).

use super::{
    Options,
    at::At,
    draft::{self, Draft, RuleDraft, Whose},
    kubernetes::{self, NO_INGRESS, Object, network_policy_ports},
    names::{Dialect, exact, pattern},
    notes::{Notes, Weight},
};

/// The policy of one object.
pub(super) fn import(object: &Object<'_>, options: &Options, notes: &mut Notes) -> Option<Draft> {
    object.announce(notes);
    let Some(spec) = object.at.get("spec") else {
        notes.whole(Weight::Refused, "`spec` is missing");
        return None;
    };
    let known = spec.only(&["podSelector", "egress", "ingress", "policyTypes"], notes);
    let pods = spec.get("podSelector").and_then(|at| kubernetes::selector(&at, notes));
    let Some(pods) = pods.filter(|_| known) else {
        notes.refused(&spec, "whom it is about is not understood");
        return None;
    };
    if let Some(ingress) = spec.get("ingress") {
        notes.left(&ingress, NO_INGRESS);
    }
    let rules = spec.list("egress", notes);
    if rules.is_empty() {
        notes.told(&spec, "it says nothing of what may leave");
        return None;
    }
    let allow = rules.iter().enumerate().filter_map(|(index, at)| rule(at, index, options, notes)).collect();
    let namespace = object.namespace.map(str::to_owned).or_else(|| options.namespace.clone());
    let whose = Whose::Namespace { namespace, pods };
    Some(Draft { name: object.policy_name(), whose, allow, deny: Vec::new(), origin: notes.origin().clone() })
}

fn rule(at: &At<'_>, index: usize, options: &Options, notes: &mut Notes) -> Option<RuleDraft> {
    if !at.only(&["matches", "to", "ports"], notes) {
        return None;
    }
    if !at.lists("matches") && !at.lists("to") {
        notes.left(at, "it names no destination");
        return None;
    }
    let mut names = Vec::new();
    for found in at.list("matches", notes) {
        names.extend(matched(&found, options, notes));
    }
    for peer in at.list("to", notes) {
        if !peer.only(&["fqdns"], notes) {
            continue;
        }
        for (at, text) in peer.texts("fqdns", notes) {
            match exact(text) {
                Ok(name) => names.push(name),
                Err(reason) => notes.left(&at, reason),
            }
        }
    }
    let ports = network_policy_ports(at, notes);
    let whole = !names.is_empty() && !ports.is_empty();
    whole.then(|| RuleDraft { name: format!("egress-{}", index + 1), to: vec![draft::names(names)], ports })
}

/// One of `matches`: a name or a pattern.
fn matched(at: &At<'_>, options: &Options, notes: &mut Notes) -> Option<String> {
    if !at.only(&["name", "pattern"], notes) {
        return None;
    }
    match (at.get("name"), at.get("pattern")) {
        (Some(name), None) => {
            let text = name.text(notes)?;
            exact(text).map_err(|reason| notes.left(&name, reason)).ok()
        }
        (None, Some(found)) => {
            let text = found.text(notes)?;
            pattern(&found, text, Dialect::OneLabel, options, notes)
        }
        _ => {
            notes.left(at, "exactly one of `name` and `pattern` is expected here");
            None
        }
    }
}
