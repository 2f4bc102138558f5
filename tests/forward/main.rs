//! A real CoreDNS in front of the resolver (Q1, Q9): with and without its cache, nodes whose enforcers a test holds back, and
//! real enforcers with the kernel below them.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod cached;
#[path = "../standalone/client.rs"]
#[allow(dead_code, reason = "shared with the tests of whole processes")]
mod client;
mod coredns;
mod corefile;
#[path = "../standalone/enforcer.rs"]
#[allow(dead_code, reason = "shared with the tests of whole processes")]
mod enforcer;
mod kernel;
mod nodes;
mod pods;
#[path = "../standalone/resolver.rs"]
#[allow(dead_code, reason = "shared with the tests of whole processes")]
mod resolver;
