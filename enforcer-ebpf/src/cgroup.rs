//! Entry points at a cgroup's packets: the authority on everything that IP sockets send and receive.
//!
//! Packets start at the IP header. Egress is seen after translation of addresses, ingress before it.

use aya_ebpf::{helpers::bpf_get_socket_cookie, macros::cgroup_skb, programs::SkBuffContext};
use nameward_abi::{Direction, Mode, Reason};

use crate::{
    decide,
    endpoint::Endpoint,
    events::report,
    flows::nameward_make_room,
    packet::{Packet, fragment, parse_ip},
    skb::Skb,
    sockets::{dns, local},
    verdict::{Action, verdict},
};

const PASS: i32 = 1;
const DROP: i32 = 0;

/// Packets sent by sockets of the cgroup.
#[cgroup_skb(egress)]
pub fn cgroup_egress(context: SkBuffContext) -> i32 {
    judge(context.skb.skb, Direction::Egress)
}

/// Packets received by sockets of the cgroup.
#[cgroup_skb(ingress)]
pub fn cgroup_ingress(context: SkBuffContext) -> i32 {
    judge(context.skb.skb, Direction::Ingress)
}

#[inline(always)]
fn judge(skb: Skb, direction: Direction) -> i32 {
    // SAFETY: the hook's own context.
    let (cookie, length) = unsafe { (bpf_get_socket_cookie(skb.cast()), (*skb).len) };
    let Some(endpoint) = Endpoint::read(cookie) else { return DROP };
    let mut packet = Packet::new();
    packet.zero = endpoint.zero;
    packet.length = length;
    let reason = match parse(skb, &mut packet) {
        Some(reason) => reason,
        None => reason(skb, &endpoint, &mut packet, direction),
    };
    let reason = endpoint.forget(reason);
    let (action, verdict) = verdict(endpoint.switch, reason);
    if reason == Reason::FlowsFull {
        nameward_make_room(endpoint.now);
    }
    report(&endpoint, &packet, reason, verdict, direction);
    // A socket's own send fails with EPERM; nobody needs to be told by packets.
    match action {
        Action::Pass => PASS,
        Action::Drop | Action::Reject => DROP,
    }
}

#[inline(always)]
fn parse(skb: Skb, packet: &mut Packet) -> Option<Reason> {
    let length = packet.length;
    parse_ip(skb, packet, length)
}

#[inline(always)]
fn reason(skb: Skb, endpoint: &Endpoint, packet: &mut Packet, direction: Direction) -> Reason {
    let judged = endpoint.switch.mode() != Mode::NoPolicyYet && packet.fragment == fragment::NONE;
    if decide::is_on_loopback(skb) && judged && local::is_own(skb, endpoint, packet, direction) {
        return Reason::Flow;
    }
    let reason = match direction {
        Direction::Egress => decide::egress::<true>(skb, endpoint, packet),
        Direction::Ingress => decide::ingress::<true>(skb, endpoint, packet),
    };
    match direction {
        Direction::Egress if reason == Reason::Dns => dns::note_query(skb, endpoint, packet),
        Direction::Ingress if reason == Reason::Dns => dns::note_answer(skb, endpoint, packet),
        Direction::Egress | Direction::Ingress => 0,
    };
    reason
}
