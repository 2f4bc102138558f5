//! ClusterNetworkPolicy, of the standard (policy.networking.k8s.io/v1alpha2) and of AWS (networking.k8s.aws/v1alpha1).
//!
//! Their rules are read in order, and the first that matches decides: by priority among policies, as written within one.
//! Ours have no order: what is denied is denied, what is allowed adds up, the rest is denied when a policy isolates. So a
//! final Deny of all networks becomes isolation, a Deny stays what it is, and an Accept that comes after something which
//! decides otherwise about the same destinations is not written.

use nameward_crds::{ClusterPlace, LabelSelector, Peer, Port, Subject};

use super::{
    Options,
    at::At,
    draft::{self, Draft, RuleDraft, Whose, cluster, every_port, port},
    kubernetes::{self, NO_INGRESS, Object, block_peer, net, numbered, range},
    meet,
    names::{Dialect, pattern},
    notes::{Notes, Weight},
};

/// What earlier rules decided, so that a later one does not reach it.
#[derive(Default)]
pub(super) struct Earlier {
    shadows: Vec<Shadow>,
    accepted: Vec<(Subject, RuleDraft)>,
}

/// Destinations that something else decides about than a later Accept.
struct Shadow {
    subject: Subject,
    /// Everything when none are listed.
    peers: Option<Vec<Peer>>,
    /// Passed on to policies of namespaces, not denied.
    passes: bool,
    what: String,
}

impl Earlier {
    /// Why an Accept of a policy of the cluster does not reach all of its destinations.
    fn before(&self, subject: &Subject, rule: &RuleDraft) -> Option<&str> {
        self.shadows.iter().find(|shadow| shadow.meets(subject, rule)).map(|shadow| shadow.what.as_str())
    }

    /// Why a rule of a namespace's policy, whose turn is after all of these, does not reach all of its destinations.
    pub(super) fn before_namespaces(&self, subject: &Subject, rule: &RuleDraft) -> Option<&str> {
        let denied = |shadow: &&Shadow| !shadow.passes && shadow.meets(subject, rule);
        self.shadows.iter().find(denied).map(|shadow| shadow.what.as_str())
    }

    /// What a Deny does not reach all of, as something before it decided.
    fn undenied(&self, subject: &Subject, rule: &RuleDraft) -> Option<&'static str> {
        let accepted = |(whose, accepted): &(Subject, RuleDraft)| {
            meet::subjects(whose, subject)
                && meet::rules((&accepted.to, &accepted.ports), (&rule.to, &rule.ports))
        };
        if self.accepted.iter().any(accepted) {
            return Some("may accept");
        }
        self.shadows.iter().any(|shadow| shadow.passes && shadow.meets(subject, rule)).then_some("may pass")
    }
}

impl Shadow {
    fn meets(&self, subject: &Subject, rule: &RuleDraft) -> bool {
        let touched = |peers: &Vec<Peer>| meet::rules((peers, &[]), (&rule.to, &rule.ports));
        meet::subjects(&self.subject, subject) && self.peers.as_ref().is_none_or(touched)
    }
}

/// A policy and when its turn is.
struct Turn<'o, 'a> {
    priority: i64,
    object: &'o Object<'a>,
    spec: At<'a>,
    subject: Subject,
}

