//! Entry points at the socket addresses of a cgroup.

use aya_ebpf::{macros::cgroup_sock_addr, programs::SockAddrContext};

/// See `nameward_abi::programs`.
#[cgroup_sock_addr(connect4)]
pub fn connect4(_ctx: SockAddrContext) -> i32 {
    1
}

/// See `nameward_abi::programs`.
#[cgroup_sock_addr(connect6)]
pub fn connect6(_ctx: SockAddrContext) -> i32 {
    1
}

/// See `nameward_abi::programs`.
#[cgroup_sock_addr(sendmsg4)]
pub fn sendmsg4(_ctx: SockAddrContext) -> i32 {
    1
}

/// See `nameward_abi::programs`.
#[cgroup_sock_addr(sendmsg6)]
pub fn sendmsg6(_ctx: SockAddrContext) -> i32 {
    1
}

/// See `nameward_abi::programs`.
#[cgroup_sock_addr(recvmsg4)]
pub fn recvmsg4(_ctx: SockAddrContext) -> i32 {
    1
}

/// See `nameward_abi::programs`.
#[cgroup_sock_addr(recvmsg6)]
pub fn recvmsg6(_ctx: SockAddrContext) -> i32 {
    1
}

/// See `nameward_abi::programs`.
#[cgroup_sock_addr(getpeername4)]
pub fn getpeername4(_ctx: SockAddrContext) -> i32 {
    1
}

/// See `nameward_abi::programs`.
#[cgroup_sock_addr(getpeername6)]
pub fn getpeername6(_ctx: SockAddrContext) -> i32 {
    1
}

/// See `nameward_abi::programs`.
#[cgroup_sock_addr(getsockname4)]
pub fn getsockname4(_ctx: SockAddrContext) -> i32 {
    1
}

/// See `nameward_abi::programs`.
#[cgroup_sock_addr(getsockname6)]
pub fn getsockname6(_ctx: SockAddrContext) -> i32 {
    1
}
