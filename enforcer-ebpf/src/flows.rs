//! Flows: what has been admitted goes on by itself.
//!
//! A flow begins in `FLEETING` (LRU) and moves to `FLOWS` (not LRU, so that nobody's flood evicts what is live)
//! when the other side answers. RST or both FINs give the place in `FLOWS` back at once. Entries that have been
//! idle too long are absent for everybody, whether or not user space has removed them yet.
#![allow(
    clippy::needless_borrows_for_generic_args,
    reason = "flows are inserted from where they are: a copy would take the stack that is not there"
)]

use core::ffi::c_void;

use aya_ebpf::{bindings::BPF_NOEXIST, helpers::generated::bpf_for_each_map_elem};
use nameward_abi::{Direction, Flow, FlowKey, FlowState, Port, Reason, idle};

use crate::{
    endpoint::Endpoint,
    maps::{ALLOW, EVENT_BUDGET, FLEETING, FLOWS},
    packet::{ACK, DNS, FIN, ICMP, ICMP6, Packet, RST, SYN, TCP, UDP, on_stack},
};

const SECOND: u64 = 1_000_000_000;
const BOTH_FINS: u8 = 3;

/// Finds the flow of a packet and leaves in `key` where it is, or would be.
///
/// At cgroups flows are known by socket, because addresses are translated; connections that came to a listener
/// belong to a socket that did not exist then, and are known by the peer.
#[inline(never)]
pub fn find_packet(
    endpoint: &Endpoint,
    packet: &Packet,
    key: &mut FlowKey,
    direction: Direction,
) -> *mut Flow {
    tuple(packet, key, direction);
    let egress = matches!(direction, Direction::Egress);
    let may_be_accepted = endpoint.is_cgroup() && packet.protocol == TCP;
    // The flow of a listener's socket is of the peer that it was connected to before.
    if !may_be_accepted || !packet.is_to_listener(egress) {
        adapt(endpoint, key);
        let flow = find(endpoint.now, key);
        if !flow.is_null() || !may_be_accepted {
            return flow;
        }
        tuple(packet, key, direction);
    }
    key.local = [0; 16];
    let flow = find(endpoint.now, key);
    if flow.is_null() && egress {
        adapt(endpoint, key);
    }
    flow
}

#[inline(always)]
fn tuple(packet: &Packet, key: &mut FlowKey, direction: Direction) {
    let egress = matches!(direction, Direction::Egress);
    key.local = if egress { packet.source } else { packet.destination };
    key.remote = if egress { packet.destination } else { packet.source };
    let (local, remote) = match packet.protocol {
        ICMP | ICMP6 => (packet.source_port, [0; 2]),
        _ if egress => (packet.source_port, packet.destination_port),
        _ => (packet.destination_port, packet.source_port),
    };
    set_tail(key, local, remote, packet.protocol);
}

/// What follows the addresses, in one write: the kernel's hash reads words, and would wait for octets.
#[inline(always)]
pub fn set_tail(key: &mut FlowKey, local: Port, remote: Port, protocol: u8) {
    let tail = [local[0], local[1], remote[0], remote[1], protocol, 0, 0, 0];
    // SAFETY: the last eight octets of a key, aligned to words.
    unsafe { (&raw mut key.local_port).cast::<u64>().write(u64::from_ne_bytes(tail)) };
}

/// Turns the tuple of a packet into what flows of this endpoint are known by.
#[inline(always)]
pub fn adapt(endpoint: &Endpoint, key: &mut FlowKey) {
    if endpoint.is_cgroup() {
        by_socket(key, endpoint.cookie);
    }
}

#[inline(always)]
fn by_socket(key: &mut FlowKey, cookie: u64) {
    key.local = [0; 16];
    key.local[..8].copy_from_slice(&cookie.to_ne_bytes());
    if key.protocol == TCP {
        key.remote = [0; 16];
        key.remote_port = [0; 2];
    }
    if key.protocol != ICMP && key.protocol != ICMP6 {
        key.local_port = [0; 2];
    }
}

/// A live flow, wherever it is kept.
#[inline(never)]
pub fn find(now: u64, key: &FlowKey) -> *mut Flow {
    if let Some(flow) = FLOWS.get_ptr_mut(key) {
        // SAFETY: a live value.
        if is_live(now, key.protocol, unsafe { &*flow }) {
            return flow;
        }
        let _ = FLOWS.remove(key);
    }
    if let Some(flow) = FLEETING.get_ptr_mut(key) {
        // SAFETY: a live value.
        if is_live(now, key.protocol, unsafe { &*flow }) {
            return flow;
        }
        let _ = FLEETING.remove(key);
    }
    core::ptr::null_mut()
}

