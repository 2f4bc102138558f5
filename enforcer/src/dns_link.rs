//! The way of redirected DNS: a veth pair into a network namespace of our own, where nothing of the host stands
//! between the programs and the resolver's sockets: no firewall, no route, no `rp_filter`.
//!
//! Gives each endpoint its identity addresses and the [`DnsRedirect`] of its configuration, and the sockets that
//! resolvers serve. Link, namespace and sockets outlive this process; [`remove`](DnsLink::remove) takes them away.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    os::fd::AsRawFd,
    path::PathBuf,
};

use nameward_abi::{DnsRedirect, TRUSTED_SERVERS, TrustedServer};
use nameward_feed::sockets::{DnsSocket, Transport};
use rtnetlink::{
    LinkUnspec, LinkVeth,
    packet_route::{address::AddressHeaderFlags, link::LinkAttribute},
};
use socket2::{Domain, Protocol, Socket, Type};
use thiserror::Error;

use crate::{
    kernel::{Host, KernelError, address_bytes},
    netns::{self, NamedNamespace, netlink},
};

/// Identity addresses: one of each family an endpoint, by its index.
const IDENTITIES4: Ipv4Addr = Ipv4Addr::new(169, 254, 128, 0);
const IDENTITIES6: Ipv6Addr = Ipv6Addr::new(0xfd6e, 0x616d, 0x6577, 0x6172, 0, 0, 1, 0);
const RESOLVER4: Ipv4Addr = Ipv4Addr::new(169, 254, 53, 53);
const RESOLVER6: Ipv6Addr = Ipv6Addr::new(0xfd6e, 0x616d, 0x6577, 0x6172, 0, 0, 0, 0x53);
/// Endpoints that have an address in 169.254.128.0/17, without its first and last.
pub const IDENTITIES: u16 = 0x7ffe;
const DEFAULT_PORT: u16 = 53;
const FIRST_TRUSTED_PORT: u16 = 5301;
/// Queries wait here while a resolver restarts.
const RECEIVE_BUFFER: usize = 4 << 20;

/// Names of the link and its namespace; several instances on one host differ in them.
#[derive(Clone, Debug)]
pub struct DnsLinkOptions {
    /// Our end in the host's namespace.
    pub link: String,
    /// The file that names the namespace of the far end.
    pub namespace: PathBuf,
    /// Servers that get a port of their own, at most [`TRUSTED_SERVERS`].
    pub trusted: Vec<SocketAddr>,
}

impl Default for DnsLinkOptions {
    fn default() -> Self {
        Self { link: "nameward0".into(), namespace: "/run/nameward/netns/dns".into(), trusted: Vec::new() }
    }
}

/// What can go wrong with the link.
#[derive(Debug, Error)]
pub enum DnsLinkError {
    /// A namespace, a socket or a system setting.
    #[error("cannot {operation} for the DNS link")]
    System {
        /// Verb and object.
        operation: &'static str,
        /// Cause.
        source: io::Error,
    },
    /// More servers than fit.
    #[error(
        "{found} trusted DNS servers are configured, {TRUSTED_SERVERS} are possible: remove some from `trusted`"
    )]
    TooManyServers {
        /// How many there were.
        found: usize,
    },
    /// Programs or maps.
    #[error(transparent)]
    Kernel(#[from] KernelError),
}

/// The link, up and with its program.
#[derive(Debug)]
pub struct DnsLink {
    options: DnsLinkOptions,
    namespace: NamedNamespace,
    near: Near,
    far_mac: [u8; 6],
    sockets: Vec<DnsSocket>,
}

#[derive(Clone, Copy, Debug)]
struct Near {
    index: u32,
    mac: [u8; 6],
}

impl DnsLink {
    /// Makes the link, or finds the one that an earlier process left, opens sockets in it and attaches the program
    /// that sends answers back.
    ///
    /// # Errors
    /// [`DnsLinkError`].
    pub fn open(options: DnsLinkOptions, host: &Host) -> Result<Self, DnsLinkError> {
        if options.trusted.len() > TRUSTED_SERVERS {
            return Err(DnsLinkError::TooManyServers { found: options.trusted.len() });
        }
        let namespace = NamedNamespace::open_or_create(&options.namespace)
            .map_err(system("make the network namespace"))?;
        let near = near_end(&options.link, &namespace).map_err(system("make the veth pair"))?;
        let far_mac = far_end(&far_name(&options.link), &namespace).map_err(system("set up the far end"))?;
        let sockets =
            namespace.inside(|| open_sockets(&options.trusted)).map_err(system("open DNS sockets"))?;
        host.attach_dns_return(&options.link)?;
        Ok(Self { options, namespace, near, far_mac, sockets })
    }

