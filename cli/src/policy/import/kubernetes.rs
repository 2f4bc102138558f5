//! What the formats made of Kubernetes objects have in common: objects, selectors, blocks, ports of a NetworkPolicy.

use std::path::Path;

use ipnet::IpNet;
use nameward_crds::{LabelExpression, LabelOperator, LabelSelector, NAMESPACE_NAME, Peer, Port, Value};

use super::{
    at::At,
    draft::{block, every_port, port},
    notes::{Notes, Weight},
};

/// An object of any kind.
#[derive(Clone, Debug)]
pub(super) struct Object<'a> {
    pub(super) file: &'a Path,
    pub(super) at: At<'a>,
    pub(super) group: &'a str,
    pub(super) version: &'a str,
    pub(super) kind: &'a str,
    pub(super) name: &'a str,
    pub(super) namespace: Option<&'a str>,
    /// What notes call it.
    pub(super) title: String,
}

impl<'a> Object<'a> {
    /// Reads a document, or the items of a list.
    pub(super) fn read_all(
        file: &'a Path,
        at: At<'a>,
        number: usize,
        notes: &mut Notes,
        all: &mut Vec<Self>,
    ) {
        let document = format!("document {number}");
        notes.about(file, &document, at.place());
        let (api, kind) = (at.word("apiVersion"), at.word("kind"));
        if api.is_empty() || kind.is_empty() {
            let reason = match &at.node.value {
                Value::Map(_) => "this is no object; objects have `apiVersion` and `kind`",
                _ => "this is no object; a list of names is imported with --from list",
            };
            return notes.whole(Weight::Left, reason);
        }
        if kind.ends_with("List") {
            for item in at.list("items", notes) {
                Self::read_all(file, item, number, notes, all);
            }
            return;
        }
        let (group, version) = api.split_once('/').unwrap_or(("", api));
        let metadata = at.get("metadata");
        let of = |field: &str| metadata.as_ref().map(|metadata| metadata.word(field)).unwrap_or_default();
        let (name, namespace) = (of("name"), Some(of("namespace")).filter(|namespace| !namespace.is_empty()));
        let unread = metadata.as_ref().and_then(|metadata| metadata.get("namespace"));
        let unread = unread.filter(|at| at.node.text().is_none());
        let title = match (name, namespace) {
            ("", _) => format!("{kind} in {document}"),
            (name, Some(namespace)) => format!("{kind} {namespace}/{name}"),
            (name, None) => format!("{kind} {name}"),
        };
        if let Some(namespace) = unread {
            notes.about(file, &title, at.place());
            return notes.refused(
                &namespace,
                "a text is expected here; numbers, `yes`, `no` and the like stand in quotes",
            );
        }
        all.push(Self { file, at, group, version, kind, name, namespace, title });
    }

    /// What the next notes are about.
    pub(super) fn announce(&self, notes: &mut Notes) {
        notes.about(self.file, &self.title, self.at.place());
    }

    /// The name of what it becomes.
    pub(super) fn policy_name(&self) -> String {
        if self.name.is_empty() { "imported".into() } else { self.name.into() }
    }
}

/// A label selector; `None`, noted, when part of it is not understood: without that part it would select more.
pub(super) fn selector(at: &At<'_>, notes: &mut Notes) -> Option<LabelSelector> {
    let before = notes.lost();
    let mut selector = LabelSelector::default();
    if !at.only(&["matchLabels", "matchExpressions"], notes) {
        return None;
    }
    if let Some(labels) = at.get("matchLabels") {
        selector.match_labels = labels_of(&labels, notes);
    }
    for expression in at.list("matchExpressions", notes) {
        selector.match_expressions.extend(requirement(&expression, notes));
    }
    (notes.lost() == before).then_some(selector)
}

/// A mapping of texts; what is none is noted.
pub(super) fn labels_of(at: &At<'_>, notes: &mut Notes) -> nameward_crds::Labels {
    let Value::Map(entries) = &at.node.value else {
        notes.left(at, "labels are expected here (`key: value`)");
        return nameward_crds::Labels::new();
    };
    let mut labels = nameward_crds::Labels::new();
    for (key, node) in entries.iter() {
        let value = At { node, path: format!("{}.{}", at.path, key.text) };
        if let Some(text) = value.text(notes) {
            labels.insert(key.text.clone(), text.to_owned());
        }
    }
    labels
}

fn requirement(at: &At<'_>, notes: &mut Notes) -> Option<LabelExpression> {
    if !at.only(&["key", "operator", "values"], notes) {
        return None;
    }
    let operator = match at.word("operator") {
        "In" => LabelOperator::In,
        "NotIn" => LabelOperator::NotIn,
        "Exists" => LabelOperator::Exists,
        "DoesNotExist" => LabelOperator::DoesNotExist,
        other => {
            notes.left(at, format!("`{other}` is no operator; there are In, NotIn, Exists and DoesNotExist"));
            return None;
        }
    };
    let values = at.texts("values", notes).into_iter().map(|(_, text)| text.to_owned()).collect();
    Some(LabelExpression { key: at.word("key").to_owned(), operator, values })
}

/// The selector of one namespace by its name.
pub(super) fn namespace_selector(name: &str) -> LabelSelector {
    let labels = [(NAMESPACE_NAME.to_owned(), name.to_owned())];
    LabelSelector { match_labels: labels.into(), ..LabelSelector::default() }
}

