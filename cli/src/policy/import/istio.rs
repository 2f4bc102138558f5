//! Istio's ServiceEntry (networking.istio.io) where only what is registered may be reached (`REGISTRY_ONLY`).
//!
//! An entry alone restricts nobody. What does is the mesh's setting (IstioOperator, the ConfigMap `istio`, or the user's
//! word), or a Sidecar's. Entries are seen by the namespaces of `exportTo`, by all without it. A star before a host stands
//! for one or more labels, as here: Envoy compares the end of the name.

use std::collections::BTreeSet;

use ipnet::IpNet;
use nameward_crds::{LabelExpression, LabelOperator, LabelSelector, NAMESPACE_NAME, Subject};

use super::{
    Options,
    at::At,
    draft::{self, Draft, RuleDraft, Whose, block, label, port},
    kubernetes::{Object, labels_of, net},
    names::{Dialect, pattern},
    notes::{Notes, Origin, Weight},
};

/// Where Istio keeps what is about the whole mesh.
const ROOT_NAMESPACE: &str = "istio-system";
/// The label of namespaces whose pods join the mesh.
const INJECTED: &str = "istio-injection";
/// Protocols of ports (`Port.protocol`); all of them are TCP beneath.
const PROTOCOLS: &[&str] = &["HTTP", "HTTPS", "GRPC", "GRPC-WEB", "HTTP2", "MONGO", "TCP", "TLS"];

/// An entry's rule, and who sees it.
struct Entry {
    rule: RuleDraft,
    origin: Origin,
    seen_by: SeenBy,
}

enum SeenBy {
    All,
    Namespaces(BTreeSet<String>),
}

impl Entry {
    fn is_seen_in(&self, namespace: &str) -> bool {
        match &self.seen_by {
            SeenBy::All => true,
            SeenBy::Namespaces(names) => names.contains(namespace),
        }
    }
}

/// Workloads that reach only what is registered.
struct Restricted {
    namespace: String,
    pods: LabelSelector,
    origin: Origin,
}

/// What a Sidecar makes of its workloads.
enum Restricts {
    Nobody,
    ToRegistered(Restricted),
    /// The workloads of a namespace reach less than what is registered; how much less cannot be said.
    Narrower(String),
}

/// Who keeps to what is registered.
#[derive(Default)]
struct Mesh {
    whole: bool,
    restricted: Vec<Restricted>,
    /// Namespaces for which nothing can be written.
    unsaid: BTreeSet<String>,
}

