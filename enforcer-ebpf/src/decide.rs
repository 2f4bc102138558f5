//! Why a packet passes or not. The order is the security argument: well-formed, own source, link housekeeping,
//! DNS, known flow, rules.
//!
//! The same code judges interfaces and cgroups. At cgroups packets start at the IP header, sources are not
//! checked (addresses are translated), and flows are known by socket. What is done about a reason is `verdict`'s.

use nameward_abi::{
    Address, Config, Direction, Flow, FlowKey, FragmentKey, Mode, OWN_ADDRESSES, Reason, TRUSTED_SERVERS,
    UNCHECKED, flags, idle, mapped,
};

use crate::{
    endpoint::Endpoint,
    flows,
    maps::FRAGMENTS,
    neighbours,
    packet::{DNS, ICMP, ICMP6, Packet, RST, SCTP, TCP, UDP, fragment, is_mapped, words},
    rules::{self, Question},
    skb::{Skb, read},
    sockets::local::is_loopback,
};

/// Index of the loopback device in every network namespace (`LOOPBACK_IFINDEX`).
const LOOPBACK: u32 = 1;
/// ICMP errors larger than this carry more than a quotation (RFC 1812 section 4.3.2.3).
const LARGEST_ICMP4_ERROR: u32 = 576;
const LARGEST_ICMP6_ERROR: u32 = 1_280;

/// A packet that the workload sends. `CGROUP` says what [`Endpoint::is_cgroup`] does: what an entry point never needs is
/// not in its program, and not verified.
#[inline(always)]
pub fn egress<const CGROUP: bool>(skb: Skb, endpoint: &Endpoint, packet: &mut Packet) -> Reason {
    let reason = endpoint.forget(judge_egress::<CGROUP>(skb, endpoint, packet));
    unhidden(endpoint, packet, reason)
}

/// Where only denies count (R1), what shows them no port is denied to every address that has any.
#[inline(always)]
pub fn unhidden(endpoint: &Endpoint, packet: &Packet, reason: Reason) -> Reason {
    if !matches!(endpoint.switch.mode(), Mode::NotIsolated) {
        return reason;
    }
    let hides = matches!(
        reason,
        Reason::Malformed
            | Reason::Fragment
            | Reason::ExtensionHeader
            | Reason::IcmpError
            | Reason::Protocol
            | Reason::NotIp
    );
    if hides && rules::has_denies(endpoint, &packet.destination) != 0 { Reason::DeniedCidr } else { reason }
}

#[inline(always)]
fn judge_egress<const CGROUP: bool>(skb: Skb, endpoint: &Endpoint, packet: &mut Packet) -> Reason {
    if !CGROUP {
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
    if CGROUP && let Some(reason) = judge_loopback(skb, endpoint, packet) {
        return reason;
    }
    if packet.fragment == fragment::LATER {
        return judge_later_fragment(endpoint, packet);
    }
    if is_dns(endpoint, packet) && !is_direct_dns(endpoint, packet) {
        return judge_dns::<CGROUP>(endpoint, packet);
    }
    if !CGROUP && goes_astray(skb, endpoint, packet) {
        return Reason::ForeignMac;
    }
    if packet.is_icmp_error() {
        return judge_icmp_error(skb, endpoint, packet, Direction::Egress);
    }
    let reason = judge_flow(endpoint, packet);
    note_first_fragment(endpoint, packet, reason);
    reason
}

/// Queries to the resolver, and what goes to loopback by another device: a socket that is bound to one (SO_BINDTODEVICE,
/// IP_PKTINFO) sends there whatever the address is, and a neighbour may take it.
#[inline(always)]
fn judge_loopback(skb: Skb, endpoint: &Endpoint, packet: &Packet) -> Option<Reason> {
    let here = is_on_loopback(skb);
    match is_resolver(endpoint, &packet.destination, packet.destination_port) {
        true if here => Some(Reason::Dns),
        true => Some(Reason::DnsElsewhere),
        false => (!here && is_loopback(&packet.destination)).then_some(Reason::NoMatch),
    }
}

/// Whether a packet of a cgroup comes or goes by the loopback device.
#[inline(always)]
pub fn is_on_loopback(skb: Skb) -> bool {
    // SAFETY: a field of the context.
    unsafe { (*skb).ifindex == LOOPBACK }
}

/// Whether a frame goes to a neighbour instead of the gateway (B40). Groups have addresses of their own, in both
/// layers: a packet for one host in a frame for all would reach all.
#[inline(always)]
fn goes_astray(skb: Skb, endpoint: &Endpoint, packet: &Packet) -> bool {
    let Some(config) = endpoint.config() else { return true };
    let gateway = config.gateway_mac;
    if gateway == [0; 6] {
        return false;
    }
    let Some(mac) = read::<[u8; 6]>(skb, 0) else { return true };
    mac != gateway && nameward_stays_on_link(endpoint, packet, u64::from(mac[0] & 1)) == 0
}

/// Whether a packet is for the link itself, in a frame for a group (1) or for one. A global function, see
/// `rules::nameward_judge`.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn nameward_stays_on_link(endpoint: *const Endpoint, packet: *const Packet, group: u64) -> u64 {
    // SAFETY: null or what callers pass; the verifier checks it.
    match unsafe { (endpoint.as_ref(), packet.as_ref()) } {
        (Some(endpoint), Some(packet)) => stays_on_link(endpoint, packet, group),
        _ => 0,
    }
}

