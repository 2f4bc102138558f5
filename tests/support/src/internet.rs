//! A host and the internet behind it, in namespaces of their own.
//!
//! ```text
//!   workload 1 eth0 --- w1 \
//!                            host uplink --- eth0 internet: nsd, web servers
//!   workload 2 eth0 --- w2 /
//! ```
//! The internet holds 198.51.100.0/24, 203.0.113.0/24 and 2001:db8:1::/64, and swallows what is sent elsewhere.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use anyhow::Result;

use crate::{http::WebServers, name_server::NameServer, netns::Netns, workload::Workload};

/// What [`SmallInternet::new`] serves: one name for each kind of answer that tests need.
pub const DEFAULT_ZONE: &str = "\
$TTL 60
@ SOA ns.example. admin.example. 1 3600 600 86400 5
@ NS ns.example.
ns.example.       A     198.51.100.53
ns.example.       AAAA  2001:db8:1::53
allowed.example.  A     198.51.100.10
allowed.example.  AAAA  2001:db8:1::10
six.example.      AAAA  2001:db8:1::10
other.example.    A     198.51.100.11
other.example.    AAAA  2001:db8:1::11
denied.example.   A     203.0.113.10
denied.example.   AAAA  2001:db8:1::20
www.example.      CNAME cdn.example.
cdn.example.      CNAME edge.cdn.example.
edge.cdn.example. A     203.0.113.11
a.pkg.example.    A     203.0.113.12
b.pkg.example.    A     203.0.113.12
short.example. 5  A     198.51.100.12
private.example.  A     10.9.9.9
mixed.example.    A     198.51.100.13
mixed.example.    A     10.9.9.9
loopback.example. A     127.0.0.1
metadata.example. A     169.254.169.254
";

const DNS: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(198, 51, 100, 53)), 53);
const DNS6: SocketAddr = SocketAddr::new(IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 0x53)), 53);

/// The host, the internet with its servers, and whatever workloads are added.
#[derive(Debug)]
pub struct SmallInternet {
    workloads: u8,
    web: WebServers,
    name_server: NameServer,
    host: Netns,
    internet: Netns,
}

impl SmallInternet {
    /// With [`DEFAULT_ZONE`].
    pub fn new() -> Result<Self> {
        Self::with_zone(DEFAULT_ZONE)
    }

    /// With a root zone of one's own.
    pub fn with_zone(zone: &str) -> Result<Self> {
        let (host, internet) = (Netns::new("host")?, Netns::new("internet")?);
        connect(&host, &internet)?;
        let name_server = NameServer::start(&internet, &[DNS, DNS6], zone)?;
        let web = WebServers::start(&internet, &server_addresses(), &[80, 443, 8080])?;
        Ok(Self { workloads: 0, web, name_server, host, internet })
    }

    /// Adds a workload behind the host's next interface (`w1`, `w2`, ...) whose resolv.conf names `dns`.
    pub fn add_workload(&mut self, dns: IpAddr) -> Result<Workload> {
        self.workloads += 1;
        Workload::attach(&self.host, self.workloads, dns)
    }

    /// The host's namespace. It forwards, and its default route leads to the internet by `uplink`.
    pub fn host(&self) -> &Netns {
        &self.host
    }

    /// The namespace of the servers.
    pub fn internet(&self) -> &Netns {
        &self.internet
    }

    /// The web servers: 198.51.100.10-13, 203.0.113.10-12, 2001:db8:1::10, ::11, ::20; ports 80, 443, 8080.
    pub fn web(&self) -> &WebServers {
        &self.web
    }

    /// The name server.
    pub fn name_server(&self) -> &NameServer {
        &self.name_server
    }

    /// The name server's IPv4 address; it has [`dns6`](Self::dns6), too.
    pub fn dns(&self) -> IpAddr {
        DNS.ip()
    }

    /// The name server's IPv6 address.
    pub fn dns6(&self) -> IpAddr {
        DNS6.ip()
    }
}

fn server_addresses() -> Vec<IpAddr> {
    let first = (10..14).map(|last| Ipv4Addr::new(198, 51, 100, last).into());
    let second = (10..13).map(|last| Ipv4Addr::new(203, 0, 113, last).into());
    let six = [0x10, 0x11, 0x20].map(|last| Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, last).into());
    first.chain(second).chain(six).collect()
}

fn connect(host: &Netns, internet: &Netns) -> Result<()> {
    host.join("uplink", internet, "eth0")?;
    host.sysctl(&["net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1"])?;
    host.address("uplink", &["198.51.100.1/24", "203.0.113.1/24", "2001:db8:1::1/64"])?;
    internet.address("eth0", &["198.51.100.254/24", "2001:db8:1::fe/64"])?;
    for address in server_addresses().into_iter().chain([DNS.ip(), DNS6.ip()]) {
        let length = if address.is_ipv4() { 24 } else { 64 };
        internet.address("eth0", &[&format!("{address}/{length}")])?;
    }
    host.ip("route replace default via 198.51.100.254")?;
    host.ip("route replace default via 2001:db8:1::fe")?;
    internet.ip("route replace default via 198.51.100.1")?;
    internet.ip("route replace default via 2001:db8:1::1").map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::privileged;

    #[test]
    fn a_workload_reaches_names_by_both_families() {
        if !privileged() {
            return;
        }
        let mut internet = SmallInternet::new().unwrap();
        let workload = internet.add_workload(internet.dns()).unwrap();
        for (family, address) in [("-4", "198.51.100.10"), ("-6", "2001:db8:1::10")] {
            let said = workload.output("curl", &["-sS", family, "http://allowed.example/"]).unwrap();
            assert_eq!(said, format!("hello from {address}\n"));
            assert_eq!(internet.web().count(address.parse().unwrap()), 1);
        }
        let hits = internet.web().hits();
        assert!(hits.iter().all(|hit| workload.addresses().contains(&hit.client.ip())), "{hits:?}");
        let server = format!("@{}", internet.dns6());
        let said = workload.output("kdig", &["+short", "+tcp", &server, "www.example"]).unwrap();
        assert!(said.contains("203.0.113.11"), "{said}");
    }
}
