//! What is told of packets while somebody floods: nobody else's events are hidden, and what is written is bounded.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use nameward_enforcer::decisions::Decision;
use nameward_policy::{PortSpec, Protocol};

use crate::{
    lab::{Lab, inside, inside_thread, privileged},
    traffic::{Guarding, rules},
};

const WEB: PortSpec = PortSpec::one(Protocol::Tcp, 80);
/// Events a second of an endpoint, and how many it may save up (`EndpointSpec`).
const RATE: u64 = 100;
const BURST: u64 = 1_000;
/// Packets that are sent at once.
const FOLDED: u64 = 20;
/// Denials of the neighbour, one after the other.
const DENIALS: u16 = 20;

/// Sends to a new destination with each packet until told to stop; returns how many were sent.
fn flood(namespace: &str, stop: &AtomicBool) -> u64 {
    inside_thread(namespace, || {
        let socket = UdpSocket::bind(("0.0.0.0", 4_000)).unwrap();
        let (mut sent, mut number) = (0, 0u32);
        while !stop.load(Ordering::Relaxed) {
            number = (number + 1) % 60_000;
            let [_, _, high, low] = number.to_be_bytes();
            let to = SocketAddr::from((Ipv4Addr::new(203, 0, high, low), 9));
            // Rejections of earlier packets show as errors.
            sent += u64::from(socket.send_to(b"flood", to).is_ok());
        }
        sent
    })
}

// G8, B30, promise 6
#[test]
fn a_flood_hides_nobody_elses_denials_and_bounds_its_own() {
    if !privileged() {
        return;
    }
    let mut lab = Lab::new();
    let (loud, quiet) = (lab.workload(), lab.workload());
    let rules = rules(&[("app.example.com", WEB)]);
    let stop = AtomicBool::new(false);
    inside(&lab.host(), async || {
        let mut guarding = Guarding::start(&lab, &[(&loud, rules.clone()), (&quiet, rules)]);
        thread::scope(|scope| {
            let begun = Instant::now();
            let flooding = scope.spawn(|| flood(&loud.namespace, &stop));
            let denials = inside_thread(&quiet.namespace, || {
                let socket = UdpSocket::bind(("0.0.0.0", 0)).unwrap();
                for port in 0..DENIALS {
                    drop(socket.send_to(b"denied", ("203.0.113.11", 7_000 + port)));
                    thread::sleep(Duration::from_millis(100));
                }
                SocketAddr::from(([203, 0, 113, 11], 7_000))
            });
            stop.store(true, Ordering::Relaxed);
            let sent = flooding.join().unwrap();
            let seconds = begun.elapsed().as_secs() + 1;
            let told = told(&mut guarding, &denials.ip());
            let of_loud = guarding.enforcer.endpoint(&loud.namespace).unwrap();
            let of_quiet = guarding.enforcer.endpoint(&quiet.namespace).unwrap();
            // Each of the neighbour's denials is told, and none of its events was kept back.
            assert_eq!(told, (7_000..7_000 + DENIALS).collect::<Vec<_>>());
            assert_eq!(of_quiet.lost_events, 0);
            assert_eq!(of_quiet.counters["no-match"].packets, u64::from(DENIALS));
            // The flood was counted whole, told within its bound, and the rest is known to be missing.
            let denied = of_loud.counters["no-match"].packets;
            assert!(denied >= sent, "{denied} of {sent}");
            let all = guarding.enforcer.decision_counts();
            // What is folded behind an event may be told after it.
            let most = 2 * (BURST + RATE * seconds + u64::from(DENIALS));
            assert!(all.told <= most, "{} told of {denied} in {seconds} s, {most} at most", all.told);
            assert!(of_loud.lost_events + all.told >= denied.min(2 * BURST), "{of_loud:?}");
        });
    });
}

// G8: what is counted is told, also when nothing follows
#[test]
fn what_is_folded_last_is_told() {
    if !privileged() {
        return;
    }
    let mut lab = Lab::new();
    let workload = lab.workload();
    inside(&lab.host(), async || {
        let mut guarding = Guarding::start(&lab, &[(&workload, rules(&[("app.example.com", WEB)]))]);
        inside_thread(&workload.namespace, || {
            let socket = UdpSocket::bind(("0.0.0.0", 0)).unwrap();
            for _ in 0..FOLDED {
                // Rejections of earlier packets show as errors: then it is sent again.
                while socket.send_to(b"denied", ("203.0.113.11", 7_000)).is_err() {}
            }
        });
        let remote = IpAddr::from([203, 0, 113, 11]);
        let (mut told, mut decisions, until) = (0, 0, Instant::now() + Duration::from_secs(20));
        while told < FOLDED && Instant::now() < until {
            match guarding.decisions.try_recv() {
                Ok(decision) if port_of(&decision, &remote).is_some() => {
                    told += decision.packets;
                    decisions += 1;
                }
                Ok(_) => {}
                Err(_) => thread::sleep(Duration::from_millis(10)),
            }
        }
        let counted = guarding.enforcer.endpoint(&workload.namespace).unwrap().counters["no-match"].packets;
        assert_eq!((told, counted), (FOLDED, FOLDED));
        assert!(decisions <= FOLDED / 2, "{decisions} decisions of {FOLDED} packets");
    });
}

/// Ports of the decisions about an address, as far as they come within a second of each other.
fn told(guarding: &mut Guarding, remote: &IpAddr) -> Vec<u16> {
    let mut ports = Vec::new();
    let until = Instant::now() + Duration::from_secs(5);
    while ports.len() < usize::from(DENIALS) && Instant::now() < until {
        match guarding.decisions.try_recv() {
            Ok(decision) => ports.extend(port_of(&decision, remote)),
            Err(tokio::sync::broadcast::error::TryRecvError::Lagged(_)) => {}
            Err(_) => thread::sleep(Duration::from_millis(10)),
        }
    }
    ports
}

fn port_of(decision: &Decision, remote: &IpAddr) -> Option<u16> {
    (decision.remote == *remote && decision.reason == "no-match").then_some(decision.remote_port)
}
