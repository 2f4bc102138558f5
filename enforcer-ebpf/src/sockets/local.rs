//! Loopback: sockets of one sandbox reach each other, and no others (X6).
//!
//! Packet hooks ask for the cgroup of the socket at the other end. Socket hooks cannot, so sockets of the cgroup
//! are marked when they get a port; those that had one before are marked by user space when it attaches.

use core::ffi::c_void;

use aya_ebpf::{
    bindings::{BPF_SK_STORAGE_GET_F_CREATE, bpf_sock, bpf_sock_addr},
    btf_maps::SkStorage,
    helpers::generated::{
        bpf_sk_ancestor_cgroup_id, bpf_sk_lookup_tcp, bpf_sk_lookup_udp, bpf_sk_release, bpf_sk_storage_get,
    },
    macros::btf_map,
    programs::SockContext,
};
use nameward_abi::{Address, Direction, Port};

use crate::{
    endpoint::Endpoint,
    packet::{Packet, TCP, UDP, is_mapped, words},
    rules::Question,
    skb::Skb,
};

/// Sockets of the sandbox that have a port.
#[btf_map]
pub static OWN_SOCKETS: SkStorage<u32> = SkStorage::new();

const CURRENT_NETNS: u64 = u64::MAX;
const LOOPBACK4: Address = nameward_abi::mapped([127, 0, 0, 1]);
const LOOPBACK6: Address = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
const ANY4: Address = nameward_abi::mapped([0; 4]);
/// Addresses that no host has: only who listens at all addresses gets what is sent there.
const NOBODY4: Address = nameward_abi::mapped([240, 0, 0, 1]);
const NOBODY6: Address = [1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
const BROADCAST4: Address = nameward_abi::mapped([127, 255, 255, 255]);

/// Who would answer at an address and port of this host.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Listener {
    /// A socket of the same sandbox.
    Own,
    /// A socket of somebody else, or one whose address is not this host's.
    Foreign,
    Nobody,
}

/// Marks a socket as one of the sandbox.
#[inline(always)]
pub fn mark(ctx: &SockContext) {
    let mut value = 1u32;
    // SAFETY: a map, the hook's own socket and a value of the map's type.
    unsafe {
        bpf_sk_storage_get(
            marks(),
            ctx.sock.cast(),
            (&raw mut value).cast(),
            u64::from(BPF_SK_STORAGE_GET_F_CREATE),
        )
    };
}

#[inline(always)]
fn marks() -> *mut c_void {
    (&raw const OWN_SOCKETS).cast_mut().cast()
}

/// Whether an address is 127.0.0.0/8 or ::1.
#[inline(always)]
pub fn is_loopback(address: &Address) -> bool {
    (is_mapped(address) && address[12] == 127) || words(address) == words(&LOOPBACK6)
}

/// Connecting to the unspecified address means loopback.
#[inline(always)]
pub fn name_loopback(address: &mut Address) {
    if words(address) == [0, 0] {
        *address = LOOPBACK6;
    } else if words(address) == words(&ANY4) {
        *address = LOOPBACK4;
    }
}

#[repr(C)]
struct Tuple4 {
    source: [u8; 4],
    destination: [u8; 4],
    source_port: Port,
    destination_port: Port,
}

#[repr(C)]
struct Tuple6 {
    source: Address,
    destination: Address,
    source_port: Port,
    destination_port: Port,
}

/// Two ends of a connection as its receiver sees them.
struct Ends<'a> {
    source: &'a Address,
    destination: &'a Address,
    source_port: Port,
    destination_port: Port,
    protocol: u8,
}

/// The socket that receives what `ends` describe, in the network namespace of the context; to be released.
#[inline(always)]
fn lookup(ctx: *mut c_void, ends: &Ends<'_>) -> *mut bpf_sock {
    let ports = (ends.source_port, ends.destination_port);
    if is_mapped(ends.destination) {
        let (from, to) = (ends.source, ends.destination);
        let mut tuple = Tuple4 {
            source: [from[12], from[13], from[14], from[15]],
            destination: [to[12], to[13], to[14], to[15]],
            source_port: ports.0,
            destination_port: ports.1,
        };
        find(ctx, (&raw mut tuple).cast(), size_of::<Tuple4>() as u32, ends.protocol)
    } else {
        let mut tuple = Tuple6 {
            source: *ends.source,
            destination: *ends.destination,
            source_port: ports.0,
            destination_port: ports.1,
        };
        find(ctx, (&raw mut tuple).cast(), size_of::<Tuple6>() as u32, ends.protocol)
    }
}

