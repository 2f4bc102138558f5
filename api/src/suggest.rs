//! From what was denied, or would have been, to the smallest policy that allows it. Pure.
//!
//! Looks only at what workloads sent themselves and no rule spoke of: what a deny forbids, what was malformed or
//! forged is never suggested.

use std::collections::{BTreeMap, BTreeSet};

use nameward_policy::{AddressClass, Name, address::judge};

use crate::types::{Decision, Direction, Suggested, Suggestion};

/// Reasons that a rule would have changed.
const CURABLE: [&str; 4] = ["no-match", "port", "protocol", "filtered"];

/// What is known of a destination.
#[derive(Debug, Default)]
struct Tried {
    ports: BTreeSet<(u8, u16)>,
    packets: u64,
    last: Option<jiff::Timestamp>,
    private: bool,
}

/// Suggestions for each endpoint, by identifier. `forbids`: whether a deny of an endpoint's rules stands against a name.
pub fn suggest<'a>(
    decisions: impl Iterator<Item = &'a Decision>,
    forbids: impl Fn(&str, &Name) -> bool,
) -> Vec<Suggestion> {
    let mut tried: BTreeMap<String, BTreeMap<String, Tried>> = BTreeMap::new();
    for decision in decisions.filter(|decision| is_curable(decision)) {
        let destination = decision.name.as_deref().and_then(|name| Name::parse(name).ok());
        let is_forbidden = |name: &Name| forbids(&decision.endpoint, name);
        if destination.as_ref().map_or(decision.query_type.is_some(), is_forbidden) {
            continue;
        }
        let own = tried.entry(decision.endpoint.to_string()).or_default();
        let by_name = destination.is_some();
        let destination = destination.map_or_else(|| decision.remote.to_string(), |name| name.to_string());
        let one = own.entry(destination).or_default();
        // A question has no port yet.
        if decision.reason != "filtered" {
            one.ports.insert((decision.protocol, decision.remote_port));
        }
        one.packets += decision.packets;
        one.last = one.last.max(Some(decision.at));
        one.private |= by_name
            && decision.query_type.is_none()
            && matches!(judge(decision.remote), AddressClass::Private(_));
    }
    let each = |(endpoint, tried): (String, BTreeMap<String, Tried>)| Suggestion {
        endpoint,
        destinations: tried.into_iter().map(|(name, tried)| suggested(name, &tried)).collect(),
    };
    tried.into_iter().map(each).collect()
}

fn is_curable(decision: &Decision) -> bool {
    decision.direction == Direction::Egress
        && decision.verdict != crate::types::Verdict::Pass
        && CURABLE.contains(&&*decision.reason)
        // No rule can name port 0.
        && (!has_ports(decision.protocol) || decision.remote_port != 0 || decision.reason == "filtered")
}

const fn has_ports(protocol: u8) -> bool {
    matches!(protocol, 6 | 17 | 132)
}

/// `TCP 443` and the like; protocols without ports stand alone.
pub fn port_text(protocol: u8, port: u16) -> String {
    match protocol {
        6 => format!("TCP {port}"),
        17 => format!("UDP {port}"),
        132 => format!("SCTP {port}"),
        1 | 58 => "ICMPEcho".into(),
        other => other.to_string(),
    }
}

/// What [`port_text`] wrote; port 0 where there is none.
pub fn read_port(text: &str) -> Option<(u8, u16)> {
    let (protocol, port) = text.split_once(' ').unwrap_or((text, "0"));
    let protocol = match protocol {
        "TCP" => 6,
        "UDP" => 17,
        "SCTP" => 132,
        "ICMPEcho" => 1,
        number => number.parse().ok()?,
    };
    Some((protocol, port.parse().ok()?))
}

fn suggested(destination: String, tried: &Tried) -> Suggested {
    Suggested {
        destination,
        ports: tried
            .ports
            .iter()
            .map(|(protocol, port)| port_text(*protocol, *port))
            .collect::<BTreeSet<_>>()
            .into_iter()
            .collect(),
        packets: tried.packets,
        last_at: tried.last.unwrap_or_default(),
        private: tried.private,
    }
}

/// Patterns that would stand for several of the names, each with those names: directly above them, below any public
/// or multi-tenant suffix never.
pub fn wildcards<'a>(names: impl Iterator<Item = &'a str>) -> BTreeMap<String, Vec<String>> {
    /// So many names are worth a pattern.
    const ENOUGH: usize = 3;
    let mut by_parent: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for name in names.filter_map(|name| Name::parse(name).ok()) {
        let Some(parent) = name.parent() else { continue };
        if psl::domain(parent.as_str().as_bytes()).is_some() {
            by_parent.entry(format!("*.{parent}")).or_default().push(name.to_string());
        }
    }
    by_parent.retain(|_, names| names.len() >= ENOUGH);
    by_parent
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::Verdict;

    fn decision(reason: &'static str, name: Option<&str>, remote: &str, port: u16) -> Decision {
        Decision {
            sequence: 1,
            at: jiff::Timestamp::UNIX_EPOCH,
            endpoint: "ci/a".into(),
            workload: None,
            verdict: Verdict::WouldDeny,
            reason: reason.into(),
            direction: Direction::Egress,
            protocol: 6,
            local: "10.0.0.2".parse().unwrap(),
            local_port: 1,
            remote: remote.parse().unwrap(),
            remote_port: port,
            name: name.map(Into::into),
            query_type: None,
            response_code: None,
            policy: None,
            packets: 2,
            bytes: 1,
            generation: 1,
            staged: None,
        }
    }

    #[test]
    fn what_was_tried_is_put_together() {
        let all = [
            decision("no-match", Some("A.example."), "198.51.100.1", 443),
            decision("port", Some("a.example"), "198.51.100.1", 80),
            decision("no-match", Some("in.example"), "10.1.1.1", 443),
            decision("no-match", None, "203.0.113.9", 22),
            decision("denied-cidr", None, "203.0.113.10", 22),
            decision("spoofed-source", None, "203.0.113.11", 22),
            decision("no-match", None, "203.0.113.12", 0),
        ];
        let suggestions = suggest(all.iter(), |_, _| false);
        let [one] = &suggestions[..] else { panic!("{suggestions:?}") };
        let told: Vec<_> = one
            .destinations
            .iter()
            .map(|one| (one.destination.as_str(), one.ports.join(","), one.packets, one.private))
            .collect();
        assert_eq!(
            told,
            [
                ("203.0.113.9", "TCP 22".into(), 2, false),
                ("a.example", "TCP 443,TCP 80".into(), 4, false),
                ("in.example", "TCP 443".into(), 2, true),
            ]
        );
    }

    #[test]
    fn patterns_stand_for_several_names_of_one_owner() {
        let names = ["a.cdn.example.com", "b.cdn.example.com", "c.cdn.example.com", "x.example.com"];
        let found = wildcards(names.into_iter());
        assert_eq!(found.keys().collect::<Vec<_>>(), ["*.cdn.example.com"]);
        // N5: never over a public suffix
        assert!(
            wildcards(["a.com", "b.com", "c.com", "a.github.io", "b.github.io", "c.github.io"].into_iter())
                .is_empty()
        );
    }
}
