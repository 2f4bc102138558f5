//! What a packet costs. The bound is loose, because other tests run beside it; the figures are printed.

use nameward_abi::{Reason, programs};

use crate::{
    lab::*,
    packets::{Flag, tcp},
};

#[test]
fn a_packet_costs_well_below_two_microseconds() {
    if !privileged() {
        return;
    }
    let mut lab = Lab::new();
    for i in 0..1_000u32 {
        let [_, a, b, c] = (0x0a40_0000 + i * 7).to_be_bytes();
        lab.grant(&format!("11.{a}.{b}.{c}"), NAME_ID, u64::MAX);
        lab.cidr(&format!("12.{a}.{b}.{c}"), 32, WEB, 0, 0);
    }
    for (own, named) in [(OWN4, NAMED4), (OWN6, NAMED6)] {
        let (client, server) = ((own, 40_000), (named, 443));
        let syn = tcp(client, server, Flag::Syn);
        let first = best(&mut lab, programs::POD_EGRESS, &syn);
        lab.receives(&tcp(server, client, Flag::SynAck), PASS, Reason::Flow);
        let ack = tcp(client, server, Flag::Ack);
        let sent = best(&mut lab, programs::POD_EGRESS, &ack);
        let received = best(&mut lab, programs::POD_INGRESS, &tcp(server, client, Flag::Ack));
        println!("{own}: first packet {first} ns, established {sent} ns sent, {received} ns received");
        assert!(first < 2_000 && sent < 2_000 && received < 2_000, "{first} {sent} {received}");
    }
}

fn best(lab: &mut Lab, program: &str, frame: &[u8]) -> u64 {
    (0..20).map(|_| lab.run(program, frame, 0, 10_000).nanoseconds).min().unwrap()
}
