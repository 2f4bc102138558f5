//! The DNS redirect at interfaces (DESIGN: independent of the CNI): out to the resolver's own link under the
//! endpoint's identity address, and back under the address of the server that the workload meant.

use aya_ebpf::{
    bindings::{BPF_F_INGRESS, BPF_F_MARK_MANGLED_0, BPF_F_PSEUDO_HDR},
    helpers::{bpf_csum_diff, bpf_l3_csum_replace, bpf_l4_csum_replace, bpf_redirect, bpf_skb_store_bytes},
};
use nameward_abi::{AskedServer, DnsFlow, DnsFlowKey, SERVERS_PER_FLOW, TRUSTED_SERVERS, flags};

use crate::{
    endpoint::Endpoint,
    maps::{BLANK_DNS_FLOW, DNS_FLOWS, IDENTITIES},
    packet::{FIN, Packet, RST, TCP, UDP, fragment, on_stack, words},
    skb::{Skb, read},
};

/// Set on answers between `dns_return` and `pod_ingress`, so that nobody else can send one. Within one host.
pub const ANSWER_MARK: u32 = 0x6e77_0001;
/// Octets of a DNS header, and of the UDP header before it.
const DNS_HEADER: u32 = 12;
const UDP_HEADER: u32 = 8;
/// A TCP connection that has been silent this long no longer holds its port against another server.
const TCP_SILENCE: u64 = 60_000_000_000;

/// Addresses and ports to write. All of them are the same length in one packet.
#[repr(C, align(8))]
struct Rewrite {
    source: [u8; 16],
    destination: [u8; 16],
    old_source: [u8; 16],
    old_destination: [u8; 16],
    /// Destination and source MAC, as in the frame.
    macs: [[u8; 6]; 2],
    /// Source and destination port.
    ports: [[u8; 2]; 2],
}

fn flow_key(packet: &Packet, port: [u8; 2]) -> DnsFlowKey {
    DnsFlowKey {
        socket: [port[0], port[1], 0, 0, 0, 0, 0, 0],
        protocol: packet.protocol,
        family: packet.family,
        _pad: [0; 6],
    }
}

/// Sends a query to the resolver. -1 = it cannot be; otherwise what the program returns.
#[inline(always)]
pub fn redirect(skb: Skb, endpoint: &Endpoint, packet: &Packet) -> i32 {
    // One after the other instead of one inside the other: stacks are small.
    match nameward_ask(skb, endpoint, packet) {
        0 => -1,
        resolver_port => nameward_redirect(skb, endpoint, packet, resolver_port),
    }
}

/// See [`redirect`]. A global function, see `rules::nameward_judge`.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn nameward_redirect(
    skb: Skb,
    endpoint: *const Endpoint,
    packet: *const Packet,
    resolver_port: u32,
) -> i32 {
    // SAFETY: null or what callers pass; the verifier checks it.
    match unsafe { (endpoint.as_ref(), packet.as_ref()) } {
        (Some(endpoint), Some(packet)) => send(skb, endpoint, packet, resolver_port),
        _ => -1,
    }
}

#[inline(always)]
fn send(skb: Skb, endpoint: &Endpoint, packet: &Packet, resolver_port: u32) -> i32 {
    let Some(config) = endpoint.config() else { return -1 };
    let dns = &config.dns;
    let four = packet.family == 4;
    let rewrite = Rewrite {
        source: if four { dns.identity4 } else { dns.identity6 },
        destination: if four { dns.resolver4 } else { dns.resolver6 },
        old_source: packet.source,
        old_destination: packet.destination,
        macs: [dns.far_mac, dns.link_mac],
        ports: [packet.source_port, (resolver_port as u16).to_ne_bytes()],
    };
    if words(&rewrite.source) == [0, 0] || write(skb, packet, &rewrite) != 0 {
        return -1;
    }
    // SAFETY: scalars only.
    unsafe { bpf_redirect(dns.link_ifindex, 0) as i32 }
}

/// The resolver's port for the server that is asked, noted for the answer. 0 = the query cannot be redirected.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn nameward_ask(skb: Skb, endpoint: *const Endpoint, packet: *const Packet) -> u32 {
    // SAFETY: null or what callers pass; the verifier checks it.
    match unsafe { (endpoint.as_ref(), packet.as_ref()) } {
        (Some(endpoint), Some(packet)) => ask(skb, endpoint, packet),
        _ => 0,
    }
}

