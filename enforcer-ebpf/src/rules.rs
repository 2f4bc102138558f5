//! The rules in force: what `ALLOW`, `ADMITTED`, `CIDRS` and `PORTS` say about a destination.
//!
//! Knows nothing of flows. The socket hooks ask here, too.

use aya_ebpf::maps::lpm_trie::Key;
use nameward_abi::{Address, Mode, PortKey, Reason, Switch, mapped};

use crate::{
    endpoint::{Endpoint, has_expired},
    maps::{ADMITTED, ALLOW, CIDRS, PORTS},
    packet::{ICMP, SCTP, TCP, UDP, is_mapped, on_stack},
};

const DNS_OVER_TLS: [u8; 2] = 853u16.to_be_bytes();

/// A destination to judge, and the answer beside the reason.
#[repr(C, align(8))]
pub struct Question {
    pub remote: Address,
    /// Network order; ICMP: zero.
    pub port: [u8; 2],
    /// As in `PORTS`: both kinds of ICMP echo are 1.
    pub protocol: u8,
    /// Not zero: no rule needs to allow it, only none may deny it.
    pub unless_denied: u8,
    /// The name set that the flow was admitted under (re-judging), else 0. Afterwards the one found.
    pub admitted_id: u32,
}

impl Question {
    #[inline(always)]
    pub fn new(remote: Address, protocol: u8, port: [u8; 2]) -> Self {
        Self { remote, port, protocol, unless_denied: 0, admitted_id: 0 }
    }
}

/// The port classes of a protocol and port.
#[inline(always)]
fn classes(slot: usize, protocol: u8, port: [u8; 2]) -> u64 {
    PORTS.get(Key::new(24, PortKey { protocol, port })).map_or(0, |rule| rule.classes[slot & 1])
}

/// Whether, and why, a new flow may go there.
#[inline(always)]
pub fn judge(endpoint: &Endpoint, question: &mut Question) -> Reason {
    let number = nameward_judge(endpoint.switch.0, endpoint.now, question);
    Reason::from_number(number as u8).unwrap_or(Reason::Malformed)
}

/// Whether what a flow was admitted under, `question.admitted_id` or a CIDR, is still allowed. Never asks whether
/// a grant has expired (promise 3).
#[inline(always)]
pub fn still_allowed(endpoint: &Endpoint, question: &mut Question) -> bool {
    nameward_still_allowed(endpoint.switch.0, question) != 0
}

/// See [`judge`]. A global function (C linkage, scalars and one pointer): the verifier looks at it once, not at
/// every call in every state.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn nameward_judge(switch: u64, now: u64, question: *mut Question) -> u64 {
    if question.is_null() {
        return Reason::Malformed as u64;
    }
    // SAFETY: not null, and the verifier checks what callers pass.
    judge_destination(Switch(switch), now, unsafe { &mut *question }) as u64
}

/// See [`still_allowed`] and [`nameward_judge`].
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn nameward_still_allowed(switch: u64, question: *mut Question) -> u64 {
    if question.is_null() {
        return 0;
    }
    // SAFETY: not null, and the verifier checks what callers pass.
    u64::from(is_still_allowed(Switch(switch), unsafe { &*question }))
}

#[inline(always)]
fn judge_destination(switch: Switch, now: u64, question: &mut Question) -> Reason {
    let slot = switch.slot() & 1;
    let wanted = classes(slot, question.protocol, question.port);
    let (mut cidr_allows, mut cluster, mut denied) = (0, 0, 0);
    if let Some(rule) = CIDRS.get(Key::new(128, question.remote)) {
        cidr_allows = rule.allow[slot];
        cluster = rule.cluster[slot];
        denied = rule.deny[slot];
    }
    if (denied | embedded_denies(slot, &question.remote)) & wanted != 0 {
        return Reason::DeniedCidr;
    }
    match switch.mode() {
        Mode::NoPolicyYet => return Reason::NoPolicyYet,
        Mode::NotIsolated => return Reason::NotIsolated,
        Mode::Enforce | Mode::Audit => {}
    }
    let (mut name_allows, mut expired, mut id) = (0, false, 0);
    if let Some(allow) = ALLOW.get_ptr_mut(on_stack(&question.remote)) {
        // SAFETY: a live value. User space replaces values as a whole; what is read is one value or the other.
        let allow = unsafe { &mut *allow };
        id = allow.admitted_id;
        expired = has_expired(switch, now, allow.expires_at);
        // SAFETY: as above.
        name_allows = unsafe { ADMITTED.get(id) }.map_or(0, |admitted| admitted.classes[slot]);
        // What is in use does not lapse; `flows` notes it while a flow lives.
        if name_allows & wanted != 0 && !expired {
            allow.last_used = now;
        }
    }
    if name_allows & wanted != 0 {
        question.admitted_id = id;
        if !expired {
            return Reason::Name;
        }
    }
    if cidr_allows & wanted != 0 {
        question.admitted_id = 0;
        return if cluster & wanted != 0 { Reason::Cluster } else { Reason::Cidr };
    }
    let elsewhere = question.port == DNS_OVER_TLS && matches!(question.protocol, TCP | UDP);
    match question.protocol {
        _ if elsewhere => Reason::DnsElsewhere,
        _ if name_allows & wanted != 0 => Reason::Expired,
        _ if cidr_allows != 0 || (name_allows != 0 && !expired) => Reason::Port,
        TCP | UDP | SCTP | ICMP => Reason::NoMatch,
        _ => Reason::Protocol,
    }
}

