//! The one table from reason to action. No wildcard: a new reason does not compile before it stands here.

use nameward_abi::{Mode, Reason, Switch, Verdict, flags};

/// What is done with a packet.
#[derive(Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Action {
    Pass,
    Drop,
    /// Dropped, and the sender is told.
    Reject,
}

/// What `Enforce` does.
const fn enforced(reason: Reason) -> Action {
    match reason {
        Reason::Name
        | Reason::Cidr
        | Reason::Cluster
        | Reason::Flow
        | Reason::Reply
        | Reason::Dns
        | Reason::Related
        | Reason::Neighbour
        | Reason::Adopted
        | Reason::NotIsolated
        | Reason::Housekeeping => Action::Pass,
        Reason::NoMatch
        | Reason::Expired
        | Reason::Port
        | Reason::DeniedCidr
        | Reason::Protocol
        | Reason::DnsElsewhere
        | Reason::NoPolicyYet
        | Reason::FlowsFull => Action::Reject,
        // What cannot be answered, or would be answered to somebody else.
        Reason::SpoofedSource
        | Reason::Malformed
        | Reason::Fragment
        | Reason::ExtensionHeader
        | Reason::NotIp
        | Reason::ForeignNetns
        | Reason::ForeignMac
        | Reason::Inbound
        | Reason::IcmpError => Action::Drop,
    }
}

/// What is denied to workloads that no policy isolates: what a rule denies, and forgery.
const fn denied_anyway(reason: Reason) -> bool {
    matches!(reason, Reason::DeniedCidr | Reason::SpoofedSource | Reason::ForeignMac | Reason::DnsElsewhere)
}

/// What is done, and what the event says.
#[inline(always)]
pub fn verdict(switch: Switch, reason: Reason) -> (Action, Verdict) {
    let action = enforced(reason);
    if matches!(action, Action::Pass) {
        return (Action::Pass, Verdict::Pass);
    }
    match switch.mode() {
        Mode::Audit => (Action::Pass, Verdict::WouldDeny),
        Mode::NotIsolated if !denied_anyway(reason) => (Action::Pass, Verdict::Pass),
        Mode::NotIsolated | Mode::Enforce | Mode::NoPolicyYet => match action {
            Action::Reject if switch.has(flags::REJECT) => (Action::Reject, Verdict::Deny),
            Action::Pass | Action::Drop | Action::Reject => (Action::Drop, Verdict::Deny),
        },
    }
}

/// Whether a packet with this reason is told of, though it passes, when it begins a flow.
pub const fn begins_are_told(reason: Reason) -> bool {
    match reason {
        Reason::Housekeeping | Reason::Neighbour | Reason::Dns | Reason::Flow | Reason::Related => false,
        Reason::Name
        | Reason::Cidr
        | Reason::Cluster
        | Reason::Reply
        | Reason::Adopted
        | Reason::NotIsolated
        | Reason::NoMatch
        | Reason::Expired
        | Reason::Port
        | Reason::DeniedCidr
        | Reason::SpoofedSource
        | Reason::Malformed
        | Reason::Fragment
        | Reason::ExtensionHeader
        | Reason::Protocol
        | Reason::NotIp
        | Reason::DnsElsewhere
        | Reason::NoPolicyYet
        | Reason::FlowsFull
        | Reason::ForeignNetns
        | Reason::ForeignMac
        | Reason::Inbound
        | Reason::IcmpError => true,
    }
}
