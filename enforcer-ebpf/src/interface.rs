//! Entry points at interfaces: parse, decide, act, report.

use aya_ebpf::{
    bindings::tcx_action_base::{TCX_DROP, TCX_NEXT},
    macros::classifier,
    programs::TcContext,
};
use nameward_abi::{Direction, Reason, Verdict, flags};

use crate::{
    decide, dns,
    endpoint::{Endpoint, unknown_zero},
    established,
    events::report,
    flows::nameward_make_room,
    packet::{ETHERNET, Packet, parse_ip},
    reject,
    skb::{Skb, read},
    verdict::{Action, verdict},
};

/// Packets that leave the workload.
#[classifier]
pub fn pod_egress(context: TcContext) -> i32 {
    let skb = context.skb.skb;
    let Some(endpoint) = Endpoint::read(0) else { return TCX_DROP };
    if established::passes(skb, &endpoint, Direction::Egress) {
        return TCX_NEXT;
    }
    let mut packet = Packet::new();
    packet.zero = endpoint.zero;
    let refused = parse(skb, &endpoint, &mut packet);
    let mut reason = match refused {
        Some(Reason::NotIp) => decide::not_ip(skb, &endpoint, &mut packet, Direction::Egress),
        Some(reason) => decide::unhidden(&endpoint, &packet, reason),
        None => decide::egress::<false>(skb, &endpoint, &mut packet),
    };
    if reason == Reason::Dns {
        let sent = dns::redirect(skb, &endpoint, &packet);
        if sent >= 0 {
            report(&endpoint, &packet, reason, Verdict::Pass, Direction::Egress);
            return sent;
        }
        reason = Reason::DnsElsewhere;
    }
    let reason = endpoint.forget(reason);
    let (action, verdict) = verdict(endpoint.switch, reason);
    if reason == Reason::FlowsFull {
        nameward_make_room(endpoint.now);
    }
    report(&endpoint, &packet, reason, verdict, Direction::Egress);
    match action {
        Action::Pass => TCX_NEXT,
        Action::Drop => TCX_DROP,
        Action::Reject => match reject::reject(skb, &endpoint, &packet) {
            -1 => TCX_DROP,
            sent => sent,
        },
    }
}

/// Packets that reach the workload.
#[classifier]
pub fn pod_ingress(context: TcContext) -> i32 {
    let skb = context.skb.skb;
    let Some(endpoint) = Endpoint::read(0) else { return TCX_DROP };
    // SAFETY: fields of the context; the mark is ours and ends here.
    let mark = unsafe { (*skb).mark };
    if mark == reject::REJECT_MARK {
        // SAFETY: as above.
        unsafe { (*skb).mark = 0 };
        return TCX_NEXT;
    }
    let elsewhere = endpoint.config().is_some_and(|config| config.arrivals != 0);
    let elsewhere = endpoint.unknown(u32::from(elsewhere)) != 0;
    if mark != dns::ANSWER_MARK && (elsewhere || established::passes(skb, &endpoint, Direction::Ingress)) {
        return TCX_NEXT;
    }
    let mut packet = Packet::new();
    packet.zero = endpoint.zero;
    let reason = match parse(skb, &endpoint, &mut packet) {
        Some(Reason::NotIp) => decide::not_ip(skb, &endpoint, &mut packet, Direction::Ingress),
        Some(reason) => reason,
        None if mark == dns::ANSWER_MARK => {
            // SAFETY: as above.
            unsafe { (*skb).mark = 0 };
            if dns::restore(skb, &packet) { Reason::Dns } else { Reason::Inbound }
        }
        None => decide::ingress::<false>(skb, &endpoint, &mut packet),
    };
    if reason == Reason::FlowsFull {
        nameward_make_room(endpoint.now);
    }
    let reason = endpoint.forget(reason);
    let (action, verdict) = verdict(endpoint.switch, reason);
    // Each packet is counted where it is judged last.
    if !(elsewhere && action == Action::Pass) {
        report(&endpoint, &packet, reason, verdict, Direction::Ingress);
    }
    match action {
        Action::Pass => TCX_NEXT,
        Action::Drop | Action::Reject => TCX_DROP,
    }
}

