use std::time::Duration;

use super::*;
use crate::{
    Pattern, PortSpec, Protocol, Reason, Schedule,
    address::{mapped, to_octets},
    tables::Granted,
};

fn rule(effect: Effect, peer: Peer, ports: &[PortSpec]) -> Rule {
    let policy = PolicyRef::new(PolicyKind::EgressPolicy, "ci", "runners");
    Rule { peers: vec![peer], ports: ports.to_vec(), ..Rule::new(policy, "r", effect) }
}

fn block(cidr: &str, except: &[&str]) -> Peer {
    let except = except.iter().map(|net| net.parse().unwrap()).collect();
    Peer::Block { cidr: cidr.parse().unwrap(), except }
}

fn tcp(port: u16) -> PortSpec {
    PortSpec::one(Protocol::Tcp, port)
}

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

fn compile(isolation: Isolation, rules: &[Rule]) -> Result<RuleSet, CompileError> {
    let cluster = ClusterRanges { pods: vec!["10.96.0.0/16".parse().unwrap()], ..ClusterRanges::default() };
    RuleSet::compile(isolation, rules, &Settings::default(), &cluster, at("2026-11-23T00:00:00Z"))
}

fn isolated(rules: &[Rule]) -> KernelRules {
    compile(Isolation::Isolated, rules).unwrap().kernel
}

fn judge(kernel: &KernelRules, address: &str, port: u16) -> Reason {
    kernel.judge(None, to_octets(address.parse().unwrap()), 6, port)
}

#[test]
fn denies_win_whatever_the_prefix_lengths() {
    // R2
    let kernel = isolated(&[
        rule(Effect::Allow, block("10.1.0.0/16", &[]), &[tcp(443)]),
        rule(Effect::Deny, block("10.0.0.0/8", &["10.1.2.0/24"]), &[]),
    ]);
    assert_eq!(judge(&kernel, "10.1.1.1", 443), Reason::DeniedCidr);
    assert_eq!(judge(&kernel, "10.1.2.1", 443), Reason::Cidr);
    assert_eq!(judge(&kernel, "10.2.0.1", 443), Reason::DeniedCidr);
    let named = Some(Granted { classes: u64::MAX, expired: false });
    assert_eq!(kernel.judge(named, mapped([10, 1, 1, 1]), 6, 443), Reason::DeniedCidr);
}

#[test]
fn a_deny_of_ports_leaves_the_others() {
    // R2, R4
    let kernel = isolated(&[
        rule(Effect::Allow, block("0.0.0.0/0", &[]), &[PortSpec::range(Protocol::Tcp, 1, 1024)]),
        rule(Effect::Deny, block("192.0.2.0/24", &[]), &[tcp(25)]),
    ]);
    assert_eq!(
        (judge(&kernel, "192.0.2.1", 25), judge(&kernel, "192.0.2.1", 26)),
        (Reason::DeniedCidr, Reason::Cidr)
    );
    assert_eq!(
        (judge(&kernel, "192.0.2.1", 1025), judge(&kernel, "192.0.3.1", 25)),
        (Reason::Port, Reason::Cidr)
    );
}

#[test]
fn exceptions_belong_to_their_block() {
    // R4
    let kernel = isolated(&[
        rule(Effect::Allow, block("10.0.0.0/8", &["10.1.0.0/16", "10.1.2.0/24"]), &[tcp(443)]),
        rule(Effect::Allow, block("10.1.2.0/24", &["10.1.2.9/32"]), &[tcp(443)]),
        rule(Effect::Allow, block("172.16.0.0/16", &["172.16.0.0/12"]), &[tcp(443)]),
    ]);
    assert_eq!(
        (judge(&kernel, "10.0.0.1", 443), judge(&kernel, "10.1.0.1", 443)),
        (Reason::Cidr, Reason::NoMatch)
    );
    assert_eq!(
        (judge(&kernel, "10.1.2.1", 443), judge(&kernel, "10.1.2.9", 443)),
        (Reason::Cidr, Reason::NoMatch)
    );
    assert_eq!(judge(&kernel, "172.16.0.1", 443), Reason::NoMatch);
    // An IPv6 exception takes nothing away from IPv4.
    let kernel = isolated(&[rule(Effect::Allow, block("10.0.0.0/8", &["::/0"]), &[tcp(443)])]);
    assert_eq!(judge(&kernel, "10.0.0.1", 443), Reason::Cidr);
}