#[inline(always)]
fn ask(skb: Skb, endpoint: &Endpoint, packet: &Packet) -> u32 {
    let Some(config) = endpoint.config() else { return 0 };
    let dns = &config.dns;
    let mut asked = AskedServer {
        server: packet.destination,
        client: packet.source,
        server_port: packet.destination_port,
        resolver_port: dns.default_port,
        ..AskedServer::default()
    };
    let mut index = 0;
    while index < TRUSTED_SERVERS {
        let server = &dns.trusted[index];
        if server.port == packet.destination_port && words(&server.address) == words(&packet.destination) {
            asked.resolver_port = server.resolver_port;
        }
        index += 1;
    }
    let Some(macs) = read::<[[u8; 6]; 2]>(skb, 0) else { return 0 };
    asked.server_mac = macs[0];
    asked.client_mac = macs[1];
    if packet.protocol == UDP {
        let id = read::<[u8; 2]>(skb, packet.l4 + UDP_HEADER);
        let Some(id) = id.filter(|_| packet.payload >= UDP_HEADER + DNS_HEADER) else { return 0 };
        asked.id = id;
    }
    if endpoint.switch.has(flags::LAYER3) || remember(endpoint.now, packet, &asked) == 0 {
        return 0;
    }
    u32::from(u16::from_ne_bytes(asked.resolver_port))
}

/// Notes which server a socket asked. 0 = the port is taken by a live connection to another one.
#[inline(never)]
fn remember(now: u64, packet: &Packet, asked: &AskedServer) -> u32 {
    let key = flow_key(packet, packet.source_port);
    if DNS_FLOWS.get_ptr_mut(key).is_none() {
        let Some(blank) = BLANK_DNS_FLOW.get(0) else { return 0 };
        let _ = DNS_FLOWS.insert(key, blank, 0);
    }
    let Some(flow) = DNS_FLOWS.get_ptr_mut(key) else { return 0 };
    // SAFETY: a live value; queries of one source port race only with each other.
    let flow = unsafe { &mut *flow };
    if packet.protocol == TCP {
        let same = words(&flow.servers[0].server) == words(&asked.server)
            && words(&flow.servers[0].client) == words(&asked.client)
            && flow.servers[0].server_port == asked.server_port;
        if !same && flow.live != 0 && flow.last_seen.saturating_add(TCP_SILENCE) > now {
            return 0;
        }
        flow.live = (packet.tcp_flags & (RST | FIN) == 0 || !same) as u32;
        flow.servers[0] = *asked;
    } else {
        flow.servers[flow.next as usize % SERVERS_PER_FLOW] = *asked;
        flow.next = (flow.next + 1) % SERVERS_PER_FLOW as u32;
    }
    flow.last_seen = now;
    1
}

/// Gives an answer back its server's address. `false` = nobody asked.
#[inline(always)]
pub fn restore(skb: Skb, packet: &Packet) -> bool {
    nameward_restore(skb, packet) != 0
}

/// See [`restore`]. A global function, see `rules::nameward_judge`.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn nameward_restore(skb: Skb, packet: *const Packet) -> u64 {
    // SAFETY: null or what callers pass; the verifier checks it.
    unsafe { packet.as_ref() }.map_or(0, |packet| u64::from(receive(skb, packet)))
}

#[inline(always)]
fn receive(skb: Skb, packet: &Packet) -> bool {
    let key = flow_key(packet, packet.destination_port);
    let Some(flow) = DNS_FLOWS.get_ptr_mut(key) else { return false };
    // SAFETY: a live value.
    let flow = unsafe { &*flow };
    let mut found = 0;
    if packet.protocol == UDP {
        let Some(id) = read::<[u8; 2]>(skb, packet.l4 + UDP_HEADER) else { return false };
        let mut back = 0;
        found = SERVERS_PER_FLOW;
        while back < SERVERS_PER_FLOW {
            let index = (flow.next as usize + SERVERS_PER_FLOW - 1 - back) % SERVERS_PER_FLOW;
            let asked = &flow.servers[index];
            if found == SERVERS_PER_FLOW && asked.id == id && asked.resolver_port == packet.source_port {
                found = index;
            }
            back += 1;
        }
        if found >= SERVERS_PER_FLOW {
            found = forgotten(flow, packet.source_port);
        }
        if found >= SERVERS_PER_FLOW {
            return false;
        }
    }
    let asked = &flow.servers[found % SERVERS_PER_FLOW];
    if asked.resolver_port != packet.source_port || asked.server_port == [0; 2] {
        return false;
    }
    let rewrite = Rewrite {
        source: asked.server,
        destination: asked.client,
        old_source: packet.source,
        old_destination: packet.destination,
        macs: [asked.client_mac, asked.server_mac],
        ports: [asked.server_port, packet.destination_port],
    };
    write(skb, packet, &rewrite) == 0
}

/// The place of the server that a query was for which is not remembered any more: a socket may have any number of them on
/// their way. That is known where all that are remembered of a resolver's port were for the same server.
#[inline(never)]
fn forgotten(flow: &DnsFlow, resolver_port: [u8; 2]) -> usize {
    let mut found = SERVERS_PER_FLOW;
    let mut index = 0;
    while index < SERVERS_PER_FLOW {
        let asked = &flow.servers[index];
        if asked.server_port == [0; 2] {
            // Nothing was forgotten.
            return SERVERS_PER_FLOW;
        }
        if asked.resolver_port == resolver_port {
            let first = &flow.servers[if found < SERVERS_PER_FLOW { found } else { index }];
            if asked.server_port != first.server_port
                || words(&asked.server) != words(&first.server)
                || words(&asked.client) != words(&first.client)
            {
                return SERVERS_PER_FLOW;
            }
            found = index;
        }
        index += 1;
    }
    found
}

