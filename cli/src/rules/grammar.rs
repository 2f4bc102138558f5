//! The rule grammar of the command line (SEMANTICS X1): `NAME[:PORT[-PORT]][/tcp|/udp]` and
//! `CIDR[:PORT[-PORT]][/PROTO]`, IPv6 addresses with ports in brackets.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use anyhow::{Context, Result, anyhow, bail, ensure};
use ipnet::IpNet;
use nameward_policy::{Effect, Pattern, Peer, PortSpec, Protocol, Rule};

use super::{not_empty, typed};

/// A value of `--allow`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct NameRule {
    text: String,
    pattern: Pattern,
    ports: Vec<PortSpec>,
}

/// A value of `--allow-cidr`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct CidrRule {
    text: String,
    cidr: IpNet,
    ports: Vec<PortSpec>,
}

impl NameRule {
    pub(super) fn to_rule(&self) -> Rule {
        let mut rule = Rule::new(typed("--allow", &self.text), &self.text, Effect::Allow);
        rule.peers = vec![Peer::Names(vec![self.pattern.clone()])];
        rule.ports.clone_from(&self.ports);
        rule
    }
}

impl CidrRule {
    pub(super) fn to_rule(&self) -> Rule {
        let mut rule = Rule::new(typed("--allow-cidr", &self.text), &self.text, Effect::Allow);
        rule.peers = vec![Peer::Block { cidr: self.cidr, except: vec![] }];
        rule.ports.clone_from(&self.ports);
        rule
    }

    /// What looks like a port without brackets is the end of an IPv6 address.
    pub(super) fn warning(&self) -> Option<String> {
        let (address, end) = self.text.rsplit_once(':')?;
        let end = end.split('/').next()?;
        let is_like_a_port = end.len() > 1 && end.bytes().all(|octet| octet.is_ascii_digit());
        address.parse::<Ipv6Addr>().ok().filter(|_| is_like_a_port)?;
        let text = &self.text;
        Some(format!(
            "--allow-cidr {text}: {end} is part of the address; a port is written [{address}]:{end}"
        ))
    }
}

/// Reads a value of `--allow`.
pub(crate) fn name_rule(text: &str) -> Result<NameRule> {
    not_empty(text, "example.com:443")?;
    if let Some((scheme, rest)) = text.split_once("://") {
        let host = rest.split(['/', ':']).next().unwrap_or(rest);
        let port = if scheme == "http" { 80 } else { 443 };
        bail!("this is a URL; write the name and the port: {host}:{port}");
    }
    let bare = text.trim_start_matches('[');
    if bare.parse::<IpAddr>().is_ok() || bare.parse::<IpNet>().is_ok() || text.parse::<SocketAddr>().is_ok() {
        bail!("this is an address, not a name; write --allow-cidr {text}");
    }
    let (rest, protocol) = match text.rsplit_once('/') {
        Some((rest, word)) => (rest, Some(name_protocol(word)?)),
        None => (text, None),
    };
    let (name, range) = match rest.split_once(':') {
        Some((name, range)) => (name, Some(port_range(range)?)),
        None => (rest, None),
    };
    Ok(NameRule { text: text.to_owned(), pattern: pattern(name)?, ports: ports(protocol, range)? })
}

/// Reads a value of `--allow-cidr`.
pub(crate) fn cidr_rule(text: &str) -> Result<CidrRule> {
    not_empty(text, "198.51.100.0/24:443")?;
    let (rest, protocol) = split_protocol(text)?;
    let (address, range) = split_ports(rest)?;
    Ok(CidrRule { text: text.to_owned(), cidr: cidr(&address)?, ports: ports(protocol, range)? })
}

/// Reads a name or `*.NAME`, in any script.
pub(crate) fn pattern(text: &str) -> Result<Pattern> {
    not_empty(text, "example.com")?;
    Ok(Pattern::from_input(text)?)
}

/// Reads a value of `--dns`.
pub(crate) fn dns_server(text: &str) -> Result<SocketAddr> {
    const PORT: u16 = 53;
    if let Ok(address) = text.parse::<IpAddr>() {
        return Ok((address, PORT).into());
    }
    if let Some(address) = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        return Ok(
            (address.parse::<IpAddr>().context("write an address: --dns [2001:db8::53]:53")?, PORT).into()
        );
    }
    let server: SocketAddr = text.parse().map_err(|_| {
        anyhow!("write the server's address: 192.0.2.53, 192.0.2.53:5353 or [2001:db8::53]:53")
    })?;
    ensure!(server.port() != 0, "0 is no port; write {}", server.ip());
    Ok(server)
}