    /// The identity addresses of the endpoint with this index, 1 to [`IDENTITIES`].
    pub fn identity(index: u16) -> (Ipv4Addr, Ipv6Addr) {
        let index = u32::from(index.clamp(1, IDENTITIES));
        let four = Ipv4Addr::from(u32::from(IDENTITIES4) | index);
        (four, Ipv6Addr::from(u128::from(IDENTITIES6) | u128::from(index)))
    }

    /// The redirect of an interface endpoint. Servers of `trusted` that the link has no sockets for are backends of its first
    /// one, as far as there is room.
    pub fn redirect(&self, index: u16, trusted: &[SocketAddr]) -> DnsRedirect {
        let (four, six) = Self::identity(index);
        let mut redirect = DnsRedirect {
            resolver4: address_bytes(RESOLVER4.into()),
            resolver6: address_bytes(RESOLVER6.into()),
            identity4: address_bytes(four.into()),
            identity6: address_bytes(six.into()),
            link_ifindex: self.near.index,
            default_port: DEFAULT_PORT.to_be_bytes(),
            link_mac: self.near.mac,
            far_mac: self.far_mac,
            ..DnsRedirect::default()
        };
        let own = &self.options.trusted;
        let first = if own.is_empty() { DEFAULT_PORT } else { FIRST_TRUSTED_PORT };
        let others = trusted.iter().filter(|server| !own.contains(server)).map(|server| (*server, first));
        for (slot, (server, port)) in redirect.trusted.iter_mut().zip(with_ports(own).chain(others)) {
            *slot = TrustedServer {
                address: address_bytes(server.ip()),
                port: server.port().to_be_bytes(),
                resolver_port: port.to_be_bytes(),
                ..TrustedServer::default()
            };
        }
        redirect
    }

    /// Copies of the sockets, for a resolver; this process keeps its own, so that questions wait in them.
    ///
    /// # Errors
    /// When descriptors run out.
    pub fn sockets(&self) -> io::Result<Vec<DnsSocket>> {
        self.sockets
            .iter()
            .map(|one| {
                let socket = one.socket.try_clone()?;
                Ok(DnsSocket { transport: one.transport, server: one.server, socket })
            })
            .collect()
    }

    /// Takes link and namespace away; sockets go with their last holder.
    ///
    /// # Errors
    /// [`DnsLinkError::System`].
    pub fn remove(&self) -> Result<(), DnsLinkError> {
        delete_link(&self.options.link).map_err(system("remove the veth pair"))?;
        self.namespace.remove().map_err(system("remove the network namespace"))
    }

    /// Takes away what an earlier process left under these names.
    ///
    /// # Errors
    /// [`DnsLinkError::System`].
    pub fn remove_left(options: &DnsLinkOptions) -> Result<(), DnsLinkError> {
        delete_link(&options.link).map_err(system("remove the veth pair"))?;
        netns::remove(&options.namespace).map_err(system("remove the network namespace"))
    }
}

fn system(operation: &'static str) -> impl FnOnce(io::Error) -> DnsLinkError {
    move |source| DnsLinkError::System { operation, source }
}

fn far_name(link: &str) -> String {
    // 15 bytes is the longest name of an interface.
    format!("{}r", &link[..link.len().min(14)])
}

fn with_ports(trusted: &[SocketAddr]) -> impl Iterator<Item = (SocketAddr, u16)> + '_ {
    trusted.iter().copied().zip(FIRST_TRUSTED_PORT..)
}

/// Our end, found or made; its far end goes into the namespace.
fn near_end(link: &str, namespace: &NamedNamespace) -> io::Result<Near> {
    let far = far_name(link);
    let complete = namespace.inside(|| netlink(async |handle| Ok(find(&handle, &far).await.is_some())))?;
    netns::on_thread(|| {
        netlink(async |handle| {
            let known = find(&handle, link).await;
            if let Some(near) = known
                && complete
            {
                return Ok(near);
            }
            if let Some(Near { index, .. }) = known {
                handle.link().del(index).execute().await?;
            }
            handle.link().add(LinkVeth::new(link, &far).build()).execute().await?;
            let fd = namespace.file().as_raw_fd();
            handle.link().set(LinkUnspec::new_with_name(&far).setns_by_fd(fd).build()).execute().await?;
            quiet(link);
            handle.link().set(LinkUnspec::new_with_name(link).arp(false).up().build()).execute().await?;
            find(&handle, link).await.ok_or(rtnetlink::Error::RequestFailed)
        })
    })
}

