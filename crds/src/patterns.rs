//! The patterns of the schema, and what to tell the author of a file whose text does not fit.
//!
//! A pattern is what an API server can check; a judge knows more (SEMANTICS N1, N4, R7) and says what to write. What
//! a judge lets pass fits the pattern, so that the file works in a cluster, too (X5).

use ipnet::IpNet;
use nameward_policy::{Name, Pattern, Schedule};

/// A DNS label (RFC 1123).
pub(crate) const LABEL: &str = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$";
/// A domain name, `*.` and a domain name, or `*`.
pub(crate) const DOMAIN_NAME: &str = r"^(\*|(\*\.)?[A-Za-z0-9_-]{1,63}(\.[A-Za-z0-9_-]{1,63})*)\.?$";
/// A domain name.
pub(crate) const NAME: &str = r"^[A-Za-z0-9_-]{1,63}(\.[A-Za-z0-9_-]{1,63})*\.?$";
/// An address and a prefix length.
pub(crate) const CIDR: &str = r"^[0-9A-Fa-f:.]+/[0-9]{1,3}$";
/// A date and time as RFC 3339 has it.
pub(crate) const DATE_TIME: &str =
    r"^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{1,9})?(Z|[+-][0-9]{2}:[0-9]{2})$";
/// Hours and minutes.
pub(crate) const TIME_OF_DAY: &str = r"^([01][0-9]|2[0-3]):[0-5][0-9]$";
/// An IANA time zone.
pub(crate) const TIME_ZONE: &str = r"^[A-Za-z0-9_+/-]+$";
/// A label's key: an optional DNS subdomain and `/`, then a name.
pub(crate) const LABEL_KEY: &str =
    r"^([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?$";
/// A label's value.
pub(crate) const LABEL_VALUE: &str = r"^([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?$";
/// The name of an object: a DNS subdomain.
pub(crate) const OBJECT_NAME: &str = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$";
/// The name of a network interface.
pub(crate) const INTERFACE: &str = r"^[^/\s:]{1,15}$";
/// An absolute path.
pub(crate) const ABSOLUTE: &str = r"^/.*$";
/// An IP address.
pub(crate) const ADDRESS: &str = r"^[0-9A-Fa-f:.]+$";
/// An IP address and a port.
pub(crate) const SOCKET_ADDRESS: &str = r"^([0-9.]+|\[[0-9A-Fa-f:.]+\]):[0-9]{1,5}$";

/// What becomes of a text in a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Judgement {
    /// It is fine.
    Fits,
    /// It is fine once it is written like this.
    Means(String),
    /// It is not, and this is what to write.
    Wrong(String),
}

/// Judges a text by one of the patterns above. `None` when only the pattern itself counts.
pub(crate) fn judge(pattern: &str, text: &str) -> Option<Judgement> {
    Some(match pattern {
        DOMAIN_NAME => domain_name(text),
        NAME => verdict(Name::parse(text).map_err(|error| error.to_string())),
        CIDR => verdict(cidr(text)),
        DATE_TIME => verdict(date_time(text)),
        TIME_OF_DAY => {
            verdict(Schedule::parse::<&str>(&[], text, text, "UTC").map_err(|error| error.to_string()))
        }
        TIME_ZONE => {
            verdict(Schedule::parse::<&str>(&[], "00:00", "00:00", text).map_err(|error| error.to_string()))
        }
        ADDRESS => verdict(address(text)),
        SOCKET_ADDRESS => verdict(socket_address(text)),
        _ => return None,
    })
}

/// What to write where only the pattern counts.
pub(crate) fn advice(pattern: &str) -> &'static str {
    match pattern {
        LABEL => "write lower-case letters, digits and dashes, with a letter or digit at both ends",
        OBJECT_NAME => {
            "write lower-case letters, digits, dashes and dots, with a letter or digit at both ends"
        }
        LABEL_KEY => "write a label like `app` or `example.com/app`",
        LABEL_VALUE => {
            "a label's value has at most 63 letters, digits, dashes, underscores and dots, with a letter or digit at both ends"
        }
        INTERFACE => "write the name of a network interface, at most 15 characters, like `veth0`",
        ABSOLUTE => "write an absolute path",
        _ => "it must match the pattern of its schema",
    }
}

fn verdict<T>(result: Result<T, String>) -> Judgement {
    result.map_or_else(Judgement::Wrong, |_| Judgement::Fits)
}

fn domain_name(text: &str) -> Judgement {
    match Pattern::from_input(text) {
        Ok(pattern) if !text.is_ascii() => Judgement::Means(pattern.to_string()),
        Ok(_) => Judgement::Fits,
        Err(error) => Judgement::Wrong(error.to_string()),
    }
}

