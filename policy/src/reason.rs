//! The words for why something passed or did not (SEMANTICS G5), the same in counters, events, API and log.

use std::fmt;

use serde::{Deserialize, Serialize};

macro_rules! reasons {
    ($($(#[$doc:meta])* $name:ident $word:literal $outcome:ident),* $(,)?) => {
        /// Why something passed or did not. Stable words.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        pub enum Reason { $($(#[$doc])* #[serde(rename = $word)] $name),* }

        impl Reason {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$name),*];

            /// The word.
            #[must_use]
            pub const fn word(self) -> &'static str {
                match self { $(Self::$name => $word),* }
            }

            /// The reason with this word.
            #[must_use]
            pub fn from_word(word: &str) -> Option<Self> {
                match word { $($word => Some(Self::$name),)* _ => None }
            }

            /// Whether it is a reason to pass.
            #[must_use]
            pub const fn outcome(self) -> Outcome {
                match self { $(Self::$name => Outcome::$outcome),* }
            }
        }
    };
}

/// What a reason leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// It passed.
    Allowed,
    /// It did not.
    Denied,
}

reasons! {
    /// A live grant of an allowed name, for this port.
    Name "name" Allowed,
    /// An `ipBlock` rule.
    Cidr "cidr" Allowed,
    /// A `cluster` rule.
    Cluster "cluster" Allowed,
    /// A known flow.
    Flow "flow" Allowed,
    /// Answer to a connection that came from outside.
    Reply "reply" Allowed,
    /// A DNS query on its way to the resolver, or its answer.
    Dns "dns" Allowed,
    /// An ICMP error about a known flow.
    Related "related" Allowed,
    /// ARP or neighbour discovery of own addresses.
    Neighbour "neighbour" Allowed,
    /// A connection that was live when the workload was first isolated.
    Adopted "adopted" Allowed,
    /// No policy isolates this workload.
    NotIsolated "not-isolated" Allowed,
    /// Link-scope housekeeping.
    Housekeeping "housekeeping" Allowed,
    /// No rule, and no grant.
    NoMatch "no-match" Denied,
    /// A grant of an allowed name that has ended.
    Expired "expired" Denied,
    /// The address is allowed, this port is not.
    Port "port" Denied,
    /// A deny rule.
    DeniedCidr "denied-cidr" Denied,
    /// The source is not an address of the workload.
    SpoofedSource "spoofed-source" Denied,
    /// Truncated, or lengths that contradict each other.
    Malformed "malformed" Denied,
    /// A fragment without its allowed first fragment.
    Fragment "fragment" Denied,
    /// An IPv6 extension header that is unknown, out of order, or too deep.
    ExtensionHeader "extension-header" Denied,
    /// A protocol that no rule allows.
    Protocol "protocol" Denied,
    /// Neither IPv4, IPv6 nor ARP.
    NotIp "not-ip" Denied,
    /// DNS to somewhere the redirect does not cover.
    DnsElsewhere "dns-elsewhere" Denied,
    /// The rules of the endpoint have not arrived.
    NoPolicyYet "no-policy-yet" Denied,
    /// The table of established flows is full.
    FlowsFull "flows-full" Denied,
    /// A socket of another network namespace.
    ForeignNetns "foreign-netns" Denied,
    /// The gateway's MAC was expected.
    ForeignMac "foreign-mac" Denied,
    /// An inbound connection that `inbound` does not admit.
    Inbound "inbound" Denied,
    /// An ICMP error that quotes nothing known, or goes elsewhere.
    IcmpError "icmp-error" Denied,
    /// A name that no rule allows, or that a rule denies.
    Filtered "filtered" Denied,
    /// An answer's address that is not globally reachable.
    PrivateAddress "private-address" Denied,
    /// A limit of the workload.
    Limit "limit" Denied,
    /// A query of ours that came back.
    Loop "loop" Denied,
    /// The upstream server failed or was silent.
    Upstream "upstream" Denied,
    /// The kernel did not have the grant in time.
    GrantTimeout "grant-timeout" Denied,
}

impl Reason {
    /// Whether rules decided: other rules may have come to something else.
    #[must_use]
    pub const fn is_of_rules(self) -> bool {
        match self {
            Self::Name
            | Self::Cidr
            | Self::Cluster
            | Self::NotIsolated
            | Self::NoMatch
            | Self::Expired
            | Self::Port
            | Self::DeniedCidr
            | Self::Protocol
            | Self::Filtered => true,
            Self::Flow
            | Self::Reply
            | Self::Dns
            | Self::Related
            | Self::Neighbour
            | Self::Adopted
            | Self::Housekeeping
            | Self::SpoofedSource
            | Self::Malformed
            | Self::Fragment
            | Self::ExtensionHeader
            | Self::NotIp
            | Self::DnsElsewhere
            | Self::NoPolicyYet
            | Self::FlowsFull
            | Self::ForeignNetns
            | Self::ForeignMac
            | Self::Inbound
            | Self::IcmpError
            | Self::PrivateAddress
            | Self::Limit
            | Self::Loop
            | Self::Upstream
            | Self::GrantTimeout => false,
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.word())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_those_of_the_list() {
        // G5
        let allowed = "name cidr cluster flow reply dns related neighbour adopted not-isolated housekeeping";
        let denied = "no-match expired port denied-cidr spoofed-source malformed fragment extension-header protocol \
            not-ip dns-elsewhere no-policy-yet flows-full foreign-netns foreign-mac inbound icmp-error filtered \
            private-address limit loop upstream grant-timeout";
        let words = |outcome| -> Vec<_> {
            Reason::ALL
                .iter()
                .filter(|reason| reason.outcome() == outcome)
                .map(|reason| reason.word())
                .collect()
        };
        assert_eq!(words(Outcome::Allowed), allowed.split_whitespace().collect::<Vec<_>>());
        assert_eq!(words(Outcome::Denied), denied.split_whitespace().collect::<Vec<_>>());
        for reason in Reason::ALL {
            assert_eq!(Reason::from_word(reason.word()), Some(*reason));
            assert_eq!(serde_json::to_string(reason).unwrap(), format!("\"{reason}\""));
        }
    }
}
