//! Every reason that the kernel gives at an interface: what is done, what is counted, what is told, in both families
//! and in every mode. A new reason does not compile before it stands here.

use nameward_abi::{Direction, Flow, FlowKey, FlowState, Mode, Reason, Verdict, flags, maps, programs};
use nameward_enforcer::kernel::BootNanos;

use crate::{
    lab::*,
    packets::{CLIENT_MAC, Flag, L3, echo, ethernet, icmp_error, query, raw6, tcp, udp},
};

/// A packet that gets a reason, in an instance that was prepared for it.
struct Case {
    program: &'static str,
    frame: Vec<u8>,
    prepare: fn(&mut Lab),
}

fn sent(frame: Vec<u8>) -> Case {
    Case { program: programs::POD_EGRESS, frame, prepare: |_| {} }
}

fn received(frame: Vec<u8>) -> Case {
    Case { program: programs::POD_INGRESS, frame, prepare: |_| {} }
}

impl Case {
    fn after(mut self, prepare: fn(&mut Lab)) -> Self {
        self.prepare = prepare;
        self
    }
}

/// The workload's address and a server's, of one family.
#[derive(Clone, Copy)]
struct Family {
    own: &'static str,
    named: &'static str,
    block: &'static str,
    unknown: &'static str,
    six: bool,
}

const FOUR: Family = Family { own: OWN4, named: NAMED4, block: BLOCK4, unknown: UNKNOWN4, six: false };
const SIX: Family = Family { own: OWN6, named: NAMED6, block: BLOCK6, unknown: UNKNOWN6, six: true };

impl Family {
    fn syn(self, to: &str, port: u16) -> Vec<u8> {
        tcp((self.own, 40_000), (to, port), Flag::Syn)
    }

    fn pick<T>(self, four: T, six: T) -> T {
        if self.six { six } else { four }
    }
}

/// The case of a reason; `None` = not at interfaces.
fn case(reason: Reason, of: Family) -> Option<Case> {
    let own = (of.own, 40_000);
    Some(match reason {
        Reason::Name => sent(of.syn(of.named, 443)),
        Reason::Cidr => sent(of.syn(of.block, 443)),
        Reason::Cluster => sent(of.syn(of.pick(CLUSTER4, "2001:db8:c::1"), 443))
            .after(|lab| lab.cidr("2001:db8:c::", 64, WEB, 0, WEB)),
        Reason::Flow => received(tcp((of.named, 443), own, Flag::SynAck)).after(|lab| {
            for of in [FOUR, SIX] {
                assert_eq!(lab.egress(&of.syn(of.named, 443)).action, PASS);
            }
        }),
        Reason::Reply => sent(tcp((of.own, 80), (of.unknown, 5_000), Flag::SynAck)).after(|lab| {
            for of in [FOUR, SIX] {
                let syn = tcp((of.unknown, 5_000), (of.own, 80), Flag::Syn);
                assert_eq!(lab.run(programs::POD_INGRESS, &syn, 0, 1).action, PASS);
            }
        }),
        Reason::Dns => sent(udp(own, (of.unknown, 53), &query(7))),
        Reason::Related => {
            received(icmp_error(of.unknown, of.own, &udp(own, (of.named, 443), b"question"), 64)).after(
                |lab| {
                    for of in [FOUR, SIX] {
                        let question = udp((of.own, 40_000), (of.named, 443), b"question");
                        assert_eq!(lab.egress(&question).action, PASS);
                    }
                },
            )
        }
        Reason::Neighbour => sent(of.pick(arp(), advertisement())),
        Reason::Adopted => sent(tcp(own, (of.unknown, 9), Flag::Ack)).after(adopt),
        Reason::NotIsolated => {
            sent(of.syn(of.unknown, 9)).after(|lab| lab.switch(0, Mode::NotIsolated, flags::REJECT, 1))
        }
        Reason::Housekeeping => sent(of.pick(
            udp(("0.0.0.0", 68), ("255.255.255.255", 67), b"discover"),
            raw6("::", "ff02::2", 58, 255, &[133, 0, 0, 0, 0, 0, 0, 0]),
        )),
        Reason::NoMatch => sent(of.syn(of.unknown, 443)),
        Reason::Expired => sent(of.syn(of.named, 443)).after(|lab| {
            lab.grant(NAMED4, NAME_ID, 1);
            lab.grant(NAMED6, NAME_ID, 1);
        }),
        Reason::Port => sent(of.syn(of.named, 22)),
        Reason::DeniedCidr => sent(of.syn(of.pick(DENIED4, "2001:db8:d::5"), 443))
            .after(|lab| lab.cidr("2001:db8:d::", 64, WEB, ANY, 0)),
        Reason::SpoofedSource => {
            sent(tcp((of.pick("10.0.0.3", "2001:db8:1::3"), 40_000), (of.named, 443), Flag::Syn))
        }
        Reason::Malformed => sent(of.syn(of.named, 443)[..L3 + of.pick(39, 59)].to_vec()),
        Reason::Fragment => sent(of.pick(later_fragment4(), later_fragment6())),
        // IPv4 has none: what comes nearest is malformed.
        Reason::ExtensionHeader if !of.six => return None,
        Reason::ExtensionHeader => sent(raw6(OWN6, NAMED6, 43, 64, &[6, 0, 0, 0, 0, 0, 0, 0])),
        Reason::Protocol => sent(crate::packets::raw(of.own, of.unknown, 47, b"some bytes of gre")),
        Reason::NotIp => sent([ethernet(of.pick([0x88, 0xcc], [0x88, 0x47])), vec![0; 46]].concat()),
        Reason::DnsElsewhere => sent(of.syn(of.unknown, 853)),
        Reason::NoPolicyYet => {
            sent(of.syn(of.named, 443)).after(|lab| lab.switch(0, Mode::NoPolicyYet, flags::REJECT, 1))
        }
        Reason::FlowsFull => sent(of.syn(of.named, 443)).after(fill),
        // Sockets have namespaces, packets have not.
        Reason::ForeignNetns => return None,
        Reason::ForeignMac => sent(of.syn(of.named, 443))
            .after(|lab| lab.configure(|config| config.gateway_mac = [2, 9, 9, 9, 9, 9])),
        Reason::Inbound => received(tcp((of.unknown, 5_000), (of.own, 80), Flag::Ack)),
        Reason::IcmpError => sent(icmp_error(of.own, of.named, &udp((of.named, 443), own, b"an answer"), 64)),
    })
}

