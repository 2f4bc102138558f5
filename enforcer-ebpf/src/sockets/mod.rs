//! Entry points at the socket addresses of a cgroup.
//!
//! `connect` and `sendmsg` bring queries to the resolver, the other hooks show programs the server they meant
//! ([`dns`]). `connect` also gives the verdict on TCP, because a dropped SYN would make it hang; it neither denies
//! nor reports UDP, which resolvers connect only to sort addresses (RFC 6724). The packet hooks remain the
//! authority: what passes here is judged again there. [`local`] knows the listeners of the sandbox itself.
//!
//! Two things are decided here alone. What IPv4 sends to groups and to everybody the kernel also delivers on this host, as a
//! copy that has no socket and that no packet hook sees (`ip_mc_output`). And a port that somebody outside listens at is
//! not shared: a datagram that is judged for a listener inside would reach the one outside if the former went away just then.

mod address;
pub mod dns;
pub mod local;

use aya_ebpf::{
    bindings::bpf_sock_addr,
    helpers::{bpf_get_netns_cookie, bpf_get_socket_cookie, generated::bpf_set_retval},
    macros::{cgroup_sock, cgroup_sock_addr},
    programs::{SockAddrContext, SockContext},
};
use nameward_abi::{Address, Direction, Mode, Port, Reason, Verdict, flags};

use self::{
    address::Hook,
    local::{Listener, is_loopback},
};
use crate::{
    endpoint::Endpoint,
    events::report,
    packet::{DNS, Packet, TCP, UDP, is_mapped},
    rules::{Question, is_direct_dns, judge},
    verdict::{Action, verdict},
};

const PASS: i32 = 1;
const DENY: i32 = 0;
const ECONNREFUSED: i32 = 111;
const EPERM: i32 = 1;
const EADDRINUSE: i32 = 98;
const SOCK_STREAM: u32 = 1;
const SCTP: u32 = 132;

/// A socket of the cgroup gets a port: from now on it is known as one of the sandbox.
#[cgroup_sock(post_bind4)]
pub fn post_bind4(ctx: SockContext) -> i32 {
    local::mark(&ctx);
    PASS
}

/// See [`post_bind4`].
#[cgroup_sock(post_bind6)]
pub fn post_bind6(ctx: SockContext) -> i32 {
    local::mark(&ctx);
    PASS
}

/// IPv4 sockets ask for an address and port.
#[cgroup_sock_addr(bind4)]
pub fn bind4(ctx: SockAddrContext) -> i32 {
    bind(ctx.sock_addr, Hook::V4)
}

/// IPv6 sockets ask for an address and port.
#[cgroup_sock_addr(bind6)]
pub fn bind6(ctx: SockAddrContext) -> i32 {
    bind(ctx.sock_addr, Hook::V6)
}

/// IPv4 sockets connect.
#[cgroup_sock_addr(connect4)]
pub fn connect4(ctx: SockAddrContext) -> i32 {
    connect(ctx.sock_addr, Hook::V4)
}

/// IPv6 sockets connect, also to v4-mapped addresses.
#[cgroup_sock_addr(connect6)]
pub fn connect6(ctx: SockAddrContext) -> i32 {
    connect(ctx.sock_addr, Hook::V6)
}

/// UDP datagrams with a destination of their own, IPv4 and v4-mapped.
#[cgroup_sock_addr(sendmsg4)]
pub fn sendmsg4(ctx: SockAddrContext) -> i32 {
    send(ctx.sock_addr, Hook::V4)
}

/// UDP datagrams with a destination of their own, IPv6.
#[cgroup_sock_addr(sendmsg6)]
pub fn sendmsg6(ctx: SockAddrContext) -> i32 {
    send(ctx.sock_addr, Hook::V6)
}

/// Sources of received UDP datagrams.
#[cgroup_sock_addr(recvmsg4)]
pub fn recvmsg4(ctx: SockAddrContext) -> i32 {
    dns::show_source(ctx.sock_addr, Hook::V4);
    PASS
}

