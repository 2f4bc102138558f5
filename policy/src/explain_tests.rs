use std::time::Duration;

use super::*;
use crate::{
    ClusterRanges, Isolation, Limits, Pattern, Peer, PolicyKind, PortSpec, Protocol, Rule, Settings,
};

const NOW: BootTime = BootTime(1_000);

fn name(text: &str) -> Name {
    Name::parse(text).unwrap()
}

fn rules() -> RuleSet {
    let policy = PolicyRef::new(PolicyKind::EgressPolicy, "ci", "runners");
    let rule = |title: &str, effect, peer, ports: &[u16]| Rule {
        peers: vec![peer],
        ports: ports.iter().map(|port| PortSpec::one(Protocol::Tcp, *port)).collect(),
        ..Rule::new(policy.clone(), title, effect)
    };
    let names = |text: &str| Peer::Names(vec![Pattern::parse(text).unwrap()]);
    let block = |cidr: &str| Peer::Block { cidr: cidr.parse().unwrap(), except: vec![] };
    let rules = [
        rule("registry", Effect::Allow, names("*.npmjs.org"), &[443]),
        rule("office", Effect::Allow, block("203.0.113.0/24"), &[22]),
        rule("no-doh", Effect::Deny, names("dns.google"), &[]),
        rule("metadata", Effect::Deny, block("192.0.2.254/32"), &[]),
    ];
    let now = "2026-11-23T00:00:00Z".parse().unwrap();
    RuleSet::compile(Isolation::Isolated, &rules, &Settings::default(), &ClusterRanges::default(), now)
        .unwrap()
}

fn bindings() -> Bindings {
    let mut bindings = Bindings::new(Limits::default());
    let mut bind = |who: &str, last: u8, ttl: u64| {
        let answer = [(IpAddr::from([198, 51, 100, last]), Duration::from_nanos(ttl))];
        bindings.record(&name(who), &[name("cdn.example")], &answer, Duration::ZERO, BootTime(0)).unwrap();
    };
    bind("registry.npmjs.org", 1, 2_000);
    bind("old.npmjs.org", 2, 500);
    bind("other.example", 3, 2_000);
    bindings
}

fn address(text: &str, port: u16) -> Explanation {
    explain(&rules(), &bindings(), &Destination::Address(text.parse().unwrap()), 6, port, NOW)
}

fn named(text: &str, port: u16) -> Explanation {
    explain(&rules(), &bindings(), &Destination::Name(name(text)), 6, port, NOW)
}

fn rule_names(explanation: &Explanation) -> Vec<&str> {
    explanation.rules.iter().map(|rule| rule.rule.as_str()).collect()
}

#[test]
fn allowed_says_by_which_rule_and_binding() {
    // G5, G8
    for found in [address("198.51.100.1", 443), named("registry.npmjs.org", 443)] {
        assert_eq!((found.verdict, found.reason, found.missing), (Outcome::Allowed, Reason::Name, None));
        assert_eq!(rule_names(&found), ["registry"]);
        let binding = &found.bindings[0];
        assert_eq!((&binding.name, binding.live, binding.allowed), (&name("registry.npmjs.org"), true, true));
        assert_eq!(binding.chain, [name("cdn.example")]);
    }
    let office = address("203.0.113.9", 22);
    assert_eq!((office.reason, rule_names(&office)), (Reason::Cidr, vec!["office"]));
}

#[test]
fn denied_says_what_is_missing_and_what_would_allow_it() {
    // G8, X4
    let flag =
        |found: &Explanation| found.suggestion.as_ref().and_then(|s| s.flag.clone()).unwrap_or_default();
    let stranger = address("198.51.100.77", 443);
    assert_eq!((stranger.reason, stranger.missing), (Reason::NoMatch, Some(Missing::Rule)));
    assert!(stranger.bindings.is_empty());
    assert_eq!(flag(&stranger), "--allow-cidr 198.51.100.77:443/tcp");
    assert!(stranger.to_string().contains("never resolved"), "{stranger}");
    assert!(stranger.to_string().contains("ipBlock: {cidr: 198.51.100.77/32}"), "{stranger}");
    assert_eq!(flag(&address("2001:db8::7", 443)), "--allow-cidr [2001:db8::7]:443/tcp");
    let port = address("198.51.100.1", 80);
    assert_eq!(
        (port.reason, port.missing, rule_names(&port)),
        (Reason::Port, Some(Missing::Port), vec!["registry"])
    );
    assert_eq!(flag(&port), "--allow registry.npmjs.org:80/tcp");
    let lapsed = address("198.51.100.2", 443);
    assert_eq!((lapsed.reason, lapsed.missing), (Reason::Expired, Some(Missing::NewQuestion)));
    assert_eq!((lapsed.suggestion.as_ref(), lapsed.bindings[0].live), (None, false));
    let foreign = address("198.51.100.3", 443);
    assert_eq!(
        (foreign.reason, flag(&foreign)),
        (Reason::NoMatch, "--allow other.example:443/tcp".to_owned())
    );
    assert!(!foreign.bindings[0].allowed);
}

#[test]
fn denies_cannot_be_allowed_away() {
    // R2
    let metadata = address("192.0.2.254", 80);
    assert_eq!((metadata.reason, metadata.missing), (Reason::DeniedCidr, Some(Missing::NoDeny)));
    assert_eq!((rule_names(&metadata), &metadata.suggestion), (vec!["metadata"], &None));
    let wrapped = address("64:ff9b::192.0.2.254", 80);
    assert_eq!((wrapped.reason, rule_names(&wrapped)), (Reason::DeniedCidr, vec!["metadata"]));
    let doh = named("dns.google", 443);
    assert_eq!(
        (doh.reason, doh.missing, rule_names(&doh)),
        (Reason::Filtered, Some(Missing::NoDeny), vec!["no-doh"])
    );
}

#[test]
fn names_that_were_never_asked() {
    // Q2
    let allowed = named("new.npmjs.org", 443);
    assert_eq!((allowed.reason, allowed.missing), (Reason::NoMatch, Some(Missing::Question)));
    assert_eq!(rule_names(&allowed), ["registry"]);
    let filtered = named("evil.example", 443);
    assert_eq!((filtered.reason, filtered.missing), (Reason::Filtered, Some(Missing::Rule)));
    let rule =
        "a rule `to: [{domainNames: [evil.example]}], ports: [{protocol: TCP, port: 443}]` would allow it";
    assert!(filtered.to_string().contains(rule), "{filtered}");
}
