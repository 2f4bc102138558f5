//! A service that the host translates behind the veth, as kube-proxy does: workloads' packets are judged as they wrote them.

use std::sync::Arc;

use nameward_policy::{
    ClusterRanges, Effect, Isolation, Peer, PolicyKind, PolicyRef, PortSpec, Protocol, Rule, RuleSet,
    Settings,
};

use crate::{
    lab::{Lab, inside, must, privileged},
    traffic::{Guarding, connect, is_alive, is_refused, serve},
};

/// Allows one block at port 80.
fn allows(block: &str) -> Arc<RuleSet> {
    let policy = PolicyRef::new(PolicyKind::EgressPolicy, "ci", "services");
    let mut rule = Rule::new(policy, "services", Effect::Allow);
    rule.peers = vec![Peer::Block { cidr: block.parse().unwrap(), except: vec![] }];
    rule.ports = vec![PortSpec::one(Protocol::Tcp, 80)];
    let (settings, ranges, now) = (Settings::default(), ClusterRanges::default(), jiff::Timestamp::now());
    Arc::new(RuleSet::compile(Isolation::Isolated, &[rule], &settings, &ranges, now).unwrap())
}

// R8, issue: service DNAT
#[test]
fn a_service_is_judged_by_its_own_address() {
    if !privileged() {
        return;
    }
    let mut lab = Lab::new();
    let workload = lab.workload();
    serve(&lab.internet());
    for (family, service, backend) in
        [("ip", "10.96.0.80", "203.0.113.10:80"), ("ip6", "2001:db8:96::80", "[2001:db8:1::10]:80")]
    {
        must(&format!(
            "nsenter --net=/run/netns/{} sh -c 'nft add table {family} services &&
             nft add chain {family} services in \"{{ type nat hook prerouting priority -100; }}\" &&
             nft add rule {family} services in {family} daddr {service} tcp dport 80 dnat to {backend}'",
            lab.host()
        ));
    }
    let to = ["10.96.0.80:80", "[2001:db8:96::80]:80"];
    let behind = ["203.0.113.10:80", "[2001:db8:1::10]:80"];
    for (number, block) in ["10.96.0.0/16", "2001:db8:96::/64"].into_iter().enumerate() {
        inside(&lab.host(), async || {
            let guarding = Guarding::start(&lab, &[(&workload, allows(block))]);
            let live = connect(&workload, to[number]).unwrap();
            assert!(is_alive(&live), "{}", to[number]);
            for other in [behind[number], to[1 - number], behind[1 - number]] {
                assert!(is_refused(&connect(&workload, other)), "{other}");
            }
            // Live ones are judged again by the address that the workload meant.
            guarding.enforcer.apply_rules(&workload.namespace, allows(block)).unwrap();
            assert!(is_alive(&live));
            guarding.enforcer.apply_rules(&workload.namespace, allows("203.0.113.0/24")).unwrap();
            assert!(is_refused(&connect(&workload, to[number])));
        });
    }
}
