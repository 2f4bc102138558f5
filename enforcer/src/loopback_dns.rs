//! DNS of cgroup endpoints: listeners on 127.0.0.1 and ::1, on ports of each endpoint's own. The port a query
//! arrives at says whose it is and which server was meant; socket hooks send queries there.

use std::{
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
};

use nameward_abi::{DnsRedirect, TRUSTED_SERVERS, TrustedServer};
use nameward_feed::{
    Identity,
    sockets::{DnsSocket, Transport},
};

use crate::{dns_link::open_socket, kernel::address_bytes};

/// Ports that are tried before giving up: one must be free in both families and for both transports.
const ATTEMPTS: usize = 64;

/// Listeners of one endpoint.
#[derive(Debug)]
pub struct LoopbackDns {
    /// What the endpoint's programs have to know.
    pub redirect: DnsRedirect,
    /// The listeners.
    pub sockets: Vec<DnsSocket>,
}

impl LoopbackDns {
    /// Opens listeners for the servers in `trusted`, and one set for all others. Ports of `before`, the redirect
    /// that the endpoint has in the kernel, are taken again when they can be.
    ///
    /// # Errors
    /// When there are too many servers, no descriptors, or no free ports.
    pub fn open(trusted: &[SocketAddr], before: Option<&DnsRedirect>) -> io::Result<Self> {
        if trusted.len() > TRUSTED_SERVERS {
            let text = format!("{} trusted DNS servers, {TRUSTED_SERVERS} are possible", trusted.len());
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        }
        let mut dns = Self {
            redirect: DnsRedirect {
                resolver4: address_bytes(Ipv4Addr::LOCALHOST.into()),
                resolver6: address_bytes(Ipv6Addr::LOCALHOST.into()),
                ..DnsRedirect::default()
            },
            sockets: Vec::new(),
        };
        let wanted = before.map(|redirect| u16::from_be_bytes(redirect.default_port));
        dns.redirect.default_port = dns.listen(None, wanted)?.to_be_bytes();
        for (index, server) in trusted.iter().enumerate() {
            let wanted = before.and_then(|redirect| port_of(redirect, *server));
            let port = dns.listen(Some(*server), wanted)?;
            dns.redirect.trusted[index] = TrustedServer {
                address: address_bytes(server.ip()),
                port: server.port().to_be_bytes(),
                resolver_port: port.to_be_bytes(),
                ..TrustedServer::default()
            };
        }
        Ok(dns)
    }

    /// What tells this endpoint's queries from others'.
    pub fn identity(&self) -> Vec<Identity> {
        let trusted = self.redirect.trusted.iter().map(|server| server.resolver_port);
        [self.redirect.default_port]
            .into_iter()
            .chain(trusted)
            .map(u16::from_be_bytes)
            .filter(|port| *port != 0)
            .map(Identity::Port)
            .collect()
    }

    fn listen(&mut self, server: Option<SocketAddr>, wanted: Option<u16>) -> io::Result<u16> {
        if let Some(port) = wanted.filter(|port| *port != 0)
            && let Ok(sockets) = listen_at(server, port)
        {
            self.sockets.extend(sockets);
            return Ok(port);
        }
        let mut failure = None;
        for _ in 0..ATTEMPTS {
            // Without reuse, so that the kernel gives a port that nobody has.
            let port = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port();
            match listen_at(server, port) {
                Ok(sockets) => {
                    self.sockets.extend(sockets);
                    return Ok(port);
                }
                Err(error) => failure = Some(error),
            }
        }
        Err(failure.unwrap_or_else(|| io::ErrorKind::AddrInUse.into()))
    }
}

fn listen_at(server: Option<SocketAddr>, port: u16) -> io::Result<Vec<DnsSocket>> {
    let mut sockets = Vec::with_capacity(4);
    for address in
        [SocketAddr::from((Ipv4Addr::LOCALHOST, port)), SocketAddr::from((Ipv6Addr::LOCALHOST, port))]
    {
        for transport in [Transport::Udp, Transport::Tcp] {
            match open_socket(transport, address) {
                Ok(socket) => sockets.push(DnsSocket { transport, server, socket: socket.into() }),
                // A host without IPv6 has no IPv6 queries either.
                Err(error) if address.is_ipv6() && error.raw_os_error() == Some(libc::EADDRNOTAVAIL) => {}
                Err(error) => return Err(error),
            }
        }
    }
    Ok(sockets)
}

fn port_of(redirect: &DnsRedirect, server: SocketAddr) -> Option<u16> {
    let address = address_bytes(server.ip());
    let known = redirect
        .trusted
        .iter()
        .find(|known| known.address == address && known.port == server.port().to_be_bytes())?;
    Some(u16::from_be_bytes(known.resolver_port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_server_has_a_port_and_keeps_it() {
        let trusted = ["127.0.0.53:53".parse().unwrap(), "[2001:db8::53]:53".parse().unwrap()];
        let first = LoopbackDns::open(&trusted, None).unwrap();
        assert_eq!(first.identity().len(), 3);
        assert!(first.sockets.len() == 12 || first.sockets.len() == 6);
        let again = LoopbackDns::open(&trusted, Some(&first.redirect)).unwrap();
        assert_eq!(again.redirect, first.redirect);
        let other = LoopbackDns::open(&trusted, None).unwrap();
        assert!(other.identity().iter().all(|identity| !first.identity().contains(identity)));
    }
}
