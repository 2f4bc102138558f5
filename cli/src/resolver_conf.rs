//! The system's DNS servers, and what the sandbox gets to see of the name service files (SEMANTICS X7).
//!
//! Reads resolv.conf(5) and nsswitch.conf(5) texts; asks nobody. A stub listener (127.0.0.53) is a server like
//! any other here: it stands outside of the sandbox and answers us.

use std::fmt::Write;
use std::net::{IpAddr, SocketAddr};

const DNS_PORT: u16 = 53;

/// Servers of a resolv.conf, in order.
pub(crate) fn servers(resolv_conf: &str) -> Vec<SocketAddr> {
    resolv_conf
        .lines()
        .filter_map(|line| {
            let mut words = line.split_whitespace();
            (words.next()? == "nameserver").then_some(())?;
            server(words.next()?)
        })
        .collect()
}

/// A link-local server has its interface behind a percent sign.
fn server(text: &str) -> Option<SocketAddr> {
    let (address, zone) = text.split_once('%').map_or((text, None), |(address, zone)| (address, Some(zone)));
    let scope = zone.and_then(|zone| zone.parse().ok().or_else(|| nix::net::if_::if_nametoindex(zone).ok()));
    Some(match address.parse::<IpAddr>().ok()? {
        IpAddr::V4(v4) => (v4, DNS_PORT).into(),
        IpAddr::V6(v6) => std::net::SocketAddrV6::new(v6, DNS_PORT, 0, scope.unwrap_or(0)).into(),
    })
}

/// The resolv.conf of the sandbox: the host's search list and options, and `servers`. Queries to any address are
/// brought to our resolver; which one is written here only matters to programs that show it.
pub(crate) fn for_sandbox(resolv_conf: &str, servers: &[SocketAddr]) -> String {
    let mut text = String::new();
    for server in servers {
        // Writing to a String cannot fail.
        writeln!(text, "nameserver {}", server.ip()).ok();
    }
    for line in resolv_conf.lines() {
        if matches!(line.split_whitespace().next(), Some("search" | "domain" | "options" | "sortlist")) {
            text.push_str(line);
            text.push('\n');
        }
    }
    text
}

/// The nsswitch.conf of the sandbox: hosts are looked up in the hosts file and by DNS, nowhere else.
pub(crate) fn plain_dns(nsswitch_conf: &str) -> String {
    let others = nsswitch_conf.lines().filter(|line| !line.trim_start().starts_with("hosts:"));
    others.chain(["hosts: files dns"]).flat_map(|line| [line, "\n"]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const STUB: &str = "# by systemd-resolved\nnameserver 127.0.0.53\nnameserver 2001:db8::53\noptions edns0 trust-ad\nsearch corp.example\n";

    #[test]
    fn servers_are_found_in_order() {
        let found: Vec<String> = servers(STUB).iter().map(SocketAddr::to_string).collect();
        assert_eq!(found, ["127.0.0.53:53", "[2001:db8::53]:53"]);
        assert_eq!(servers("nameserver\nnameserver x\n#nameserver 192.0.2.1\n"), []);
        assert_eq!(servers("nameserver fe80::1%1")[0].to_string(), "[fe80::1%1]:53");
    }

    // X7
    #[test]
    fn the_sandbox_keeps_search_and_options_only() {
        let text = for_sandbox(STUB, &["192.0.2.53:5353".parse().unwrap()]);
        assert_eq!(text, "nameserver 192.0.2.53\noptions edns0 trust-ad\nsearch corp.example\n");
    }

    // X7
    #[test]
    fn hosts_are_looked_up_by_dns_only() {
        let text = plain_dns("passwd: files systemd\nhosts: mymachines resolve [!UNAVAIL=return] files\n");
        assert_eq!(text, "passwd: files systemd\nhosts: files dns\n");
    }
}