#[test]
fn a_prefix_that_says_what_it_lies_in_is_left_out() {
    let kernel = isolated(&[
        rule(Effect::Allow, block("10.0.0.0/8", &[]), &[tcp(443)]),
        rule(Effect::Allow, block("10.1.0.0/16", &["10.1.1.0/24"]), &[tcp(443)]),
        rule(Effect::Allow, block("10.2.0.0/16", &[]), &[tcp(80)]),
    ]);
    assert_eq!(kernel.cidrs.keys().map(|(bits, _)| *bits).collect::<Vec<_>>(), [96 + 8, 96 + 16]);
}

#[test]
fn families_stay_apart_in_one_trie() {
    // A rule for all of IPv6 says nothing of IPv4, also not through its v4-mapped form.
    let everywhere = isolated(&[rule(Effect::Allow, block("::/0", &[]), &[tcp(443)])]);
    assert_eq!(
        (judge(&everywhere, "2001:db8::1", 443), judge(&everywhere, "192.0.2.1", 443)),
        (Reason::Cidr, Reason::NoMatch)
    );
    let mapped = isolated(&[rule(Effect::Allow, block("::ffff:192.0.2.0/120", &[]), &[tcp(443)])]);
    assert_eq!(
        (judge(&mapped, "192.0.2.1", 443), judge(&mapped, "192.0.3.1", 443)),
        (Reason::Cidr, Reason::NoMatch)
    );
}

#[test]
fn denies_match_the_embedded_address_and_allows_the_literal_only() {
    // B23
    let kernel = isolated(&[
        rule(Effect::Allow, block("::/0", &[]), &[tcp(443)]),
        rule(Effect::Deny, block("10.0.0.0/8", &[]), &[]),
    ]);
    for text in ["64:ff9b::a00:1", "2002:a00:1::", "2001:0:808:808::f5ff:fffe", "10.0.0.1"] {
        assert_eq!(judge(&kernel, text, 443), Reason::DeniedCidr, "{text}");
    }
    assert_eq!(judge(&kernel, "64:ff9b::808:808", 443), Reason::Cidr);
    let v4 = isolated(&[rule(Effect::Allow, block("10.0.0.0/8", &[]), &[tcp(443)])]);
    assert_eq!(judge(&v4, "64:ff9b::a00:1", 443), Reason::NoMatch);
}

#[test]
fn protocols() {
    // R4
    let kernel = isolated(&[
        rule(
            Effect::Allow,
            block("192.0.2.0/24", &[]),
            &[PortSpec::all(Protocol::IcmpEcho), PortSpec::all(Protocol::Number(47))],
        ),
        rule(Effect::Allow, block("198.51.100.0/24", &[]), &[PortSpec::all(Protocol::Any)]),
    ]);
    let judge = |last: [u8; 4], protocol| kernel.judge(None, mapped(last), protocol, 0);
    assert_eq!((judge([192, 0, 2, 1], 1), judge([192, 0, 2, 1], 47)), (Reason::Cidr, Reason::Cidr));
    assert_eq!((judge([192, 0, 2, 1], 6), judge([203, 0, 113, 1], 47)), (Reason::Port, Reason::Protocol));
    for protocol in [1, 6, 17, 47, 132, 255] {
        assert_eq!(judge([198, 51, 100, 1], protocol), Reason::Cidr);
    }
}

