//! `nameward run` on the real kernel, with real programs (SEMANTICS X1-X8, bypass rows B36 and B37).
//!
//! Each test has a network namespace of its own with a small internet behind a veth: a DNS server that answers
//! from a table and an HTTP server on every address. Traffic never leaves it.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod clients;
mod input;
mod lab;
mod leaving;
mod life;
mod reports;
mod rules;
