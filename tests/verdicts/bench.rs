//! What a packet, a grant and an endpoint cost. Writes `target/bench/packet.json`.
//!
//! Packets are test runs with hot caches, with 1,000 grants, 1,000 prefixes and 4,096 flows in the maps; figures are
//! over the floor of an empty program, measured in turns, so that a busy machine troubles both alike.
#![allow(clippy::unwrap_used, reason = "a measurement that cannot go on fails")]
#![allow(dead_code, reason = "the lab serves the tests, too")]

mod bench {
    pub(crate) mod empty;
    pub(crate) mod endpoints;
}
mod lab;
mod packets;

use std::{fs, path::Path};

use nameward_abi::{Flow, FlowKey, FlowState, Reason, maps, programs};
use nameward_enforcer::kernel::BootNanos;
use serde_json::{Value, json};

use crate::{
    bench::empty::Empty,
    lab::*,
    packets::{Flag, query, tcp, udp},
};

const ROUNDS: usize = 21;
const REPEAT: u32 = 20_000;
/// Different connections for the first packets with cold entries.
const CONNECTIONS: u16 = 4_000;
const ESTABLISHED_BAR: f64 = 100.0;
const FIRST_BAR: f64 = 400.0;

fn main() {
    assert!(privileged(), "this needs root");
    let mut figures = packets();
    figures.extend(bench::endpoints::figures());
    let passed = figures.iter().all(|figure| figure["pass"] != false);
    for figure in &figures {
        let bar = figure["bar"].as_f64().map_or(String::new(), |bar| format!("(bar {bar})"));
        println!(
            "{:<58} {:>10.1} {:<3} {bar}",
            figure["name"].as_str().unwrap(),
            figure["value"].as_f64().unwrap(),
            figure["unit"].as_str().unwrap(),
        );
    }
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join("target/bench");
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join("packet.json"), serde_json::to_string_pretty(&figures).unwrap()).unwrap();
    std::process::exit(i32::from(!passed));
}

pub(crate) fn figure(name: &str, value: f64, unit: &str, bar: Option<f64>) -> Value {
    let pass = bar.map(|bar| value <= bar);
    json!({"name": name, "value": value, "unit": unit, "bar": bar, "pass": pass})
}

pub(crate) fn percentile(values: &mut [f64], part: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    values[((values.len() - 1) as f64 * part).round() as usize]
}

/// An instance with as much in its maps as the bars say.
fn full_lab() -> Lab {
    let mut lab = Lab::sized(4_200);
    for i in 0..1_000u32 {
        let [_, a, b, c] = (0x0a40_0000 + i * 7).to_be_bytes();
        lab.grant(&format!("11.{a}.{b}.{c}"), NAME_ID, u64::MAX);
        lab.cidr(&format!("12.{a}.{b}.{c}"), 32, WEB, 0, 0);
    }
    for i in 0..4_096u16 {
        let key = FlowKey {
            local: address(OWN4),
            remote: address(BLOCK4),
            local_port: i.to_be_bytes(),
            remote_port: 443u16.to_be_bytes(),
            protocol: TCP,
            ..FlowKey::default()
        };
        let state = FlowState::Established as u8;
        let (last_seen, admitted_by) = (BootNanos::now().0, Reason::Cidr as u8);
        lab.put_flow(
            maps::FLOWS,
            key,
            Flow { last_seen, generation: 1, state, admitted_by, ..Flow::default() },
        );
    }
    lab
}

/// A packet to measure, and what must have happened before.
struct Case {
    name: &'static str,
    program: &'static str,
    frame: Vec<u8>,
    action: i32,
    bar: Option<f64>,
}

