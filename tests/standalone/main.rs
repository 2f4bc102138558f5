//! `nameward-resolver` as a process: with a file of endpoints (S2), with a scripted enforcer at its feed, and with
//! `nameward-enforcer` on real workloads (S4).
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod api;
mod attacks;
mod client;
mod enforcer;
mod feed;
mod files;
mod input;
mod latency;
mod long_caches;
mod nodes;
mod pair;
mod pair_lab;
mod prometheus;
mod reloads;
mod resolver;
mod seeing;
