//! Cgroup endpoints on the real kernel: real programs in a cgroup of their own, in network namespaces of their own.

mod attach;
mod dns;
mod lab;
mod loopback;
mod packets;
