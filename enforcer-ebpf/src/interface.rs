//! Entry points at interfaces.

use aya_ebpf::{bindings::tcx_action_base::TCX_NEXT, macros::classifier, programs::TcContext};

/// Packets that leave the workload.
#[classifier]
pub fn pod_egress(_ctx: TcContext) -> i32 {
    TCX_NEXT
}

/// Packets that reach the workload.
#[classifier]
pub fn pod_ingress(_ctx: TcContext) -> i32 {
    TCX_NEXT
}

/// Answers of the resolver coming out of `nameward0`.
#[classifier]
pub fn dns_return(_ctx: TcContext) -> i32 {
    TCX_NEXT
}