/// Packets that reach the workload, on its own side of the pair: by the host's side, or past it.
#[classifier]
pub fn pod_arrival(context: TcContext) -> i32 {
    let skb = context.skb.skb;
    let Some(endpoint) = Endpoint::read(0) else { return TCX_DROP };
    let mut packet = Packet::new();
    packet.zero = endpoint.zero;
    let reason = match parse(skb, &endpoint, &mut packet) {
        Some(Reason::NotIp) => decide::not_ip(skb, &endpoint, &mut packet, Direction::Ingress),
        Some(reason) => reason,
        None if dns::is_answer(skb, &packet) => Reason::Dns,
        None => decide::arrival(skb, &endpoint, &mut packet),
    };
    if reason == Reason::FlowsFull {
        nameward_make_room(endpoint.now);
    }
    let reason = endpoint.forget(reason);
    let (action, verdict) = verdict(endpoint.switch, reason);
    report(&endpoint, &packet, reason, verdict, Direction::Ingress);
    match action {
        Action::Pass => TCX_NEXT,
        Action::Drop | Action::Reject => TCX_DROP,
    }
}

/// Holds a link until the program that judges there has been verified: passes everything on.
#[classifier]
pub fn placeholder(_context: TcContext) -> i32 {
    TCX_NEXT
}

/// Answers of the resolver coming out of `nameward0`. Nothing else leaves it, except what the link itself needs.
#[classifier]
pub fn dns_return(context: TcContext) -> i32 {
    let skb = context.skb.skb;
    let mut packet = Packet::new();
    packet.l3 = ETHERNET;
    packet.zero = unknown_zero();
    match read::<[u8; 2]>(skb, 12) {
        Some([0x08, 0x00] | [0x86, 0xdd]) => {}
        Some([0x08, 0x06]) => return TCX_NEXT,
        _ => return TCX_DROP,
    }
    // SAFETY: a field of the context.
    let length = unsafe { (*skb).len };
    if parse_ip(skb, &mut packet, length - ETHERNET).is_some() {
        return TCX_DROP;
    }
    if packet.protocol == crate::packet::ICMP6 && matches!(packet.icmp_type, 133..=136) {
        return TCX_NEXT;
    }
    dns::send_back(skb, &packet).unwrap_or(TCX_DROP)
}

/// `Some(NotIp)` for everything that is not IP, ARP included.
#[inline(always)]
fn parse(skb: Skb, endpoint: &Endpoint, packet: &mut Packet) -> Option<Reason> {
    // SAFETY: fields of the context.
    let (length, tagged, protocol) = unsafe { ((*skb).len, (*skb).vlan_present, (*skb).protocol) };
    packet.length = length;
    let header = endpoint.unknown(if endpoint.switch.has(flags::LAYER3) { 0 } else { ETHERNET });
    packet.ethertype = if header == 0 {
        (protocol as u16).to_ne_bytes()
    } else {
        match read::<[u8; 2]>(skb, 12) {
            Some(ethertype) => ethertype,
            None => return Some(Reason::Malformed),
        }
    };
    packet.l3 = header;
    let version = match packet.ethertype {
        [0x08, 0x00] => 4,
        [0x86, 0xdd] => 6,
        _ => 0,
    };
    let version = endpoint.unknown(version) as u8;
    let refused = if version == 0 { Some(Reason::NotIp) } else { parse_ip(skb, packet, length - header) };
    // A tag is not among the packet's bytes: what was read is what it hides.
    if tagged != 0 {
        packet.ethertype = [0x81, 0];
        return Some(Reason::NotIp);
    }
    if packet.family == version || version == 0 { refused } else { Some(Reason::Malformed) }
}