/// The policies of all objects together: which of them comes first matters. Policies of namespaces come after them.
pub(super) fn import(objects: &[Object<'_>], options: &Options, notes: &mut Notes) -> (Vec<Draft>, Earlier) {
    let mut earlier = Earlier::default();
    let mut turns: Vec<Turn<'_, '_>> =
        objects.iter().filter_map(|object| turn(object, &mut earlier, notes)).collect();
    // Of two with one priority either may come first; here the one that is written first does.
    turns.sort_by_key(|turn| turn.priority);
    let drafts = turns.iter().filter_map(|turn| policy(turn, &mut earlier, options, notes)).collect();
    (drafts, earlier)
}

fn turn<'o, 'a>(object: &'o Object<'a>, earlier: &mut Earlier, notes: &mut Notes) -> Option<Turn<'o, 'a>> {
    object.announce(notes);
    let Some(spec) = object.at.get("spec") else {
        notes.whole(Weight::Refused, "`spec` is missing");
        return None;
    };
    let known = spec.only(&["tier", "priority", "subject", "ingress", "egress"], notes);
    if spec.lists("ingress") {
        let ingress = spec.get("ingress").unwrap_or_else(|| spec.clone());
        notes.left(&ingress, NO_INGRESS);
    }
    if !spec.lists("egress") {
        notes.told(&spec, "it says nothing of what may leave");
        return None;
    }
    if spec.word("tier") == "Baseline" {
        let tier = spec.get("tier").unwrap_or_else(|| spec.clone());
        notes.refused(&tier, "a Baseline is what counts where nobody says otherwise, which is not there; write an EgressPolicy for each namespace that has none");
        return None;
    }
    let priority = spec.get("priority").map(|at| at.node.to_json()).and_then(|value| value.as_i64());
    let subject = spec.get("subject").and_then(|at| subject(&at, notes));
    match (priority, subject, known && spec.word("tier") == "Admin") {
        (Some(priority), Some(subject), true) => Some(Turn { priority, object, spec, subject }),
        _ => {
            let reason = "its tier, whom it is about, or when its turn is, is not understood; no Accept of another is written, as this may deny it";
            notes.refused(&spec, reason);
            let what = format!("{} was refused and may decide before it", object.title);
            earlier.shadows.push(Shadow { subject: Subject::default(), peers: None, passes: false, what });
            None
        }
    }
}

fn subject(at: &At<'_>, notes: &mut Notes) -> Option<Subject> {
    if !at.only(&["namespaces", "pods"], notes) {
        return None;
    }
    match (at.get("namespaces"), at.get("pods")) {
        (Some(namespaces), None) => {
            let namespace_selector = kubernetes::selector(&namespaces, notes)?;
            Some(Subject { namespace_selector, ..Subject::default() })
        }
        (None, Some(pods)) => {
            if !pods.only(&["namespaceSelector", "podSelector"], notes) {
                return None;
            }
            let mut read = |field: &str| match pods.get(field) {
                Some(at) => kubernetes::selector(&at, notes),
                None => Some(LabelSelector::default()),
            };
            let (namespace_selector, pod_selector) = (read("namespaceSelector")?, read("podSelector")?);
            Some(Subject { namespace_selector, pod_selector })
        }
        _ => {
            notes.left(at, "exactly one of `namespaces` and `pods` is expected here");
            None
        }
    }
}

/// A policy on its way from rule to rule.
#[derive(Default)]
struct Walk {
    allow: Vec<RuleDraft>,
    deny: Vec<RuleDraft>,
    isolate: bool,
    passed: bool,
    refused: bool,
}

fn policy(turn: &Turn<'_, '_>, earlier: &mut Earlier, options: &Options, notes: &mut Notes) -> Option<Draft> {
    turn.object.announce(notes);
    let mut walk = Walk::default();
    for (index, at) in turn.spec.list("egress", notes).iter().enumerate() {
        step(&mut walk, at, index, turn, earlier, options, notes);
    }
    let mut everything = |what: &str| {
        let what = format!("{} {what}", turn.object.title);
        earlier.shadows.push(Shadow { subject: turn.subject.clone(), peers: None, passes: false, what });
    };
    if walk.refused {
        everything("was refused and decides before it");
        notes.refused(
            &turn.spec,
            "written without what could not be carried over it would allow more, or deny what it accepts",
        );
        return None;
    }
    if walk.isolate {
        everything("denies all networks at its end");
        notes.told(&turn.spec, "the final Deny of all networks becomes isolation, of IPv4 and IPv6: an EgressPolicy of a namespace can allow its own workloads more; so RBAC says who may write one");
    }
    if walk.isolate && walk.passed {
        notes.left(&turn.spec, "what it passes to other policies is denied here unless they allow it, as the policy isolates; write `cluster: [Pods]` and the like for what is meant");
    }
    let whose = Whose::Cluster { subject: turn.subject.clone(), isolate: walk.isolate };
    let origin = notes.origin().clone();
    Some(Draft { name: turn.object.policy_name(), whose, allow: walk.allow, deny: walk.deny, origin })
}

fn step(
    walk: &mut Walk,
    at: &At<'_>,
    index: usize,
    turn: &Turn<'_, '_>,
    earlier: &mut Earlier,
    options: &Options,
    notes: &mut Notes,
) {
    let known = at.only(&["name", "action", "to", "protocols", "ports"], notes);
    let action = at.word("action");
    if walk.isolate {
        if action == "Accept" || !known {
            notes.left(at, "it comes after a Deny of all networks of a family; write it before that");
            walk.refused |= !known;
        } else {
            notes.told(at, "it comes after a Deny of all networks, and decides nothing any more");
        }
        return;
    }
    let name = Some(at.word("name")).filter(|name| !name.is_empty());
    let name = name.map_or_else(|| format!("egress-{}", index + 1), str::to_owned);
    match action {
        "Accept" if known => {
            let rule = RuleDraft { name, to: peers(at, options, notes), ports: ports(at, notes) };
            accept(walk, at, rule, turn, earlier, notes);
        }
        "Accept" => {}
        "Deny" if known && denies_all(at) => walk.isolate = true,
        "Deny" => {
            let before = notes.lost();
            let rule = denied(at, name, options, notes);
            if known && notes.lost() == before {
                deny(walk, at, rule, turn, earlier, notes);
            } else {
                walk.refused = true;
            }
        }
        "Pass" => {
            walk.passed = true;
            let what = format!("{} passes them to other policies before", turn.object.title);
            earlier.shadows.push(Shadow {
                subject: turn.subject.clone(),
                peers: passed(at),
                passes: true,
                what,
            });
        }
        other => {
            notes.left(at, format!("action `{other}` is not known; there are Accept, Deny and Pass"));
            walk.refused = true;
        }
    }
}

/// Whether it denies every network of a family on every port.
fn denies_all(at: &At<'_>) -> bool {
    let mut quiet = Notes::default();
    let every = |peer: &At<'_>| {
        let networks = peer.texts("networks", &mut Notes::default());
        networks.iter().any(|(_, text)| matches!(*text, "0.0.0.0/0" | "::/0"))
    };
    !at.lists("protocols") && !at.lists("ports") && at.list("to", &mut quiet).iter().any(every)
}

