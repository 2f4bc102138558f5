//! What an author should know beyond the schema: doors around the DNS proxy, rules without effect. Pure.

use std::{fmt, net::IpAddr};

use ipnet::IpNet;
use jiff::Timestamp;
use nameward_crds::Policy;
use nameward_policy::{Effect, Name, Pattern, Peer, PortSpec, Protocol, Rule};

/// Resolvers that anybody may use: who reaches one needs no allowed name. From their operators' documentation.
const RESOLVER_ADDRESSES: [&str; 20] = [
    "1.1.1.1",
    "1.0.0.1",
    "8.8.8.8",
    "8.8.4.4",
    "9.9.9.9",
    "149.112.112.112",
    "208.67.222.222",
    "208.67.220.220",
    "94.140.14.14",
    "94.140.15.15",
    "185.228.168.9",
    "76.76.2.0",
    "2606:4700:4700::1111",
    "2606:4700:4700::1001",
    "2001:4860:4860::8888",
    "2001:4860:4860::8844",
    "2620:fe::fe",
    "2620:fe::9",
    "2620:119:35::35",
    "2a10:50c0::ad1:ff",
];
/// The same by the names of their DNS over HTTPS and TLS.
const RESOLVER_NAMES: [&str; 12] = [
    "dns.google",
    "dns.google.com",
    "cloudflare-dns.com",
    "one.one.one.one",
    "mozilla.cloudflare-dns.com",
    "dns.quad9.net",
    "dns10.quad9.net",
    "doh.opendns.com",
    "dns.adguard-dns.com",
    "dns.nextdns.io",
    "doh.cleanbrowsing.org",
    "freedns.controld.com",
];
/// Ports on which they answer.
const RESOLVER_PORTS: [(u8, u16); 5] = [(17, 53), (6, 53), (6, 853), (17, 853), (6, 443)];
/// A range that is at least this wide holds more than somebody thought of; resolvers in it are not named one by one.
const WIDE: u8 = 8;

/// Something about a rule.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Found {
    /// Which rule.
    pub(super) rule: String,
    /// What, and what to do.
    pub(super) text: String,
}

impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.rule, self.text)
    }
}

/// What there is to say about policies that are in force together.
pub(super) fn lint(policies: &[Policy], now: Timestamp) -> Vec<Found> {
    let mut found = Vec::new();
    for policy in policies {
        let rules = policy.to_rules().rules;
        for (at, rule) in rules.iter().enumerate() {
            let mut say = |text: String| {
                found.push(Found { rule: format!("{} rule {}", rule.policy, rule.name), text })
            };
            if let Some(end) = rule.expires_at.filter(|end| *end <= now) {
                say(format!("it ended at {end}; remove it, or give it another end"));
                continue;
            }
            if rule.effect == Effect::Allow {
                resolvers(rule, &mut say);
                denied(rule, &rules, &mut say);
            }
            superfluous(at, &rules, &mut say);
        }
    }
    found
}

/// Ways around the DNS proxy.
fn resolvers(rule: &Rule, say: &mut impl FnMut(String)) {
    let reaches = RESOLVER_PORTS.iter().any(|(protocol, port)| allows(rule, *protocol, *port));
    if !reaches {
        return;
    }
    for peer in &rule.peers {
        match peer {
            Peer::Names(patterns) => {
                let names = RESOLVER_NAMES.iter().filter_map(|name| Name::parse(name).ok());
                let exact =
                    names.filter(|name| patterns.iter().any(|one| *one != Pattern::Any && one.matches(name)));
                for name in exact {
                    say(format!(
                        "{name} is a public resolver: who reaches it can look up any name past the proxy"
                    ));
                }
            }
            Peer::Block { cidr, except } if cidr.prefix_len() >= WIDE => {
                let addresses = RESOLVER_ADDRESSES.iter().filter_map(|text| text.parse::<IpAddr>().ok());
                let inside = |one: &IpAddr| cidr.contains(one) && !except.iter().any(|net| net.contains(one));
                for address in addresses.filter(inside) {
                    say(format!(
                        "{address} is a public resolver: who reaches it can look up any name past the proxy"
                    ));
                }
            }
            Peer::Block { .. } | Peer::Cluster(_) => {}
        }
    }
}

