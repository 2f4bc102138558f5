//! Reading and writing the address that a socket hook is about. IPv4 is v4-mapped everywhere else.
//!
//! The verifier wants accesses of the context with fixed offsets and widths: hence field by field, volatile.

use aya_ebpf::bindings::bpf_sock_addr;
use nameward_abi::{Address, Port, mapped};

/// Which fields of the context hold the address.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Hook {
    V4,
    V6,
}

/// The address and port in the context.
#[inline(always)]
pub fn read(ctx: *mut bpf_sock_addr, hook: Hook) -> (Address, Port) {
    // SAFETY: the hook's own context; `hook` says which fields it may read.
    unsafe {
        let port = ((&raw const (*ctx).user_port).read_volatile() as u16).to_ne_bytes();
        let address = match hook {
            Hook::V4 => mapped((&raw const (*ctx).user_ip4).read_volatile().to_ne_bytes()),
            Hook::V6 => join([
                (&raw const (*ctx).user_ip6[0]).read_volatile(),
                (&raw const (*ctx).user_ip6[1]).read_volatile(),
                (&raw const (*ctx).user_ip6[2]).read_volatile(),
                (&raw const (*ctx).user_ip6[3]).read_volatile(),
            ]),
        };
        (address, port)
    }
}

/// Puts an address into the context. The port stays.
#[inline(always)]
pub fn write(ctx: *mut bpf_sock_addr, hook: Hook, address: &Address) {
    let words = split(address);
    // SAFETY: the hook's own context; `hook` says which fields it may write.
    unsafe {
        match hook {
            Hook::V4 => (&raw mut (*ctx).user_ip4).write_volatile(words[3]),
            Hook::V6 => {
                (&raw mut (*ctx).user_ip6[0]).write_volatile(words[0]);
                (&raw mut (*ctx).user_ip6[1]).write_volatile(words[1]);
                (&raw mut (*ctx).user_ip6[2]).write_volatile(words[2]);
                (&raw mut (*ctx).user_ip6[3]).write_volatile(words[3]);
            }
        }
    }
}

/// Puts a port into the context.
#[inline(always)]
pub fn write_port(ctx: *mut bpf_sock_addr, port: Port) {
    // SAFETY: the hook's own context.
    unsafe { (&raw mut (*ctx).user_port).write_volatile(u32::from(u16::from_ne_bytes(port))) };
}

#[inline(always)]
fn join(words: [u32; 4]) -> Address {
    // SAFETY: four u32 are sixteen octets.
    unsafe { core::mem::transmute::<[u32; 4], Address>(words) }
}

#[inline(always)]
fn split(address: &Address) -> [u32; 4] {
    // SAFETY: sixteen octets are four u32.
    unsafe { core::mem::transmute::<Address, [u32; 4]>(*address) }
}
