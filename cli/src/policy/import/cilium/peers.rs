//! Destinations of Cilium's rules.

use ipnet::IpNet;
use nameward_crds::{ClusterPlace, Peer};

use super::Effect;
use crate::policy::import::{
    Options, Widen,
    at::At,
    draft::{self, cluster, every_address, everywhere},
    kubernetes::{self, block_peer, net},
    names::{Dialect, exact, pattern},
    notes::Notes,
};

/// Where clusters have their own addresses, when nobody says which they are.
const CLUSTER_LIKE: &[&str] = &["10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "fc00::/7"];

/// The destinations of the one member that a rule has.
pub(super) fn peers(
    at: &At<'_>,
    member: &str,
    effect: Effect,
    options: &Options,
    notes: &mut Notes,
) -> Vec<Peer> {
    match member {
        "toFQDNs" => names(at, effect, options, notes),
        "toCIDR" => {
            let blocks = at.texts("toCIDR", notes);
            let nets = blocks
                .iter()
                .filter_map(|(at, text)| net(at, text, notes).map(|net| (at.clone(), net, vec![])));
            let nets: Vec<_> = nets.collect();
            nets.into_iter()
                .filter_map(|(at, net, except)| outside(&at, net, except, effect, options, notes))
                .collect()
        }
        "toCIDRSet" => {
            let sets = at.list("toCIDRSet", notes);
            sets.iter().filter_map(|set| cidr_set(set, effect, options, notes)).collect()
        }
        "toEntities" => entities(at, effect, options, notes),
        other => {
            let member = at.get(other).unwrap_or_else(|| at.clone());
            if at.says(other) {
                let reason = match other {
                    "toEndpoints" => {
                        "pods by label are no destinations here; write `cluster: [Pods]` if every pod is meant, and let their own NetworkPolicy say who may come in"
                    }
                    "toServices" => {
                        "services by name are no destinations here; write `cluster: [Services]` if every service is meant"
                    }
                    "toNodes" => {
                        "nodes by label are no destinations here; write `cluster: [Nodes]` if every node is meant"
                    }
                    _ => {
                        "groups of a cloud are no destinations here; write their names or blocks of addresses"
                    }
                };
                notes.left(&member, reason);
            }
            Vec::new()
        }
    }
}

fn names(at: &At<'_>, effect: Effect, options: &Options, notes: &mut Notes) -> Vec<Peer> {
    if effect == Effect::Deny {
        notes.left(at, "Cilium has no toFQDNs in egressDeny");
        return Vec::new();
    }
    let mut all = Vec::new();
    for selector in at.list("toFQDNs", notes) {
        if !selector.only(&["matchName", "matchPattern"], notes) {
            continue;
        }
        match (selector.get("matchName"), selector.get("matchPattern")) {
            (Some(name), None) => {
                let Some(text) = name.text(notes) else { continue };
                match exact(text) {
                    Ok(name) => all.push(name),
                    Err(reason) => notes.left(&name, reason),
                }
            }
            (None, Some(found)) => {
                let Some(text) = found.text(notes) else { continue };
                all.extend(pattern(&found, text, Dialect::Cilium, options, notes));
            }
            _ => notes.left(&selector, "exactly one of matchName and matchPattern is expected here"),
        }
    }
    if all.is_empty() { Vec::new() } else { vec![draft::names(all)] }
}

fn cidr_set(at: &At<'_>, effect: Effect, options: &Options, notes: &mut Notes) -> Option<Peer> {
    for group in ["cidrGroupRef", "cidrGroupSelector"] {
        if let Some(found) = at.get(group) {
            notes.left(&found, "CiliumCIDRGroups are not read; write their blocks of addresses");
            return None;
        }
    }
    let (net, except) = kubernetes::ip_block(at, notes)?;
    outside(at, net, except, effect, options, notes)
}

/// Cilium's blocks are about what is outside of the cluster (`ToCIDR` in pkg/policy/api/egress.go); ours are about every
/// address. So the cluster's ranges become exceptions.
fn outside(
    at: &At<'_>,
    net: IpNet,
    mut except: Vec<IpNet>,
    effect: Effect,
    options: &Options,
    notes: &mut Notes,
) -> Option<Peer> {
    if options.cluster.iter().any(|range| range.contains(&net)) {
        notes.told(at, format!("{net} is within the cluster, where Cilium's blocks mean nothing"));
        return None;
    }
    except.extend(options.cluster.iter().filter(|range| net.contains(*range)));
    let meets =
        |text: &&&str| text.parse::<IpNet>().is_ok_and(|range| range.contains(&net) || net.contains(&range));
    let likely = CLUSTER_LIKE.iter().find(meets).filter(|_| options.cluster.is_empty());
    match (likely, effect) {
        (None, _) => {}
        (Some(_), Effect::Deny) => {
            notes.told(at, format!("{net} is denied also where it is the cluster's own: Cilium's blocks are not about that; --cluster-cidr says what is"));
        }
        (Some(_), Effect::Allow) if options.widens(Widen::Cluster) => {
            notes.told(
                at,
                format!("widened, as you said: {net} is allowed also where it is the cluster's own"),
            );
        }
        (Some(_), Effect::Allow) => {
            notes.left(at, format!("{net} may hold the cluster's own addresses, which Cilium's blocks are not about; import with --cluster-cidr for each range of pods, services and nodes, or with --widen cluster"));
            return None;
        }
    }
    block_peer(net, &except)
}

/// Groups of destinations that Cilium knows by itself (Documentation/security/policy/language.rst, "Entities based").
fn entities(at: &At<'_>, effect: Effect, options: &Options, notes: &mut Notes) -> Vec<Peer> {
    let all = at.texts("toEntities", notes);
    let has = |wanted: &str| all.iter().any(|(_, entity)| *entity == wanted);
    let every_node = has("host") && has("remote-node");
    let mut peers = Vec::new();
    for (at, entity) in &all {
        match *entity {
            "all" if effect == Effect::Allow => peers.extend(everywhere()),
            "all" => peers.extend(every_address()),
            "cluster" => {
                peers.push(cluster(&[ClusterPlace::Pods, ClusterPlace::Services, ClusterPlace::Nodes]));
            }
            "kube-apiserver" => peers.push(cluster(&[ClusterPlace::APIServer])),
            "host" | "remote-node" if every_node => peers.push(cluster(&[ClusterPlace::Nodes])),
            "host" | "remote-node" if effect == Effect::Deny || options.widens(Widen::Nodes) => {
                notes.told(at, format!("`{entity}` becomes every node: one's own and others are not told apart here"));
                peers.push(cluster(&[ClusterPlace::Nodes]));
            }
            "host" | "remote-node" => notes.left(at, format!("`{entity}` is some of the nodes, which are not told apart here; write `cluster: [Nodes]`, or import with --widen nodes")),
            "world" if options.cluster.is_empty() => notes.left(at, "`world` is everything outside of the cluster; import with --cluster-cidr for each range of pods, services and nodes"),
            "world" => {
                if effect == Effect::Allow {
                    peers.push(draft::names(vec!["*".into()]));
                }
                peers.extend(world(options));
            }
            "none" => {}
            other => notes.left(at, format!("`{other}` has no counterpart here")),
        }
    }
    peers
}

fn world(options: &Options) -> Vec<Peer> {
    let within =
        |net: &IpNet| options.cluster.iter().copied().filter(|range| net.contains(range)).collect::<Vec<_>>();
    let every = ["0.0.0.0/0", "::/0"].iter().filter_map(|text| text.parse::<IpNet>().ok());
    every.filter_map(|net| block_peer(net, &within(&net))).collect()
}
