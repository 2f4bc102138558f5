//! Which MAC the frames of a workload behind a bridge must carry when they leave its subnet (B40).
//!
//! Known where the gateway is the bridge itself: the workload's routes name addresses of the bridge and nothing else. The
//! MAC is then the bridge's own, read from the host: nothing that the workload or its neighbours say in ARP or neighbour
//! discovery counts. Once known for a family it stays as long as the bridge does, whatever routes the workload makes
//! afterwards. Families that have another machine as their gateway, or none yet, are not checked; nor are links without a
//! namespace.

use std::{
    io,
    net::{IpAddr, Ipv6Addr},
    time::{Duration, Instant},
};

use futures::TryStreamExt;
use ipnet::IpNet;
use nameward_abi::UNCHECKED;
use nix::net::if_::if_nametoindex;
use rtnetlink::{
    Handle, RouteMessageBuilder,
    packet_core::{NetlinkMessage, NetlinkPayload},
    packet_route::{
        RouteNetlinkMessage,
        address::AddressAttribute,
        link::{InfoKind, LinkAttribute, LinkInfo, LinkMessage},
        route::{RouteAddress, RouteAttribute, RouteMessage, RouteType},
    },
};

use crate::{
    kernel::{FarEnd, Gateway},
    netns::{self, netlink},
};

/// How long nothing is checked after a bridge has changed its MAC: neighbours have learned the new one by then (at most
/// 45 s of being reachable, 5 s of delay, 3 s of probes; arp(7)).
const RELEARNED: Duration = Duration::from_secs(60);

/// How far a look goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Depth {
    /// At the host's bridge, where that says enough.
    Bridge,
    /// Also at the workload's routes, as long as a family is not known.
    Routes,
}

/// What is known of an endpoint's gateway.
#[derive(Debug, Default)]
pub(crate) struct Following {
    known: Gateway,
    unchecked_until: Option<Instant>,
}

impl Following {
    /// Begins with what an earlier process knew.
    pub(crate) fn new(known: Gateway) -> Self {
        Self { known, unchecked_until: None }
    }

    /// Whether there is a gateway whose MAC may change.
    pub(crate) fn is_known(&self) -> bool {
        self.known.is_known()
    }

    /// Looks again. Returns what the kernel should check from now on.
    ///
    /// # Errors
    /// When the kernel cannot be asked.
    pub(crate) fn look(
        &mut self,
        interface: &str,
        own: &[IpAddr],
        depth: Depth,
        now: Instant,
    ) -> io::Result<Gateway> {
        Ok(self.follow(find(interface, own, self.known, depth)?, now))
    }

    /// A MAC that takes the place of another is not asked for before everybody has learned it.
    fn follow(&mut self, found: Gateway, now: Instant) -> Gateway {
        let before = std::mem::replace(&mut self.known, found);
        if before.is_known() && found.is_known() && before.mac != found.mac {
            self.unchecked_until = Some(now + RELEARNED);
        }
        self.unchecked_until = self.unchecked_until.filter(|until| found.is_known() && now < *until);
        if self.unchecked_until.is_some() { Gateway::default() } else { found }
    }
}

/// Whether the kernel tells of a bridge that is there.
pub(crate) fn is_of_bridge(message: &NetlinkMessage<RouteNetlinkMessage>) -> bool {
    matches!(&message.payload, NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewLink(link)) if is_bridge(link))
}

/// A bridge with an address.
#[derive(Debug)]
struct Bridge {
    mac: [u8; 6],
    addresses: Vec<IpAddr>,
}

/// Where a workload's own routes lead at one interface.
#[derive(Debug, Default, PartialEq, Eq)]
struct Roads {
    next_hops: Vec<IpAddr>,
    on_link: Vec<IpNet>,
}

fn find(interface: &str, own: &[IpAddr], known: Gateway, depth: Depth) -> io::Result<Gateway> {
    let Some(bridge) = netns::on_thread(|| netlink(async |handle| bridge_of(&handle, interface).await))?
    else {
        return Ok(Gateway::default());
    };
    let stays = known.mac == bridge.mac && !bridge.addresses.is_empty();
    if stays && (depth == Depth::Bridge || !known.on_link.contains(&UNCHECKED)) {
        return Ok(known);
    }
    let found = match FarEnd::find(interface)? {
        Some(far) => {
            far.inside(|| roads(if_nametoindex(&*far.interface)?))?.map(|roads| gateway(&bridge, &roads, own))
        }
        None => None,
    };
    Ok(if stays { merge(known, found.unwrap_or_default()) } else { found.unwrap_or_default() })
}