#[inline(always)]
fn stays_on_link(endpoint: &Endpoint, packet: &Packet, group: u64) -> u64 {
    let to = &packet.destination;
    if if packet.family == 4 { to[12] >= 224 } else { to[0] == 0xff } {
        return group;
    }
    if packet.family != 4 && to[0] == 0xfe && to[1] & 0xc0 == 0x80 {
        return 1 - group;
    }
    let Some(config) = endpoint.config() else { return 0 };
    let length = if packet.family == 4 { config.on_link[0] } else { config.on_link[1] };
    match length {
        0 => return 0,
        UNCHECKED => return 1,
        _ => {}
    }
    let bits = u32::from(length) + if packet.family == 4 { 96 } else { 0 };
    let high = if bits >= 64 { u64::MAX } else { !(u64::MAX >> bits) };
    let low = if bits <= 64 { 0 } else { !(u64::MAX.unbounded_shr(bits - 64)) };
    let wanted = words(to).map(u64::from_be);
    let mut index = 0;
    while index < OWN_ADDRESSES {
        let own = words(&config.own[index]).map(u64::from_be);
        let shares = (own[0] ^ wanted[0]) & high | (own[1] ^ wanted[1]) & low;
        if own != [0, 0] && is_mapped(&config.own[index]) == (packet.family == 4) && shares == 0 {
            // Only the subnet's broadcast address (IPv4) is for all.
            let for_all = packet.family == 4 && wanted[1] | low == u64::MAX;
            return u64::from(group == 0 || for_all);
        }
        index += 1;
    }
    0
}

/// Later fragments follow the first one, also where audit lets it through.
#[inline(always)]
fn note_first_fragment(endpoint: &Endpoint, packet: &Packet, reason: Reason) {
    let passes = reason.allows() || matches!(endpoint.switch.mode(), Mode::Audit | Mode::NotIsolated);
    if packet.fragment == fragment::FIRST && passes && reason != Reason::DeniedCidr {
        let _ = insert_fragment(endpoint, packet);
    }
}

/// Apart from the rest, because stacks are small.
#[inline(never)]
fn insert_fragment(endpoint: &Endpoint, packet: &Packet) -> u64 {
    u64::from(FRAGMENTS.insert(fragment_key(packet), endpoint.now, 0).is_ok())
}

/// A packet that the workload is sent. `CGROUP`: see [`egress`].
#[inline(always)]
pub fn ingress<const CGROUP: bool>(skb: Skb, endpoint: &Endpoint, packet: &mut Packet) -> Reason {
    if !CGROUP && let Some(reason) = neighbours::judge(skb, endpoint, packet, Direction::Ingress) {
        return reason;
    }
    if matches!(endpoint.switch.mode(), Mode::NoPolicyYet) {
        return Reason::NoPolicyYet;
    }
    if CGROUP && is_on_loopback(skb) && is_resolver(endpoint, &packet.source, packet.source_port) {
        return Reason::Dns;
    }
    if packet.fragment == fragment::LATER {
        return judge_later_fragment(endpoint, packet);
    }
    if packet.is_icmp_error() {
        return judge_icmp_error(skb, endpoint, packet, Direction::Ingress);
    }
    let reason = judge_inbound_flow(endpoint, packet);
    note_first_fragment(endpoint, packet, reason);
    reason
}