#[inline(always)]
fn is_still_allowed(switch: Switch, question: &Question) -> bool {
    let slot = switch.slot() & 1;
    let wanted = classes(slot, question.protocol, question.port);
    let (mut allowed, mut denied) = (0, 0);
    if let Some(rule) = CIDRS.get(Key::new(128, question.remote)) {
        denied = rule.deny[slot];
        allowed = rule.allow[slot];
    }
    if (denied | embedded_denies(slot, &question.remote)) & wanted != 0 {
        return false;
    }
    match switch.mode() {
        Mode::NoPolicyYet => return false,
        _ if question.unless_denied != 0 => return true,
        Mode::NotIsolated => return true,
        Mode::Enforce | Mode::Audit => {}
    }
    // SAFETY: user space replaces values as a whole.
    allowed |= unsafe { ADMITTED.get(question.admitted_id) }.map_or(0, |admitted| admitted.classes[slot]);
    allowed & wanted != 0
}

/// Whether a `cluster` rule covers the address on any port.
#[inline(always)]
pub fn is_cluster(endpoint: &Endpoint, remote: &Address) -> bool {
    CIDRS.get(Key::new(128, *remote)).is_some_and(|rule| rule.cluster[endpoint.switch.slot() & 1] != 0)
}

/// Whether the classes of direct DNS cover a server: an `ipBlock` rule with an entry of just port 53.
#[inline(always)]
pub fn is_direct_dns(endpoint: &Endpoint, question: &Question) -> bool {
    let slot = endpoint.switch.slot() & 1;
    let direct = endpoint.config().map_or(0, |config| config.direct_dns[slot]);
    if direct == 0 {
        return false;
    }
    let wanted = classes(slot, question.protocol, question.port) & direct;
    CIDRS.get(Key::new(128, question.remote)).is_some_and(|rule| rule.allow[slot] & wanted != 0)
}

/// The classes that are denied at an address, whatever the port.
#[inline(always)]
pub fn has_denies(endpoint: &Endpoint, remote: &Address) -> u64 {
    nameward_has_denies(endpoint.switch.0, remote)
}

/// See [`has_denies`] and [`nameward_judge`].
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn nameward_has_denies(switch: u64, remote: *const Address) -> u64 {
    // SAFETY: null or what callers pass; the verifier checks it.
    let Some(remote) = (unsafe { remote.as_ref() }) else { return u64::MAX };
    let slot = Switch(switch).slot() & 1;
    let denied = CIDRS.get(Key::new(128, *remote)).map_or(0, |rule| rule.deny[slot]);
    denied | embedded_denies(slot, remote)
}

/// Classes denied to the IPv4 address inside a NAT64, 6to4 or Teredo address (B23).
#[inline(always)]
fn embedded_denies(slot: usize, remote: &Address) -> u64 {
    if is_mapped(remote) {
        return 0;
    }
    let tail = [remote[12], remote[13], remote[14], remote[15]];
    let embedded = match u32::from_be_bytes([remote[0], remote[1], remote[2], remote[3]]) {
        0x0064_ff9b => tail,
        0x2001_0000 => [!tail[0], !tail[1], !tail[2], !tail[3]],
        0 => tail,
        first if first >> 16 == 0x2002 => [remote[2], remote[3], remote[4], remote[5]],
        _ => return 0,
    };
    CIDRS.get(Key::new(128, mapped(embedded))).map_or(0, |rule| rule.deny[slot])
}