#[test]
fn an_empty_list_never_allows() {
    // R1, R4, R5
    let silent = [
        Rule { peers: vec![], ..rule(Effect::Allow, block("0.0.0.0/0", &[]), &[tcp(443)]) },
        rule(Effect::Allow, block("0.0.0.0/0", &[]), &[]),
        rule(Effect::Allow, Peer::Names(vec![]), &[tcp(443)]),
        rule(Effect::Allow, Peer::Cluster(vec![ClusterPeer::Services]), &[tcp(443)]),
    ];
    for rules in [&[][..], &silent] {
        let kernel = isolated(rules);
        assert_eq!((judge(&kernel, "192.0.2.1", 443), kernel.cidrs.len()), (Reason::NoMatch, 0));
    }
}

#[test]
fn deny_only_leaves_everything_else() {
    // R1
    let deny = rule(Effect::Deny, block("192.0.2.0/24", &[]), &[]);
    let kernel = compile(Isolation::NotIsolated, &[deny]).unwrap().kernel;
    assert_eq!(
        (judge(&kernel, "192.0.2.1", 1), judge(&kernel, "192.0.3.1", 1)),
        (Reason::DeniedCidr, Reason::NotIsolated)
    );
}

#[test]
fn audit_changes_no_verdict_of_enforce_and_lifts_no_deny() {
    // R3, R6
    let enforce = rule(Effect::Allow, block("192.0.2.0/24", &[]), &[tcp(443)]);
    let audit = |effect, cidr| Rule { mode: RuleMode::Audit, ..rule(effect, block(cidr, &[]), &[tcp(443)]) };
    let with_audit =
        [enforce.clone(), audit(Effect::Allow, "198.51.100.0/24"), audit(Effect::Deny, "192.0.2.0/24")];
    assert_eq!(isolated(&with_audit), isolated(std::slice::from_ref(&enforce)));
    let both = compile(Isolation::Isolated, &with_audit).unwrap();
    let staged = &both.staged().unwrap().kernel;
    assert_eq!(
        (judge(staged, "198.51.100.1", 443), judge(staged, "192.0.2.1", 443)),
        (Reason::Cidr, Reason::DeniedCidr)
    );
    assert!(compile(Isolation::Isolated, std::slice::from_ref(&enforce)).unwrap().staged.is_none());
    let only = compile(Isolation::Audit, &[audit(Effect::Allow, "192.0.2.0/24")]).unwrap();
    assert_eq!((only.kernel.mode, only.staged.is_none()), (KernelMode::Audit, true));
    // A guardrail in Audit isolates nobody.
    let guardrail = compile(Isolation::NotIsolated, &[audit(Effect::Deny, "192.0.2.0/24")]).unwrap();
    assert_eq!(judge(&guardrail.kernel, "192.0.2.1", 443), Reason::NotIsolated);
    let staged = &guardrail.staged().unwrap().kernel;
    assert_eq!(
        (judge(staged, "192.0.2.1", 443), judge(staged, "192.0.3.1", 443)),
        (Reason::DeniedCidr, Reason::NotIsolated)
    );
    // What does not fit keeps nothing from being enforced.
    let ports = |port: u16| Rule { ports: vec![tcp(port * 3)], ..audit(Effect::Allow, "198.51.100.0/24") };
    let many: Vec<Rule> = std::iter::once(enforce).chain((1..=65).map(ports)).collect();
    let many = compile(Isolation::Isolated, &many).unwrap();
    assert!(matches!(many.staged, Some(Err(CompileError::TooManyPortClasses { .. }))), "{:?}", many.staged);
    let guarded = [audit(Effect::Allow, "0.0.0.0/0"), rule(Effect::Deny, block("192.0.2.0/24", &[]), &[])];
    let guarded = compile(Isolation::Audit, &guarded).unwrap();
    assert_eq!(judge(&guarded.staged().unwrap().kernel, "198.51.100.1", 443), Reason::Cidr);
    let guarded = guarded.kernel;
    assert_eq!(guarded.mode, KernelMode::NotIsolated);
    assert_eq!(judge(&guarded, "192.0.2.1", 443), Reason::DeniedCidr);
}

