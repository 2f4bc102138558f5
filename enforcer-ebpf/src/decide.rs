//! Why a packet passes or not. The order is the security argument: well-formed, own source, link housekeeping,
//! DNS, known flow, rules.
//!
//! The same code judges interfaces and cgroups. At cgroups packets start at the IP header, sources are not
//! checked (addresses are translated), and flows are known by socket. What is done about a reason is `verdict`'s.

use nameward_abi::{
    Direction, Flow, FlowKey, FragmentKey, Mode, Reason, TRUSTED_SERVERS, flags, idle, mapped,
};

use crate::{
    endpoint::Endpoint,
    flows,
    maps::FRAGMENTS,
    neighbours,
    packet::{ICMP, ICMP6, Packet, SCTP, TCP, UDP, fragment, words},
    rules::{self, Question},
    skb::{Skb, read},
};

const DNS: [u8; 2] = 53u16.to_be_bytes();
/// ICMP errors larger than this carry more than a quotation (RFC 1812 section 4.3.2.3).
const LARGEST_ICMP4_ERROR: u32 = 576;
const LARGEST_ICMP6_ERROR: u32 = 1_280;

/// A packet that the workload sends.
#[inline(never)]
pub fn egress(skb: Skb, endpoint: &Endpoint, packet: &mut Packet) -> Reason {
    if !endpoint.is_cgroup() {
        if let Some(reason) = neighbours::judge(skb, endpoint, packet, Direction::Egress) {
            return reason;
        }
        if !endpoint.owns(&packet.source) {
            return Reason::SpoofedSource;
        }
    }
    if matches!(endpoint.switch.mode(), Mode::NoPolicyYet) {
        return Reason::NoPolicyYet;
    }
    if packet.hop_by_hop != 0 {
        return Reason::ExtensionHeader;
    }
    if endpoint.is_cgroup() && is_resolver(endpoint, &packet.destination, packet.destination_port) {
        return Reason::Dns;
    }
    if packet.fragment == fragment::LATER {
        return judge_later_fragment(endpoint, packet);
    }
    if is_dns(endpoint, packet) {
        return judge_dns(endpoint, packet);
    }
    if !endpoint.is_cgroup()
        && words6(endpoint.config.gateway_mac)
        && read::<[u8; 6]>(skb, 0).is_some_and(|mac| mac[0] & 1 == 0 && mac != endpoint.config.gateway_mac)
    {
        return Reason::ForeignMac;
    }
    if packet.is_icmp_error() {
        return judge_icmp_error(skb, endpoint, packet, Direction::Egress);
    }
    let reason = judge_flow(endpoint, packet);
    if packet.fragment == fragment::FIRST && reason.allows() {
        let _ = FRAGMENTS.insert(fragment_key(packet), endpoint.now, 0);
    }
    reason
}

/// A packet that the workload is sent.
#[inline(never)]
pub fn ingress(skb: Skb, endpoint: &Endpoint, packet: &mut Packet) -> Reason {
    if !endpoint.is_cgroup()
        && let Some(reason) = neighbours::judge(skb, endpoint, packet, Direction::Ingress)
    {
        return reason;
    }
    if matches!(endpoint.switch.mode(), Mode::NoPolicyYet) {
        return Reason::NoPolicyYet;
    }
    if endpoint.is_cgroup() && is_resolver(endpoint, &packet.source, packet.source_port) {
        return Reason::Dns;
    }
    if packet.fragment == fragment::LATER {
        return judge_later_fragment(endpoint, packet);
    }
    if packet.is_icmp_error() {
        return judge_icmp_error(skb, endpoint, packet, Direction::Ingress);
    }
    let reason = judge_inbound_flow(endpoint, packet);
    if packet.fragment == fragment::FIRST && reason.allows() {
        let _ = FRAGMENTS.insert(fragment_key(packet), endpoint.now, 0);
    }
    reason
}

/// ARP, or neither ARP nor IP.
#[inline(always)]
pub fn not_ip(skb: Skb, endpoint: &Endpoint, packet: &mut Packet, direction: Direction) -> Reason {
    match (packet.ethertype, direction) {
        ([8, 6], Direction::Ingress) => Reason::Neighbour,
        ([8, 6], Direction::Egress) => neighbours::judge_arp(skb, endpoint, packet),
        _ => Reason::NotIp,
    }
}

#[inline(always)]
fn words6(mac: [u8; 6]) -> bool {
    mac != [0; 6]
}

