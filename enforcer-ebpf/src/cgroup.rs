//! Entry points at a cgroup's packets.

use aya_ebpf::{macros::cgroup_skb, programs::SkBuffContext};

/// Packets sent by sockets of the cgroup.
#[cgroup_skb]
pub fn cgroup_egress(_ctx: SkBuffContext) -> i32 {
    1
}

/// Packets received by sockets of the cgroup.
#[cgroup_skb]
pub fn cgroup_ingress(_ctx: SkBuffContext) -> i32 {
    1
}
