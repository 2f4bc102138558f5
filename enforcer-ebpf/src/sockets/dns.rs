//! Queries go to the resolver's port on loopback; programs see the server they meant.
//!
//! A socket's last four servers are remembered in `DNS_FLOWS`. Of servers that share a resolver port, the message
//! IDs of queries and answers, which the packet hooks see, tell whose answer is read next.

use aya_ebpf::{bindings::bpf_sock_addr, helpers::bpf_get_socket_cookie};
use nameward_abi::{Address, AskedServer, DnsFlow, DnsFlowKey, Port, SERVERS_PER_FLOW, TRUSTED_SERVERS};

use super::address::{self, Hook};
use crate::{
    endpoint::Endpoint,
    maps::{BLANK_DNS_FLOW, CONFIG, DNS_FLOWS},
    packet::{Packet, UDP, is_mapped, words},
    rules::Question,
    skb::{Skb, read},
};

/// Message IDs kept for a server, in `AskedServer::client`.
const IDS: usize = 8;
/// Answers in the order they came, in `DnsFlow::live`: four bits for their number, then two for each.
const WAITING_LIMIT: u32 = 14;

/// Which of a socket's servers was asked last, in the upper half of `DnsFlow::next`.
const LAST_SHIFT: u32 = 16;
const INDEX: u32 = SERVERS_PER_FLOW as u32 - 1;

/// The resolver's port that stands for a server; zero = there is none.
#[inline(always)]
fn resolver_port(server: &Address, port: Port) -> Port {
    (nameward_resolver_port(server, number(port)) as u16).to_ne_bytes()
}

/// Whether an address and port is that of a server with a resolver port of its own.
#[inline(always)]
pub fn is_trusted(server: &Address, port: Port) -> bool {
    nameward_is_trusted(server, number(port)) != 0
}

/// Whether an address and port is where the resolver answers this endpoint.
#[inline(always)]
pub fn is_resolver(address: &Address, port: Port) -> bool {
    nameward_is_resolver(address, number(port)) != 0
}

/// A port as an argument; the order of octets stays.
#[inline(always)]
fn number(port: Port) -> u32 {
    u32::from(u16::from_ne_bytes(port))
}

/// See [`resolver_port`]. A global function, see `rules::nameward_judge`.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn nameward_resolver_port(server: *const Address, port: u32) -> u64 {
    // SAFETY: null or what callers pass; the verifier checks it.
    let (Some(server), Some(config)) = (unsafe { server.as_ref() }, CONFIG.get(0)) else { return 0 };
    let dns = &config.dns;
    for index in 0..TRUSTED_SERVERS {
        let trusted = &dns.trusted[index];
        if number(trusted.port) == port
            && words(&trusted.address) == words(server)
            && trusted.resolver_port != [0; 2]
        {
            return u64::from(number(trusted.resolver_port));
        }
    }
    u64::from(number(dns.default_port))
}

/// See [`is_trusted`]. A global function, see `rules::nameward_judge`.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn nameward_is_trusted(server: *const Address, port: u32) -> u64 {
    // SAFETY: null or what callers pass; the verifier checks it.
    let (Some(server), Some(config)) = (unsafe { server.as_ref() }, CONFIG.get(0)) else { return 0 };
    for index in 0..TRUSTED_SERVERS {
        let trusted = &config.dns.trusted[index];
        if number(trusted.port) == port && words(&trusted.address) == words(server) {
            return u64::from(port != 0);
        }
    }
    0
}

/// See [`is_resolver`]. A global function, see `rules::nameward_judge`.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn nameward_is_resolver(address: *const Address, port: u32) -> u64 {
    // SAFETY: null or what callers pass; the verifier checks it.
    let (Some(address), Some(config)) = (unsafe { address.as_ref() }, CONFIG.get(0)) else { return 0 };
    let dns = &config.dns;
    let there = words(address) == words(&dns.resolver4) || words(address) == words(&dns.resolver6);
    if !there || port == 0 {
        return 0;
    }
    if port == number(dns.default_port) {
        return 1;
    }
    for index in 0..TRUSTED_SERVERS {
        if port == number(dns.trusted[index].resolver_port) {
            return 1;
        }
    }
    0
}