/// Known flow, else rules.
#[inline(never)]
fn judge_flow(endpoint: &Endpoint, packet: &mut Packet) -> Reason {
    packet.forget();
    let mut key = FlowKey::default();
    let flow = flows::find_packet(endpoint, packet, &mut key, Direction::Egress);
    // A bare SYN is new even where a flow is known: after expiry a port that is used again opens nothing (G3).
    if !flow.is_null()
        && !packet.is_bare_syn()
        && let Some(reason) = judge_known(endpoint, packet, &key, flow)
    {
        return reason;
    }
    let mut question = question_of(packet);
    let reason = rules::judge(endpoint, &mut question);
    packet.admitted_id = question.admitted_id;
    if (packet.protocol == ICMP || packet.protocol == ICMP6) && !packet.is_echo_request() {
        return if reason == Reason::NotIsolated { reason } else { Reason::Protocol };
    }
    if !reason.allows() {
        // What audit lets through goes on as one flow, told of once.
        if matches!(endpoint.switch.mode(), Mode::Audit) {
            let _ = flows::begin(endpoint, packet, &key, reason);
        }
        return reason;
    }
    if flows::are_full(endpoint.now) && flow.is_null() {
        return Reason::FlowsFull;
    }
    packet.begins = flow.is_null();
    let _ = flows::begin(endpoint, packet, &key, reason);
    reason
}

#[inline(always)]
fn question_of(packet: &Packet) -> Question {
    let port = match packet.protocol {
        TCP | UDP | SCTP => packet.destination_port,
        _ => [0; 2],
    };
    Question::new(packet.destination, flows::rule_protocol(packet), port)
}

/// `None` = the flow is no longer allowed, judge as new.
#[inline(always)]
fn judge_known(endpoint: &Endpoint, packet: &mut Packet, key: &FlowKey, flow: *mut Flow) -> Option<Reason> {
    // SAFETY: a live value.
    let (generation, admitted_by) = unsafe { ((*flow).generation, (*flow).admitted_by) };
    let inbound = admitted_by == Reason::Reply as u8;
    let audited = Reason::from_number(admitted_by).filter(|reason| !reason.allows());
    if audited.is_some() && !matches!(endpoint.switch.mode(), Mode::Audit) {
        return None;
    }
    // SAFETY: as above.
    packet.admitted_id = unsafe { (*flow).admitted_id };
    if generation != endpoint.switch.generation() {
        let allowed = if inbound {
            admits_inbound(endpoint, &packet.destination)
        } else if admitted_by == Reason::Adopted as u8 {
            true
        } else {
            let mut question = question_of(packet);
            question.admitted_id = packet.admitted_id;
            rules::still_allowed(endpoint, &mut question)
        };
        if !allowed {
            return None;
        }
        // SAFETY: as above; an aligned word.
        unsafe { (*flow).generation = endpoint.switch.generation() };
    }
    // SAFETY: as above.
    packet.begins = inbound && unsafe { (*flow).state } == 0;
    if !flows::follow(endpoint, packet, key, flow, Direction::Egress) {
        return Some(Reason::FlowsFull);
    }
    packet.continues = true;
    Some(audited.unwrap_or(if inbound { Reason::Reply } else { Reason::Flow }))
}

/// Known flow, else what `inbound` says (G9).
#[inline(never)]
fn judge_inbound_flow(endpoint: &Endpoint, packet: &mut Packet) -> Reason {
    packet.forget();
    let mut key = FlowKey::default();
    let flow = flows::find_packet(endpoint, packet, &mut key, Direction::Ingress);
    if !flow.is_null() {
        // SAFETY: a live value.
        packet.admitted_id = unsafe { (*flow).admitted_id };
        return match flows::follow(endpoint, packet, &key, flow, Direction::Ingress) {
            true => Reason::Flow,
            false => Reason::FlowsFull,
        };
    }
    // What arrives late for a flow that is gone opens nothing.
    let opens = match packet.protocol {
        TCP => packet.is_bare_syn(),
        ICMP | ICMP6 => packet.is_echo_request(),
        _ => true,
    };
    if matches!(endpoint.switch.mode(), Mode::NotIsolated) && !opens {
        return Reason::NotIsolated;
    }
    if !opens || !admits_inbound(endpoint, &packet.source) {
        return Reason::Inbound;
    }
    let _ = flows::begin(endpoint, packet, &key, Reason::Reply);
    Reason::Flow
}

#[inline(always)]
fn admits_inbound(endpoint: &Endpoint, remote: &[u8; 16]) -> bool {
    if matches!(endpoint.switch.mode(), Mode::NotIsolated) {
        return true;
    }
    if endpoint.switch.has(flags::INBOUND_NONE) {
        return false;
    }
    !endpoint.switch.has(flags::INBOUND_CLUSTER) || rules::is_cluster(endpoint, remote)
}

#[inline(always)]
fn fragment_key(packet: &Packet) -> FragmentKey {
    FragmentKey {
        source: packet.source,
        destination: packet.destination,
        identification: packet.identification,
        // In IPv6 later fragments do not say which protocol follows further extension headers.
        protocol: if packet.family == 4 { packet.protocol } else { 0 },
        _pad: [0; 3],
    }
}

#[inline(always)]
fn judge_later_fragment(endpoint: &Endpoint, packet: &Packet) -> Reason {
    // SAFETY: a word that is written once.
    match unsafe { FRAGMENTS.get(fragment_key(packet)) } {
        Some(first) if first.saturating_add(idle::FRAGMENTS) > endpoint.now => Reason::Flow,
        _ => Reason::Fragment,
    }
}

