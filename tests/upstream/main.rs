//! What the resolver asks of others: plain and over TLS, of scripted servers and of real ones.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

#[path = "../standalone/client.rs"]
#[allow(dead_code, reason = "shared with the tests of whole processes")]
mod client;
mod dot;
#[path = "../standalone/enforcer.rs"]
#[allow(dead_code, reason = "shared with the tests of whole processes")]
mod enforcer;
mod feed_tls;
mod lab;
mod limits;
mod loads;
mod plain;
mod processes;
mod real;
mod resolved;
#[path = "../standalone/resolver.rs"]
#[allow(dead_code, reason = "shared with the tests of whole processes")]
mod resolver;
mod restart;
