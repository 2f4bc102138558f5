//! Packets by test runs with hot caches, over the floor of an empty program measured in turns, so that a busy machine
//! troubles both alike.

use nameward_abi::{Flow, FlowKey, FlowState, Mode, Reason, maps, programs};
use nameward_enforcer::kernel::BootNanos;

use crate::{
    bench::{
        assembly::Assembled,
        figures::{Figures, percentile},
    },
    lab::*,
    packets::{Flag, query, tcp, udp},
};

const REPEAT: u32 = 20_000;
/// Different connections for the first packets with cold entries.
const CONNECTIONS: u16 = 4_000;
const ESTABLISHED_BAR: f64 = 100.0;
const FIRST_BAR: f64 = 400.0;

/// How often each packet is measured, 20,000 runs each.
pub(crate) const fn rounds(quick: bool) -> usize {
    if quick { 21 } else { 61 }
}

/// An instance with as much in its maps as the bars say.
pub(crate) fn full_lab() -> Lab {
    let mut lab = Lab::sized(4_200);
    for i in 0..1_000u32 {
        let [_, a, b, c] = (0x0a40_0000 + i * 7).to_be_bytes();
        lab.grant(&format!("11.{a}.{b}.{c}"), NAME_ID, u64::MAX);
        lab.cidr(&format!("12.{a}.{b}.{c}"), 32, WEB, 0, 0);
    }
    for i in 0..4_096u16 {
        lab.put_flow(maps::FLOWS, flow_key(i), established());
    }
    lab.configure(|config| config.events_per_second = 0);
    lab
}

pub(crate) fn flow_key(port: u16) -> FlowKey {
    FlowKey {
        local: address(OWN4),
        remote: address(BLOCK4),
        local_port: port.to_be_bytes(),
        remote_port: 443u16.to_be_bytes(),
        protocol: TCP,
        ..FlowKey::default()
    }
}

pub(crate) fn established() -> Flow {
    let state = FlowState::Established as u8;
    let (last_seen, admitted_by) = (BootNanos::now().0, Reason::Cidr as u8);
    Flow { last_seen, generation: 1, state, admitted_by, ..Flow::default() }
}

/// A packet to measure.
struct Case {
    name: &'static str,
    program: &'static str,
    frame: Vec<u8>,
    action: i32,
    bar: Option<f64>,
}

fn cases(lab: &mut Lab) -> Vec<Case> {
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
    let forged = tcp(("10.9.9.9", 1), server, ack);
    vec![
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
        case("forged source (parser, own addresses, folding)", out, forged, DROP, None),
    ]
}

/// Repeated and single packets, and what they are made of.
pub(crate) fn measure(figures: &mut Figures, quick: bool) {
    let mut lab = full_lab();
    let empty = Assembled::empty();
    let cases = cases(&mut lab);
    lab.switch(0, Mode::Enforce, 0, 1);
    let mut times = vec![Vec::new(); cases.len()];
    let mut floors = Vec::new();
    for _ in 0..rounds(quick) {
        for (case, times) in cases.iter().zip(&mut times) {
            let floor = empty.run(&case.frame, REPEAT) as f64;
            let run = lab.run(case.program, &case.frame, 0, REPEAT);
            assert_eq!(run.action, case.action, "{}", case.name);
            times.push(run.nanoseconds as f64 - floor);
            floors.push(floor);
        }
    }
    figures.plain("empty program (the floor)", "ns", percentile(&mut floors, 0.5));
    for (case, times) in cases.iter().zip(&mut times) {
        let time = percentile(times, 0.5);
        match case.bar {
            Some(bar) => figures.at_most(case.name, "ns", time, bar),
            None => figures.plain(case.name, "ns", time),
        }
    }
    let server = (NAMED4, 443);
    let opening = |port| tcp((OWN4, port), server, Flag::Syn);
    let time = singles(&mut lab, &empty, PASS, opening);
    figures.plain("first packet, each of another connection, caches cold", "ns", time);
    let asking = |port| udp((OWN4, port), (UNKNOWN4, 53), &query(port));
    let time = singles(&mut lab, &empty, REDIRECT, asking);
    figures.plain("query to the resolver, one run each, IPv4", "ns", time);
}

/// Packets that are all different, each run once: what makes entries, or rewrites the packet.
fn singles(lab: &mut Lab, empty: &Assembled, action: i32, packet: impl Fn(u16) -> Vec<u8>) -> f64 {
    let mut times = Vec::new();
    for frame in (1_000..1_000 + CONNECTIONS).map(packet) {
        let floor = empty.run(&frame, 1) as f64;
        let run = lab.run(programs::POD_EGRESS, &frame, 0, 1);
        assert_eq!(run.action, action);
        times.push(run.nanoseconds as f64 - floor);
    }
    percentile(&mut times, 0.5)
}