#[inline(always)]
fn is_dns(endpoint: &Endpoint, packet: &Packet) -> bool {
    if !matches!(packet.protocol, TCP | UDP) || endpoint.switch.has(flags::DNS_DIRECT) {
        return false;
    }
    if packet.destination_port == DNS {
        return true;
    }
    let mut index = 0;
    while index < TRUSTED_SERVERS {
        let server = &endpoint.config.dns.trusted[index];
        if server.port == packet.destination_port && words(&server.address) == words(&packet.destination) {
            return true;
        }
        index += 1;
    }
    false
}

/// `Dns` = to be redirected; rules for servers that may be asked directly come first.
#[inline(always)]
fn judge_dns(endpoint: &Endpoint, packet: &mut Packet) -> Reason {
    let question = question_of(packet);
    if rules::is_direct_dns(endpoint, &question) {
        return judge_flow(endpoint, packet);
    }
    let to = &packet.destination;
    let everybody =
        if packet.family == 4 { to[12] >= 224 || to[12] == 127 || to[12] == 0 } else { to[0] == 0xff };
    if packet.fragment != fragment::NONE {
        return Reason::Fragment;
    }
    if everybody || endpoint.is_cgroup() || endpoint.config.dns.link_ifindex == 0 {
        return Reason::DnsElsewhere;
    }
    Reason::Dns
}

/// Whether an address and port are the resolver's listeners of this cgroup.
#[inline(always)]
fn is_resolver(endpoint: &Endpoint, address: &[u8; 16], port: [u8; 2]) -> bool {
    let dns = &endpoint.config.dns;
    let address = words(address);
    if address == [0, 0] || (address != words(&dns.resolver4) && address != words(&dns.resolver6)) {
        return false;
    }
    if port == dns.default_port {
        return true;
    }
    let mut index = 0;
    while index < TRUSTED_SERVERS {
        if dns.trusted[index].resolver_port == port && dns.trusted[index].port != [0; 2] {
            return true;
        }
        index += 1;
    }
    false
}

/// ICMP errors pass when they quote a known flow. Sent by the workload they must go to that flow's peer and quote
/// what the peer sent (B24); received ones may come from any router, and quote what the workload sent.
#[inline(never)]
fn judge_icmp_error(skb: Skb, endpoint: &Endpoint, packet: &Packet, direction: Direction) -> Reason {
    let egress = matches!(direction, Direction::Egress);
    let mut key = FlowKey::default();
    let read = if packet.family == 4 {
        quoted4(skb, packet.l4 + 8, egress, &mut key)
    } else {
        quoted6(skb, packet.l4 + 8, egress, &mut key)
    };
    if !read {
        return Reason::IcmpError;
    }
    // What is quoted came from, or went to, an own address: where the error is sent from or to.
    let own = if egress { &packet.source } else { &packet.destination };
    if words(&key.local) != words(own) {
        return Reason::IcmpError;
    }
    let largest = if packet.family == 4 { LARGEST_ICMP4_ERROR } else { LARGEST_ICMP6_ERROR };
    let astray = words(&key.remote) != words(&packet.destination) || packet.length > largest;
    if egress && (astray || !crate::events::take_reject(endpoint)) {
        return Reason::IcmpError;
    }
    flows::adapt(endpoint, &mut key);
    if flows::find(endpoint.now, &key).is_null() { Reason::IcmpError } else { Reason::Related }
}

/// Reads a quoted IPv4 header; sent by the workload it was received before, hence the other way round.
#[inline(always)]
fn quoted4(skb: Skb, at: u32, egress: bool, key: &mut FlowKey) -> bool {
    let Some(first) = read::<[u8; 10]>(skb, at) else { return false };
    let Some(from) = read::<[u8; 4]>(skb, at + 12) else { return false };
    let Some(to) = read::<[u8; 4]>(skb, at + 16) else { return false };
    key.protocol = first[9];
    key.local = mapped(if egress { to } else { from });
    key.remote = mapped(if egress { from } else { to });
    first[0] == 0x45 && first[6] & 0x1f == 0 && first[7] == 0 && quoted_ports(skb, at + 20, egress, key)
}

/// See [`quoted4`]. Only where the transport header follows at once.
#[inline(always)]
fn quoted6(skb: Skb, at: u32, egress: bool, key: &mut FlowKey) -> bool {
    let Some(protocol) = read::<[u8; 2]>(skb, at + 6) else { return false };
    let Some(local) = read::<[u8; 16]>(skb, at + if egress { 24 } else { 8 }) else { return false };
    let Some(remote) = read::<[u8; 16]>(skb, at + if egress { 8 } else { 24 }) else { return false };
    key.protocol = protocol[0];
    key.local = local;
    key.remote = remote;
    quoted_ports(skb, at + 40, egress, key)
}

#[inline(always)]
fn quoted_ports(skb: Skb, at: u32, egress: bool, key: &mut FlowKey) -> bool {
    let Some(ports) = read::<[[u8; 2]; 4]>(skb, at) else { return false };
    if key.protocol == ICMP || key.protocol == ICMP6 {
        key.local_port = ports[2]; // the identifier of an echo
    } else {
        key.local_port = ports[if egress { 1 } else { 0 }];
        key.remote_port = ports[if egress { 0 } else { 1 }];
    }
    true
}