/// The far end with its addresses; without ARP and neighbour discovery, for nobody there would answer.
fn far_end(far: &str, namespace: &NamedNamespace) -> io::Result<[u8; 6]> {
    namespace.inside(|| {
        netlink(async |handle| {
            handle.link().set(LinkUnspec::new_with_name(far).arp(false).up().build()).execute().await?;
            let Near { index, mac } = find(&handle, far).await.ok_or(rtnetlink::Error::RequestFailed)?;
            // The prefixes cover the identity addresses: they are reached without further routes.
            handle.address().add(index, RESOLVER4.into(), 16).replace().execute().await?;
            let mut six = handle.address().add(index, RESOLVER6.into(), 64).replace();
            // Usable at once: nobody else can have it here.
            six.message_mut().header.flags |= AddressHeaderFlags::Nodad;
            six.execute().await?;
            Ok(mac)
        })
    })
}

async fn find(handle: &rtnetlink::Handle, name: &str) -> Option<Near> {
    let message = netns::link_named(handle, name).await.ok()??;
    let mac = message.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::Address(bytes) => <[u8; 6]>::try_from(bytes.as_slice()).ok(),
        _ => None,
    })?;
    Some(Near { index: message.header.index, mac })
}

fn delete_link(link: &str) -> io::Result<()> {
    netns::on_thread(|| {
        netlink(async |handle| match find(&handle, link).await {
            Some(Near { index, .. }) => handle.link().del(index).execute().await,
            None => Ok(()),
        })
    })
}

/// Our end carries frames for programs only: the host's IPv6 need not greet anybody there.
fn quiet(link: &str) {
    let setting = format!("/proc/sys/net/ipv6/conf/{link}/disable_ipv6");
    if let Err(error) = std::fs::write(&setting, "1") {
        tracing::debug!(setting, %error, "the DNS link keeps a link-local address");
    }
}

fn open_sockets(trusted: &[SocketAddr]) -> io::Result<Vec<DnsSocket>> {
    let four = IpAddr::from(RESOLVER4);
    let six = IpAddr::from(RESOLVER6);
    let mut plan = vec![(four, DEFAULT_PORT, None), (six, DEFAULT_PORT, None)];
    for (server, port) in with_ports(trusted) {
        plan.push((if server.is_ipv4() { four } else { six }, port, Some(server)));
    }
    let mut sockets = Vec::with_capacity(plan.len() * 2);
    for (address, port, server) in plan {
        for transport in [Transport::Udp, Transport::Tcp] {
            let socket = open_socket(transport, SocketAddr::new(address, port))?;
            sockets.push(DnsSocket { transport, server, socket: socket.into() });
        }
    }
    Ok(sockets)
}

/// A socket that shares its port with those of an earlier process.
pub(crate) fn open_socket(transport: Transport, address: SocketAddr) -> io::Result<Socket> {
    let (kind, protocol) = match transport {
        Transport::Udp => (Type::DGRAM, Protocol::UDP),
        Transport::Tcp => (Type::STREAM, Protocol::TCP),
    };
    let socket = Socket::new(Domain::for_address(address), kind.nonblocking(), Some(protocol))?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    // A resolver may still hold the sockets of the process before this one; only our own user may share them.
    socket.set_reuse_port(true)?;
    socket.bind(&address.into())?;
    match transport {
        Transport::Udp => socket.set_recv_buffer_size(RECEIVE_BUFFER)?,
        Transport::Tcp => socket.listen(1024)?,
    }
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identities_are_distinct_and_never_the_resolver() {
        let (first4, first6) = DnsLink::identity(1);
        let (last4, last6) = DnsLink::identity(IDENTITIES);
        assert_eq!(first4, Ipv4Addr::new(169, 254, 128, 1));
        assert_eq!(last4, Ipv4Addr::new(169, 254, 255, 254));
        assert_ne!(first6, last6);
        assert!(first4 > RESOLVER4);
        assert!(first6 > RESOLVER6);
    }
}
