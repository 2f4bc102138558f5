//! Ports of Cilium's rules: `toPorts` and `icmps`. What narrows them beyond ports takes the rule away.

use nameward_crds::Port;

use crate::policy::import::{
    at::At,
    draft::{every_port, port},
    kubernetes::{numbered, range},
    notes::Notes,
};

/// Its ports; none when none could be carried over.
pub(super) fn ports(at: &At<'_>, notes: &mut Notes) -> Vec<Port> {
    match (at.lists("toPorts"), at.lists("icmps")) {
        (true, true) => {
            notes.left(at, "toPorts and icmps stand together, which Cilium refuses; write a rule for each");
            Vec::new()
        }
        (false, false) => every_port(),
        (false, true) => echo(at, notes).into_iter().collect(),
        (true, false) => {
            let entries = at.list("toPorts", notes);
            entries.iter().flat_map(|entry| port_rule(entry, notes)).collect()
        }
    }
}

/// One item of `toPorts`. What stands beside its ports narrows them.
fn port_rule(at: &At<'_>, notes: &mut Notes) -> Vec<Port> {
    let before = notes.lost();
    let narrowing = [
        ("rules", "rules of HTTP, Kafka, DNS and the like look into connections, which Nameward does not"),
        ("serverNames", "TLS server names are not looked at; names are checked when they are resolved"),
        ("listener", "traffic is not led through a proxy"),
        ("terminatingTLS", "TLS is not opened"),
        ("originatingTLS", "TLS is not opened"),
    ];
    for (field, reason) in narrowing {
        if let Some(found) = at.get(field).filter(|_| at.says(field)) {
            notes.left(
                &found,
                format!("{reason}; without this the ports would be open wider, so they are not written"),
            );
        }
    }
    at.only(&["ports", "rules", "serverNames", "listener", "terminatingTLS", "originatingTLS"], notes);
    if notes.lost() > before {
        return Vec::new();
    }
    if !at.lists("ports") {
        notes.left(
            at,
            "what an entry without `ports` means differs between versions of Cilium; write the ports",
        );
        return Vec::new();
    }
    let ports = at.list("ports", notes);
    ports.iter().flat_map(|port| ports_of(port, notes)).collect()
}

/// A port stands for TCP, UDP and SCTP when no protocol is said; port 0 for every port of the protocol.
fn ports_of(at: &At<'_>, notes: &mut Notes) -> Vec<Port> {
    if !at.only(&["port", "endPort", "protocol"], notes) {
        return Vec::new();
    }
    let Some(protocol) = at.optional("protocol", notes) else { return Vec::new() };
    let protocols: &[&str] = match protocol.to_ascii_uppercase().as_str() {
        "" | "ANY" => &["TCP", "UDP", "SCTP"],
        "TCP" => &["TCP"],
        "UDP" => &["UDP"],
        "SCTP" => &["SCTP"],
        other => {
            notes.left(
                at,
                format!("protocol `{other}` is not carried over; write its number, if it is meant"),
            );
            return Vec::new();
        }
    };
    let Some(first) = at.get("port") else {
        notes.left(at, "`port` is missing");
        return Vec::new();
    };
    if first.node.to_json() == "0" || first.node.to_json() == 0 {
        return protocols.iter().map(|protocol| port(protocol, None, None)).collect();
    }
    let Some(number) = numbered(&first, notes) else { return Vec::new() };
    // An end of 0 says that there is none.
    let end = at.get("endPort").filter(|end| end.node.to_json() != 0);
    let last = match end.map(|end| end.port(notes)) {
        Some(None) => return Vec::new(),
        Some(last) => last,
        None => None,
    };
    protocols.iter().filter_map(|protocol| range(at, protocol, number, last, notes)).collect()
}

/// Echo requests of both families are `ICMPEcho`; nothing else of ICMP is.
fn echo(at: &At<'_>, notes: &mut Notes) -> Option<Port> {
    let (mut v4, mut v6, before) = (false, false, notes.lost());
    for icmp in at.list("icmps", notes) {
        icmp.only(&["fields"], notes);
        for field in icmp.list("fields", notes) {
            field.only(&["family", "type"], notes);
            let kind = field.get("type").map(|at| at.node.to_json()).unwrap_or_default();
            let Some(family) = field.optional("family", notes) else { continue };
            let kind = kind.as_str().map_or_else(|| kind.to_string(), str::to_owned);
            match (family, kind.as_str()) {
                ("" | "IPv4", "8" | "Echo" | "EchoRequest") => v4 = true,
                ("IPv6", "128" | "EchoRequest") => v6 = true,
                _ => notes.left(
                    &field,
                    "of ICMP only echo requests can be allowed or denied, as `protocol: ICMPEcho`",
                ),
            }
        }
    }
    if v4 != v6 {
        notes.left(at, "echo requests are allowed or denied for IPv4 and IPv6 together; name both (types 8 and 128), or write `protocol: ICMPEcho`");
    }
    (v4 && v6 && notes.lost() == before).then(|| port("ICMPEcho", None, None))
}
