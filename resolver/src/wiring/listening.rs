//! Sockets for serving without an enforcer: UDP and TCP at each address of `--listen`.

use std::{
    io,
    net::{SocketAddr, TcpListener, UdpSocket},
};

use anyhow::{Result, anyhow};
use nameward_feed::sockets::{DnsSocket, Transport};

/// How many ports are tried where any free one is asked for: one that is free for UDP may be taken for TCP.
const FREE_PORTS: usize = 20;

/// Opens all, or says which one cannot be had and what to do.
pub(super) fn open(addresses: &[SocketAddr]) -> Result<Vec<DnsSocket>> {
    let mut sockets = Vec::new();
    for address in addresses {
        let (udp, tcp) = open_both(*address)?;
        tracing::info!(address = %udp.local_addr()?, "listening on UDP and TCP");
        for (transport, socket) in [(Transport::Udp, udp.into()), (Transport::Tcp, tcp.into())] {
            sockets.push(DnsSocket { transport, server: None, socket });
        }
    }
    Ok(sockets)
}

/// Port 0 asks for any free port; both transports have the same one.
fn open_both(address: SocketAddr) -> Result<(UdpSocket, TcpListener)> {
    let mut left = if address.port() == 0 { FREE_PORTS } else { 1 };
    loop {
        left -= 1;
        let failed = |transport| move |error: io::Error| explain(address, transport, &error);
        let udp = UdpSocket::bind(address).map_err(failed("UDP"))?;
        match TcpListener::bind(udp.local_addr().map_err(failed("UDP"))?) {
            Ok(tcp) => return Ok((udp, tcp)),
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && left > 0 => {}
            Err(error) => return Err(explain(address, "TCP", &error)),
        }
    }
}

fn explain(address: SocketAddr, transport: &str, error: &io::Error) -> anyhow::Error {
    let advice = match error.kind() {
        io::ErrorKind::AddrInUse => {
            "another DNS server has this port: stop it, or choose another one with --listen"
        }
        io::ErrorKind::PermissionDenied => "ports below 1024 need root or CAP_NET_BIND_SERVICE",
        io::ErrorKind::AddrNotAvailable => "no interface of this host has this address",
        _ => "choose another address with --listen",
    };
    anyhow!("cannot listen at {address} ({transport}): {error}; {advice}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_that_is_taken_is_said() {
        let taken = UdpSocket::bind("127.0.0.1:0").unwrap();
        let error = open(&[taken.local_addr().unwrap()]).unwrap_err().to_string();
        assert!(error.contains("another DNS server has this port"), "{error}");
        let error = open(&["192.0.2.1:0".parse().unwrap()]).unwrap_err().to_string();
        assert!(error.contains("no interface of this host"), "{error}");
        assert_eq!(open(&["127.0.0.1:0".parse().unwrap()]).unwrap().len(), 2);
    }
}
