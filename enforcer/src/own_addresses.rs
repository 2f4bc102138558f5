//! Addresses of this host, which no name may open (SEMANTICS A3): those of its interfaces, and what else its local routing
//! table takes in: prefixes that are local as a whole, broadcast addresses of subnets, anycast addresses of routers.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use futures::TryStreamExt;
use ipnet::IpNet;
use nix::ifaddrs::{InterfaceAddress, getifaddrs};
use rtnetlink::{
    packet_core::{NetlinkMessage, NetlinkPayload},
    packet_route::{
        AddressFamily, RouteNetlinkMessage,
        route::{RouteAddress, RouteAttribute, RouteMessage, RouteType},
    },
};

use crate::netns;

/// `RT_TABLE_LOCAL` of rtnetlink(7). Local routes of other tables are those of proxies: they count for marked packets.
const LOCAL_TABLE: u8 = 255;

/// Addresses of all interfaces and the local routing table in the calling thread's network namespace, in order, each once.
///
/// # Errors
/// When the kernel does not tell.
pub(crate) fn own_addresses() -> io::Result<Vec<IpNet>> {
    // Those of interfaces that are down, or in a VRF, are in no local table.
    let mut own: Vec<IpNet> =
        getifaddrs().map_err(io::Error::from)?.filter_map(|entry| of_interface(&entry)).collect();
    own.extend(netns::on_thread(local_routes)?.iter().filter_map(of_route));
    own.sort_unstable();
    own.dedup();
    Ok(own)
}

/// Whether a message of the kernel tells that its local routing table takes in something else now.
pub(crate) fn is_of_own_route(message: &NetlinkMessage<RouteNetlinkMessage>) -> bool {
    use RouteNetlinkMessage::{DelRoute, NewRoute};
    matches!(
        &message.payload,
        NetlinkPayload::InnerMessage(NewRoute(route) | DelRoute(route)) if of_route(route).is_some()
    )
}

fn of_interface(entry: &InterfaceAddress) -> Option<IpNet> {
    let address = entry.address.as_ref()?;
    let four = address.as_sockaddr_in().map(|four| IpAddr::from(four.ip()));
    let six = address.as_sockaddr_in6().map(|six| IpAddr::from(six.ip()));
    four.or(six).filter(|address| !is_never_granted(*address)).map(IpNet::from)
}

/// What a route makes the host's own; none of a route that leads somewhere.
fn of_route(route: &RouteMessage) -> Option<IpNet> {
    let header = &route.header;
    let is_own = matches!(header.kind, RouteType::Local | RouteType::Broadcast | RouteType::Anycast);
    if header.table != LOCAL_TABLE || !is_own {
        return None;
    }
    let to = route.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Destination(RouteAddress::Inet(four)) => Some((*four).into()),
        RouteAttribute::Destination(RouteAddress::Inet6(six)) => Some((*six).into()),
        _ => None,
    });
    // A route of everything names no destination.
    let to = to.or(match header.address_family {
        AddressFamily::Inet => Some(Ipv4Addr::UNSPECIFIED.into()),
        AddressFamily::Inet6 => Some(Ipv6Addr::UNSPECIFIED.into()),
        _ => None,
    });
    let net = to.and_then(|to| IpNet::new(to, header.destination_prefix_length).ok())?;
    (!is_never_granted(net.addr())).then(|| net.trunc())
}

fn local_routes() -> io::Result<Vec<RouteMessage>> {
    netns::strict_netlink(async |handle| {
        let mut found = Vec::new();
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            // Routers have many routes in other tables.
            let mut question = RouteMessage::default();
            (question.header.address_family, question.header.table) = (family, LOCAL_TABLE);
            found.extend(handle.route().get(question).execute().try_collect::<Vec<_>>().await?);
        }
        Ok(found)
    })
}

/// Loopback and link-local addresses are never granted anyway; each interface of a pod has another one of the latter.
const fn is_never_granted(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(four) => four.is_loopback() || four.is_link_local(),
        IpAddr::V6(six) => six.is_loopback() || six.is_unicast_link_local(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(kind: RouteType, to: &str) -> RouteMessage {
        let to: IpNet = to.parse().unwrap();
        let (family, address) = match to.addr() {
            IpAddr::V4(four) => (AddressFamily::Inet, RouteAddress::Inet(four)),
            IpAddr::V6(six) => (AddressFamily::Inet6, RouteAddress::Inet6(six)),
        };
        let mut route = RouteMessage::default();
        (route.header.table, route.header.kind, route.header.address_family) = (LOCAL_TABLE, kind, family);
        route.header.destination_prefix_length = to.prefix_len();
        if to.prefix_len() > 0 {
            route.attributes.push(RouteAttribute::Destination(address));
        }
        route
    }

    // A3
    #[test]
    fn loopback_stands_for_itself() {
        assert!(own_addresses().unwrap().iter().all(|net| !is_never_granted(net.addr())));
    }

    // A3
    #[test]
    fn what_the_local_table_takes_in_is_the_host_s() {
        use RouteType::{Anycast, Broadcast, Local, Multicast, Unicast};
        let own = |kind, to| of_route(&route(kind, to)).map(|net| net.to_string());
        for (kind, to) in [
            (Local, "203.0.113.0/24"),
            (Local, "2001:db8::/64"),
            (Broadcast, "203.0.113.255/32"),
            (Anycast, "2001:db8::/128"),
            (Local, "0.0.0.0/0"),
            (Local, "::/0"),
        ] {
            assert_eq!(own(kind, to).as_deref(), Some(to));
        }
        for (kind, to) in [
            (Local, "127.0.0.0/8"),
            (Broadcast, "127.255.255.255/32"),
            (Local, "::1/128"),
            (Local, "fe80::1/128"),
            (Anycast, "fe80::/128"),
            (Multicast, "ff00::/8"),
            (Unicast, "203.0.113.0/24"),
        ] {
            assert_eq!(own(kind, to), None, "{kind:?} {to}");
        }
        let mut of_a_proxy = route(Local, "0.0.0.0/0");
        of_a_proxy.header.table = 100;
        assert_eq!(of_route(&of_a_proxy), None);
    }
}