/// Sources of received UDP datagrams, also v4-mapped.
#[cgroup_sock_addr(recvmsg6)]
pub fn recvmsg6(ctx: SockAddrContext) -> i32 {
    dns::show_source(ctx.sock_addr, Hook::V6);
    PASS
}

/// The peer of a connected socket.
#[cgroup_sock_addr(getpeername4)]
pub fn getpeername4(ctx: SockAddrContext) -> i32 {
    dns::show_peer(ctx.sock_addr, Hook::V4);
    PASS
}

/// The peer of a connected socket, also v4-mapped.
#[cgroup_sock_addr(getpeername6)]
pub fn getpeername6(ctx: SockAddrContext) -> i32 {
    dns::show_peer(ctx.sock_addr, Hook::V6);
    PASS
}

/// A socket's own address.
#[cgroup_sock_addr(getsockname4)]
pub fn getsockname4(ctx: SockAddrContext) -> i32 {
    dns::show_self(ctx.sock_addr, Hook::V4);
    PASS
}

/// A socket's own address, also v4-mapped.
#[cgroup_sock_addr(getsockname6)]
pub fn getsockname6(ctx: SockAddrContext) -> i32 {
    dns::show_self(ctx.sock_addr, Hook::V6);
    PASS
}

#[inline(always)]
fn endpoint(ctx: *mut bpf_sock_addr) -> Option<Endpoint> {
    // SAFETY: the hook's own context.
    Endpoint::read(unsafe { bpf_get_socket_cookie(ctx.cast()) })
}

/// TCP, UDP, or 0 for what only the packet hooks judge. MPTCP counts as TCP.
#[inline(always)]
fn protocol(ctx: *mut bpf_sock_addr) -> u8 {
    // SAFETY: the hook's own context.
    let (kind, protocol) =
        unsafe { ((&raw const (*ctx).type_).read_volatile(), (&raw const (*ctx).protocol).read_volatile()) };
    match protocol {
        17 => UDP,
        SCTP => 0,
        _ if kind == SOCK_STREAM => TCP,
        _ => 0,
    }
}

#[inline(always)]
fn connect(ctx: *mut bpf_sock_addr, hook: Hook) -> i32 {
    let Some(endpoint) = endpoint(ctx) else { return DENY };
    let (mut remote, port) = address::read(ctx, hook);
    let protocol = protocol(ctx);
    if is_foreign(ctx, &endpoint) {
        return deny(&endpoint, &remote, port, protocol, Reason::ForeignNetns);
    }
    let loops_back = protocol != TCP && local::loops_back(&remote);
    if protocol != TCP && protocol != UDP && !loops_back {
        return PASS;
    }
    local::name_loopback(&mut remote);
    let mut question = Question::new(remote, protocol, port);
    if protocol != 0 && is_redirected(&endpoint, &question) {
        if local::listener(ctx, &endpoint, &question) == Listener::Own {
            return PASS;
        }
        return match dns::redirect(ctx, hook, &endpoint, &question) {
            true => PASS,
            false if protocol == UDP && !loops_back => PASS,
            false => deny(&endpoint, &remote, port, protocol, Reason::DnsElsewhere),
        };
    }
    if loops_back {
        return send_to_group(&endpoint, &mut question);
    }
    if protocol == UDP || dns::is_resolver(&remote, port) {
        return PASS;
    }
    connect_tcp(ctx, &endpoint, &mut question)
}

#[inline(always)]
fn connect_tcp(ctx: *mut bpf_sock_addr, endpoint: &Endpoint, question: &mut Question) -> i32 {
    if endpoint.switch.mode() != Mode::NoPolicyYet {
        match local::listener(ctx, endpoint, question) {
            Listener::Own => return PASS,
            // Nothing is denied: nobody listens, and the kernel would answer the same.
            Listener::Nobody if is_loopback(&question.remote) => return refuse(),
            Listener::Nobody | Listener::Foreign => {}
        }
    }
    let reason = judge(endpoint, question);
    if reason.allows() {
        return PASS;
    }
    deny(endpoint, &question.remote, question.port, TCP, reason)
}

