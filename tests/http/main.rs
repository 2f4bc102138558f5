//! The routes over real sockets, with a source of known contents. What a real enforcer says is tested in
//! `tests/standalone/api.rs`.
#![allow(clippy::unwrap_used, reason = "tests")]

mod input;
mod lists;
mod streams;
mod whole;
mod world;