fn arp() -> Vec<u8> {
    let mut frame = ethernet([8, 6]);
    frame.extend([0, 1, 8, 0, 6, 4, 0, 1]);
    frame.extend(CLIENT_MAC);
    frame.extend([10, 0, 0, 2, 0, 0, 0, 0, 0, 0, 10, 0, 0, 1]);
    frame
}

fn advertisement() -> Vec<u8> {
    let mut message = vec![136, 0, 0, 0, 0, 0, 0, 0];
    message.extend(address(OWN6));
    raw6(OWN6, "ff02::1", 58, 255, &message)
}

fn later_fragment4() -> Vec<u8> {
    let mut frame = udp((OWN4, 1), (NAMED4, 443), &[7; 16]);
    frame[L3 + 6..L3 + 8].copy_from_slice(&[0, 3]);
    frame
}

fn later_fragment6() -> Vec<u8> {
    raw6(OWN6, NAMED6, 44, 64, &[&[17, 0, 0, 24, 0, 0, 0, 1][..], &[7; 16]].concat())
}

/// What the enforcer writes for connections that it finds when it first isolates a workload (R11).
fn adopt(lab: &mut Lab) {
    for of in [FOUR, SIX] {
        let key = FlowKey {
            local: address(of.own),
            remote: address(of.unknown),
            local_port: 40_000u16.to_be_bytes(),
            remote_port: 9u16.to_be_bytes(),
            protocol: TCP,
            ..FlowKey::default()
        };
        let flow = Flow {
            last_seen: BootNanos::now().0,
            generation: 1,
            state: FlowState::Established as u8,
            admitted_by: Reason::Adopted as u8,
            ..Flow::default()
        };
        lab.put_flow(maps::FLOWS, key, flow);
    }
}

/// Leaves no room for another established flow.
fn fill(lab: &mut Lab) {
    let refused = (1..=100).any(|port| {
        let (client, server) = ((OWN4, port), (NAMED4, 443));
        lab.egress(&udp(client, server, b"q"));
        lab.run(programs::POD_INGRESS, &udp(server, client, b"a"), 0, 1).action == DROP
    });
    assert!(refused, "the table never filled");
}

/// What the table in the kernel says: does the sender hear of it.
fn is_answered(reason: Reason) -> bool {
    matches!(
        reason,
        Reason::NoMatch
            | Reason::Expired
            | Reason::Port
            | Reason::DeniedCidr
            | Reason::Protocol
            | Reason::DnsElsewhere
            | Reason::NoPolicyYet
            | Reason::FlowsFull
    )
}

/// Allowed reasons that begin something, and are told.
fn begins(reason: Reason) -> bool {
    matches!(reason, Reason::Name | Reason::Cidr | Reason::Cluster | Reason::Reply | Reason::NotIsolated)
}

/// An event's reason, verdict and direction.
type Told = (u8, u8, u8);

