//! The DNS servers behind our resolver, and an early word when there are none.
//!
//! An empty datagram to each server: a DNS server drops it, a port where nobody listens answers it with an error,
//! and where no route leads it cannot be sent. That costs no time, because the answer is looked for only when
//! everything else is ready. It asks no name.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

use anyhow::{Result, bail};

/// The servers and what their probes said.
#[derive(Debug)]
pub(crate) struct Upstream {
    servers: Vec<SocketAddr>,
    probes: Vec<io::Result<UdpSocket>>,
    needed: bool,
}

impl Upstream {
    /// Sends the probes. `needed`: whether any rule names a name; without one, no server is needed.
    pub(crate) fn probe(servers: Vec<SocketAddr>, needed: bool) -> Result<Self> {
        if needed && servers.is_empty() {
            bail!("there is no DNS server in /etc/resolv.conf; name one with --dns ADDR");
        }
        let probes = servers.iter().map(|server| probe(*server)).collect();
        Ok(Self { servers, probes, needed })
    }

    /// The servers, best first.
    pub(crate) fn servers(&self) -> &[SocketAddr] {
        &self.servers
    }

    /// Fails when every server is known to be absent.
    pub(crate) fn answered_or_fail(&self) -> Result<()> {
        let mut reasons = Vec::new();
        for (server, probe) in self.servers.iter().zip(&self.probes) {
            match probe.as_ref().map(UdpSocket::take_error) {
                Ok(Ok(None)) => return Ok(()),
                Ok(Ok(Some(error)) | Err(error)) => reasons.push(format!("{server}: {error}")),
                Err(error) => reasons.push(format!("{server}: {error}")),
            }
        }
        if self.needed {
            bail!(
                "no DNS server can be reached ({}); start it, or name another one with --dns",
                reasons.join("; ")
            );
        }
        Ok(())
    }
}

fn probe(server: SocketAddr) -> io::Result<UdpSocket> {
    let any: SocketAddr = match server {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let socket = UdpSocket::bind(any)?;
    socket.set_nonblocking(true)?;
    socket.connect(server)?;
    socket.send(&[])?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_server_is_a_mistake_only_where_one_is_needed() {
        assert!(Upstream::probe(vec![], true).unwrap_err().to_string().contains("--dns"));
        Upstream::probe(vec![], false).unwrap().answered_or_fail().unwrap();
    }

    #[test]
    fn a_port_where_nobody_listens_is_noticed() {
        let listening = UdpSocket::bind("127.0.0.1:0").unwrap();
        let there = listening.local_addr().unwrap();
        let gone = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        Upstream::probe(vec![there], true).unwrap().answered_or_fail().unwrap();
        let absent = Upstream::probe(vec![gone], true).unwrap();
        let error = absent.answered_or_fail().unwrap_err().to_string();
        assert!(error.contains(&gone.to_string()) && error.contains("--dns"), "{error}");
        Upstream::probe(vec![gone, there], true).unwrap().answered_or_fail().unwrap();
    }
}
