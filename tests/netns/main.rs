//! The enforcer on the real kernel: every test has its own network namespaces, instance of pins and DNS link, and
//! runs beside the others.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod adopt;
mod attach;
mod bridge;
mod clsact;
mod cni;
mod dns;
mod events;
mod lab;
mod limits;
mod peer;
mod service;
mod traffic;
mod trouble;