#[test]
fn what_does_not_fit_is_refused() {
    let many = |count: u16, peer: Peer| -> Vec<Rule> {
        (1..=count).map(|port| rule(Effect::Allow, peer.clone(), &[tcp(port * 3)])).collect()
    };
    assert!(compile(Isolation::Isolated, &many(64, block("192.0.2.0/24", &[]))).is_ok());
    let refused = compile(Isolation::Isolated, &many(65, block("192.0.2.0/24", &[]))).unwrap_err();
    assert_eq!(refused, CompileError::TooManyPortClasses { found: 65 });
    let blocks = |count: u32| {
        let nets =
            (0..count).map(|n| IpNet::from(std::net::IpAddr::from(std::net::Ipv4Addr::from_bits(n << 4))));
        let peers = nets.map(|cidr| Peer::Block { cidr, except: vec![] }).collect();
        Rule { peers, ..rule(Effect::Allow, Peer::Names(vec![]), &[tcp(443)]) }
    };
    assert_eq!(isolated(&[blocks(4_096)]).cidrs.len(), 4_096);
    let refused = compile(Isolation::Isolated, &[blocks(4_097)]).unwrap_err();
    assert_eq!(refused, CompileError::TooManyCidrs { found: 4_097 });
    assert!(refused.to_string().contains("larger blocks"));
    let ragged: Vec<PortSpec> =
        (0..100).map(|n| PortSpec::range(Protocol::Tcp, n * 600 + 1, n * 600 + 598)).collect();
    let ragged = [6, 17, 132].map(|number| {
        let protocol = [Protocol::Tcp, Protocol::Udp, Protocol::Sctp][number % 3];
        let ports: Vec<_> = ragged.iter().map(|spec| PortSpec { protocol, ..*spec }).collect();
        rule(Effect::Allow, block("192.0.2.0/24", &[]), &ports)
    });
    assert!(
        matches!(compile(Isolation::Isolated, &ragged), Err(CompileError::TooManyPorts { .. })),
        "{:?}",
        compile(Isolation::Isolated, &ragged).map(|set| set.kernel.ports.len())
    );
}

#[test]
fn rules_end_and_pause_by_the_clock() {
    // R7
    let until = Rule {
        expires_at: Some(at("2026-11-23T12:00:00Z")),
        ..rule(Effect::Allow, block("192.0.2.0/24", &[]), &[tcp(443)])
    };
    let nightly = Schedule::parse::<&str>(&[], "22:00", "06:00", "UTC").unwrap();
    let nightly =
        Rule { schedule: Some(nightly), ..rule(Effect::Allow, block("198.51.100.0/24", &[]), &[tcp(443)]) };
    let compiled = |now: &str| {
        RuleSet::compile(
            Isolation::Isolated,
            &[until.clone(), nightly.clone()],
            &Settings::default(),
            &ClusterRanges::default(),
            at(now),
        )
        .unwrap()
    };
    for (now, next, first, second) in [
        ("2026-11-23T05:59:59Z", "2026-11-23T06:00:00Z", Reason::Cidr, Reason::Cidr),
        ("2026-11-23T06:00:00Z", "2026-11-23T12:00:00Z", Reason::Cidr, Reason::NoMatch),
        ("2026-11-23T12:00:00Z", "2026-11-23T22:00:00Z", Reason::NoMatch, Reason::NoMatch),
        ("2026-11-23T22:00:00Z", "2026-11-24T06:00:00Z", Reason::NoMatch, Reason::Cidr),
    ] {
        let rules = compiled(now);
        assert_eq!(rules.next_change, Some(at(next)), "{now}");
        assert_eq!(
            (judge(&rules.kernel, "192.0.2.1", 443), judge(&rules.kernel, "198.51.100.1", 443)),
            (first, second),
            "{now}"
        );
    }
}

