//! The flag that would allow what was denied.

use std::{collections::BTreeSet, net::IpAddr};

use nameward_policy::{
    Name,
    address::{AddressClass, judge},
};

use super::{Fact, Subject};

const ICMP: u8 = 1;
const TCP: u8 = 6;
const UDP: u8 = 17;
const ICMPV6: u8 = 58;
const SCTP: u8 = 132;

/// The flag, when there is one that helps.
pub(super) fn of(fact: &Fact) -> Option<String> {
    match (&fact.subject, fact.reason.as_str()) {
        // A deny rule wins over every flag.
        (_, "denied-cidr") => None,
        (Subject::Question { .. }, "filtered") if fact.policy.is_some() => None,
        (Subject::Question { name }, "filtered") => Some(format!("--allow {}", valid(name)?)),
        (Subject::Question { .. }, "private-address") if fact.unopenable.is_some() => None,
        (Subject::Question { name }, "private-address") => Some(format!("--allow-private {}", valid(name)?)),
        (Subject::Packet { inbound: true, .. }, _) => None,
        (
            Subject::Packet { protocol, address, port, name, .. },
            "no-match" | "port" | "expired" | "protocol",
        ) => Some(match name.as_deref().and_then(valid).filter(|_| may_be_named(*address, *protocol)) {
            Some(name) => {
                let rule = format!("--allow {name}:{port}/{}", protocol_word(*protocol));
                match judge(*address) {
                    // Where nothing is denied a name gives these, too (--audit); they need their own word elsewhere.
                    AddressClass::Private(_) => format!("{rule} --allow-private {name}"),
                    AddressClass::Global | AddressClass::Never(_) => rule,
                }
            }
            None => format!("--allow-cidr {}", block(*address, *protocol, *port)),
        }),
        _ => None,
    }
}

/// What allows the same as all these flags: a name with a port also answers the name's questions.
pub(super) fn narrowest(flags: impl Iterator<Item = String>) -> BTreeSet<String> {
    let all: BTreeSet<String> = flags.collect();
    let wider = |flag: &str| {
        let mut narrower = all.range(format!("{flag}:")..).take_while(|other| other.starts_with(flag));
        flag.starts_with("--allow ") && narrower.any(|other| other[flag.len()..].starts_with(':'))
    };
    all.iter().filter(|flag| !wider(flag)).cloned().collect()
}

fn block(address: IpAddr, protocol: u8, port: u16) -> String {
    let word = protocol_word(protocol);
    match address {
        // A number behind a bare address would be a prefix length.
        IpAddr::V4(v4) if word.parse::<u8>().is_ok() => format!("{v4}/32/{word}"),
        IpAddr::V6(v6) if word.parse::<u8>().is_ok() => format!("{v6}/128/{word}"),
        _ => format!("{}/{word}", place(address, protocol, port)),
    }
}

/// Whether a rule about a name could open it (A3).
fn may_be_named(address: IpAddr, protocol: u8) -> bool {
    matches!(protocol, TCP | UDP) && !matches!(judge(address), AddressClass::Never(_))
}

/// What to do about reasons that no flag lifts.
pub(super) fn advice(fact: &Fact) -> Option<String> {
    let text = match (&fact.subject, fact.reason.as_str()) {
        (Subject::Question { .. }, "private-address") => {
            let address = fact.unopenable?;
            return Some(format!("no name may open {address}: use --allow-cidr {address}"));
        }
        (_, "upstream") => {
            "the DNS server gave no answer or an error: see that it answers this host, or name another one with --dns"
        }
        (_, "dns-elsewhere") => {
            "use the system's DNS: other DNS servers and DNS over TLS cannot be used inside"
        }
        (_, "foreign-netns") => "inside, network namespaces of others cannot be used",
        (_, "inbound") => "connections from outside are not accepted",
        _ => return None,
    };
    Some(text.to_owned())
}

/// Address and port as the command line takes them.
pub(super) fn place(address: IpAddr, protocol: u8, port: u16) -> String {
    match address {
        _ if !has_ports(protocol) => address.to_string(),
        IpAddr::V4(v4) => format!("{v4}:{port}"),
        IpAddr::V6(v6) => format!("[{v6}]:{port}"),
    }
}

/// The protocol as the command line takes it.
pub(super) fn protocol_word(protocol: u8) -> String {
    match protocol {
        TCP => "tcp".to_owned(),
        UDP => "udp".to_owned(),
        SCTP => "sctp".to_owned(),
        ICMP | ICMPV6 => "icmp".to_owned(),
        other => other.to_string(),
    }
}

/// Whether packets of a protocol have ports.
pub(super) const fn has_ports(protocol: u8) -> bool {
    matches!(protocol, TCP | UDP | SCTP)
}

/// A name that a rule could have (SEMANTICS N1).
fn valid(name: &str) -> Option<Name> {
    Name::parse(name).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::Verdict;
    use crate::rules::{cidr_rule, name_rule};

    fn flag(protocol: u8, address: &str, name: Option<&str>, reason: &str) -> Option<String> {
        let subject = Subject::Packet {
            protocol,
            address: address.parse().unwrap(),
            port: 9,
            name: name.map(str::to_owned),
            inbound: false,
        };
        let (reason, policy) = (reason.into(), None);
        of(&Fact { subject, verdict: Verdict::Deny, reason, policy, unopenable: None })
    }

    // X4: what is suggested can be typed.
    #[test]
    fn flags_are_valid_rules() {
        for (protocol, address) in
            [(6, "2001:db8::1"), (17, "192.0.2.1"), (1, "192.0.2.1"), (58, "2001:db8::1"), (47, "192.0.2.1")]
        {
            let flag = flag(protocol, address, None, "no-match").unwrap();
            cidr_rule(flag.strip_prefix("--allow-cidr ").unwrap()).unwrap();
        }
        let named = flag(6, "192.0.2.1", Some("a.example"), "port").unwrap();
        name_rule(named.strip_prefix("--allow ").unwrap()).unwrap();
        let private = flag(6, "10.0.0.1", Some("a.example"), "no-match");
        assert_eq!(private.as_deref(), Some("--allow a.example:9/tcp --allow-private a.example"), "A3");
        let unopenable = flag(6, "127.0.0.1", Some("a.example"), "no-match");
        assert_eq!(unopenable.as_deref(), Some("--allow-cidr 127.0.0.1:9/tcp"), "A3");
    }

    // X4: the summary offers nothing that is wider than what was tried.
    #[test]
    fn a_name_with_a_port_is_enough() {
        let narrowest = |flags: &[&str]| -> Vec<String> {
            super::narrowest(flags.iter().copied().map(str::to_owned)).into_iter().collect()
        };
        assert_eq!(
            narrowest(&["--allow a.example", "--allow a.example:443/tcp"]),
            ["--allow a.example:443/tcp"]
        );
        let apart = ["--allow a.example", "--allow a.example.org:443/tcp", "--allow-private a.example"];
        assert_eq!(narrowest(&apart), apart);
    }

    #[test]
    fn what_no_flag_lifts_has_none() {
        assert_eq!(flag(6, "192.0.2.1", None, "denied-cidr"), None);
        assert_eq!(flag(6, "192.0.2.1", None, "foreign-netns"), None);
        assert_eq!(
            flag(1, "192.0.2.1", Some("a.example"), "no-match").unwrap(),
            "--allow-cidr 192.0.2.1/icmp"
        );
    }
}