#[inline(always)]
fn key(cookie: u64, protocol: u8, address: &Address) -> DnsFlowKey {
    let family = if is_mapped(address) { 4 } else { 6 };
    DnsFlowKey { socket: cookie.to_ne_bytes(), protocol, family, _pad: [0; 6] }
}

/// Sends a socket to the resolver instead, and remembers what it meant. `false` = there is no resolver.
#[inline(always)]
pub fn redirect(ctx: *mut bpf_sock_addr, hook: Hook, endpoint: &Endpoint, question: &Question) -> bool {
    let port = resolver_port(&question.remote, question.port);
    if port == [0; 2] {
        return false;
    }
    let key = key(endpoint.cookie, question.protocol, &question.remote);
    remember(endpoint, &key, question, port);
    let Some(config) = endpoint.config() else { return false };
    let dns = &config.dns;
    address::write(ctx, hook, if is_mapped(&question.remote) { &dns.resolver4 } else { &dns.resolver6 });
    address::write_port(ctx, port);
    true
}

#[inline(never)]
fn remember(endpoint: &Endpoint, key: &DnsFlowKey, question: &Question, resolver_port: Port) -> u32 {
    if DNS_FLOWS.get_ptr_mut(key).is_none() {
        let Some(blank) = BLANK_DNS_FLOW.get(0) else { return 0 };
        if DNS_FLOWS.insert(key, blank, 0).is_err() {
            return 0;
        }
    }
    let Some(flow) = DNS_FLOWS.get_ptr_mut(key) else { return 0 };
    // SAFETY: a live value; threads that share a socket may mix up names of servers, nothing else.
    let flow = unsafe { &mut *flow };
    flow.last_seen = endpoint.now;
    let mut position = flow.next & INDEX;
    let mut next = position + 1;
    for index in 0..SERVERS_PER_FLOW {
        let known = &flow.servers[index];
        if words(&known.server) == words(&question.remote) && known.server_port == question.port {
            position = index as u32;
            next = flow.next & INDEX;
        }
    }
    let asked = &mut flow.servers[(position & INDEX) as usize];
    if next != flow.next & INDEX {
        asked.server = question.remote;
        asked.server_port = question.port;
        asked.client = [0; 16];
        asked.id = [0; 2];
    }
    asked.resolver_port = resolver_port;
    flow.next = (next & INDEX) | (position << LAST_SHIFT);
    1
}

/// Notes the message ID of a query on its way to the resolver.
#[inline(never)]
pub fn note_query(skb: Skb, endpoint: &Endpoint, packet: &Packet) -> u32 {
    if packet.protocol != UDP {
        return 0;
    }
    let Some(id) = read::<[u8; 2]>(skb, packet.l4 + 8) else { return 0 };
    let key = key(endpoint.cookie, UDP, &packet.destination);
    let Some(flow) = DNS_FLOWS.get_ptr_mut(key) else { return 0 };
    // SAFETY: as in `remember`.
    let flow = unsafe { &mut *flow };
    let asked = &mut flow.servers[((flow.next >> LAST_SHIFT) & INDEX) as usize];
    let slot = (asked.id[0] as usize & (IDS - 1)) * 2;
    asked.client[slot] = id[0];
    asked.client[slot + 1] = id[1];
    asked.id[0] = asked.id[0].wrapping_add(1);
    1
}