fn packets() -> Vec<Value> {
    let mut lab = full_lab();
    let empty = Empty::load();
    let (client, server) = ((OWN4, 40_000), (NAMED4, 443));
    let (client6, server6) = ((OWN6, 40_000), (NAMED6, 443));
    for (client, server) in [(client, server), (client6, server6)] {
        lab.egress(&tcp(client, server, Flag::Syn));
        lab.run(programs::POD_INGRESS, &tcp(server, client, Flag::SynAck), 0, 1);
        lab.egress(&udp(client, server, b"question"));
        lab.run(programs::POD_INGRESS, &udp(server, client, b"answer"), 0, 1);
    }
    let case = |name, program, frame, action, bar| Case { name, program, frame, action, bar };
    let (out, into) = (programs::POD_EGRESS, programs::POD_INGRESS);
    let (first, established) = (Some(FIRST_BAR), Some(ESTABLISHED_BAR));
    let (opening, opening6) = ((OWN4, 41_000), (OWN6, 41_000));
    let ack = Flag::Ack;
    let cases = [
        case("established TCP sent, IPv4", out, tcp(client, server, ack), PASS, established),
        case("established TCP received, IPv4", into, tcp(server, client, ack), PASS, established),
        case("established TCP sent, IPv6", out, tcp(client6, server6, ack), PASS, established),
        case("established TCP received, IPv6", into, tcp(server6, client6, ack), PASS, established),
        case("established UDP sent, IPv4", out, udp(client, server, b"q"), PASS, established),
        case("established UDP received, IPv4", into, udp(server, client, b"a"), PASS, established),
        case("first packet, by name, IPv4", out, tcp(opening, server, Flag::Syn), PASS, first),
        case("first packet, by name, IPv6", out, tcp(opening6, server6, Flag::Syn), PASS, first),
        case("first packet, by CIDR, IPv4", out, tcp(opening, (BLOCK4, 443), Flag::Syn), PASS, first),
        case("denied and dropped, IPv4", out, tcp(client, (UNKNOWN4, 443), ack), DROP, None),
        case(
            "forged source (parser and own addresses only)",
            out,
            tcp(("10.9.9.9", 1), server, ack),
            DROP,
            None,
        ),
    ];
    lab.configure(|config| config.events_per_second = 0);
    lab.switch(0, nameward_abi::Mode::Enforce, 0, 1);
    let mut times = vec![Vec::new(); cases.len()];
    let mut floors = Vec::new();
    for _ in 0..ROUNDS {
        for (case, times) in cases.iter().zip(&mut times) {
            let floor = empty.run(&case.frame, REPEAT) as f64;
            let run = lab.run(case.program, &case.frame, 0, REPEAT);
            assert_eq!(run.action, case.action, "{}", case.name);
            times.push(run.nanoseconds as f64 - floor);
            floors.push(floor);
        }
    }
    let mut figures = vec![figure("empty program (the floor)", percentile(&mut floors, 0.5), "ns", None)];
    for (case, times) in cases.iter().zip(&mut times) {
        figures.push(figure(case.name, percentile(times, 0.5), "ns", case.bar));
    }
    let opening = |port| tcp((OWN4, port), server, Flag::Syn);
    let name = "first packet, each of another connection, caches cold";
    figures.push(singles(&mut lab, &empty, name, PASS, opening));
    let asking = |port| udp((OWN4, port), (UNKNOWN4, 53), &query(port));
    figures.push(singles(&mut lab, &empty, "query to the resolver, one run each, IPv4", REDIRECT, asking));
    figures
}

/// Packets that are all different, each run once: what makes entries, or rewrites the packet.
fn singles(lab: &mut Lab, empty: &Empty, name: &str, action: i32, packet: impl Fn(u16) -> Vec<u8>) -> Value {
    let mut times = Vec::new();
    for frame in (1_000..1_000 + CONNECTIONS).map(packet) {
        let floor = empty.run(&frame, 1) as f64;
        let run = lab.run(programs::POD_EGRESS, &frame, 0, 1);
        assert_eq!(run.action, action, "{name}");
        times.push(run.nanoseconds as f64 - floor);
    }
    figure(name, percentile(&mut times, 0.5), "ns", None)
}