/// A packet that the workload is sent, where also our own answers to it arrive: marks do not reach its namespace.
#[inline(always)]
pub fn arrival(skb: Skb, endpoint: &Endpoint, packet: &mut Packet) -> Reason {
    match ingress::<false>(skb, endpoint, packet) {
        // A reset or an error opens nothing, whoever sent it.
        Reason::Inbound if packet.protocol == TCP && packet.tcp_flags & RST != 0 => Reason::Related,
        Reason::IcmpError if packet.is_prohibition() => Reason::Related,
        reason => reason,
    }
}

/// ARP, or neither ARP nor IP.
#[inline(always)]
pub fn not_ip(skb: Skb, endpoint: &Endpoint, packet: &mut Packet, direction: Direction) -> Reason {
    match (packet.ethertype, direction) {
        ([8, 6], Direction::Ingress) => Reason::Neighbour,
        ([8, 6], Direction::Egress) => neighbours::judge_arp(skb, endpoint, packet),
        (_, Direction::Egress) => unhidden(endpoint, packet, Reason::NotIp),
        (_, Direction::Ingress) => Reason::NotIp,
    }
}

/// Known flow, else rules.
#[inline(always)]
fn judge_flow(endpoint: &Endpoint, packet: &mut Packet) -> Reason {
    Reason::from_number(nameward_judge_flow(endpoint, packet) as u8).unwrap_or(Reason::Malformed)
}

/// See [`judge_flow`]. A global function, see `rules::nameward_judge`.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn nameward_judge_flow(endpoint: *const Endpoint, packet: *mut Packet) -> u64 {
    // SAFETY: null or what callers pass; the verifier checks it.
    let (Some(endpoint), Some(packet)) = (unsafe { (endpoint.as_ref(), packet.as_mut()) }) else {
        return Reason::Malformed as u64;
    };
    flow_or_rules(endpoint, packet) as u64
}

#[inline(always)]
fn flow_or_rules(endpoint: &Endpoint, packet: &mut Packet) -> Reason {
    let mut key = FlowKey::default();
    let flow = flows::find_packet(endpoint, packet, &mut key, Direction::Egress);
    let mut question = question_of(packet);
    // A bare SYN is new even where a flow is known: after expiry a port that is used again opens nothing (G3).
    if !flow.is_null()
        && !packet.is_bare_syn()
        && !packet.is_plain_icmp()
        && let Some(reason) = judge_known(endpoint, packet, &key, flow, &mut question)
    {
        return reason;
    }
    question.admitted_id = 0;
    let reason = rules::judge(endpoint, &mut question);
    packet.admitted_id = question.admitted_id;
    if (packet.protocol == ICMP || packet.protocol == ICMP6) && !packet.is_echo_request() {
        let stays = matches!(reason, Reason::NotIsolated | Reason::DeniedCidr | Reason::NoPolicyYet);
        return if stays { reason } else { Reason::Protocol };
    }
    if !reason.allows() {
        // What audit lets through goes on as one flow, told of once.
        if matches!(endpoint.switch.mode(), Mode::Audit) {
            let _ = flows::begin(endpoint, packet, &key, reason, flow);
        }
        return reason;
    }
    if flows::are_full(endpoint.now) && flow.is_null() {
        return Reason::FlowsFull;
    }
    packet.begins = flow.is_null();
    let _ = flows::begin(endpoint, packet, &key, reason, flow);
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

/// The same question about a packet that came back.
#[inline(always)]
fn question_back(packet: &Packet) -> Question {
    let port = match packet.protocol {
        TCP | UDP | SCTP => packet.source_port,
        _ => [0; 2],
    };
    Question::new(packet.source, flows::rule_protocol(packet), port)
}

/// `None` = the flow is no longer allowed, judge as new.
#[inline(always)]
fn judge_known(
    endpoint: &Endpoint,
    packet: &mut Packet,
    key: &FlowKey,
    flow: *mut Flow,
    question: &mut Question,
) -> Option<Reason> {
    // SAFETY: a live value.
    let admitted_by = unsafe { (*flow).admitted_by };
    let inbound = admitted_by == Reason::Reply as u8;
    // SAFETY: as above.
    packet.admitted_id = unsafe { (*flow).admitted_id };
    if !is_still_admitted(endpoint, flow, question) {
        return None;
    }
    // SAFETY: as above.
    packet.begins = inbound && unsafe { (*flow).state } == 0;
    if !flows::follow(endpoint, packet, key, flow, Direction::Egress) {
        return Some(Reason::FlowsFull);
    }
    packet.continues = true;
    Some(told_as(admitted_by))
}

/// Why a packet from the workload passes that goes on with a flow: what audit let through keeps its reason, and answers
/// and what was adopted are counted apart.
#[inline(always)]
pub fn told_as(admitted_by: u8) -> Reason {
    match Reason::from_number(admitted_by) {
        Some(reason) if !reason.allows() || matches!(reason, Reason::Reply | Reason::Adopted) => reason,
        _ => Reason::Flow,
    }
}

/// Whether the rules in force still allow what a flow was admitted under; looked up once a generation (R9).
#[inline(always)]
fn is_still_admitted(endpoint: &Endpoint, flow: *mut Flow, question: &mut Question) -> bool {
    // SAFETY: a live value.
    is_admitted(endpoint, unsafe { &*flow }) || nameward_still_admitted(endpoint, flow, question) != 0
}

/// Whether the rules in force have judged a flow already, and allow it.
#[inline(always)]
pub fn is_admitted(endpoint: &Endpoint, flow: &Flow) -> bool {
    Reason::from_number(flow.admitted_by).is_some_and(Reason::allows)
        && flow.generation == endpoint.switch.generation()
}

/// See [`is_still_admitted`]. A global function, see `rules::nameward_judge`.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn nameward_still_admitted(
    endpoint: *const Endpoint,
    flow: *mut Flow,
    question: *mut Question,
) -> u64 {
    // SAFETY: null or what callers pass; the verifier checks it.
    match unsafe { (endpoint.as_ref(), flow.as_mut(), question.as_mut()) } {
        (Some(endpoint), Some(flow), Some(question)) => u64::from(judge_again(endpoint, flow, question)),
        _ => 0,
    }
}