/// Destinations that a deny of the same policy takes away whole.
fn denied(rule: &Rule, rules: &[Rule], say: &mut impl FnMut(String)) {
    let denies = || rules.iter().filter(|other| other.effect == Effect::Deny && always(other));
    for destination in destinations(rule) {
        let by = denies().find(|deny| {
            // Names are denied when they are looked up, whatever the ports.
            let ports = matches!(destination, Destination::Name(_)) || covers_ports(deny, rule);
            ports && destinations(deny).iter().any(|wide| wide.covers(&destination))
        });
        if let Some(deny) = by {
            say(format!("{destination} is denied by rule {}: this allows nothing there", deny.name));
        }
    }
}

/// Rules that another one makes superfluous.
fn superfluous(at: usize, rules: &[Rule], say: &mut impl FnMut(String)) {
    let rule = &rules[at];
    let same = |(other_at, other): &(usize, &Rule)| {
        *other_at != at
            && other.effect == rule.effect
            && always(other)
            && other.private_addresses >= rule.private_addresses
            && other.grace == rule.grace
            && other.strict_chain <= rule.strict_chain
            && covers_ports(other, rule)
    };
    let others: Vec<(usize, &Rule)> = rules.iter().enumerate().filter(same).collect();
    let own = destinations(rule);
    let (mut by, mut covered) = (None, 0);
    for destination in &own {
        let wide = others.iter().find(|(other_at, other)| {
            let wider = destinations(other).iter().any(|wide| wide.covers(destination));
            // Of two rules that say the same, the later one is superfluous.
            wider
                && (*other_at < at
                    || !(covers_ports(rule, other)
                        && own.iter().any(|one| destinations(other).iter().all(|wide| one.covers(wide)))))
        });
        if let Some((_, other)) = wide {
            covered += 1;
            by = Some((destination, other));
        }
    }
    match by {
        Some((_, other)) if covered == own.len() && !own.is_empty() => {
            say(format!("it adds nothing to rule {}; remove it", other.name));
        }
        Some((destination, other)) => {
            say(format!("{destination} is in rule {} already, for the same ports", other.name))
        }
        None => {}
    }
}

/// Whether the rule holds at any time.
fn always(rule: &Rule) -> bool {
    rule.expires_at.is_none() && rule.schedule.is_none()
}

fn allows(rule: &Rule, protocol: u8, port: u16) -> bool {
    rule.effective_ports().iter().any(|spec| spec.contains(protocol, port))
}

/// Whether all ports of `narrow` are ports of `wide`.
fn covers_ports(wide: &Rule, narrow: &Rule) -> bool {
    let covers = |spec: &PortSpec| {
        wide.effective_ports().iter().any(|all| {
            all.protocol == Protocol::Any
                || (all.protocol == spec.protocol
                    && (!spec.protocol.has_ports() || (all.first <= spec.first && spec.last <= all.last)))
        })
    };
    narrow.effective_ports().iter().all(covers)
}

/// One destination of a rule.
enum Destination<'a> {
    Name(&'a Pattern),
    Block(&'a IpNet, &'a [IpNet]),
}

impl Destination<'_> {
    /// Whether everything in the other is in this.
    fn covers(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Name(Pattern::Any), Self::Name(_)) => true,
            (Self::Name(Pattern::Exact(wide)), Self::Name(Pattern::Exact(narrow))) => wide == narrow,
            (Self::Name(wide @ Pattern::Below(_)), Self::Name(Pattern::Exact(narrow))) => {
                wide.matches(narrow)
            }
            (Self::Name(Pattern::Below(wide)), Self::Name(Pattern::Below(narrow))) => {
                wide == narrow || narrow.is_below(wide)
            }
            (Self::Block(wide, except), Self::Block(narrow, _)) => {
                wide.contains(*narrow)
                    && except.iter().all(|hole| !hole.contains(*narrow) && !narrow.contains(hole))
            }
            (Self::Name(_), _) | (Self::Block(..), _) => false,
        }
    }
}

impl fmt::Display for Destination<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(pattern) => write!(f, "{pattern}"),
            Self::Block(cidr, _) => write!(f, "{cidr}"),
        }
    }
}

