//! What the interface programs do with single packets, through BPF_PROG_TEST_RUN: action, counter and event of
//! every reason. The kernel runs the programs as they are loaded in production; only `live` and `against_model` involve
//! interfaces.
#![allow(clippy::unwrap_used, reason = "tests")]

mod against_model;
mod arrival;
#[path = "bench/assembly.rs"]
#[allow(dead_code, reason = "serves the measurements, too")]
mod assembly;
mod cost;
mod dns;
mod established;
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

#[path = "../model/naive.rs"]
#[allow(dead_code, reason = "serves the tests of the pure core, too")]
mod naive;
#[path = "../model/worlds.rs"]
#[allow(dead_code, reason = "serves the tests of the pure core, too")]
mod worlds;