#[inline(always)]
fn judge_again(endpoint: &Endpoint, flow: &mut Flow, question: &mut Question) -> bool {
    let reason = Reason::from_number(flow.admitted_by).unwrap_or(Reason::Malformed);
    // What audit let through ends when it is enforced.
    if !reason.allows() {
        return matches!(endpoint.switch.mode(), Mode::Audit);
    }
    let allowed = match reason {
        Reason::Reply => admits_inbound(endpoint, &question.remote),
        Reason::Adopted => {
            question.unless_denied = 1;
            let allowed = rules::still_allowed(endpoint, question);
            question.unless_denied = 0;
            allowed
        }
        _ => {
            question.admitted_id = flow.admitted_id;
            rules::still_allowed(endpoint, question)
        }
    };
    if allowed {
        flow.generation = endpoint.switch.generation();
    }
    allowed
}

/// Known flow, else what `inbound` says (G9).
#[inline(always)]
fn judge_inbound_flow(endpoint: &Endpoint, packet: &mut Packet) -> Reason {
    Reason::from_number(nameward_judge_inbound(endpoint, packet) as u8).unwrap_or(Reason::Malformed)
}

/// See [`judge_inbound_flow`]. A global function, see `rules::nameward_judge`.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn nameward_judge_inbound(endpoint: *const Endpoint, packet: *mut Packet) -> u64 {
    // SAFETY: null or what callers pass; the verifier checks it.
    let (Some(endpoint), Some(packet)) = (unsafe { (endpoint.as_ref(), packet.as_mut()) }) else {
        return Reason::Malformed as u64;
    };
    flow_or_inbound(endpoint, packet) as u64
}

