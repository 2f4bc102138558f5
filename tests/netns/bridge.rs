//! Workloads at ports of a bridge that is their gateway: frames that leave the subnet go there and nowhere else.

use std::{
    net::{SocketAddr, TcpStream},
    sync::Arc,
    time::Duration,
};

use aya::maps::{Array, MapData};
use nameward_abi::{Config, UNCHECKED};
use nameward_enforcer::{Enforcer, EnforcerOptions};
use nameward_policy::{
    ClusterRanges, Effect, Isolation, Pattern, Peer, PolicyKind, PolicyRef, PortSpec, Protocol, Rule,
    RuleSet, Settings,
};
use nameward_test_support::{wait_until, wait_until_async};

use crate::{
    lab::{BRIDGE_MAC, Lab, Workload, inside, inside_thread, must, privileged},
    traffic::{Guarding, config, connect, hour, is_alive, is_refused, serve},
};

const WAIT: Duration = Duration::from_secs(10);
const SERVERS: [(&str, &str); 2] =
    [("203.0.113.10", "203.0.113.10:80"), ("2001:db8:1::10", "[2001:db8:1::10]:80")];

/// A name outside and the subnet of the bridge.
fn policy() -> Arc<RuleSet> {
    let mut rule = Rule::new(PolicyRef::new(PolicyKind::EgressPolicy, "ci", "bridged"), "all", Effect::Allow);
    let block = |cidr: &str| Peer::Block { cidr: cidr.parse().unwrap(), except: vec![] };
    rule.peers = vec![
        Peer::Names(vec![Pattern::parse("app.example.com").unwrap()]),
        block("10.8.0.0/24"),
        block("2001:db8:8::/64"),
    ];
    rule.ports = vec![PortSpec::one(Protocol::Tcp, 80)];
    let (settings, ranges) = (Settings::default(), ClusterRanges::default());
    let now = jiff::Timestamp::now();
    Arc::new(RuleSet::compile(Isolation::Isolated, &[rule], &settings, &ranges, now).unwrap())
}

fn allow(guarding: &Guarding, workload: &Workload) {
    for (address, _) in SERVERS {
        guarding.enforcer.grant(&hour(workload, "app.example.com", &[address])).unwrap();
    }
}

fn in_kernel(lab: &Lab, workload: &Workload) -> Config {
    let pin = lab.pins().join("endpoints").join(&workload.namespace).join("CONFIG");
    let map = aya::maps::Map::from_map_data(MapData::from_pin(pin).unwrap()).unwrap();
    Array::<_, Config>::try_from(map).unwrap().get(&0, 0).unwrap()
}

fn text(mac: [u8; 6]) -> String {
    mac.map(|octet| format!("{octet:02x}")).join(":")
}

fn mac_of(workload: &Workload) -> String {
    let told = must(&format!("ip -n {} -j link show eth0", workload.namespace));
    let links: serde_json::Value = serde_json::from_str(&told).unwrap();
    links[0]["address"].as_str().unwrap().to_owned()
}

fn foreign(enforcer: &Enforcer, workload: &Workload) -> u64 {
    let counters = enforcer.endpoint(&workload.namespace).unwrap().counters;
    counters.get("foreign-mac").map_or(0, |counts| counts.packets)
}

/// Says in the workload's own table that its gateways have another MAC, as who may administer his network can.
fn send_to(workload: &Workload, mac: &str) {
    for gateway in ["10.8.0.1", "2001:db8:8::1"] {
        must(&format!(
            "ip -n {} neigh replace {gateway} lladdr {mac} dev eth0 nud permanent",
            workload.namespace
        ));
    }
}

fn dial(workload: &Workload, to: &str, patience: Duration) -> bool {
    let to: SocketAddr = to.parse().unwrap();
    inside_thread(&workload.namespace, || TcpStream::connect_timeout(&to, patience).is_ok())
}

