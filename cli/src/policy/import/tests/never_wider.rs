//! What an imported policy allows is never more than a naive reading of the source allows (N6): sources are made by
//! chance, read here by the words of their own documentation, and compared with the code that enforces.

use ipnet::IpNet;
use nameward_policy::Pattern;
use proptest::{
    collection::vec,
    prelude::{Just, Strategy, any, prop_oneof, proptest},
    prop_assert,
    sample::select,
};

use super::*;
use crate::policy::import::names::{Dialect, Meant, meant};

/// Cilium's pattern: only stars are everything, a leading `**.` one or more labels, a star characters of one label.
fn cilium_matches(pattern: &str, name: &str) -> bool {
    fn labels(pattern: &[u8], name: &[u8]) -> bool {
        match (pattern, name) {
            ([], []) => true,
            ([b'*', rest @ ..], _) => {
                labels(rest, name)
                    || matches!(name, [first, more @ ..] if *first != b'.' && labels(pattern, more))
            }
            ([one, rest @ ..], [other, more @ ..]) if one == other => labels(rest, more),
            _ => false,
        }
    }
    if pattern.bytes().all(|byte| byte == b'*') {
        return true;
    }
    let rest = pattern.trim_start_matches('*');
    if pattern.len() - rest.len() >= 2 && rest.starts_with('.') {
        return (1..name.len())
            .any(|at| labels(rest.as_bytes(), &name.as_bytes()[at..]) && !name.starts_with('.'));
    }
    labels(pattern.as_bytes(), name.as_bytes())
}

fn names() -> impl Strategy<Value = String> {
    vec(select(vec!["a", "b", "ab", "example"]), 1..5).prop_map(|labels| labels.join("."))
}

fn patterns() -> impl Strategy<Value = String> {
    vec(select(vec!["a", "b", "*", "**", "a*", "*b", "example"]), 1..4).prop_map(|labels| labels.join("."))
}

/// Names that rules are about, and their addresses.
const NAMES: [(&str, &str); 4] = [
    ("a.example", "203.0.113.1"),
    ("x.a.example", "203.0.113.2"),
    ("b.example", "198.51.100.1"),
    ("c.other", "198.51.100.200"),
];

fn destination() -> impl Strategy<Value = To> {
    let named = select(NAMES.to_vec()).prop_map(|(name, address)| To {
        name: Some(Name::parse(name).unwrap()),
        address: address.parse().unwrap(),
    });
    let bare = select(vec!["203.0.113.1", "198.51.100.1", "198.51.100.200", "10.42.0.7", "192.0.2.1"])
        .prop_map(|address| To { name: None, address: address.parse().unwrap() });
    prop_oneof![named, bare]
}

/// A rule of a ClusterNetworkPolicy.
#[derive(Clone, Debug)]
struct Rule {
    action: &'static str,
    peers: Vec<&'static str>,
    port: Option<u16>,
}

#[derive(Clone, Debug)]
struct Cluster {
    priority: u16,
    team: Option<&'static str>,
    rules: Vec<Rule>,
}

fn rule() -> impl Strategy<Value = Rule> {
    let peer = select(vec![
        "a.example",
        "*.a.example",
        "b.example",
        "*.example",
        "198.51.100.0/24",
        "198.51.100.128/25",
        "203.0.113.0/24",
        "0.0.0.0/0",
        "pods",
    ]);
    (
        select(vec!["Accept", "Accept", "Deny", "Pass"]),
        vec(peer, 1..3),
        select(vec![None, None, Some(443), Some(80)]),
    )
        .prop_map(|(action, peers, port)| Rule { action, peers, port })
}

fn clusters() -> impl Strategy<Value = Vec<Cluster>> {
    let one = (vec(rule(), 1..5), select(vec![None, Some("a"), Some("b")]), any::<bool>());
    let one = one.prop_map(|(mut rules, team, closed)| {
        if closed {
            rules.push(Rule { action: "Deny", peers: vec!["0.0.0.0/0"], port: None });
        }
        (rules, team)
    });
    // Which of equal priorities comes first is not defined, so none are equal.
    (vec(one, 1..4), Just([7_u16, 3, 5])).prop_map(|(policies, priorities)| {
        let numbered = policies.into_iter().zip(priorities);
        numbered.map(|((rules, team), priority)| Cluster { priority, team, rules }).collect()
    })
}

impl Cluster {
    fn text(&self) -> String {
        let subject =
            self.team.map_or_else(|| "{}".into(), |team| format!("{{matchLabels: {{team: {team}}}}}"));
        let mut text = format!(
            "---\napiVersion: policy.networking.k8s.io/v1alpha2\nkind: ClusterNetworkPolicy\nmetadata: {{name: p{0}}}\nspec:\n  \
             tier: Admin\n  priority: {0}\n  subject: {{namespaces: {subject}}}\n  egress:\n",
            self.priority
        );
        for rule in &self.rules {
            let peer = |peer: &&str| match *peer {
                "pods" => "{namespaces: {}}".to_owned(),
                block if block.contains('/') => format!("{{networks: ['{block}']}}"),
                name => format!("{{domainNames: ['{name}']}}"),
            };
            let to: Vec<String> = rule.peers.iter().map(peer).collect();
            let ports = rule.port.map_or_else(String::new, |port| {
                format!(", protocols: [{{tcp: {{destinationPort: {{number: {port}}}}}}}]")
            });
            text += &format!("  - {{action: {}, to: [{}]{ports}}}\n", rule.action, to.join(", "));
        }
        text
    }
}

