//! The DNS server on the wire: questions of a workload on one side, a scripted upstream and a scripted enforcer on
//! the other.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod answers;
mod client;
mod grants;
mod lab;
mod limits;
mod malformed;
mod queries;
