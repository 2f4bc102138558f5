//! Addresses of this host, which no name may open (SEMANTICS A3).

use std::{
    io,
    net::{IpAddr, Ipv4Addr},
};

use ipnet::{IpNet, Ipv4Net};
use nix::{
    ifaddrs::{InterfaceAddress, getifaddrs},
    net::if_::InterfaceFlags,
};

/// Addresses of all interfaces in the calling thread's network namespace, in order, each once.
///
/// # Errors
/// When the kernel does not tell.
pub(crate) fn own_addresses() -> io::Result<Vec<IpNet>> {
    let mut own: Vec<IpNet> =
        getifaddrs().map_err(io::Error::from)?.filter_map(|entry| own(&entry)).collect();
    own.sort_unstable();
    own.dedup();
    Ok(own)
}

fn own(entry: &InterfaceAddress) -> Option<IpNet> {
    let address = entry.address.as_ref()?;
    if let Some(four) = address.as_sockaddr_in().map(|four| four.ip()) {
        let mask = entry.netmask.as_ref().and_then(|mask| mask.as_sockaddr_in().map(|mask| mask.ip()));
        let all = entry.flags.contains(InterfaceFlags::IFF_LOOPBACK).then_some(mask).flatten();
        return (!is_never_granted(four.into())).then(|| subnet(four, all));
    }
    let six = IpAddr::from(address.as_sockaddr_in6()?.ip());
    (!is_never_granted(six)).then(|| six.into())
}

/// On the loopback interface the kernel takes every IPv4 address of a subnet for its own (`fib_add_ifaddr`).
fn subnet(address: Ipv4Addr, mask: Option<Ipv4Addr>) -> IpNet {
    let subnet = mask.and_then(|mask| Ipv4Net::with_netmask(address, mask).ok());
    subnet.map_or_else(|| IpNet::from(IpAddr::from(address)), |subnet| subnet.trunc().into())
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

    // A3
    #[test]
    fn loopback_stands_for_itself_and_subnets_on_it_are_whole() {
        assert!(own_addresses().unwrap().iter().all(|net| !is_never_granted(net.addr())));
        let (address, mask) = (Ipv4Addr::new(203, 0, 113, 9), Ipv4Addr::new(255, 255, 255, 0));
        assert_eq!(subnet(address, Some(mask)).to_string(), "203.0.113.0/24");
        assert_eq!(subnet(address, None).to_string(), "203.0.113.9/32");
    }
}
