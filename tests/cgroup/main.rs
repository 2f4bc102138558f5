//! Cgroup endpoints on the real kernel: real programs in a cgroup of their own, in network namespaces of their own.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod attach;
mod dns;
mod isolate;
mod lab;
mod loopback;
mod packets;