/// Reads a block as rules have it: canonical, and IPv4 as IPv4.
pub(crate) fn cidr(text: &str) -> Result<IpNet, String> {
    let Ok(net) = text.parse::<IpNet>() else {
        return Err(match text.parse::<std::net::IpAddr>() {
            Ok(address) => format!("`{text}` is an address; write the block `{}`", IpNet::from(address)),
            Err(_) => format!("`{text}` is not a block of addresses; write one like `198.51.100.0/24`"),
        });
    };
    if let IpNet::V6(v6) = net
        && v6.addr().to_ipv4_mapped().is_some()
    {
        return Err(format!("`{text}` wraps IPv4 addresses; write them as IPv4, like `198.51.100.0/24`"));
    }
    if net != net.trunc() {
        return Err(format!("`{text}` has bits set beyond its prefix; write `{}`", net.trunc()));
    }
    Ok(net)
}

/// Reads a block, canonical or not, as the API server's CEL does.
pub(crate) fn any_cidr(text: &str) -> Option<IpNet> {
    let net: IpNet = text.parse().ok()?;
    let wrapped = matches!(net, IpNet::V6(v6) if v6.addr().to_ipv4_mapped().is_some());
    (!wrapped).then_some(net)
}

/// Reads a date and time.
pub(crate) fn date_time(text: &str) -> Result<jiff::Timestamp, String> {
    let wrong = || format!("`{text}` is not a date and time; write one like `2027-01-31T00:00:00Z`");
    // The library takes more forms than RFC 3339 and the API server.
    let strict = text.len() >= 20 && text.as_bytes()[10] == b'T' && !text.contains(['[', 't', 'z', ',']);
    let strict = strict && (text.ends_with('Z') || text.as_bytes()[text.len() - 3] == b':');
    strict.then(|| text.parse().ok()).flatten().ok_or_else(wrong)
}

fn address(text: &str) -> Result<std::net::IpAddr, String> {
    text.parse()
        .map_err(|_| format!("`{text}` is not an IP address; write one like `198.51.100.7` or `2001:db8::7`"))
}

fn socket_address(text: &str) -> Result<std::net::SocketAddr, String> {
    let example = match text.parse::<std::net::IpAddr>() {
        Ok(address) => std::net::SocketAddr::new(address, 53).to_string(),
        Err(_) => "198.51.100.53:53` or `[2001:db8::53]:53".to_owned(),
    };
    text.parse().map_err(|_| format!("`{text}` is not an address with a port; write `{example}`"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use regex::Regex;

    use super::*;

    fn wrong(pattern: &str, text: &str) -> String {
        match judge(pattern, text) {
            Some(Judgement::Wrong(message)) => message,
            other => panic!("{text}: {other:?}"),
        }
    }

    #[test]
    fn judges_say_what_to_write() {
        // N4, R7
        assert!(wrong(DOMAIN_NAME, "foo*.example.com").contains("write `*.example.com`"));
        assert!(wrong(CIDR, "8.8.8.8").contains("write the block `8.8.8.8/32`"));
        assert!(wrong(CIDR, "10.1.2.3/8").contains("write `10.0.0.0/8`"));
        assert!(wrong(CIDR, "2001:db8::1/32").contains("write `2001:db8::/32`"));
        assert!(wrong(CIDR, "::ffff:10.0.0.0/104").contains("as IPv4"));
        assert!(wrong(CIDR, "example.com").contains("write one like"));
        assert!(wrong(DATE_TIME, "2027-01-31").contains("write one like"));
        assert!(wrong(DATE_TIME, "2027-02-30T00:00:00Z").contains("write one like"));
        assert!(wrong(TIME_OF_DAY, "6:00").contains("`06:00`"));
        assert!(wrong(TIME_ZONE, "Europe/Bonn").contains("IANA"));
        assert!(wrong(SOCKET_ADDRESS, "2001:db8::53").contains("write `[2001:db8::53]:53`"));
    }

    #[test]
    fn other_scripts_become_a_labels() {
        // N1
        let means = judge(DOMAIN_NAME, "*.bücher.example");
        assert_eq!(means, Some(Judgement::Means("*.xn--bcher-kva.example".into())));
    }

    fn some_text() -> impl Strategy<Value = String> {
        prop_oneof![
            "[*a-zA-Z0-9_.-]{0,12}",
            "[0-9a-f:.]{1,12}/[0-9]{1,3}",
            "[0-9]{4}-[01][0-9]-[0-3][0-9][Tt ][0-2][0-9]:[0-5][0-9]:[0-6][0-9](\\.[0-9]{1,10})?(Z|z|[+-][01][0-9]:?[0-5][0-9])",
            "[0-2][0-9]:[0-6][0-9]",
            "\\PC{0,16}",
        ]
    }

    proptest! {
        #[test]
        fn what_a_judge_lets_pass_fits_the_pattern(text in some_text()) {
            // X5
            for pattern in [DOMAIN_NAME, NAME, CIDR, DATE_TIME, TIME_OF_DAY, TIME_ZONE, ADDRESS, SOCKET_ADDRESS] {
                let fits = match judge(pattern, &text) {
                    Some(Judgement::Fits) => Regex::new(pattern).unwrap().is_match(&text),
                    Some(Judgement::Means(other)) => Regex::new(pattern).unwrap().is_match(&other),
                    Some(Judgement::Wrong(_)) | None => true,
                };
                prop_assert!(fits, "{pattern} {text}");
            }
        }
    }
}