/// Whether port 53 is all that ports are about: DNS needs no rule here.
pub(super) fn is_dns(ports: &[Port]) -> bool {
    let dns = |port: &Port| port.port == Some(53) && port.end_port.unwrap_or(53) == 53;
    !ports.is_empty() && ports.iter().all(dns)
}

/// What is said of rules for what comes in.
pub(super) const NO_INGRESS: &str =
    "Nameward guards what leaves workloads; keep this part where it is enforced now";

/// What is told of a rule that only lets workloads ask the cluster's DNS.
pub(super) const DNS_NEEDS_NO_RULE: &str = "DNS needs no rule: questions go through Nameward's resolver, which answers names that rules allow; names that no rule allows are not resolved";

/// A block in its canonical form, addresses of one as blocks.
pub(super) fn net(at: &At<'_>, text: &str, notes: &mut Notes) -> Option<IpNet> {
    let parsed = text
        .parse::<IpNet>()
        .ok()
        .or_else(|| text.parse().ok().map(|address: std::net::IpAddr| address.into()));
    let wraps_v4 = |net: &IpNet| matches!(net, IpNet::V6(v6) if v6.addr().to_ipv4_mapped().is_some());
    let net = parsed.filter(|net| !wraps_v4(net)).map(|net| net.trunc());
    if net.is_none() {
        notes.left(at, format!("`{text}` is no block of addresses; write one like 198.51.100.0/24"));
    }
    net
}

/// `{cidr, except}`, as NetworkPolicy has it. Without one of its exceptions it would be wider.
pub(super) fn ip_block(at: &At<'_>, notes: &mut Notes) -> Option<(IpNet, Vec<IpNet>)> {
    let before = notes.lost();
    if !at.only(&["cidr", "except"], notes) {
        return None;
    }
    let Some(cidr) = at.get("cidr") else {
        notes.left(at, "`cidr` is missing");
        return None;
    };
    let cidr = cidr.text(notes).and_then(|text| net(&cidr, text, notes));
    let excepts = at.texts("except", notes);
    let except = excepts.iter().filter_map(|(at, text)| net(at, text, notes)).collect();
    (notes.lost() == before).then_some((cidr?, except))
}

/// A peer of a block. An exception that leaves nothing leaves no peer.
pub(super) fn block_peer(cidr: IpNet, except: &[IpNet]) -> Option<Peer> {
    if except.iter().any(|hole| hole.contains(&cidr)) {
        return None;
    }
    let mut inside: Vec<IpNet> = except.iter().copied().filter(|hole| cidr.contains(hole)).collect();
    inside.sort_unstable();
    inside.dedup();
    Some(block(cidr, inside.iter().map(ToString::to_string).collect()))
}

/// Ports as NetworkPolicy has them (networking.k8s.io/v1 `NetworkPolicyPort`): none of them means all, a protocol that is
/// not said is TCP. Empty when none could be carried over.
pub(super) fn network_policy_ports(rule: &At<'_>, notes: &mut Notes) -> Vec<Port> {
    if !rule.lists("ports") {
        return every_port();
    }
    let mut ports = Vec::new();
    for at in rule.list("ports", notes) {
        ports.extend(network_policy_port(&at, notes));
    }
    ports
}

fn network_policy_port(at: &At<'_>, notes: &mut Notes) -> Option<Port> {
    if !at.only(&["protocol", "port", "endPort"], notes) {
        return None;
    }
    let protocol = protocol(at, notes)?;
    let Some(first) = at.get("port") else {
        if let Some(end) = at.get("endPort") {
            notes.left(&end, "`endPort` means nothing without `port`");
            return None;
        }
        return Some(port(protocol, None, None));
    };
    let number = numbered(&first, notes)?;
    let last = match at.get("endPort") {
        Some(end) => Some(end.port(notes)?),
        None => None,
    };
    range(at, protocol, number, last, notes)
}

/// A port by number. Names of ports belong to containers; what they stand for outside a cluster nobody says.
pub(super) fn numbered(at: &At<'_>, notes: &mut Notes) -> Option<u16> {
    match at.node.text() {
        Some(text) if !text.bytes().all(|byte| byte.is_ascii_digit()) => {
            notes.left(at, format!("ports by name (`{text}`) are not there; write the number"));
            None
        }
        _ => at.port(notes),
    }
}

/// TCP, UDP or SCTP; TCP when nothing is said.
pub(super) fn protocol(at: &At<'_>, notes: &mut Notes) -> Option<&'static str> {
    let Some(protocol) = at.get("protocol") else { return Some("TCP") };
    match protocol.text(notes)? {
        "TCP" | "" => Some("TCP"),
        "UDP" => Some("UDP"),
        "SCTP" => Some("SCTP"),
        other => {
            notes
                .left(&protocol, format!("`{other}` is no protocol with ports; there are TCP, UDP and SCTP"));
            None
        }
    }
}

/// One port or a range.
pub(super) fn range(
    at: &At<'_>,
    protocol: &str,
    first: u16,
    last: Option<u16>,
    notes: &mut Notes,
) -> Option<Port> {
    if last.is_some_and(|last| last < first) {
        notes.left(at, "the range of ports ends before it begins");
        return None;
    }
    Some(port(protocol, Some(first), last.filter(|last| *last > first)))
}
