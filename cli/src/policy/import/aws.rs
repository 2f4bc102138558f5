//! ApplicationNetworkPolicy (networking.k8s.aws/v1alpha1): a NetworkPolicy whose egress peers may be domain names
//! (aws/amazon-network-policy-controller-k8s, api/v1alpha1). What ClusterNetworkPolicies deny is denied before.

use nameward_crds::{ClusterPlace, LabelSelector, Peer, Subject};

use super::{
    Options,
    at::At,
    cluster_network_policy::Earlier,
    draft::{self, Draft, RuleDraft, Whose, cluster, everywhere},
    kubernetes::{
        self, DNS_NEEDS_NO_RULE, NO_INGRESS, Object, block_peer, ip_block, is_dns, namespace_selector,
        network_policy_ports,
    },
    names::{Dialect, pattern},
    notes::{Notes, Weight},
};

/// The policy of one object.
pub(super) fn import(
    object: &Object<'_>,
    earlier: &Earlier,
    options: &Options,
    notes: &mut Notes,
) -> Option<Draft> {
    object.announce(notes);
    let Some(spec) = object.at.get("spec") else {
        notes.whole(Weight::Refused, "`spec` is missing");
        return None;
    };
    let known = spec.only(&["podSelector", "policyTypes", "ingress", "egress"], notes);
    let pods = spec.get("podSelector").and_then(|at| kubernetes::selector(&at, notes));
    let Some(pods) = pods.filter(|_| known) else {
        notes.refused(&spec, "whom it is about is not understood");
        return None;
    };
    let types = spec.texts("policyTypes", notes);
    let is_about = |direction: &str| types.iter().any(|(_, text)| *text == direction);
    if spec.lists("ingress") || is_about("Ingress") {
        let at = spec.get("ingress").unwrap_or_else(|| spec.clone());
        notes.left(&at, NO_INGRESS);
    }
    // Without policyTypes, egress is meant when there are egress rules.
    let about_egress = if types.is_empty() { spec.lists("egress") } else { is_about("Egress") };
    if !about_egress {
        notes.told(&spec, "it says nothing of what may leave");
        return None;
    }
    let rules = spec.list("egress", notes);
    let namespace = object.namespace.map(str::to_owned).or_else(|| options.namespace.clone());
    let namespace_selector = namespace.as_deref().map_or_else(LabelSelector::default, namespace_selector);
    let subject = Subject { namespace_selector, pod_selector: pods.clone() };
    let mut allow = Vec::new();
    for (index, at) in rules.iter().enumerate() {
        let Some(rule) = rule(at, index, options, notes) else { continue };
        match earlier.before_namespaces(&subject, &rule) {
            None => allow.push(rule),
            Some(what) => {
                notes.left(
                    at,
                    format!("it does not reach all of its destinations, as {what}, so it is not written"),
                );
            }
        }
    }
    let whose = Whose::Namespace { namespace, pods };
    Some(Draft { name: object.policy_name(), whose, allow, deny: Vec::new(), origin: notes.origin().clone() })
}

fn rule(at: &At<'_>, index: usize, options: &Options, notes: &mut Notes) -> Option<RuleDraft> {
    if !at.only(&["to", "ports"], notes) {
        return None;
    }
    let ports = network_policy_ports(at, notes);
    if ports.is_empty() {
        return None;
    }
    let peers = at.list("to", notes);
    let in_cluster = |at: &At<'_>| at.get("podSelector").is_some() || at.get("namespaceSelector").is_some();
    if !peers.is_empty() && peers.iter().all(in_cluster) && is_dns(&ports) {
        notes.told(at, DNS_NEEDS_NO_RULE);
        return None;
    }
    // No peers, every destination.
    let to = match at.lists("to") {
        false => everywhere(),
        true => peers.iter().flat_map(|at| peer(at, options, notes)).collect(),
    };
    (!to.is_empty()).then(|| RuleDraft { name: format!("egress-{}", index + 1), to, ports })
}

fn peer(at: &At<'_>, options: &Options, notes: &mut Notes) -> Option<Peer> {
    if !at.only(&["podSelector", "namespaceSelector", "ipBlock", "domainNames"], notes) {
        return None;
    }
    let selectors = at.get("podSelector").is_some() || at.get("namespaceSelector").is_some();
    match (at.get("domainNames"), at.get("ipBlock"), selectors) {
        (Some(_), None, false) => {
            let texts = at.texts("domainNames", notes);
            let names: Vec<String> = texts
                .iter()
                .filter_map(|(at, text)| pattern(at, text, Dialect::Ours, options, notes))
                .collect();
            (!names.is_empty()).then(|| draft::names(names))
        }
        (None, Some(block), false) => {
            let (net, except) = ip_block(&block, notes)?;
            block_peer(net, &except)
        }
        (None, None, true) => pods(at, notes),
        (None, None, false) => {
            notes.left(at, "it names no destination");
            None
        }
        _ => {
            notes.left(at, "domainNames, ipBlock and selectors stand together; write an item for each");
            None
        }
    }
}

/// Every pod of every namespace has a counterpart; pods by label have none.
fn pods(at: &At<'_>, notes: &mut Notes) -> Option<Peer> {
    if at.get("namespaceSelector").is_some() && !at.says("namespaceSelector") && !at.says("podSelector") {
        return Some(cluster(&[ClusterPlace::Pods]));
    }
    notes.left(at, "pods by label are no destinations here; write `cluster: [Pods]` if every pod is meant, and let their own NetworkPolicy say who may come in");
    None
}