fn name_protocol(word: &str) -> Result<Protocol> {
    match word.to_ascii_lowercase().as_str() {
        "tcp" => Ok(Protocol::Tcp),
        "udp" => Ok(Protocol::Udp),
        _ => bail!("after the slash comes tcp or udp, not {word:?}"),
    }
}

/// Splits `/PROTO` off: a word, or a number behind a prefix length.
fn split_protocol(text: &str) -> Result<(&str, Option<Protocol>)> {
    let Some((rest, word)) = text.rsplit_once('/') else { return Ok((text, None)) };
    if let Ok(number) = word.parse::<u8>() {
        // `10.0.0.0/8` is a prefix length, `10.0.0.0/8/47` and `10.0.0.1:80/6` are protocols.
        let has_port = rest.parse::<SocketAddr>().is_ok();
        return Ok(if rest.contains('/') || has_port {
            (rest, Some(Protocol::Number(number)))
        } else {
            (text, None)
        });
    }
    if word.contains(':') || word.contains(']') {
        return Ok((text, None));
    }
    let protocol = match word.to_ascii_lowercase().as_str() {
        "tcp" => Protocol::Tcp,
        "udp" => Protocol::Udp,
        "sctp" => Protocol::Sctp,
        "icmp" => Protocol::IcmpEcho,
        "any" => Protocol::Any,
        _ => bail!("{word:?} is no protocol; write tcp, udp, sctp, icmp, any or a number from 0 to 255"),
    };
    Ok((rest, Some(protocol)))
}

/// Splits `:PORT[-PORT]` off.
fn split_ports(text: &str) -> Result<(String, Option<(u16, u16)>)> {
    if let Some(rest) = text.strip_prefix('[') {
        let (inside, outside) =
            rest.split_once(']').context("the bracket is not closed; write [2001:db8::1]:443")?;
        // Both `[2001:db8::/32]:443` and `[2001:db8::]/32:443`.
        let (length, range) = match outside.split_once(':') {
            Some((length, range)) => (length, Some(port_range(range)?)),
            None => (outside, None),
        };
        return Ok((format!("{inside}{length}"), range));
    }
    match text.split_once(':') {
        Some((_, range)) if range.contains(':') => Ok((text.to_owned(), None)),
        Some((address, range)) => Ok((address.to_owned(), Some(port_range(range)?))),
        None => Ok((text.to_owned(), None)),
    }
}

fn cidr(text: &str) -> Result<IpNet> {
    let net = match text.parse::<IpAddr>() {
        Ok(address) => IpNet::from(address),
        Err(_) => text.parse::<IpNet>().map_err(|_| {
            anyhow!(
                "{text:?} is no address or range; write 198.51.100.7, 198.51.100.0/24 or [2001:db8::1]:443"
            )
        })?,
    };
    ensure!(net.trunc() == net, "{net} has bits beyond its prefix length; write {}", net.trunc());
    Ok(net)
}

fn port_range(text: &str) -> Result<(u16, u16)> {
    let port = |digits: &str| match digits.parse::<u16>() {
        Ok(port) if port > 0 && digits.bytes().all(|byte| byte.is_ascii_digit()) => Ok(port),
        _ => Err(anyhow!(
            "{digits:?} is no port; write a number from 1 to 65535, or two with a dash between them"
        )),
    };
    let (first, last) = match text.split_once('-') {
        Some((first, last)) => (port(first)?, port(last)?),
        None => (port(text)?, port(text)?),
    };
    ensure!(first <= last, "the range {first}-{last} is empty; write {last}-{first}");
    Ok((first, last))
}