fn accept(
    walk: &mut Walk,
    at: &At<'_>,
    rule: RuleDraft,
    turn: &Turn<'_, '_>,
    earlier: &mut Earlier,
    notes: &mut Notes,
) {
    if rule.to.is_empty() || rule.ports.is_empty() {
        return;
    }
    if let Some(what) = earlier.before(&turn.subject, &rule) {
        notes.left(at, format!("it does not reach all of its destinations, as {what}, so it is not written"));
        return;
    }
    earlier.accepted.push((turn.subject.clone(), rule.clone()));
    walk.allow.push(rule);
}

/// What a Deny is about; whole only when nothing was noted.
fn denied(at: &At<'_>, name: String, options: &Options, notes: &mut Notes) -> RuleDraft {
    let named = at.list("to", notes).into_iter().find(|peer| peer.get("domainNames").is_some());
    if let Some(named) = named {
        notes.left(&named, "domainNames are for Accept only, here and there");
    }
    let to = peers(at, options, notes);
    let ports = if at.lists("protocols") || at.lists("ports") { ports(at, notes) } else { Vec::new() };
    RuleDraft { name, to, ports }
}

fn deny(
    walk: &mut Walk,
    at: &At<'_>,
    rule: RuleDraft,
    turn: &Turn<'_, '_>,
    earlier: &Earlier,
    notes: &mut Notes,
) {
    if let Some(does) = earlier.undenied(&turn.subject, &rule) {
        notes.left(at, format!("a rule before it {does} some of what it denies; here what is denied stays denied, whatever the order"));
        let whole_family =
            |peer: &Peer| peer.ip_block.as_ref().is_some_and(|block| block.cidr.ends_with("/0"));
        walk.refused |= rule.to.iter().any(whole_family);
    }
    if !rule.to.is_empty() {
        walk.deny.push(rule);
    }
}

/// What a Pass may be about, rather too much than too little; everything when it is not understood.
fn passed(at: &At<'_>) -> Option<Vec<Peer>> {
    let mut quiet = Notes::default();
    let mut peers = Vec::new();
    for peer in at.list("to", &mut quiet) {
        if ["namespaces", "pods", "nodes"].iter().any(|field| peer.get(field).is_some()) {
            peers.push(cluster(&[ClusterPlace::Pods, ClusterPlace::Services, ClusterPlace::Nodes]));
        } else if peer.get("networks").is_some() {
            for (at, text) in peer.texts("networks", &mut quiet) {
                peers.extend(net(&at, text, &mut quiet).and_then(|net| block_peer(net, &[])));
            }
        } else {
            return None;
        }
    }
    (quiet.lost() == 0).then_some(peers)
}

fn peers(at: &At<'_>, options: &Options, notes: &mut Notes) -> Vec<Peer> {
    let mut all = Vec::new();
    for peer in at.list("to", notes) {
        if !peer.only(&["namespaces", "pods", "nodes", "networks", "domainNames"], notes) {
            continue;
        }
        let fields = peer.node.entries().iter().filter(|(key, _)| peer.get(&key.text).is_some()).count();
        if fields != 1 {
            notes.left(&peer, "exactly one kind of destination is expected here");
            continue;
        }
        for (at, text) in peer.texts("networks", notes) {
            all.extend(net(&at, text, notes).and_then(|net| block_peer(net, &[])));
        }
        let texts = peer.texts("domainNames", notes);
        let names: Vec<String> =
            texts.iter().filter_map(|(at, text)| pattern(at, text, Dialect::Ours, options, notes)).collect();
        if !names.is_empty() {
            all.push(draft::names(names));
        }
        all.extend(in_cluster(&peer, notes));
    }
    all
}