#[inline(always)]
pub fn is_live(now: u64, protocol: u8, flow: &Flow) -> bool {
    let established = flow.state == FlowState::Established as u8;
    let limit = match protocol {
        TCP if established => idle::TCP_ESTABLISHED,
        TCP => idle::TCP_CLOSING,
        ICMP | ICMP6 => idle::ICMP,
        _ if established => idle::UDP_ANSWERED,
        _ => idle::UDP_OPENING,
    };
    // Another CPU may have written a later time than ours.
    flow.last_seen.saturating_add(limit) > now
}

/// Whether `FLOWS` had no room within the last second.
#[inline(always)]
pub fn are_full(now: u64) -> bool {
    EVENT_BUDGET.get(0).is_some_and(|budget| budget.flows_full_at != 0 && now - budget.flows_full_at < SECOND)
}

/// Notes a flow that a packet begins, in the place of `known` if that is not null.
#[inline(never)]
pub fn begin(endpoint: &Endpoint, packet: &Packet, key: &FlowKey, reason: Reason, known: *mut Flow) -> u32 {
    if packet.protocol == TCP && packet.tcp_flags & RST != 0 {
        return 0;
    }
    // SAFETY: a live value that the caller has just found. Only what was answered is in `FLOWS`.
    if !known.is_null() && unsafe { (*known).state } == FlowState::Established as u8 {
        let _ = FLOWS.remove(key);
    }
    let flow = Flow {
        last_seen: endpoint.now,
        packets: 1,
        bytes: u64::from(packet.length),
        admitted_id: packet.admitted_id,
        generation: endpoint.switch.generation(),
        state: FlowState::Opening as u8,
        admitted_by: reason as u8,
        fins: 0,
        unseen: 0,
        _pad: [0; 4],
    };
    let _ = FLEETING.insert(key, flow, 0);
    1
}

/// Notes a packet of a live flow. `false` = it would be established, and there is no room.
#[inline(always)]
pub fn follow(
    endpoint: &Endpoint,
    packet: &Packet,
    key: &FlowKey,
    flow: *mut Flow,
    direction: Direction,
) -> bool {
    nameward_follow(endpoint, packet, key, flow, direction as u32) != 0
}

/// See [`follow`]. A global function, see `rules::nameward_judge`: it has many branches, and what it is called with
/// shall not multiply them.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn nameward_follow(
    endpoint: *const Endpoint,
    packet: *const Packet,
    key: *const FlowKey,
    flow: *mut Flow,
    direction: u32,
) -> u64 {
    // SAFETY: null or what callers pass; the verifier checks it.
    match unsafe { (endpoint.as_ref(), packet.as_ref(), key.as_ref(), flow.as_mut()) } {
        (Some(endpoint), Some(packet), Some(key), Some(flow)) => {
            u64::from(note(endpoint, packet, key, flow, direction == Direction::Egress as u32))
        }
        _ => 0,
    }
}

#[inline(always)]
fn note(endpoint: &Endpoint, packet: &Packet, key: &FlowKey, flow: &mut Flow, egress: bool) -> bool {
    if egress && lapses(endpoint.now, flow) {
        touch(endpoint, flow.admitted_id, &key.remote, &packet.destination);
    }
    count(endpoint.now, flow, packet.length);
    if packet.protocol == TCP {
        if packet.tcp_flags & FIN != 0 {
            flow.fins |= if egress { 1 } else { 2 };
        }
        if packet.tcp_flags & RST != 0 || flow.fins == BOTH_FINS {
            close(key, flow);
            return true;
        }
    }
    let opened_here = flow.admitted_by != Reason::Reply as u8;
    let answered = flow.state != FlowState::Established as u8 && egress != opened_here;
    // Where answers take a way that passes us by, the workload shows that there was one: it acknowledges it.
    let shown = egress && opened_here && is_opening(flow) && acknowledges(packet);
    if shown {
        flow.unseen = 1;
    } else if !egress {
        flow.unseen = 0;
    }
    if !(answered || shown) || packet.protocol == ICMP || packet.protocol == ICMP6 {
        return true;
    }
    // A question to a server that is asked directly is over with its answer: it takes no connection's place.
    if packet.protocol == UDP && opened_here && key.remote_port == DNS {
        return true;
    }
    establish(endpoint.now, key, flow)
}

/// Notes that a packet of `length` octets has passed.
#[inline(always)]
pub fn count(now: u64, flow: &mut Flow, length: u32) {
    flow.last_seen = now;
    // Two CPUs, one for each direction, may lose a count here, never in STATS.
    flow.packets += 1;
    flow.bytes += u64::from(length);
}