// B40
#[test]
fn a_frame_for_outside_does_not_go_to_a_neighbour() {
    if !privileged() {
        return;
    }
    let mut lab = Lab::new();
    let (workload, neighbour) = (lab.bridged(), lab.bridged());
    serve(&lab.internet());
    serve(&neighbour.namespace);
    inside(&lab.host(), async || {
        let guarding = Guarding::start(&lab, &[(&workload, policy())]);
        allow(&guarding, &workload);
        let kept = in_kernel(&lab, &workload);
        assert_eq!((text(kept.gateway_mac), kept.on_link), (BRIDGE_MAC.into(), [24, 64]));
        for (_, server) in SERVERS {
            assert!(is_alive(&connect(&workload, server).unwrap()), "{server}");
        }
        // Neighbours themselves are reached as the rules say, in both families.
        for to in ["10.8.0.3:80", "[2001:db8:8::3]:80"] {
            assert!(is_alive(&connect(&workload, to).unwrap()), "{to}");
        }
        assert!(is_refused(&connect(&workload, "10.8.0.3:81")));
        assert_eq!(foreign(&guarding.enforcer, &workload), 0);
        // The neighbour would forward it.
        must(&format!(
            "nsenter --net=/run/netns/{} sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1",
            neighbour.namespace
        ));
        send_to(&workload, &mac_of(&neighbour));
        for (number, (_, server)) in SERVERS.iter().enumerate() {
            assert!(!dial(&workload, server, Duration::from_millis(500)), "{server}");
            assert!(foreign(&guarding.enforcer, &workload) > number as u64);
        }
        // Nor where it says that the neighbour is its gateway.
        must(&format!("ip -n {} route replace default via 10.8.0.3", workload.namespace));
        guarding.enforcer.upkeep();
        assert_eq!(in_kernel(&lab, &workload), kept);
        let denied = foreign(&guarding.enforcer, &workload);
        assert!(!dial(&workload, SERVERS[0].1, Duration::from_millis(500)));
        assert!(foreign(&guarding.enforcer, &workload) > denied);
        must(&format!("ip -n {} route replace default via 10.8.0.1", workload.namespace));
        send_to(&workload, BRIDGE_MAC);
        assert!(is_alive(&connect(&workload, SERVERS[0].1).unwrap()));
    });
}

// B40, promise 4
#[test]
fn a_bridge_that_changes_its_mac_is_followed() {
    if !privileged() {
        return;
    }
    let mut lab = Lab::new();
    let workload = lab.bridged();
    serve(&lab.internet());
    inside(&lab.host(), async || {
        let guarding = Guarding::start(&lab, &[(&workload, policy())]);
        allow(&guarding, &workload);
        let live = SERVERS.map(|(_, server)| connect(&workload, server).unwrap());
        must(&format!("ip -n {} link set br0 address 02:00:00:00:08:99", lab.host()));
        let checked = || in_kernel(&lab, &workload).gateway_mac != [0; 6];
        wait_until_async("nothing is checked meanwhile", WAIT, async || (!checked()).then_some(())).await;
        let denied = foreign(&guarding.enforcer, &workload);
        // What would come about by itself within a minute.
        must(&format!("ip -n {} neigh flush dev eth0", workload.namespace));
        assert!(live.iter().all(is_alive));
        assert!(is_alive(&connect(&workload, SERVERS[0].1).unwrap()));
        assert_eq!(foreign(&guarding.enforcer, &workload), denied);
    });
    // The next process begins with what is true then.
    inside(&lab.host(), async || {
        let options = EnforcerOptions { host: lab.options(), state: Some(lab.state()), dns_link: None };
        let enforcer = Enforcer::open(options).unwrap();
        enforcer.apply_endpoint(config(&workload)).unwrap();
        enforcer.upkeep();
        assert_eq!(text(in_kernel(&lab, &workload).gateway_mac), "02:00:00:00:08:99");
        wait_until("it goes on", WAIT, || connect(&workload, SERVERS[0].1).ok());
        // A port that leaves the bridge is no port any more.
        must(&format!("ip -n {} link set {} nomaster", lab.host(), workload.interface));
        enforcer.upkeep();
        assert_eq!(in_kernel(&lab, &workload).gateway_mac, [0; 6]);
    });
}

// B40
#[test]
fn nothing_is_checked_where_another_machine_may_be_the_gateway() {
    if !privileged() {
        return;
    }
    let mut lab = Lab::new();
    let (workload, router, routed) = (lab.bridged(), lab.bridged(), lab.workload());
    serve(&lab.internet());
    inside(&lab.host(), async || {
        must(&format!("ip -n {} route add 192.0.2.0/24 via {}", workload.namespace, router.addresses[0]));
        must(&format!("ip -n {} -6 route replace default via {}", workload.namespace, router.addresses[1]));
        let guarding = Guarding::start(&lab, &[(&workload, policy()), (&routed, policy())]);
        guarding.enforcer.upkeep();
        for one in [&workload, &routed] {
            assert_eq!(in_kernel(&lab, one).gateway_mac, [0; 6]);
        }
        must(&format!("ip -n {} route del 192.0.2.0/24", workload.namespace));
        guarding.enforcer.upkeep();
        let kept = in_kernel(&lab, &workload);
        assert_eq!((text(kept.gateway_mac), kept.on_link), (BRIDGE_MAC.into(), [24, UNCHECKED]));
        // IPv6 goes by the other machine.
        must(&format!(
            "nsenter --net=/run/netns/{} sysctl -qw net.ipv6.conf.all.forwarding=1",
            router.namespace
        ));
        allow(&guarding, &workload);
        assert!(is_alive(&connect(&workload, SERVERS[1].1).unwrap()));
        must(&format!("ip -n {} -6 route replace default via 2001:db8:8::1", workload.namespace));
        guarding.enforcer.upkeep();
        assert_eq!(in_kernel(&lab, &workload).on_link, [24, 64]);
    });
}