#[inline(always)]
fn find(ctx: *mut c_void, tuple: *mut c_void, size: u32, protocol: u8) -> *mut bpf_sock {
    // SAFETY: the hook's own context, and a tuple of the size that says its family.
    unsafe {
        if protocol == TCP {
            bpf_sk_lookup_tcp(ctx, tuple.cast(), size, CURRENT_NETNS, 0)
        } else {
            bpf_sk_lookup_udp(ctx, tuple.cast(), size, CURRENT_NETNS, 0)
        }
    }
}

/// Who listens where a socket wants to go. A wildcard listener answers for this host's addresses only.
#[inline(always)]
pub fn listener(ctx: *mut bpf_sock_addr, endpoint: &Endpoint, question: &Question) -> Listener {
    match found(ctx, &question.remote, question.port, question.protocol) {
        Listener::Own if !is_loopback(&question.remote) && !endpoint.owns(&question.remote) => {
            Listener::Foreign
        }
        found => found,
    }
}

/// Whose socket the kernel finds for an address and port.
#[inline(always)]
fn found(ctx: *mut bpf_sock_addr, address: &Address, port: Port, protocol: u8) -> Listener {
    let source = if is_mapped(address) { ANY4 } else { [0; 16] };
    let ends =
        Ends { source: &source, destination: address, source_port: [0; 2], destination_port: port, protocol };
    let socket = lookup(ctx.cast(), &ends);
    if socket.is_null() {
        return Listener::Nobody;
    }
    // SAFETY: a socket that was found, released once, and not used afterwards.
    let is_own = unsafe {
        let mark = bpf_sk_storage_get(marks(), socket.cast(), core::ptr::null_mut(), 0);
        let is_own = !mark.is_null();
        bpf_sk_release(socket.cast());
        is_own
    };
    if is_own { Listener::Own } else { Listener::Foreign }
}

/// Whether somebody outside receives datagrams that are sent to an address and port, which a socket of the sandbox asks
/// for: two may have the same (SO_REUSEADDR), and get them in turn.
#[inline(always)]
pub fn is_taken(ctx: *mut bpf_sock_addr, address: &Address, port: Port) -> bool {
    if words(address) == [0, 0] {
        return is_foreign(ctx, &NOBODY6, port) || is_foreign(ctx, &NOBODY4, port);
    }
    if words(address) == words(&ANY4) {
        return is_foreign(ctx, &NOBODY4, port);
    }
    !is_for_many(address) && is_foreign(ctx, address, port)
}

#[inline(never)]
fn is_foreign(ctx: *mut bpf_sock_addr, address: &Address, port: Port) -> bool {
    found(ctx, address, port, UDP) == Listener::Foreign
}

/// Whether the kernel delivers a copy on this host of what is sent to an address, which no packet hook sees. Those of a
/// subnet are not known here.
#[inline(always)]
pub fn loops_back(address: &Address) -> bool {
    is_mapped(address) && is_for_many(address)
}

/// Whether all sockets with a port get what is sent to an address, not only the one that a lookup finds.
#[inline(always)]
fn is_for_many(address: &Address) -> bool {
    if is_mapped(address) {
        address[12] >= 224 || words(address) == words(&BROADCAST4)
    } else {
        address[0] == 0xff
    }
}

/// Whether a packet on the loopback device passes because both its ends are in the sandbox.
#[inline(never)]
pub fn is_own(skb: Skb, endpoint: &Endpoint, packet: &Packet, direction: Direction) -> bool {
    if packet.protocol != TCP && packet.protocol != UDP {
        return false;
    }
    let ends = match direction {
        Direction::Egress => Ends {
            source: &packet.source,
            destination: &packet.destination,
            source_port: packet.source_port,
            destination_port: packet.destination_port,
            protocol: packet.protocol,
        },
        Direction::Ingress => Ends {
            source: &packet.destination,
            destination: &packet.source,
            source_port: packet.destination_port,
            destination_port: packet.source_port,
            protocol: packet.protocol,
        },
    };
    if is_for_many(ends.destination) {
        return false;
    }
    let socket = lookup(skb.cast(), &ends);
    if socket.is_null() {
        // The last packets of a connection go to a socket that is gone (TIME_WAIT); they carry nothing to anybody.
        return packet.protocol == TCP && !packet.is_bare_syn();
    }
    let (level, id) =
        endpoint.config().map_or((0, u64::MAX), |config| (config.cgroup_level, config.cgroup_id));
    // SAFETY: a socket that was found, released once, and not used afterwards.
    let ancestor = unsafe {
        let ancestor = bpf_sk_ancestor_cgroup_id(socket.cast(), level as i32);
        bpf_sk_release(socket.cast());
        ancestor
    };
    ancestor == id
}
