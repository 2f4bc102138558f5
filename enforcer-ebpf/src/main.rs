//! The kernel programs: judge every packet of a workload, bring its DNS to the resolver, say what became of it.
//!
//! [`interface`] and [`cgroup`] hold the entry points for packets, [`sockets`] those for socket addresses. They
//! share [`packet`] (a parsed summary), [`decide`] (why a packet passes or not) and [`verdict`] (what is done
//! about it); [`established`] is the short way of most packets. Names, time limits and everything else that user space can do is deliberately absent.
#![no_std]
#![no_main]
#![feature(asm_experimental_arch)] // bounds that the verifier needs and the compiler would leave out

mod cgroup;
mod decide;
mod dns;
mod endpoint;
mod established;
mod events;
mod flows;
mod interface;
mod maps;
mod neighbours;
mod packet;
mod reject;
mod rules;
mod skb;
mod sockets;
mod verdict;

/// What the kernel is told: helpers that it gives to GPL-compatible programs only are used here. The source is
/// under Apache-2.0 or MIT, as the rest of the project.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