/// What was known stays; what was not may have become so.
fn merge(known: Gateway, found: Gateway) -> Gateway {
    let mut merged = known;
    for (length, found_length) in merged.on_link.iter_mut().zip(found.on_link) {
        if *length == UNCHECKED && found.is_known() {
            *length = found_length;
        }
    }
    merged
}

/// The bridge as the only gateway of a family, and what the workload reaches without one. Unknown where no family says so.
fn gateway(bridge: &Bridge, roads: &Roads, own: &[IpAddr]) -> Gateway {
    let on_link = [false, true].map(|six| on_link(bridge, roads, own, six).unwrap_or(UNCHECKED));
    if on_link == [UNCHECKED; 2] { Gateway::default() } else { Gateway { mac: bridge.mac, on_link } }
}

/// The length of the prefix that one family has on the link; none where the bridge is not its only gateway.
fn on_link(bridge: &Bridge, roads: &Roads, own: &[IpAddr], six: bool) -> Option<u8> {
    let ours = |hop: &IpAddr| bridge.addresses.contains(hop);
    let mut hops = roads.next_hops.iter().filter(|hop| hop.is_ipv6() == six).peekable();
    hops.peek()?;
    if !hops.all(ours) {
        return None;
    }
    let mut length = 0;
    for net in roads.on_link.iter().filter(|net| net.addr().is_ipv6() == six) {
        let is_own = own.iter().any(|address| net.contains(address));
        let is_hop = net.prefix_len() == net.max_prefix_len() && ours(&net.addr());
        if net.prefix_len() == 0 || !is_own && !is_hop {
            return None;
        }
        if is_own && (length == 0 || net.prefix_len() < length) {
            length = net.prefix_len();
        }
    }
    Some(length)
}

/// The bridge that an interface of the calling thread's namespace is a port of.
async fn bridge_of(handle: &Handle, interface: &str) -> Result<Option<Bridge>, rtnetlink::Error> {
    let Some(port) = netns::link_named(handle, interface).await? else { return Ok(None) };
    let controller = port.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::Controller(index) => Some(*index),
        _ => None,
    });
    let Some(index) = controller else { return Ok(None) };
    let mut links = handle.link().get().match_index(index).execute();
    let Some(link) = links.try_next().await?.filter(is_bridge) else { return Ok(None) };
    let mac = link.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::Address(mac) => <[u8; 6]>::try_from(&**mac).ok(),
        _ => None,
    });
    let Some(mac) = mac else { return Ok(None) };
    let found = handle.address().get().set_link_index_filter(index).execute();
    let found: Vec<_> = found.try_collect().await?;
    let addresses = found.iter().flat_map(|message| &message.attributes).filter_map(|attribute| {
        // IPv4 has both, which differ at links between two; IPv6 has the second only with a peer.
        match attribute {
            AddressAttribute::Local(address) | AddressAttribute::Address(address) => Some(*address),
            _ => None,
        }
    });
    Ok(Some(Bridge { mac, addresses: addresses.collect() }))
}

fn is_bridge(link: &LinkMessage) -> bool {
    link.attributes.iter().any(|attribute| {
        matches!(attribute, LinkAttribute::LinkInfo(all) if all.contains(&LinkInfo::Kind(InfoKind::Bridge)))
    })
}

/// The routes by an interface of the calling thread's namespace, of all tables. None where some are not understood.
fn roads(index: u32) -> io::Result<Option<Roads>> {
    netlink(async |handle| {
        let four = RouteMessageBuilder::<std::net::Ipv4Addr>::new().build();
        let six = RouteMessageBuilder::<Ipv6Addr>::new().build();
        let mut roads = Roads::default();
        for question in [four, six] {
            let routes: Vec<RouteMessage> = handle.route().get(question).execute().try_collect().await?;
            for route in &routes {
                if !add(route, index, &mut roads) {
                    return Ok(None);
                }
            }
        }
        Ok(Some(roads))
    })
}