#[inline(always)]
fn send(ctx: *mut bpf_sock_addr, hook: Hook) -> i32 {
    let Some(endpoint) = endpoint(ctx) else { return DENY };
    let (mut remote, port) = address::read(ctx, hook);
    if is_foreign(ctx, &endpoint) {
        return deny(&endpoint, &remote, port, UDP, Reason::ForeignNetns);
    }
    local::name_loopback(&mut remote);
    let mut question = Question::new(remote, UDP, port);
    // What cannot be redirected is denied where packets are judged.
    if is_redirected(&endpoint, &question)
        && (local::listener(ctx, &endpoint, &question) == Listener::Own
            || dns::redirect(ctx, hook, &endpoint, &question))
    {
        return PASS;
    }
    if local::loops_back(&remote) { send_to_group(&endpoint, &mut question) } else { PASS }
}

/// What is sent to an address that stands for many on IPv4.
#[inline(always)]
fn send_to_group(endpoint: &Endpoint, question: &mut Question) -> i32 {
    let reason = judge(endpoint, question);
    if reason.allows() {
        return PASS;
    }
    match deny_here(endpoint, &question.remote, question.port, question.protocol, reason) {
        PASS => PASS,
        // As where packets are judged.
        _ => fail(EPERM),
    }
}

#[inline(always)]
fn bind(ctx: *mut bpf_sock_addr, hook: Hook) -> i32 {
    let Some(endpoint) = endpoint(ctx) else { return DENY };
    let (address, port) = address::read(ctx, hook);
    let denies = matches!(endpoint.switch.mode(), Mode::Enforce | Mode::NoPolicyYet);
    if denies && protocol(ctx) == UDP && port != [0; 2] && local::is_taken(ctx, &address, port) {
        return fail(EADDRINUSE);
    }
    PASS
}

/// Whether a destination is a DNS server in the resolver's place.
#[inline(always)]
fn is_redirected(endpoint: &Endpoint, question: &Question) -> bool {
    (question.port == DNS || dns::is_trusted(&question.remote, question.port))
        && !endpoint.switch.has(flags::DNS_DIRECT)
        && !is_direct_dns(endpoint, question)
}

/// Whether the socket belongs to another network namespace, where neither the resolver's port nor loopback mean
/// what the rules mean.
#[inline(always)]
fn is_foreign(ctx: *mut bpf_sock_addr, endpoint: &Endpoint) -> bool {
    let expected = endpoint.config().map_or(0, |config| config.netns_cookie);
    // SAFETY: the hook's own context.
    expected != 0 && unsafe { bpf_get_netns_cookie(ctx.cast()) } != expected
}

/// Denies an attempt and tells of it, unless it passes because of the mode or is to be dropped in silence: then
/// the packet hook does and tells, so that nothing is told twice.
#[inline(always)]
fn deny(endpoint: &Endpoint, remote: &Address, port: Port, protocol: u8, reason: Reason) -> i32 {
    let (action, _) = verdict(endpoint.switch, reason);
    if !matches!(reason, Reason::ForeignNetns) && action != Action::Reject {
        return PASS;
    }
    deny_here(endpoint, remote, port, protocol, reason)
}

/// The same where no packet hook would.
#[inline(always)]
fn deny_here(endpoint: &Endpoint, remote: &Address, port: Port, protocol: u8, reason: Reason) -> i32 {
    let (action, verdict) = verdict(endpoint.switch, reason);
    let mut packet = Packet::new();
    packet.destination = *remote;
    packet.destination_port = port;
    packet.protocol = protocol;
    packet.family = if is_mapped(remote) { 4 } else { 6 };
    report(endpoint, &packet, reason, verdict, Direction::Egress);
    match (action, verdict) {
        (Action::Reject, _) => refuse(),
        (Action::Drop, Verdict::Deny) => DENY,
        _ => PASS,
    }
}

/// `connect` fails at once as if the other side had answered so.
#[inline(always)]
fn refuse() -> i32 {
    fail(ECONNREFUSED)
}

/// The system call fails with an error of its own.
#[inline(always)]
fn fail(error: i32) -> i32 {
    // SAFETY: takes and returns a number.
    unsafe { bpf_set_retval(-error) };
    DENY
}
