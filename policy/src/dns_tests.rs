use super::*;
use crate::{
    ClusterPeer, ClusterRanges, Effect, Isolation, Peer, PolicyKind, PortSpec, Protocol, Rule, RuleMode,
    RuleSet, Settings,
};

fn name(text: &str) -> Name {
    Name::parse(text).unwrap()
}

fn names(patterns: &[&str]) -> Peer {
    Peer::Names(patterns.iter().map(|text| Pattern::parse(text).unwrap()).collect())
}

fn policy() -> PolicyRef {
    PolicyRef::new(PolicyKind::EgressPolicy, "ci", "runners")
}

fn rule(effect: Effect, peer: Peer) -> Rule {
    let ports = vec![PortSpec::one(Protocol::Tcp, 443)];
    Rule { peers: vec![peer], ports, ..Rule::new(policy(), "r", effect) }
}

fn compile(isolation: Isolation, rules: &[Rule], settings: &Settings) -> DnsRules {
    let cluster = ClusterRanges {
        pods: vec!["10.96.0.0/16".parse().unwrap()],
        own_node: vec!["203.0.113.7/32".parse().unwrap()],
        ..ClusterRanges::default()
    };
    let now = "2026-11-23T00:00:00Z".parse().unwrap();
    let rules = RuleSet::compile(isolation, rules, settings, &cluster, now).unwrap();
    (*rules.dns).clone()
}

fn isolated(rules: &[Rule]) -> DnsRules {
    compile(Isolation::Isolated, rules, &Settings::default())
}

fn is_allowed(rules: &DnsRules, text: &str) -> bool {
    matches!(rules.decide(&name(text)), QueryDecision::Allowed(_))
}

#[test]
fn only_what_a_rule_allows_is_asked() {
    // Q2, N3
    let rules = isolated(&[rule(Effect::Allow, names(&["a.example.com", "*.pkg.example.org"]))]);
    for text in ["a.example.com", "x.pkg.example.org", "y.x.pkg.example.org"] {
        assert!(is_allowed(&rules, text), "{text}");
    }
    for text in
        ["example.com", "b.example.com", "x.a.example.com", "pkg.example.org", "xpkg.example.org", "org"]
    {
        assert!(!is_allowed(&rules, text), "{text}");
    }
}

#[test]
fn nothing_is_allowed_by_an_empty_list() {
    // R4, R5
    assert!(!is_allowed(&isolated(&[]), "a.example.com"));
    let portless = Rule { ports: vec![], ..rule(Effect::Allow, names(&["a.example.com"])) };
    assert!(!is_allowed(&isolated(std::slice::from_ref(&portless)), "a.example.com"));
    let peerless = Rule { peers: vec![], ..rule(Effect::Allow, names(&[])) };
    assert!(!is_allowed(&isolated(&[peerless]), "a.example.com"));
    assert_eq!(isolated(&[portless]).classes_of(&name("a.example.com")), 0);
}

#[test]
fn filtered_names_say_who_and_whether_a_name_below_is_allowed() {
    // Q3
    let rules = isolated(&[rule(Effect::Allow, names(&["a.b.example.com", "*.wild.example.org"]))]);
    let below = |text: &str| match rules.decide(&name(text)) {
        QueryDecision::Filtered { policy: Some(who), name_below_allowed } if who == policy() => {
            name_below_allowed
        }
        other => panic!("{text}: {other:?}"),
    };
    for text in ["b.example.com", "example.com", "com", "wild.example.org", "example.org", "org"] {
        assert!(below(text), "{text}");
    }
    for text in ["c.b.example.com", "x.a.b.example.com", "evil.example", "ample.com"] {
        assert!(!below(text), "{text}");
    }
}