/// Adds a route. False when it may lead anywhere.
fn add(route: &RouteMessage, index: u32, roads: &mut Roads) -> bool {
    let (mut to, mut by, mut hop) = (None, None, None);
    for attribute in &route.attributes {
        match attribute {
            RouteAttribute::Destination(address) => to = ip(address),
            RouteAttribute::Oif(oif) => by = Some(*oif),
            RouteAttribute::Gateway(address) => hop = ip(address),
            RouteAttribute::MultiPath(_)
            | RouteAttribute::Via(_)
            | RouteAttribute::NhId(_)
            | RouteAttribute::Encap(_) => return false,
            _ => {}
        }
    }
    if route.header.kind != RouteType::Unicast || by != Some(index) {
        return true;
    }
    if let Some(hop) = hop {
        roads.next_hops.push(hop);
        return true;
    }
    let length = route.header.destination_prefix_length;
    let Some(to) = to.and_then(|to| IpNet::new(to, length).ok()) else { return false };
    // What never leaves a link is judged as that.
    let stays = matches!(to, IpNet::V6(net) if net.addr().is_unicast_link_local() && length >= 10)
        || to.addr().is_multicast();
    if !stays {
        roads.on_link.push(to);
    }
    true
}

fn ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(four) => Some((*four).into()),
        RouteAddress::Inet6(six) => Some((*six).into()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
    const OTHER: [u8; 6] = [2, 0, 0, 0, 0, 2];

    fn bridge() -> Bridge {
        let addresses = ["10.0.0.1", "2001:db8::1", "fe80::1"];
        Bridge { mac: MAC, addresses: addresses.map(|text| text.parse().unwrap()).to_vec() }
    }

    fn found(next_hops: &[&str], on_link: &[&str]) -> Gateway {
        let roads = Roads {
            next_hops: next_hops.iter().map(|text| text.parse().unwrap()).collect(),
            on_link: on_link.iter().map(|text| text.parse().unwrap()).collect(),
        };
        gateway(&bridge(), &roads, &["10.0.0.2", "2001:db8::2"].map(|text| text.parse().unwrap()))
    }

    // B40
    #[test]
    fn a_bridge_is_the_gateway_where_all_routes_of_a_family_say_so() {
        let gateway = |four, six| Gateway { mac: MAC, on_link: [four, six] };
        let none = Gateway::default();
        assert_eq!(found(&["10.0.0.1"], &["10.0.0.0/24"]), gateway(24, UNCHECKED));
        assert_eq!(found(&["10.0.0.1", "fe80::1"], &["10.0.0.0/16", "2001:db8::/64"]), gateway(16, 64));
        assert_eq!(
            found(&["10.0.0.1", "fe80::7"], &["10.0.0.0/16", "2001:db8::/64"]),
            gateway(16, UNCHECKED)
        );
        assert_eq!(found(&["10.0.0.1"], &["10.0.0.1/32", "10.0.0.2/32"]), gateway(32, UNCHECKED));
        assert_eq!(found(&["10.0.0.1"], &["10.0.0.1/32"]), gateway(0, UNCHECKED));
        assert_eq!(found(&["10.0.0.1"], &["10.0.0.0/24", "10.0.0.0/20"]), gateway(20, UNCHECKED));
        assert_eq!(found(&[], &["10.0.0.0/24"]), none, "no gateway");
        assert_eq!(found(&["10.0.0.1", "10.0.0.7"], &["10.0.0.0/24"]), none, "another router as well");
        assert_eq!(found(&["10.0.0.1"], &["10.0.0.0/24", "10.9.0.0/24"]), none, "others on the link");
        assert_eq!(found(&["10.0.0.1"], &["0.0.0.0/0"]), none, "everybody on the link");
    }

    // B40
    #[test]
    fn what_is_known_stays_and_the_rest_may_become_so() {
        let gateway = |four, six| Gateway { mac: MAC, on_link: [four, six] };
        assert_eq!(merge(gateway(24, UNCHECKED), gateway(UNCHECKED, 64)), gateway(24, 64));
        assert_eq!(merge(gateway(24, 64), gateway(8, UNCHECKED)), gateway(24, 64));
        assert_eq!(merge(gateway(24, UNCHECKED), Gateway::default()), gateway(24, UNCHECKED));
    }

    // B40
    #[test]
    fn another_mac_is_asked_for_when_everybody_has_learned_it() {
        let begin = Instant::now();
        let (first, second) =
            (Gateway { mac: MAC, on_link: [24, 64] }, Gateway { mac: OTHER, on_link: [24, 64] });
        let none = Gateway::default();
        let mut following = Following::default();
        assert_eq!(following.follow(none, begin), none);
        assert_eq!(following.follow(first, begin), first);
        assert_eq!(following.follow(second, begin), none);
        assert_eq!(following.follow(second, begin + RELEARNED / 2), none);
        assert_eq!(following.follow(second, begin + RELEARNED), second);
        assert_eq!(following.follow(none, begin + RELEARNED), none);
        assert_eq!(following.follow(first, begin + RELEARNED), first, "nothing was asked for before");
    }
}