/// Whether a packet is an answer that was restored before: from a server that was asked, to who asked it.
#[inline(always)]
pub fn is_answer(skb: Skb, packet: &Packet) -> bool {
    matches!(packet.protocol, TCP | UDP) && nameward_is_answer(skb, packet) != 0
}

/// See [`is_answer`]. A global function, see `rules::nameward_judge`.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn nameward_is_answer(skb: Skb, packet: *const Packet) -> u64 {
    // SAFETY: null or what callers pass; the verifier checks it.
    unsafe { packet.as_ref() }.map_or(0, |packet| u64::from(was_asked(skb, packet)))
}

#[inline(always)]
fn was_asked(skb: Skb, packet: &Packet) -> bool {
    if packet.fragment != fragment::NONE {
        return false;
    }
    let Some(flow) = DNS_FLOWS.get_ptr_mut(flow_key(packet, packet.destination_port)) else { return false };
    // SAFETY: a live value.
    let flow = unsafe { &*flow };
    let mut id = [0; 2];
    if packet.protocol == UDP {
        let Some(found) = read::<[u8; 2]>(skb, packet.l4 + UDP_HEADER) else { return false };
        id = found;
    }
    let (server, client) = (words(&packet.source), words(&packet.destination));
    // Of many queries only the last are remembered; see `forgotten`.
    let (mut found, mut full, mut all) = (false, true, true);
    let mut index = 0;
    while index < SERVERS_PER_FLOW {
        let asked = &flow.servers[index];
        let same = asked.server_port == packet.source_port
            && words(&asked.server) == server
            && words(&asked.client) == client;
        found |= same && asked.id == id;
        full &= asked.server_port != [0; 2];
        all &= same;
        index += 1;
    }
    found || full && all
}

/// Finds the interface of an answer by the identity address it goes to.
#[inline(always)]
pub fn send_back(skb: Skb, packet: &Packet) -> Option<i32> {
    // SAFETY: a value that user space replaces as a whole.
    let identity = unsafe { IDENTITIES.get(on_stack(&packet.destination)) }?;
    // SAFETY: the context's field is writable; the helper takes scalars only.
    unsafe {
        (*skb).mark = ANSWER_MARK;
        let flags = if identity.receive != 0 { u64::from(BPF_F_INGRESS) } else { 0 };
        Some(bpf_redirect(identity.ifindex, flags) as i32)
    }
}

/// Rewrites a packet and its checksums. The helpers know packets whose checksum is not finished yet
/// (CHECKSUM_PARTIAL) and leave a UDP checksum of zero alone.
#[inline(never)]
fn write(skb: Skb, packet: &Packet, rewrite: &Rewrite) -> i64 {
    let udp = packet.protocol == UDP;
    let checksum = packet.l4 + if udp { 6 } else { 16 };
    let mangled = if udp && packet.family == 4 { u64::from(BPF_F_MARK_MANGLED_0) } else { 0 };
    let four = packet.family == 4;
    // SAFETY: all pointers are to structures on the stack, with their own lengths.
    unsafe {
        let difference = address_difference(rewrite);
        let mut failed =
            bpf_l4_csum_replace(skb, checksum, 0, difference, u64::from(BPF_F_PSEUDO_HDR) | mangled);
        let old = u32::from_ne_bytes([
            packet.source_port[0],
            packet.source_port[1],
            packet.destination_port[0],
            packet.destination_port[1],
        ]);
        let [s, d] = rewrite.ports;
        let new = u32::from_ne_bytes([s[0], s[1], d[0], d[1]]);
        failed |= bpf_l4_csum_replace(skb, checksum, u64::from(old), u64::from(new), 4 | mangled);
        failed |= bpf_skb_store_bytes(skb, packet.l4, rewrite.ports.as_ptr().cast(), 4, 0);
        if four {
            failed |= bpf_l3_csum_replace(skb, packet.l3 + 10, 0, difference, 0);
            failed |= bpf_skb_store_bytes(skb, packet.l3 + 12, rewrite.source.as_ptr().add(12).cast(), 4, 0);
            failed |=
                bpf_skb_store_bytes(skb, packet.l3 + 16, rewrite.destination.as_ptr().add(12).cast(), 4, 0);
        } else {
            failed |= bpf_skb_store_bytes(skb, packet.l3 + 8, rewrite.source.as_ptr().cast(), 32, 0);
        }
        failed |= bpf_skb_store_bytes(skb, 0, rewrite.macs.as_ptr().cast(), 12, 0);
        failed as i64
    }
}

/// The v4-mapped prefix is the same in old and new, so one difference serves both families.
#[inline(always)]
fn address_difference(rewrite: &Rewrite) -> u64 {
    let old = rewrite.old_source.as_ptr().cast_mut().cast();
    let new = rewrite.source.as_ptr().cast_mut().cast();
    // SAFETY: two addresses of sixteen octets stand behind each other in both cases.
    unsafe { bpf_csum_diff(old, 32, new, 32, 0) as u32 as u64 }
}