#[test]
fn cluster_ranges() {
    // R8, G9
    let peer = rule(Effect::Allow, Peer::Cluster(vec![ClusterPeer::Pods]), &[tcp(80)]);
    let kernel = isolated(std::slice::from_ref(&peer));
    assert_eq!(
        (judge(&kernel, "10.96.1.1", 80), judge(&kernel, "10.97.1.1", 80)),
        (Reason::Cluster, Reason::NoMatch)
    );
    let settings = Settings { inbound: Inbound::Cluster, ..Settings::default() };
    let cluster = ClusterRanges { nodes: vec!["192.0.2.0/28".parse().unwrap()], ..ClusterRanges::default() };
    let marked =
        RuleSet::compile(Isolation::Isolated, &[peer], &settings, &cluster, at("2026-11-23T00:00:00Z"))
            .unwrap()
            .kernel;
    assert_ne!(marked.cidr(mapped([192, 0, 2, 1])).cluster, 0, "known as the cluster's");
    assert_eq!(judge(&marked, "192.0.2.1", 80), Reason::NoMatch, "and allowed by nothing");
}

#[test]
fn direct_dns_is_an_ip_block_with_just_port_53() {
    let udp = |first, last| PortSpec::range(Protocol::Udp, first, last);
    let direct = |ports: &[PortSpec], peer: Peer| isolated(&[rule(Effect::Allow, peer, ports)]).direct_dns;
    assert_ne!(direct(&[udp(53, 53), tcp(53), udp(52, 52)], block("192.0.2.53/32", &[])), 0);
    assert_eq!(direct(&[udp(53, 54)], block("192.0.2.53/32", &[])), 0);
    assert_eq!(direct(&[udp(53, 53)], Peer::Names(vec![Pattern::Any])), 0);
    // A rule with the same ports as a range keeps its own class.
    let both = isolated(&[
        rule(Effect::Allow, block("192.0.2.53/32", &[]), &[udp(52, 52), udp(53, 53)]),
        rule(Effect::Allow, block("198.51.100.0/24", &[]), &[udp(52, 53)]),
    ]);
    assert_eq!(both.cidr(mapped([198, 51, 100, 1])).allow & both.direct_dns, 0);
    assert_ne!(both.cidr(mapped([192, 0, 2, 53])).allow & both.direct_dns, 0);
}

#[test]
fn the_same_rules_in_any_order_compile_to_the_same() {
    let mut rules = vec![
        rule(Effect::Allow, block("10.0.0.0/8", &["10.1.0.0/16"]), &[tcp(443)]),
        rule(Effect::Allow, block("10.1.0.0/16", &[]), &[tcp(80)]),
        rule(Effect::Deny, block("10.1.2.0/24", &[]), &[]),
    ];
    let one = isolated(&rules);
    rules.reverse();
    assert_eq!(isolated(&rules), one);
}

#[test]
fn names_have_the_classes_of_their_rules() {
    // G2
    let names = |text: &str| Peer::Names(vec![Pattern::parse(text).unwrap()]);
    let graced = Rule {
        grace: Some(Duration::from_secs(1)),
        ..rule(Effect::Allow, names("*.example.com"), &[tcp(80)])
    };
    let rules =
        compile(Isolation::Isolated, &[graced, rule(Effect::Allow, names("a.example.com"), &[tcp(443)])])
            .unwrap();
    let name = |text: &str| Name::parse(text).unwrap();
    let classes = rules.classes_of(&name("a.example.com"));
    assert_eq!(classes, rules.kernel.classes(6, 80) | rules.kernel.classes(6, 443));
    assert_eq!(rules.classes_of(&name("b.example.com")), rules.kernel.classes(6, 80));
    assert_eq!(
        (rules.classes_of(&name("example.com")), rules.rules_of(&name("a.example.com")).count()),
        (0, 2)
    );
}