/// Every pod and every node have a counterpart; some of them have none.
fn in_cluster(peer: &At<'_>, notes: &mut Notes) -> Option<Peer> {
    let everything = |at: &At<'_>| !at.says("matchLabels") && !at.says("matchExpressions");
    if let Some(namespaces) = peer.get("namespaces") {
        if everything(&namespaces) {
            return Some(cluster(&[ClusterPlace::Pods]));
        }
    } else if let Some(nodes) = peer.get("nodes") {
        if everything(&nodes) {
            return Some(cluster(&[ClusterPlace::Nodes]));
        }
    } else if let Some(pods) = peer.get("pods") {
        let whole = |field: &str| pods.get(field).is_none_or(|at| everything(&at));
        if whole("namespaceSelector") && whole("podSelector") {
            return Some(cluster(&[ClusterPlace::Pods]));
        }
    } else {
        return None;
    }
    notes.left(peer, "pods and nodes by label are no destinations here; `cluster: [Pods]` and `cluster: [Nodes]` are all of them");
    None
}

/// `protocols` of the standard, `ports` of AWS; without them every port. Empty when none could be carried over.
fn ports(at: &At<'_>, notes: &mut Notes) -> Vec<Port> {
    if !at.lists("protocols") && !at.lists("ports") {
        return every_port();
    }
    let mut ports = Vec::new();
    for protocol in at.list("protocols", notes) {
        ports.extend(standard_port(&protocol, notes));
    }
    for port in at.list("ports", notes) {
        ports.extend(port_of_aws(&port, notes));
    }
    ports
}

/// `{tcp: {destinationPort: {number}}}` and the like.
fn standard_port(at: &At<'_>, notes: &mut Notes) -> Option<Port> {
    if let Some(named) = at.get("destinationNamedPort") {
        notes.left(&named, "ports by name are not there; write the number");
        return None;
    }
    if !at.only(&["tcp", "udp", "sctp"], notes) {
        return None;
    }
    let found = [("tcp", "TCP"), ("udp", "UDP"), ("sctp", "SCTP")];
    let mut found = found.into_iter().filter_map(|(field, protocol)| at.get(field).map(|at| (at, protocol)));
    let (Some((inner, protocol)), None) = (found.next(), found.next()) else {
        notes.left(at, "exactly one of tcp, udp and sctp is expected here");
        return None;
    };
    if !inner.only(&["destinationPort"], notes) {
        return None;
    }
    let Some(destination) = inner.get("destinationPort") else { return Some(port(protocol, None, None)) };
    if !destination.only(&["number", "range"], notes) {
        return None;
    }
    match (destination.get("number"), destination.get("range")) {
        (Some(number), None) => Some(port(protocol, Some(number.port(notes)?), None)),
        (None, Some(at)) => from_start_to_end(&at, &["start", "end"], protocol, notes),
        _ => {
            notes.left(&destination, "exactly one of `number` and `range` is expected here");
            None
        }
    }
}

/// `{portNumber: {protocol, port}}` and `{portRange: {protocol, start, end}}`.
fn port_of_aws(at: &At<'_>, notes: &mut Notes) -> Option<Port> {
    if let Some(named) = at.get("namedPort") {
        notes.left(&named, "ports by name are not there; write the number");
        return None;
    }
    if !at.only(&["portNumber", "portRange"], notes) {
        return None;
    }
    match (at.get("portNumber"), at.get("portRange")) {
        (Some(one), None) => {
            if !one.only(&["protocol", "port"], notes) {
                return None;
            }
            let protocol = kubernetes::protocol(&one, notes)?;
            let Some(number) = one.get("port") else {
                notes.left(&one, "`port` is missing");
                return None;
            };
            Some(port(protocol, Some(numbered(&number, notes)?), None))
        }
        (None, Some(at)) => {
            let protocol = kubernetes::protocol(&at, notes)?;
            from_start_to_end(&at, &["protocol", "start", "end"], protocol, notes)
        }
        _ => {
            notes.left(at, "exactly one of `portNumber` and `portRange` is expected here");
            None
        }
    }
}

fn from_start_to_end(at: &At<'_>, known: &[&str], protocol: &str, notes: &mut Notes) -> Option<Port> {
    if !at.only(known, notes) {
        return None;
    }
    let (Some(start), Some(end)) = (at.get("start"), at.get("end")) else {
        notes.left(at, "`start` and `end` are expected here");
        return None;
    };
    range(at, protocol, start.port(notes)?, Some(end.port(notes)?), notes)
}