#[test]
fn denies_win_over_every_allow() {
    // R2
    let deny = rule(Effect::Deny, names(&["*.bad.example.com", "a.example.com"]));
    let rules = isolated(&[rule(Effect::Allow, names(&["*", "x.bad.example.com"])), deny]);
    for text in ["a.example.com", "x.bad.example.com"] {
        assert_eq!(rules.decide(&name(text)), QueryDecision::Denied { policy: policy() }, "{text}");
        assert_eq!(rules.classes_of(&name(text)), 0);
    }
    assert!(is_allowed(&rules, "bad.example.com") && is_allowed(&rules, "b.example.com"));
}

#[test]
fn denies_count_without_isolation_and_never_in_audit() {
    // R1, R6
    let deny = rule(Effect::Deny, names(&["a.example.com"]));
    let settings = Settings::default();
    let open = compile(Isolation::NotIsolated, std::slice::from_ref(&deny), &settings);
    assert!(matches!(open.decide(&name("a.example.com")), QueryDecision::Denied { .. }));
    assert_eq!(open.decide(&name("b.example.com")), QueryDecision::Unfiltered { would_filter: false });
    let audit = Rule { mode: RuleMode::Audit, ..deny };
    let audit = compile(Isolation::Audit, &[audit], &settings);
    for text in ["a.example.com", "b.example.com"] {
        assert_eq!(audit.decide(&name(text)), QueryDecision::Unfiltered { would_filter: true });
    }
}

#[test]
fn without_the_filter_any_name_is_answered_and_allowed_ones_granted() {
    // Q2
    let mut settings = Settings::default();
    settings.dns.filter = false;
    let allow = [rule(Effect::Allow, names(&["a.example.com"]))];
    let rules = compile(Isolation::Isolated, &allow, &settings);
    assert!(is_allowed(&rules, "a.example.com"));
    assert_eq!(rules.decide(&name("b.example.com")), QueryDecision::Unfiltered { would_filter: false });
}

#[test]
fn the_cluster_domain() {
    // Q6
    let mut settings = Settings::default();
    settings.dns.cluster_domain = Some(name("cluster.local"));
    let allow = [rule(Effect::Allow, names(&["*.example.com", "a.example.org", "api.cluster.local"]))];
    let rules = compile(Isolation::Isolated, &allow, &settings);
    let passed = QueryDecision::Unfiltered { would_filter: false };
    for text in [
        "web.prod.svc.cluster.local",
        "cluster.local",
        "web.cluster.local",
        "b.example.org.svc.cluster.local",
    ] {
        assert_eq!(rules.decide(&name(text)), passed, "{text}");
    }
    for domain in ["cluster.local", "svc.cluster.local", "ci.svc.cluster.local"] {
        for front in ["a.example.org", "x.y.example.com"] {
            let expansion = name(&format!("{front}.{domain}"));
            assert_eq!(rules.decide(&expansion), QueryDecision::SearchExpansion, "{expansion}");
        }
    }
    assert!(is_allowed(&rules, "api.cluster.local"));
    settings.dns.filter_cluster_domain = true;
    let rules = compile(Isolation::Isolated, &allow, &settings);
    assert!(matches!(rules.decide(&name("web.prod.svc.cluster.local")), QueryDecision::Filtered { .. }));
}

#[test]
fn a_service_is_not_taken_for_a_search_expansion() {
    // Q6: `web.prod` is allowed by its short name, and `prod` is no public top-level domain.
    let mut settings = Settings::default();
    settings.dns.cluster_domain = Some(name("cluster.local"));
    let rules =
        compile(Isolation::Isolated, &[rule(Effect::Allow, names(&["web.production", "*"]))], &settings);
    assert!(is_allowed(&rules, "web.production.svc.cluster.local"));
    let rules = compile(Isolation::Isolated, &[rule(Effect::Allow, names(&["web.production"]))], &settings);
    let passed = QueryDecision::Unfiltered { would_filter: false };
    assert_eq!(rules.decide(&name("web.production.svc.cluster.local")), passed);
}