/// Runs the case of a reason, and returns action, how the reason was counted, and what was told.
#[track_caller]
fn outcome(reason: Reason, of: Family, mode: Option<(Mode, u64)>) -> Option<(i32, u64, Vec<Told>)> {
    let case = case(reason, of)?;
    let mut lab = Lab::sized(if reason == Reason::FlowsFull { 2 } else { 64 });
    (case.prepare)(&mut lab);
    if let Some((mode, flags)) = mode {
        lab.switch(0, mode, flags, 1);
    }
    lab.events();
    let before = lab.counters();
    let run = lab.run(case.program, &case.frame, 0, 1);
    let after = lab.counters();
    let counted: u64 = after.iter().map(|counter| counter.packets).sum::<u64>()
        - before.iter().map(|counter| counter.packets).sum::<u64>();
    assert_eq!(counted, 1, "{}: each packet is counted once", reason.word());
    let index = reason as usize;
    let bytes = after[index].bytes - before[index].bytes;
    assert!(after[index].packets == before[index].packets || bytes > 0, "{}: bytes", reason.word());
    let events = lab.events();
    let told = events.iter().map(|event| (event.reason, event.verdict, event.direction)).collect();
    assert!(events.iter().all(|event| event.endpoint_id == 42 && event.packets == 1 && event.bytes == bytes));
    Some((run.action, after[index].packets - before[index].packets, told))
}

// G5, G6, G8, promise 2
#[test]
fn every_reason_has_its_verdict_counter_and_event() {
    if !privileged() {
        return;
    }
    for reason in Reason::ALL.iter().copied() {
        for of in [FOUR, SIX] {
            for reject in [0, flags::REJECT] {
                let fixed = matches!(reason, Reason::NotIsolated | Reason::NoPolicyYet);
                let mode = (!fixed).then_some((Mode::Enforce, reject));
                let Some((action, packets, told)) = outcome(reason, of, mode) else { continue };
                let direction = match reason {
                    Reason::Flow | Reason::Related | Reason::Inbound => Direction::Ingress,
                    _ => Direction::Egress,
                } as u8;
                let (expected, events) = if reason == Reason::Dns {
                    (REDIRECT, vec![])
                } else if reason.allows() {
                    let event = (reason as u8, Verdict::Pass as u8, direction);
                    (PASS, if begins(reason) { vec![event] } else { vec![] })
                } else {
                    let action = if is_answered(reason) && (reject != 0 || fixed) { REDIRECT } else { DROP };
                    (action, vec![(reason as u8, Verdict::Deny as u8, direction)])
                };
                assert_eq!((action, packets, told), (expected, 1, events), "{} {}", reason.word(), of.own);
            }
        }
    }
}

// R6: audit changes what is done, never the reason.
#[test]
fn audit_passes_every_denied_reason_and_tells_it() {
    if !privileged() {
        return;
    }
    let denied = Reason::ALL.iter().copied().filter(|reason| !reason.allows());
    for reason in denied.filter(|reason| *reason != Reason::NoPolicyYet) {
        for of in [FOUR, SIX] {
            let Some((action, packets, told)) = outcome(reason, of, Some((Mode::Audit, flags::REJECT)))
            else {
                continue;
            };
            assert_eq!((action, packets), (PASS, 1), "{}", reason.word());
            let told: Vec<(u8, u8)> = told.iter().map(|(reason, verdict, _)| (*reason, *verdict)).collect();
            assert_eq!(told, [(reason as u8, Verdict::WouldDeny as u8)], "{}", reason.word());
        }
    }
}

// R1, R2: who is not isolated may do everything but what is denied, and nothing hides from a deny.
#[test]
fn nothing_hides_from_a_deny() {
    if !privileged() {
        return;
    }
    let denied = |of: Family| of.pick(DENIED4, "2001:db8:d::5");
    for of in [FOUR, SIX] {
        let mut lab = Lab::new();
        lab.cidr("2001:db8:d::", 64, WEB, ANY, 0);
        lab.switch(0, Mode::NotIsolated, 0, 1);
        let to = denied(of);
        let mut options = of.syn(to, 443);
        options.splice(L3 + 20..L3 + 20, [1; 4]);
        options[L3] = 0x46;
        options[L3 + 3] += 4;
        let routed = raw6(of.own, "2001:db8:d::5", 43, 64, &[6, 0, 0, 0, 0, 0, 0, 0]);
        let mut later = udp((OWN4, 1), (DENIED4, 443), &[7; 16]);
        later[L3 + 6..L3 + 8].copy_from_slice(&[0, 3]);
        let later6 =
            raw6(OWN6, "2001:db8:d::5", 44, 64, &[&[17, 0, 0, 24, 0, 0, 0, 1][..], &[7; 16]].concat());
        let quoted = udp((to, 443), (of.own, 1), b"an answer");
        let hidden = [
            of.pick(options, routed),
            of.pick(later, later6),
            icmp_error(of.own, to, &quoted, 64),
            echo(of.own, to, 1, false),
            crate::packets::raw(of.own, to, 47, b"some bytes of gre"),
        ];
        for frame in hidden {
            lab.sends(&frame, DROP, Reason::DeniedCidr);
        }
        // The same to anybody else passes.
        lab.sends(&echo(of.own, of.unknown, 1, false), PASS, Reason::NotIsolated);
        lab.sends(&icmp_error(of.own, of.unknown, &quoted, 64), PASS, Reason::IcmpError);
    }
}