impl Rule {
    /// A name that is denied or passed is not defined; it then means all, as unknown peers of Deny do.
    fn matches(&self, to: &To, port: u16) -> bool {
        let peer = |peer: &&str| match *peer {
            "pods" => to.address.to_string().starts_with("10.42."),
            block if block.contains('/') => block.parse::<IpNet>().unwrap().contains(&to.address),
            name => to.name.as_ref().is_some_and(|own| Pattern::parse(name).unwrap().matches(own)),
        };
        let unknown = self.action != "Accept" && self.peers.iter().any(|peer| peer.ends_with("example"));
        (unknown || self.peers.iter().any(peer)) && self.port.is_none_or(|own| own == port)
    }
}

/// What ClusterNetworkPolicies say: the first rule that matches, by priority; without one, everything may leave.
fn naive(policies: &[Cluster], team: &str, to: &To, port: u16) -> bool {
    let mut ordered: Vec<&Cluster> =
        policies.iter().filter(|policy| policy.team.is_none_or(|own| own == team)).collect();
    ordered.sort_by_key(|policy| policy.priority);
    let first = ordered.iter().flat_map(|policy| &policy.rules).find(|rule| rule.matches(to, port));
    first.is_none_or(|rule| rule.action != "Deny")
}

/// A line of `http_access`: allow or deny, and names of acls.
type Line = (bool, Vec<&'static str>);

fn lines() -> impl Strategy<Value = Vec<Line>> {
    let acls = select(vec![
        vec!["ab"],
        vec!["a"],
        vec!["b"],
        vec!["all"],
        vec!["!ab"],
        vec!["!safe"],
        vec!["!web"],
        vec!["CONNECT", "!ssl"],
        vec!["!ssl", "CONNECT"],
        vec!["a", "b"],
        vec!["a", "!b"],
        vec!["CONNECT"],
        vec!["safe", "a"],
        vec!["all", "a"],
    ]);
    vec((any::<bool>(), acls), 1..7)
}

const ACLS: &str = "acl ab dstdomain .a.example b.example\nacl a dstdomain a.example x.a.example\nacl b dstdomain b.example\n\
                    acl safe port 80 443 1025-65535\nacl web port 80 8443\nacl ssl port 443 8443\n";

fn acl_matches(acl: &str, name: &str, port: u16, connect: bool) -> bool {
    if let Some(acl) = acl.strip_prefix('!') {
        return !acl_matches(acl, name, port, connect);
    }
    match acl {
        "all" => true,
        "CONNECT" => connect,
        "ab" => name == "b.example" || name == "a.example" || name.ends_with(".a.example"),
        "a" => name == "a.example" || name == "x.a.example",
        "b" => name == "b.example",
        "safe" => matches!(port, 80 | 443 | 1025..),
        "web" => matches!(port, 80 | 8443),
        _ => matches!(port, 443 | 8443),
    }
}

/// What Squid lets through: the first line of which all acls match, else the opposite of the last.
fn squid_allows(lines: &[Line], name: &str, port: u16, connect: bool) -> bool {
    let first = lines.iter().find(|(_, acls)| acls.iter().all(|acl| acl_matches(acl, name, port, connect)));
    first.map_or_else(|| lines.last().is_some_and(|(allow, _)| !allow), |(allow, _)| *allow)
}

proptest! {
    #[test]
    fn patterns_of_cilium(pattern in patterns(), name in names()) {
        // N6
        if let Ok(Meant::Same(ours)) = meant(&pattern, Dialect::Cilium) {
            let ours = Pattern::parse(&ours).unwrap();
            let parsed = Name::parse(&name).unwrap();
            prop_assert!(ours.matches(&parsed) == cilium_matches(&pattern, &name), "{pattern} became {ours}: {name}");
        }
    }

    #[test]
    fn cluster_network_policies(policies in clusters(), to in destination(), port in select(vec![80_u16, 443, 25])) {
        let text: String = policies.iter().map(Cluster::text).collect();
        let found = imported(&text, None, &Options::default());
        let who = Who { namespace: "ci", namespace_labels: [("team".to_owned(), "a".to_owned())].into(), labels: Labels::new() };
        // What is refused denies nothing, and says so; what others allow must not come through its gap.
        let isolated = found.objects.iter().any(|object| {
            let team = &object["spec"]["subject"]["namespaceSelector"]["matchLabels"]["team"];
            object["spec"]["isolate"] == true && (team.is_null() || team == "a")
        });
        if (isolated || found.refusals == 0) && found.allows(&who, &to, 6, port) {
            prop_assert!(naive(&policies, "a", &to, port), "{to:?} {port}\n{text}\n{:#?}\n{:#?}", found.lines(), found.notes);
        }
    }

    #[test]
    fn lines_of_squid(lines in lines(), name in select(NAMES.to_vec()), port in select(vec![80_u16, 443, 8443, 25])) {
        let access: String = lines.iter().map(|(allow, acls)| {
            format!("http_access {} {}\n", if *allow { "allow" } else { "deny" }, acls.join(" "))
        }).collect();
        let text = format!("{ACLS}{access}");
        let found = imported(&text, Some(SourceKind::Squid), &Options::default());
        let to = To { name: Some(Name::parse(name.0).unwrap()), address: name.1.parse().unwrap() };
        let who = Who { namespace: "default", namespace_labels: Labels::new(), labels: Labels::new() };
        let default = found.objects.iter().map(|object| {
            let mut object = object.clone();
            object["metadata"]["namespace"] = "default".into();
            object
        });
        let found = Imported { objects: default.collect(), ..found };
        if !found.objects.is_empty() && found.allows(&who, &to, 6, port) {
            // A fence lets whole connections through: on port 80 as requests, elsewhere as tunnels.
            prop_assert!(squid_allows(&lines, name.0, port, port != 80), "{} {port}\n{text}\n{:#?}", name.0, found.lines());
        }
    }
}
