//! Conversions between messages and plain types: addresses as 4 or 16 octets, identities as an enum.

use std::net::IpAddr;
use std::time::Duration;

use bytes::Bytes;

use crate::proto;

/// What tells one endpoint's queries from another's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Identity {
    /// The address that the DNS redirect put in place of the workload's source.
    Address(IpAddr),
    /// The local port that the query arrived at.
    Port(u16),
    /// The source address on an ordinary network, where nothing vouches for it.
    Source(IpAddr),
}

/// An address of neither 4 nor 16 octets, or an identity without a kind.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("malformed {what} in a feed message of {octets} octets; the other side speaks another version")]
pub struct MalformedAddress {
    /// Which field.
    pub what: &'static str,
    /// How long it was.
    pub octets: usize,
}

/// An address in network order, 4 or 16 octets.
pub fn ip_to_bytes(address: IpAddr) -> Bytes {
    match address {
        IpAddr::V4(v4) => Bytes::copy_from_slice(&v4.octets()),
        IpAddr::V6(v6) => Bytes::copy_from_slice(&v6.octets()),
    }
}

/// The address of 4 or 16 octets.
pub fn ip_from_bytes(octets: &[u8]) -> Result<IpAddr, MalformedAddress> {
    if let Ok(v4) = <[u8; 4]>::try_from(octets) {
        return Ok(IpAddr::from(v4));
    }
    let v6 = <[u8; 16]>::try_from(octets);
    v6.map(IpAddr::from).map_err(|_| MalformedAddress { what: "address", octets: octets.len() })
}

/// Addresses with their times as messages.
pub fn addresses(list: &[(IpAddr, Duration)]) -> Vec<proto::Address> {
    list.iter()
        .map(|(address, ttl)| proto::Address {
            address: ip_to_bytes(*address),
            ttl_millis: u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX),
        })
        .collect()
}

/// Addresses with their times out of messages.
pub fn from_addresses(list: &[proto::Address]) -> Result<Vec<(IpAddr, Duration)>, MalformedAddress> {
    list.iter().map(|a| Ok((ip_from_bytes(&a.address)?, Duration::from_millis(a.ttl_millis)))).collect()
}

impl From<Identity> for proto::Identity {
    fn from(identity: Identity) -> Self {
        use proto::identity::Kind;
        let kind = match identity {
            Identity::Address(address) => Kind::Address(ip_to_bytes(address)),
            Identity::Port(port) => Kind::LocalPort(port.into()),
            Identity::Source(address) => Kind::Source(ip_to_bytes(address)),
        };
        Self { kind: Some(kind) }
    }
}

impl TryFrom<&proto::Identity> for Identity {
    type Error = MalformedAddress;

    fn try_from(message: &proto::Identity) -> Result<Self, MalformedAddress> {
        use proto::identity::Kind;
        match &message.kind {
            Some(Kind::Address(octets)) => Ok(Self::Address(ip_from_bytes(octets)?)),
            Some(Kind::Source(octets)) => Ok(Self::Source(ip_from_bytes(octets)?)),
            Some(Kind::LocalPort(port)) => u16::try_from(*port)
                .map(Self::Port)
                .map_err(|_| MalformedAddress { what: "local port", octets: 4 }),
            None => Err(MalformedAddress { what: "identity", octets: 0 }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_survive_the_way_there_and_back() {
        let list = vec![
            (IpAddr::from([198, 51, 100, 7]), Duration::from_secs(5)),
            (IpAddr::from([7; 16]), Duration::ZERO),
        ];
        assert_eq!(from_addresses(&addresses(&list)), Ok(list));
    }

    #[test]
    fn identities_survive_the_way_there_and_back() {
        for identity in [
            Identity::Address(IpAddr::from([169, 254, 128, 1])),
            Identity::Port(5353),
            Identity::Source(IpAddr::from([1; 16])),
        ] {
            assert_eq!(Identity::try_from(&proto::Identity::from(identity)), Ok(identity));
        }
    }

    #[test]
    fn other_lengths_are_refused() {
        for octets in [0, 3, 5, 15, 17] {
            assert!(ip_from_bytes(&vec![0; octets]).is_err());
        }
        assert!(Identity::try_from(&proto::Identity { kind: None }).is_err());
        let port = proto::Identity { kind: Some(proto::identity::Kind::LocalPort(65_536)) };
        assert!(Identity::try_from(&port).is_err());
    }
}