#[test]
fn rules_over_one_name_add_up() {
    // A5, Q4
    let seconds = Duration::from_secs;
    let wide = Rule {
        grace: Some(seconds(60)),
        strict_chain: true,
        ..rule(Effect::Allow, names(&["*.example.com"]))
    };
    let exact = Rule { grace: Some(seconds(90)), ..rule(Effect::Allow, names(&["a.example.com"])) };
    let decided = |rules: &[Rule], text| match isolated(rules).decide(&name(text)) {
        QueryDecision::Allowed(rule) => rule,
        other => panic!("{other:?}"),
    };
    let both = decided(&[wide.clone(), exact], "a.example.com");
    assert_eq!(both, NameRule { grace: seconds(90), private_addresses: false, strict_chain: false });
    assert!(decided(std::slice::from_ref(&wide), "b.example.com").strict_chain);
    // X8: a rule without ports lends its private answers, and nothing else.
    let lending = Rule {
        ports: vec![],
        private_addresses: true,
        grace: Some(seconds(9_000)),
        ..rule(Effect::Allow, names(&["a.example.com"]))
    };
    let lent = decided(&[wide, lending], "a.example.com");
    assert_eq!(lent, NameRule { grace: seconds(60), private_addresses: true, strict_chain: true });
}

#[test]
fn private_answers_need_a_rule() {
    // A3
    let block =
        Peer::Block { cidr: "10.0.0.0/24".parse().unwrap(), except: vec!["10.0.0.9/32".parse().unwrap()] };
    let rules =
        isolated(&[rule(Effect::Allow, block), rule(Effect::Allow, Peer::Cluster(vec![ClusterPeer::Pods]))]);
    let plain = NameRule { grace: Duration::ZERO, private_addresses: false, strict_chain: false };
    let private = NameRule { private_addresses: true, ..plain };
    let admission = |rule: &NameRule, text: &str| rules.admission(rule, text.parse().unwrap());
    for text in ["198.51.100.1", "2001:db8::1", "10.0.0.1", "::ffff:10.0.0.1", "10.96.3.4"] {
        assert_eq!(admission(&plain, text), Admission::Grant, "{text}");
    }
    for text in ["10.0.0.9", "10.0.1.1", "192.168.0.1", "fc00::1", "64:ff9b::a00:1"] {
        assert!(matches!(admission(&plain, text), Admission::Remove(AddressClass::Private(_))), "{text}");
        assert_eq!(admission(&private, text), Admission::Grant, "{text}");
    }
}

#[test]
fn some_addresses_are_never_granted_through_a_name() {
    // A3: loopback, metadata, the node's own; an ipBlock lets them pass in the answer.
    let block = Peer::Block { cidr: "127.0.0.0/8".parse().unwrap(), except: vec![] };
    let rules = isolated(&[rule(Effect::Allow, block)]);
    let private = NameRule { grace: Duration::ZERO, private_addresses: true, strict_chain: false };
    for text in
        ["::1", "169.254.169.254", "203.0.113.7", "::ffff:203.0.113.7", "64:ff9b::cb00:7107", "fe80::1"]
    {
        let address = text.parse().unwrap();
        assert!(
            matches!(rules.admission(&private, address), Admission::Remove(AddressClass::Never(_))),
            "{text}"
        );
        assert!(!rules.admits(&private, address));
    }
    assert_eq!(rules.admission(&private, "127.0.0.1".parse().unwrap()), Admission::PassOnly);
    assert!(rules.admits(&private, "127.0.0.1".parse().unwrap()));
}

#[test]
fn rules_travel_as_lists() {
    let allow = rule(Effect::Allow, names(&["*.example.com", "a.example.org"]));
    let rules = isolated(&[allow, rule(Effect::Deny, names(&["bad.example.com"]))]);
    let text = serde_json::to_string(&rules).unwrap();
    let back: DnsRules = serde_json::from_str(&text).unwrap();
    assert_eq!(back, rules);
    for text in ["x.example.com", "a.example.org", "bad.example.com", "example.com", "other.example"] {
        assert_eq!(back.decide(&name(text)), rules.decide(&name(text)));
    }
}