fn destinations(rule: &Rule) -> Vec<Destination<'_>> {
    rule.peers.iter().flat_map(peer_destinations).collect()
}

fn peer_destinations(peer: &Peer) -> Vec<Destination<'_>> {
    match peer {
        Peer::Names(patterns) => patterns.iter().map(Destination::Name).collect(),
        Peer::Block { cidr, except } => vec![Destination::Block(cidr, except)],
        Peer::Cluster(_) => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn found(egress: &str, deny: &str) -> Vec<String> {
        let text = format!(
            "apiVersion: nameward.io/v1alpha1\nkind: EgressPolicy\nmetadata: {{name: p, namespace: ci}}\nspec:\n  \
             podSelector: {{}}\n  egress: [{egress}]\n  deny: [{deny}]\n"
        );
        let file =
            nameward_crds::file::read(&text, Path::new("p.yaml")).unwrap_or_else(|error| panic!("{error}"));
        let now = "2027-01-01T00:00:00Z".parse().unwrap();
        lint(&file.policies, now)
            .iter()
            .map(|found| found.to_string().replace("EgressPolicy ci/p rule ", ""))
            .collect()
    }

    fn allow(name: &str, to: &str, rest: &str) -> String {
        format!("{{name: {name}, to: [{to}], ports: [{{protocol: TCP, port: 443}}]{rest}}}")
    }

    #[test]
    fn public_resolvers_are_doors() {
        let all = found(&allow("a", "{ipBlock: {cidr: 8.8.8.0/24}}, {domainNames: [dns.google]}", ""), "");
        assert_eq!(all.len(), 2, "{all:?}");
        assert!(all[0].starts_with("a: 8.8.8.8 is a public resolver"), "{all:?}");
        let excepted = allow("a", "{ipBlock: {cidr: 8.8.8.0/24, except: [8.8.8.8/32]}}", "");
        assert_eq!(found(&excepted, ""), [""; 0]);
        let elsewhere = "{name: a, to: [{ipBlock: {cidr: 8.8.8.8/32}}], ports: [{protocol: TCP, port: 22}]}";
        assert_eq!(found(elsewhere, ""), [""; 0]);
    }

    #[test]
    fn rules_without_effect() {
        let (wide, narrow) = (
            allow("wide", "{domainNames: ['*.a.example']}", ""),
            allow("b", "{domainNames: [x.a.example]}", ""),
        );
        assert_eq!(found(&format!("{wide}, {narrow}"), ""), ["b: it adds nothing to rule wide; remove it"]);
        assert_eq!(found(&format!("{narrow}, {wide}"), ""), ["b: it adds nothing to rule wide; remove it"]);
        let twice = format!(
            "{}, {}",
            allow("a", "{domainNames: [a.example]}", ""),
            allow("b", "{domainNames: [a.example]}", "")
        );
        assert_eq!(found(&twice, ""), ["b: it adds nothing to rule a; remove it"]);
        let partly = format!("{wide}, {}", allow("b", "{domainNames: [x.a.example, b.example]}", ""));
        assert_eq!(found(&partly, ""), ["b: x.a.example is in rule wide already, for the same ports"]);
        let private =
            format!("{wide}, {}", allow("b", "{domainNames: [x.a.example]}", ", privateAddresses: true"));
        assert_eq!(found(&private, ""), [""; 0]);
    }

    #[test]
    fn rules_that_have_ended_or_are_denied() {
        let ended = allow("a", "{domainNames: [a.example]}", ", expiresAt: \"2026-01-31T00:00:00Z\"");
        assert!(found(&ended, "")[0].starts_with("a: it ended at 2026-01-31"));
        let deny = "{name: never, to: [{domainNames: ['*.example']}, {ipBlock: {cidr: 198.51.100.0/24}}]}";
        let denied =
            found(&allow("a", "{domainNames: [a.example]}, {ipBlock: {cidr: 198.51.100.7/32}}", ""), deny);
        assert_eq!(denied.len(), 2, "{denied:?}");
        assert!(denied.iter().all(|line| line.contains("is denied by rule never")), "{denied:?}");
    }
}
