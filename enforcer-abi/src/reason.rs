//! Why a packet passed or did not: the words of SEMANTICS G5, in one order for `STATS`, events and logs.

macro_rules! reasons {
    ($($(#[$doc:meta])* $name:ident = $number:literal $word:literal),* $(,)?) => {
        /// Why a packet passed or did not. The number is the index into `STATS`.
        #[repr(u8)]
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Reason { $($(#[$doc])* $name = $number),* }

        impl Reason {
            /// All reasons, by number.
            pub const ALL: &'static [Self] = &[$(Self::$name),*];

            /// The stable word for counters, events, API and log.
            pub const fn word(self) -> &'static str {
                match self { $(Self::$name => $word),* }
            }

            /// The reason with this number, as found in an [`Event`](crate::Event).
            pub const fn from_number(number: u8) -> Option<Self> {
                match number { $($number => Some(Self::$name),)* _ => None }
            }
        }
    };
}

reasons! {
    // Allowed.
    /// A live grant of an allowed name, for this port.
    Name = 0 "name",
    /// An `ipBlock` rule.
    Cidr = 1 "cidr",
    /// A `cluster` rule.
    Cluster = 2 "cluster",
    /// A known flow.
    Flow = 3 "flow",
    /// Answer to a connection that came from outside.
    Reply = 4 "reply",
    /// A DNS query on its way to the resolver, or its answer.
    Dns = 5 "dns",
    /// An ICMP error about a known flow.
    Related = 6 "related",
    /// ARP or neighbour discovery of own addresses.
    Neighbour = 7 "neighbour",
    /// A connection that was live when the workload was first isolated.
    Adopted = 8 "adopted",
    /// No policy isolates this workload.
    NotIsolated = 9 "not-isolated",
    /// Link-scope housekeeping: MLD, DAD, router solicitation, IGMP, DHCP of tap guests. Counted, no event.
    Housekeeping = 10 "housekeeping",
    // Denied.
    /// No rule, and no grant that ever covered this address.
    NoMatch = 11 "no-match",
    /// A grant of an allowed name that has ended.
    Expired = 12 "expired",
    /// The address is allowed, this port is not.
    Port = 13 "port",
    /// A deny rule.
    DeniedCidr = 14 "denied-cidr",
    /// The source is not an address of the workload.
    SpoofedSource = 15 "spoofed-source",
    /// Truncated, or lengths that contradict each other.
    Malformed = 16 "malformed",
    /// A fragment without its allowed first fragment, or a fragmented DNS query.
    Fragment = 17 "fragment",
    /// An IPv6 extension header that is unknown, out of order, or too deep.
    ExtensionHeader = 18 "extension-header",
    /// A protocol that no rule allows.
    Protocol = 19 "protocol",
    /// Neither IPv4, IPv6 nor ARP, or a VLAN tag.
    NotIp = 20 "not-ip",
    /// DNS to somewhere the redirect does not cover (853, multicast).
    DnsElsewhere = 21 "dns-elsewhere",
    /// The endpoint is attached, its rules have not arrived.
    NoPolicyYet = 22 "no-policy-yet",
    /// The endpoint's table of established flows is full.
    FlowsFull = 23 "flows-full",
    /// A socket of another network namespace.
    ForeignNetns = 24 "foreign-netns",
    /// The gateway's MAC was expected.
    ForeignMac = 25 "foreign-mac",
    /// An inbound connection that `inbound` does not admit.
    Inbound = 26 "inbound",
    /// An ICMP error that quotes nothing known, or goes elsewhere.
    IcmpError = 27 "icmp-error",
}

/// Number of reasons, the size of `STATS`.
pub const REASONS: usize = Reason::ALL.len();

impl Reason {
    /// Whether `Enforce` lets the packet through.
    pub const fn allows(self) -> bool {
        match self {
            Self::Name
            | Self::Cidr
            | Self::Cluster
            | Self::Flow
            | Self::Reply
            | Self::Dns
            | Self::Related
            | Self::Neighbour
            | Self::Adopted
            | Self::NotIsolated
            | Self::Housekeeping => true,
            Self::NoMatch
            | Self::Expired
            | Self::Port
            | Self::DeniedCidr
            | Self::SpoofedSource
            | Self::Malformed
            | Self::Fragment
            | Self::ExtensionHeader
            | Self::Protocol
            | Self::NotIp
            | Self::DnsElsewhere
            | Self::NoPolicyYet
            | Self::FlowsFull
            | Self::ForeignNetns
            | Self::ForeignMac
            | Self::Inbound
            | Self::IcmpError => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_the_positions() {
        for (position, reason) in Reason::ALL.iter().enumerate() {
            assert_eq!(*reason as usize, position);
            assert_eq!(Reason::from_number(position as u8), Some(*reason));
        }
        assert_eq!(Reason::from_number(REASONS as u8), None);
    }
}
