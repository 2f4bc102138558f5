//! The largest that rules and grants may be, on the real kernel's maps: it fits, and what is larger is refused whole.

use std::{net::Ipv4Addr, sync::Arc, time::Duration};

use nameward_enforcer::{
    EndpointConfig, GrantRequest, Refused,
    kernel::{Attachment, EndpointSpec, Host, KernelStore, MapSizes, MapWrite},
};
use nameward_policy::{
    ClusterRanges, Effect, Isolation, Limits, Peer, PolicyKind, PolicyRef, PortSpec, Protocol, Rule, RuleSet,
    Settings,
    tables::{MAX_CIDRS, MAX_CLASSES},
};

use crate::{
    lab::{Lab, Workload, inside, privileged},
    traffic::{Guarding, config, rules_with},
};

const WEB: PortSpec = PortSpec::one(Protocol::Tcp, 80);

/// As many blocks as there may be, beginning at an address, and as many port classes.
fn largest(first: Ipv4Addr) -> Arc<RuleSet> {
    let classes = u32::try_from(MAX_CLASSES).unwrap();
    let blocks = u32::try_from(MAX_CIDRS).unwrap();
    let rules: Vec<Rule> = (0..classes)
        .map(|class| {
            let block =
                |n: u32| format!("{}/32", Ipv4Addr::from_bits(first.to_bits() + 2 * (n * classes + class)));
            let policy = PolicyRef::new(PolicyKind::EgressPolicy, "ci", "largest");
            let mut rule = Rule::new(policy, &format!("rule-{class}"), Effect::Allow);
            rule.peers = (0..blocks / classes)
                .map(|n| Peer::Block { cidr: block(n).parse().unwrap(), except: vec![] })
                .collect();
            rule.ports = vec![PortSpec::one(Protocol::Tcp, 1_000 + u16::try_from(class).unwrap())];
            rule
        })
        .collect();
    let (settings, cluster) = (Settings::default(), ClusterRanges::default());
    let now = jiff::Timestamp::now();
    let compiled = RuleSet::compile(Isolation::Isolated, &rules, &settings, &cluster, now).unwrap();
    assert_eq!(compiled.kernel.cidrs.len(), MAX_CIDRS);
    Arc::new(compiled)
}

// F3, G10: both rule sets of a switch fit side by side, however large they are
#[test]
fn the_largest_rule_sets_follow_one_another() {
    if !privileged() {
        return;
    }
    let mut lab = Lab::new();
    let workload = lab.workload();
    inside(&lab.host(), async || {
        let first = largest(Ipv4Addr::new(10, 64, 0, 0));
        let guarding = Guarding::start(&lab, &[(&workload, first)]);
        for (generation, second) in [(2, 96), (3, 64)] {
            let next = largest(Ipv4Addr::new(10, second, 0, 0));
            assert_eq!(guarding.enforcer.apply_rules(&workload.namespace, next).unwrap(), generation);
        }
    });
    inside(&lab.host(), async || {
        let host = Host::open(&lab.options()).unwrap();
        let seen = host.open_endpoint(&workload.namespace).unwrap().observe().unwrap();
        assert_eq!(seen.cidrs.len(), MAX_CIDRS, "what only older rules needed is gone");
    });
}

fn grant(workload: &Workload, address: &str) -> GrantRequest {
    GrantRequest {
        endpoint: workload.namespace.as_str().into(),
        generation: 1,
        name: "app.example.com".into(),
        chain: vec![],
        addresses: vec![(address.parse().unwrap(), Duration::from_secs(3_600))],
        grace: Duration::ZERO,
    }
}

// Q8, F3: at the limit a grant is refused, and says which limit it was; what is live stays.
#[test]
fn a_grant_beyond_the_limit_is_refused_whole() {
    if !privileged() {
        return;
    }
    let mut lab = Lab::new();
    let workload = lab.workload();
    inside(&lab.host(), async || {
        let guarding = Guarding::start(&lab, &[]);
        let limits = Limits { addresses: 3, ..Limits::default() };
        let settings = Settings { limits, ..Settings::default() };
        guarding.enforcer.apply_endpoint(EndpointConfig { settings, ..config(&workload) }).unwrap();
        let rules = rules_with(&[("app.example.com", WEB)], Settings { limits, ..Settings::default() });
        guarding.enforcer.apply_rules(&workload.namespace, rules).unwrap();
        for last in 1..=3 {
            guarding.enforcer.grant(&grant(&workload, &format!("203.0.113.{last}"))).unwrap();
        }
        let mut two = grant(&workload, "203.0.113.3");
        two.addresses.push(("203.0.113.4".parse().unwrap(), Duration::from_secs(3_600)));
        let refused = guarding.enforcer.grant(&two);
        assert_eq!(refused, Err(Refused::Limit { what: "addresses" }));
        assert!(refused.unwrap_err().to_string().contains("settings.limits"));
        let seen = guarding.enforcer.endpoint(&workload.namespace).unwrap();
        assert_eq!(seen.live_addresses, 3);
        // Again, and another that is known already: nothing was used up.
        guarding.enforcer.grant(&grant(&workload, "203.0.113.1")).unwrap();
    });
}

// F3: the kernel's own word for a full map is known as such.
#[test]
fn a_full_map_says_so() {
    if !privileged() {
        return;
    }
    let mut lab = Lab::new();
    let workload = lab.workload();
    inside(&lab.host(), async || {
        let host = Host::open(&lab.options()).unwrap();
        let attachment = Attachment::Interface { name: workload.interface.clone() };
        let sizes = MapSizes { addresses: 2, cidrs: 2, ports: 2, flows: 2 };
        let spec = EndpointSpec {
            sizes,
            addresses: workload.addresses.clone(),
            ..EndpointSpec::new("small", attachment)
        };
        let mut endpoint = host.attach(&spec).unwrap();
        let address = |last: u8| {
            let mut address = [0; 16];
            address[15] = last;
            address
        };
        let port = |last: u8| nameward_abi::PortKey { protocol: 6, port: [0, last] };
        let writes: [&dyn Fn(u8) -> MapWrite; 3] = [
            &|last| MapWrite::Allow(address(last), nameward_abi::Allow::default()),
            &|last| MapWrite::Cidr(128, address(last), nameward_abi::CidrRule::default()),
            &|last| MapWrite::Port(24, port(last), nameward_abi::PortRule::default()),
        ];
        for write in writes {
            endpoint.write(&write(1)).unwrap();
            endpoint.write(&write(2)).unwrap();
            let refused = endpoint.write(&write(3)).unwrap_err();
            assert!(refused.is_full(), "{refused}");
            endpoint.write(&write(2)).unwrap();
        }
    });
}