/// Whether a packet from the workload is the first one in a while that keeps the address of a name in use.
#[inline(always)]
pub fn lapses(now: u64, flow: &Flow) -> bool {
    flow.admitted_id != 0 && now.wrapping_sub(flow.last_seen) > SECOND / 2
}

#[inline(always)]
fn is_opening(flow: &Flow) -> bool {
    flow.state == FlowState::Opening as u8
}

#[inline(always)]
fn acknowledges(packet: &Packet) -> bool {
    packet.protocol == TCP && packet.tcp_flags & (SYN | ACK | RST) == ACK
}

/// The time of use, about once a second: what is in use does not lapse.
#[inline(always)]
fn touch(endpoint: &Endpoint, admitted_id: u32, keyed: &[u8; 16], seen: &[u8; 16]) {
    if admitted_id == 0 {
        return;
    }
    let remote = if endpoint.is_cgroup() { seen } else { keyed };
    if let Some(allow) = ALLOW.get_ptr_mut(on_stack(remote)) {
        // SAFETY: a live value; an aligned word.
        unsafe { (*allow).last_used = endpoint.now };
    }
}

/// A key or a flow on the stack: see `packet::on_stack`.
#[inline(always)]
fn copy_of<T: Copy>(value: &T) -> T {
    const { assert!(size_of::<T>() == 40 && align_of::<T>() == 8) };
    let mut copy = [0u64; 5];
    // SAFETY: as many octets, aligned to words; volatile, so that they are copied.
    unsafe {
        core::ptr::write_volatile(&raw mut copy, *core::ptr::from_ref(value).cast::<[u64; 5]>());
        *(&raw const copy).cast::<T>()
    }
}

#[inline(always)]
fn close(key: &FlowKey, flow: &mut Flow) {
    if flow.state == FlowState::Closing as u8 {
        return;
    }
    flow.state = FlowState::Closing as u8;
    let (key, flow) = (copy_of(key), copy_of(flow));
    let _ = FLEETING.insert(&key, &flow, 0);
    let _ = FLOWS.remove(&key);
}

#[inline(always)]
fn establish(now: u64, key: &FlowKey, flow: &mut Flow) -> bool {
    if flow.fins == BOTH_FINS {
        return true;
    }
    let before = flow.state;
    flow.state = FlowState::Established as u8;
    let key = copy_of(key);
    match FLOWS.insert(&key, &copy_of(flow), u64::from(BPF_NOEXIST)) {
        Ok(()) => {
            let _ = FLEETING.remove(&key);
            true
        }
        Err(-17) => true, // EEXIST: another CPU was faster
        Err(_) => {
            flow.state = before;
            if let Some(budget) = EVENT_BUDGET.get_ptr_mut(0) {
                // SAFETY: a live value; an aligned word.
                unsafe { (*budget).flows_full_at = now };
            }
            false
        }
    }
}

/// Removes what has been idle too long, once a second at most, so that a full table does not depend on user space.
/// A global function, called where the stack is shallow; see `rules`.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn nameward_make_room(now: u64) -> u64 {
    let Some(budget) = EVENT_BUDGET.get_ptr_mut(0) else { return 0 };
    // SAFETY: a live value; aligned words.
    let budget = unsafe { &mut *budget };
    if now.wrapping_sub(budget.swept_at) < SECOND {
        return 0;
    }
    budget.swept_at = now;
    let mut sweep = Sweep { now, removed: 0 };
    // SAFETY: a map of ours, a callback of the kind that the helper wants, and its argument on the stack.
    unsafe {
        bpf_for_each_map_elem(
            (&raw const FLOWS).cast_mut().cast(),
            remove_idle as *mut c_void,
            (&raw mut sweep).cast(),
            0,
        );
    }
    if sweep.removed != 0 {
        budget.flows_full_at = 0;
    }
    sweep.removed
}

#[repr(C)]
struct Sweep {
    now: u64,
    removed: u64,
}

/// Called by the kernel for each flow.
unsafe extern "C" fn remove_idle(
    _map: *mut c_void,
    key: *mut FlowKey,
    flow: *mut Flow,
    sweep: *mut Sweep,
) -> u64 {
    // SAFETY: the kernel gives an entry of the map and the argument of `nameward_make_room`.
    unsafe {
        if !is_live((*sweep).now, (*key).protocol, &*flow) && FLOWS.remove(&*key).is_ok() {
            (*sweep).removed = 1; // not a count: the verifier would follow each value
        }
    }
    0
}

/// The protocol by which `PORTS` knows a packet.
#[inline(always)]
pub fn rule_protocol(packet: &Packet) -> u8 {
    match packet.protocol {
        ICMP6 => ICMP,
        UDP => UDP,
        other => other,
    }
}