/// Every TCP and UDP port by default; a port without a protocol means both.
fn ports(protocol: Option<Protocol>, range: Option<(u16, u16)>) -> Result<Vec<PortSpec>> {
    let spec = |protocol| match range {
        Some((first, last)) => PortSpec::range(protocol, first, last),
        None => PortSpec::all(protocol),
    };
    match protocol {
        None => Ok(vec![spec(Protocol::Tcp), spec(Protocol::Udp)]),
        Some(protocol) if range.is_some() && !protocol.has_ports() => {
            bail!("{protocol} has no ports; leave the port away, or write /tcp, /udp or /sctp")
        }
        Some(protocol) => Ok(vec![spec(protocol)]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(text: &str) -> (String, Vec<String>) {
        let rule = name_rule(text).unwrap();
        (rule.pattern.to_string(), rule.ports.iter().map(PortSpec::to_string).collect())
    }

    fn cidrs(text: &str) -> (String, Vec<String>) {
        let rule = cidr_rule(text).unwrap();
        (rule.cidr.to_string(), rule.ports.iter().map(PortSpec::to_string).collect())
    }

    fn said(result: Result<impl std::fmt::Debug>) -> String {
        format!("{:#}", result.unwrap_err())
    }

    // X1
    #[test]
    fn a_port_behind_a_bare_ipv6_address_is_warned_of() {
        let warning = |text: &str| cidr_rule(text).unwrap().warning();
        for text in ["2001:db8::1:443", "2001:db8::1:443/tcp"] {
            assert!(warning(text).unwrap().ends_with("a port is written [2001:db8::1]:443"), "{text}");
        }
        for text in ["2001:db8::1", "2001:db8::1:2", "2001:db8::443", "[2001:db8::1]:443", "192.0.2.1:443"] {
            assert_eq!(warning(text), None, "{text}");
        }
    }

    // X1
    #[test]
    fn names_with_ports_and_protocols() {
        assert_eq!(names("Example.COM."), ("example.com".into(), vec!["TCP".into(), "UDP".into()]));
        assert_eq!(
            names("example.com:443"),
            ("example.com".into(), vec!["TCP 443".into(), "UDP 443".into()])
        );
        assert_eq!(names("*.example.com:80-90/TCP"), ("*.example.com".into(), vec!["TCP 80-90".into()]));
        assert_eq!(names("example.com/udp"), ("example.com".into(), vec!["UDP".into()]));
        assert_eq!(names("bücher.example").0, "xn--bcher-kva.example");
    }

    // X1
    #[test]
    fn addresses_with_ports_and_protocols() {
        assert_eq!(cidrs("198.51.100.7"), ("198.51.100.7/32".into(), vec!["TCP".into(), "UDP".into()]));
        assert_eq!(
            cidrs("198.51.100.0/24:8000-8999/tcp"),
            ("198.51.100.0/24".into(), vec!["TCP 8000-8999".into()])
        );
        assert_eq!(cidrs("127.0.0.1:80/udp"), ("127.0.0.1/32".into(), vec!["UDP 80".into()]));
        assert_eq!(cidrs("10.0.0.0/8/icmp"), ("10.0.0.0/8".into(), vec!["ICMPEcho".into()]));
        assert_eq!(cidrs("10.0.0.0/8/47"), ("10.0.0.0/8".into(), vec!["protocol 47".into()]));
        assert_eq!(cidrs("0.0.0.0/0/any").1, ["Any"]);
        assert_eq!(cidrs("2001:db8::/32").0, "2001:db8::/32");
        assert_eq!(cidrs("2001:db8::1/tcp"), ("2001:db8::1/128".into(), vec!["TCP".into()]));
        assert_eq!(cidrs("[2001:db8::1]:443/tcp"), ("2001:db8::1/128".into(), vec!["TCP 443".into()]));
        for text in ["[2001:db8::/32]:443/tcp", "[2001:db8::]/32:443/tcp"] {
            assert_eq!(cidrs(text), ("2001:db8::/32".into(), vec!["TCP 443".into()]));
        }
    }

    #[test]
    fn mistakes_say_what_to_write() {
        for (text, hint) in [
            ("", "example.com:443"),
            ("https://example.com/x", "write the name and the port: example.com:443"),
            ("198.51.100.7", "--allow-cidr 198.51.100.7"),
            ("198.51.100.7:443", "--allow-cidr 198.51.100.7:443"),
            ("example.com:0", "1 to 65535"),
            ("example.com:+1", "1 to 65535"),
            ("example.com:90-80", "80-90"),
            ("example.com/icmp", "tcp or udp"),
            ("a*.example.com", "*.example.com"),
            ("a..example", "empty label"),
            ("exa mple.com", "contains ` `"),
        ] {
            assert!(said(name_rule(text)).contains(hint), "{text}: {}", said(name_rule(text)));
        }
        for (text, hint) in [
            ("example.com", "198.51.100.0/24"),
            ("198.51.100.7/24", "write 198.51.100.0/24"),
            ("198.51.100.0/33", "no address or range"),
            ("10.0.0.0/8:80/icmp", "has no ports"),
            ("10.0.0.0/8/gre", "is no protocol"),
            ("[2001:db8::1:443", "bracket"),
        ] {
            assert!(said(cidr_rule(text)).contains(hint), "{text}: {}", said(cidr_rule(text)));
        }
        assert!(said(dns_server("dns.example")).contains("address"));
        assert!(said(dns_server("192.0.2.53:0")).contains("write 192.0.2.53"));
        assert_eq!(dns_server("2001:db8::53").unwrap().to_string(), "[2001:db8::53]:53");
        assert_eq!(dns_server("127.0.0.1:5353").unwrap().to_string(), "127.0.0.1:5353");
    }
}
