//! What the interface programs do with single packets, through BPF_PROG_TEST_RUN: action, counter and event of
//! every reason. The kernel runs the programs as they are loaded in production; only `live` involves interfaces.
#![allow(clippy::unwrap_used, reason = "tests")]

mod arrival;
mod cost;
mod dns;
mod flows;
mod fragments;
mod lab;
mod live;
mod neighbours;
mod packets;
mod parse;
mod reasons;
mod reject;
mod rules;