#[inline(always)]
fn flow_or_inbound(endpoint: &Endpoint, packet: &mut Packet) -> Reason {
    let mut key = FlowKey::default();
    let flow = flows::find_packet(endpoint, packet, &mut key, Direction::Ingress);
    if !flow.is_null() && !packet.is_plain_icmp() {
        // SAFETY: a live value.
        packet.admitted_id = unsafe { (*flow).admitted_id };
        // At cgroups addresses are not translated back yet: what the socket sends next is judged.
        if !endpoint.is_cgroup() && !is_still_admitted(endpoint, flow, &mut question_back(packet)) {
            return Reason::Inbound;
        }
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
    let _ = flows::begin(endpoint, packet, &key, Reason::Reply, flow);
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

#[inline(never)]
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
    let port = u16::from_ne_bytes(packet.destination_port);
    endpoint.config().is_none_or(|config| is_dns_server(config, &packet.destination, port))
}

/// Whether queries go to an address and port: any address at port 53, trusted servers at their own. The port is in
/// network order, and a word: octets would be read and compared one by one, for every packet.
#[inline(always)]
pub fn is_dns_server(config: &Config, address: &Address, port: u16) -> bool {
    if port == u16::from_ne_bytes(DNS) {
        return true;
    }
    let mut index = 0;
    while index < TRUSTED_SERVERS {
        let server = &config.dns.trusted[index];
        if u16::from_ne_bytes(server.port) == port && words(&server.address) == words(address) {
            return true;
        }
        index += 1;
    }
    false
}

/// Whether a rule allows just this server: the workload may ask it without us. Apart from the rest, because stacks
/// are small.
#[inline(never)]
fn is_direct_dns(endpoint: &Endpoint, packet: &Packet) -> bool {
    rules::is_direct_dns(endpoint, &question_of(packet))
}

/// `Dns` = to be redirected.
#[inline(always)]
fn judge_dns<const CGROUP: bool>(endpoint: &Endpoint, packet: &Packet) -> Reason {
    let to = &packet.destination;
    let everybody =
        if packet.family == 4 { to[12] >= 224 || to[12] == 127 || to[12] == 0 } else { to[0] == 0xff };
    if packet.fragment != fragment::NONE {
        return Reason::Fragment;
    }
    if everybody || CGROUP || endpoint.config().is_none_or(|config| config.dns.link_ifindex == 0) {
        return Reason::DnsElsewhere;
    }
    Reason::Dns
}

/// Whether an address and port are the resolver's listeners of this cgroup.
#[inline(always)]
fn is_resolver(endpoint: &Endpoint, address: &[u8; 16], port: [u8; 2]) -> bool {
    let Some(config) = endpoint.config() else { return false };
    let dns = &config.dns;
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
#[inline(always)]
fn judge_icmp_error(skb: Skb, endpoint: &Endpoint, packet: &Packet, direction: Direction) -> Reason {
    let number = nameward_icmp_error(skb, endpoint, packet, direction as u32);
    Reason::from_number(number as u8).unwrap_or(Reason::Malformed)
}

/// See [`judge_icmp_error`]. A global function, see `rules::nameward_judge`.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn nameward_icmp_error(
    skb: Skb,
    endpoint: *const Endpoint,
    packet: *const Packet,
    direction: u32,
) -> u64 {
    // SAFETY: null or what callers pass; the verifier checks it.
    let (Some(endpoint), Some(packet)) = (unsafe { (endpoint.as_ref(), packet.as_ref()) }) else {
        return Reason::Malformed as u64;
    };
    about_flow(skb, endpoint, packet, direction == Direction::Egress as u32) as u64
}

#[inline(always)]
fn about_flow(skb: Skb, endpoint: &Endpoint, packet: &Packet, egress: bool) -> Reason {
    let mut key = FlowKey::default();
    if !read_quoted(skb, packet, egress, &mut key) {
        return Reason::IcmpError;
    }
    let largest = if packet.family == 4 { LARGEST_ICMP4_ERROR } else { LARGEST_ICMP6_ERROR };
    let astray = words(&key.remote) != words(&packet.destination) || packet.length > largest;
    if egress && (astray || !crate::events::take_reject(endpoint)) {
        return Reason::IcmpError;
    }
    if is_about_known_flow(endpoint, packet, &mut key, egress) { Reason::Related } else { Reason::IcmpError }
}

#[inline(never)]
fn is_about_known_flow(endpoint: &Endpoint, packet: &Packet, key: &mut FlowKey, egress: bool) -> bool {
    let protocol = if key.protocol == ICMP6 { ICMP } else { key.protocol };
    let mut question = Question::new(packet.destination, protocol, key.remote_port);
    flows::adapt(endpoint, key);
    let flow = flows::find(endpoint.now, key);
    !flow.is_null() && (!egress || is_still_admitted(endpoint, flow, &mut question))
}

/// The flow that an error quotes. What is quoted came from, or went to, an own address: where the error is sent from
/// or to.
#[inline(never)]
fn read_quoted(skb: Skb, packet: &Packet, egress: bool, key: &mut FlowKey) -> bool {
    let read = if packet.family == 4 {
        quoted4(skb, packet.l4 + 8, egress, key)
    } else {
        quoted6(skb, packet.l4 + 8, egress, key)
    };
    let own = if egress { &packet.source } else { &packet.destination };
    read && words(&key.local) == words(own)
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