/// The policies of all objects together: one says what is registered, another who keeps to it.
pub(super) fn import(objects: &[Object<'_>], options: &Options, notes: &mut Notes) -> Vec<Draft> {
    let mesh = mesh(objects, options, notes);
    let mut entries = Vec::new();
    for object in objects.iter().filter(|object| object.kind == "ServiceEntry") {
        object.announce(notes);
        entries.extend(entry(object, options, notes));
    }
    let restricts_nobody = !mesh.whole && mesh.restricted.is_empty() && mesh.unsaid.is_empty();
    if restricts_nobody || mesh.unsaid.contains(ROOT_NAMESPACE) {
        for entry in &entries {
            notes.again(&entry.origin);
            notes.whole(
                Weight::Refused,
                match restricts_nobody {
                    true => "a ServiceEntry alone restricts nobody; give the Sidecar or the mesh's configuration that says REGISTRY_ONLY, or import with --registry-only",
                    false => "whom it is for is not known, as the Sidecar of the whole mesh could not be read",
                },
            );
        }
        return Vec::new();
    }
    let drafts = policies(&entries, mesh, options, notes);
    if let Some(first) = drafts.first() {
        notes.again(&first.origin);
        notes.whole(
            Weight::Left,
            "services of the cluster are registered, too; add a rule `to: [{cluster: [Pods, Services]}]` for those that are needed",
        );
    }
    drafts
}

fn mesh(objects: &[Object<'_>], options: &Options, notes: &mut Notes) -> Mesh {
    let mut mesh = Mesh { whole: options.registry_only, ..Mesh::default() };
    let (mut sidecars, others): (Vec<&Object<'_>>, Vec<&Object<'_>>) = objects
        .iter()
        .filter(|object| object.kind != "ServiceEntry")
        .partition(|object| object.kind == "Sidecar");
    mesh.whole |= others.into_iter().any(sets_registry_only);
    // That of the whole mesh says what the others begin with.
    sidecars.sort_by_key(|object| object.namespace != Some(ROOT_NAMESPACE));
    for object in sidecars {
        object.announce(notes);
        match sidecar(object, mesh.whole, notes) {
            Restricts::Nobody => {}
            Restricts::ToRegistered(found) if found.namespace == ROOT_NAMESPACE && found.pods.is_empty() => {
                mesh.whole = true;
            }
            Restricts::ToRegistered(found) => mesh.restricted.push(found),
            Restricts::Narrower(namespace) => {
                mesh.unsaid.insert(namespace);
            }
        }
    }
    mesh
}

fn policies(entries: &[Entry], mesh: Mesh, options: &Options, notes: &mut Notes) -> Vec<Draft> {
    let is_said = |namespace: &String| !mesh.unsaid.contains(namespace);
    let mut drafts: Vec<Draft> = mesh
        .restricted
        .into_iter()
        .filter(|who| is_said(&who.namespace))
        .map(|who| of_namespace(entries, &who.namespace, who.pods, who.origin))
        .collect();
    if !mesh.whole {
        return drafts;
    }
    let origin = entries.first().map(|entry| entry.origin.clone()).unwrap_or_default();
    if let Some(namespace) = &options.namespace {
        if is_said(namespace) {
            drafts.push(of_namespace(entries, namespace, options.selector.clone(), origin));
        }
        return drafts;
    }
    notes.again(&origin);
    notes.whole(
        Weight::Told,
        format!("the mesh becomes the namespaces with the label {INJECTED}=enabled; --namespace says another, where pods join by other labels"),
    );
    drafts.push(of_mesh(entries, &mesh.unsaid, origin));
    let mut namespaces = BTreeSet::new();
    for entry in entries {
        if let SeenBy::Namespaces(names) = &entry.seen_by {
            namespaces.extend(names.iter().filter(|namespace| is_said(namespace)).cloned());
        }
    }
    for namespace in namespaces {
        let own = entries
            .iter()
            .find(|entry| matches!(&entry.seen_by, SeenBy::Namespaces(names) if names.contains(&namespace)));
        let origin = own.map(|entry| entry.origin.clone()).unwrap_or_default();
        drafts.push(of_namespace(entries, &namespace, LabelSelector::default(), origin));
    }
    drafts
}

/// What all namespaces of the mesh see.
fn of_mesh(entries: &[Entry], unsaid: &BTreeSet<String>, origin: Origin) -> Draft {
    let not_these = LabelExpression {
        key: NAMESPACE_NAME.into(),
        operator: LabelOperator::NotIn,
        values: unsaid.iter().cloned().collect(),
    };
    let injected = [(INJECTED.to_owned(), "enabled".to_owned())];
    let namespace_selector = LabelSelector {
        match_labels: injected.into(),
        match_expressions: (!unsaid.is_empty()).then_some(not_these).into_iter().collect(),
    };
    let subject = Subject { namespace_selector, ..Subject::default() };
    let everybody = entries.iter().filter(|entry| matches!(entry.seen_by, SeenBy::All));
    Draft {
        name: "istio-registry".into(),
        whose: Whose::Cluster { subject, isolate: true },
        allow: everybody.map(|entry| entry.rule.clone()).collect(),
        deny: Vec::new(),
        origin,
    }
}

fn of_namespace(entries: &[Entry], namespace: &str, pods: LabelSelector, origin: Origin) -> Draft {
    let seen = entries.iter().filter(|entry| entry.is_seen_in(namespace));
    Draft {
        name: "istio-registry".into(),
        whose: Whose::Namespace { namespace: Some(namespace.to_owned()), pods },
        allow: seen.map(|entry| entry.rule.clone()).collect(),
        deny: Vec::new(),
        origin,
    }
}

/// Whether the mesh's configuration says so: `meshConfig` of an IstioOperator, `data.mesh` of a ConfigMap.
fn sets_registry_only(object: &Object<'_>) -> bool {
    let mode = |mesh: &serde_json::Value| mesh["outboundTrafficPolicy"]["mode"] == "REGISTRY_ONLY";
    let whole = object.at.node.to_json();
    let in_map = whole["data"]["mesh"].as_str().and_then(|text| nameward_crds::from_yaml(text).ok());
    mode(&whole["spec"]["meshConfig"]) || in_map.as_ref().is_some_and(mode)
}

/// Whom a Sidecar restricts. Without a mode of its own it keeps to that of the mesh.
fn sidecar(object: &Object<'_>, whole: bool, notes: &mut Notes) -> Restricts {
    let Some(spec) = object.at.get("spec") else { return Restricts::Nobody };
    let namespace = object.namespace.unwrap_or("default").to_owned();
    let policy = spec.get("outboundTrafficPolicy");
    let mode = policy.as_ref().map(|policy| policy.word("mode")).unwrap_or_default();
    if mode != "REGISTRY_ONLY" && !mode.is_empty() && whole {
        notes.left(&spec, "it lifts for its workloads what the mesh's setting says; a policy that isolates cannot be lifted here");
        return Restricts::Nobody;
    }
    if mode != "REGISTRY_ONLY" && !(mode.is_empty() && whole) {
        notes.told(&spec, "it does not say REGISTRY_ONLY, so it restricts nobody");
        return Restricts::Nobody;
    }
    let known = spec.only(
        &["workloadSelector", "ingress", "egress", "outboundTrafficPolicy", "inboundConnectionPool"],
        notes,
    );
    let policy_known = policy.is_none_or(|policy| policy.only(&["mode"], notes));
    let mut pods = LabelSelector::default();
    let before = notes.lost();
    if let Some(selector) = spec.get("workloadSelector") {
        selector.only(&["labels"], notes);
        if let Some(labels) = selector.get("labels") {
            pods.match_labels = labels_of(&labels, notes);
        }
    }
    if !known || !policy_known || notes.lost() > before {
        notes.refused(
            &spec,
            format!(
                "whom it restricts, and to what, is not understood, so nothing is written for {namespace}"
            ),
        );
        return Restricts::Narrower(namespace);
    }
    let listeners = spec.list("egress", notes);
    let everything = |at: &At<'_>| {
        let hosts = at.texts("hosts", &mut Notes::default());
        at.get("port").is_none() && hosts.iter().any(|(_, host)| *host == "*/*")
    };
    if !listeners.is_empty() && !listeners.iter().any(everything) {
        let egress = spec.get("egress").unwrap_or_else(|| spec.clone());
        notes.refused(&egress, format!("its hosts narrow what is registered, which is not read, so nothing is written for {namespace}; write that policy by hand, or import without them (`*/*`) and take out what is not meant"));
        return Restricts::Narrower(namespace);
    }
    if mode.is_empty() {
        return Restricts::Nobody;
    }
    Restricts::ToRegistered(Restricted { namespace, pods, origin: notes.origin().clone() })
}

fn entry(object: &Object<'_>, options: &Options, notes: &mut Notes) -> Option<Entry> {
    let Some(spec) = object.at.get("spec") else {
        notes.whole(Weight::Refused, "`spec` is missing");
        return None;
    };
    let fields = ["hosts", "addresses", "ports", "location", "resolution", "endpoints", "exportTo"];
    // workloadSelector and subjectAltNames are not among them: the one is about workloads of the mesh, the other narrows.
    if !spec.only(&fields, notes) {
        notes.refused(&spec, "a part of it narrows it, or is not understood");
        return None;
    }
    if spec.word("location") == "MESH_INTERNAL" {
        notes.left(&spec, "it is about workloads of the mesh itself; write their names or addresses, if they are outside of the cluster");
        return None;
    }
    let before = notes.lost();
    let mut to = addresses(&spec, notes);
    if to.is_empty() && notes.lost() == before {
        let hosts = spec.texts("hosts", notes);
        let names: Vec<String> =
            hosts.iter().filter_map(|(at, text)| pattern(at, text, Dialect::Ours, options, notes)).collect();
        if !names.is_empty() {
            to.push(draft::names(names));
        }
    }
    let mut ports = Vec::new();
    for at in spec.list("ports", notes) {
        ports.extend(port_of(&at, notes));
    }
    if !spec.lists("ports") {
        notes.left(&spec, "it names no port");
    }
    let seen_by = seen_by(object, &spec, notes);
    let whole = !to.is_empty() && !ports.is_empty();
    let rule = RuleDraft { name: label(object.name, "entry"), to, ports };
    whole.then(|| Entry { rule, origin: notes.origin().clone(), seen_by })
}

/// Addresses that stand in place of the hosts: endpoints, and without resolution the addresses that are meant.
fn addresses(spec: &At<'_>, notes: &mut Notes) -> Vec<nameward_crds::Peer> {
    let mut peers = Vec::new();
    for endpoint in spec.list("endpoints", notes) {
        if !endpoint.only(&["address", "labels", "locality", "weight", "network", "serviceAccount"], notes) {
            continue;
        }
        let Some(at) = endpoint.get("address") else {
            notes.left(&endpoint, "`address` is missing");
            continue;
        };
        let Some(text) = at.text(notes) else { continue };
        match text.parse::<std::net::IpAddr>() {
            Ok(address) => peers.push(block(IpNet::from(address), Vec::new())),
            Err(_) => match super::names::exact(text) {
                Ok(name) => peers.push(draft::names(vec![name])),
                Err(reason) => notes.left(&at, reason),
            },
        }
    }
    // Only of raw TCP that is not resolved the addresses are what is reached; else they are known within the mesh alone.
    let raw = |port: &At<'_>| matches!(port.word("protocol"), "TCP" | "MONGO");
    let by_address = matches!(spec.word("resolution"), "NONE" | "")
        && spec.list("ports", &mut Notes::default()).iter().all(raw);
    for (at, text) in spec.texts("addresses", notes) {
        if by_address {
            peers.extend(net(&at, text, notes).map(|net| block(net, Vec::new())));
        }
    }
    if spec.lists("endpoints") {
        notes.left(spec, "its hosts are names within the mesh for these endpoints; outside of it programs must use the endpoints' own names or addresses");
    }
    peers
}

fn port_of(at: &At<'_>, notes: &mut Notes) -> Option<nameward_crds::Port> {
    if let Some(target) = at.get("targetPort") {
        notes.left(
            &target,
            "connections leave to the target port here, and to the other there; write the port that is meant",
        );
        return None;
    }
    if !at.only(&["number", "protocol", "name"], notes) {
        return None;
    }
    let protocol = at.word("protocol").to_ascii_uppercase();
    if !PROTOCOLS.contains(&protocol.as_str()) && !protocol.is_empty() {
        notes.left(at, format!("protocol `{protocol}` is not known here"));
        return None;
    }
    let Some(number) = at.get("number") else {
        notes.left(at, "`number` is missing");
        return None;
    };
    Some(port("TCP", Some(number.port(notes)?), None))
}

/// Whose sidecars see the entry: `.` is its own namespace, `*` all, `~` none.
fn seen_by(object: &Object<'_>, spec: &At<'_>, notes: &mut Notes) -> SeenBy {
    let own = object.namespace.unwrap_or("default");
    if !spec.lists("exportTo") {
        return SeenBy::All;
    }
    let mut namespaces = BTreeSet::new();
    for (_, text) in spec.texts("exportTo", notes) {
        match text {
            "*" => return SeenBy::All,
            "." => {
                namespaces.insert(own.to_owned());
            }
            "~" => {}
            other => {
                namespaces.insert(other.to_owned());
            }
        }
    }
    SeenBy::Namespaces(namespaces)
}