/// Notes whose answer has come, for the program that will read it.
#[inline(never)]
pub fn note_answer(skb: Skb, endpoint: &Endpoint, packet: &Packet) -> u32 {
    if packet.protocol != UDP {
        return 0;
    }
    let Some(id) = read::<[u8; 2]>(skb, packet.l4 + 8) else { return 0 };
    let key = key(endpoint.cookie, UDP, &packet.source);
    let Some(flow) = DNS_FLOWS.get_ptr_mut(key) else { return 0 };
    // SAFETY: as in `remember`.
    let flow = unsafe { &mut *flow };
    let mut from = (flow.next >> LAST_SHIFT) & INDEX;
    for index in 0..SERVERS_PER_FLOW {
        let asked = &flow.servers[index];
        if asked.resolver_port == packet.source_port && has_id(asked, id) {
            from = index as u32;
        }
    }
    let waiting = flow.live & 15;
    if waiting < WAITING_LIMIT {
        let shift = 4 + 2 * waiting;
        flow.live = ((flow.live & !15) & !(3 << shift)) | (from << shift) | (waiting + 1);
    }
    1
}

#[inline(always)]
fn has_id(asked: &AskedServer, id: [u8; 2]) -> bool {
    let mut found = false;
    for slot in 0..IDS {
        let kept = (slot as u8) < asked.id[0] || asked.id[0] as usize >= IDS;
        found |= kept && asked.client[slot * 2] == id[0] && asked.client[slot * 2 + 1] == id[1];
    }
    found
}

/// What the socket knows about the resolver at this address: the flow, when there is one.
#[inline(always)]
fn recall(ctx: *mut bpf_sock_addr, protocol: u8, address: &Address) -> Option<&'static mut DnsFlow> {
    // SAFETY: the hook's own context.
    let cookie = unsafe { bpf_get_socket_cookie(ctx.cast()) };
    // SAFETY: as in `remember`.
    DNS_FLOWS.get_ptr_mut(key(cookie, protocol, address)).map(|flow| unsafe { &mut *flow })
}

/// Shows the server as the source of a datagram from the resolver.
#[inline(always)]
pub fn show_source(ctx: *mut bpf_sock_addr, hook: Hook) {
    let (source, port) = address::read(ctx, hook);
    if !is_resolver(&source, port) {
        return;
    }
    let Some(flow) = recall(ctx, UDP, &source) else { return };
    let waiting = flow.live & 15;
    let mut from = (flow.next >> LAST_SHIFT) & INDEX;
    if waiting > 0 {
        from = (flow.live >> 4) & INDEX;
        flow.live = ((flow.live >> 6) << 4) | (waiting - 1);
    }
    show(ctx, hook, &flow.servers[(from & INDEX) as usize], port);
}

/// Shows the server as the peer of a socket that is connected to the resolver.
#[inline(always)]
pub fn show_peer(ctx: *mut bpf_sock_addr, hook: Hook) {
    let (peer, port) = address::read(ctx, hook);
    if !is_resolver(&peer, port) {
        return;
    }
    let Some(flow) = recall(ctx, super::protocol(ctx), &peer) else { return };
    let from = (flow.next >> LAST_SHIFT) & INDEX;
    show(ctx, hook, &flow.servers[from as usize], port);
}

#[inline(always)]
fn show(ctx: *mut bpf_sock_addr, hook: Hook, asked: &AskedServer, resolver_port: Port) {
    if asked.resolver_port == resolver_port {
        address::write(ctx, hook, &asked.server);
        address::write_port(ctx, asked.server_port);
    }
}

/// Shows the host's own address instead of loopback to sockets that were sent to the resolver: programs learn
/// their address by connecting a UDP socket to some server.
#[inline(always)]
pub fn show_self(ctx: *mut bpf_sock_addr, hook: Hook) {
    let Some(endpoint) = super::endpoint(ctx) else { return };
    let (address, _) = address::read(ctx, hook);
    let Some(config) = endpoint.config() else { return };
    let dns = &config.dns;
    if words(&address) != words(&dns.resolver4) && words(&address) != words(&dns.resolver6) {
        return;
    }
    if recall(ctx, super::protocol(ctx), &address).is_none() {
        return;
    }
    for own in &config.own {
        if words(own) != [0, 0] && is_mapped(own) == is_mapped(&address) {
            address::write(ctx, hook, own);
            return;
        }
    }
}
