//! Adding endpoints and writing grants, with the library that the enforcer uses, in a network namespace of its own.

use std::{process::Command, thread, time::Instant};

use nameward_abi::{Allow, Mode, Switch};
use nameward_enforcer::kernel::{
    Attachment, BootNanos, EndpointSpec, Host, HostOptions, KernelStore, MapSizes, MapWrite,
};
use nix::sched::{CloneFlags, unshare};
use serde_json::Value;

use crate::{figure, lab::address, percentile};

const ENDPOINTS: usize = 60;
const GRANTS: u32 = 10_000;
const ROUNDS: usize = 7;

fn must(command: &str) {
    let output = Command::new("sh").args(["-ec", command]).output().unwrap();
    assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Times of attaching and adopting, and of writing.
pub(crate) fn figures() -> Vec<Value> {
    // The namespace ends with its thread.
    thread::spawn(|| {
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        let options = HostOptions {
            instance: Some(format!("nwt{}xbench", std::process::id())),
            ..HostOptions::default()
        };
        let host = Host::open(&options).unwrap();
        let figures = measure(&host);
        host.remove_all().unwrap();
        figures
    })
    .join()
    .unwrap()
}

fn measure(host: &Host) -> Vec<Value> {
    for index in 0..ENDPOINTS {
        must(&format!("ip link add e{index} type veth peer name p{index}; ip link set e{index} up"));
    }
    let milliseconds = |begun: Instant| begun.elapsed().as_secs_f64() * 1e3;
    let attach = |index: usize| {
        let begun = Instant::now();
        host.attach(&spec(index, MapSizes::default())).unwrap();
        milliseconds(begun)
    };
    let mut added: Vec<f64> = (0..ENDPOINTS).map(attach).collect();
    let mut adopted: Vec<f64> = (0..ENDPOINTS).map(attach).collect();
    let mut figures = vec![
        figure("endpoint added from nothing, p50", percentile(&mut added, 0.5), "ms", Some(60.0)),
        figure("endpoint added from nothing, p99", percentile(&mut added, 0.99), "ms", Some(150.0)),
        figure("endpoint taken up with new programs, p50", percentile(&mut adopted, 0.5), "ms", None),
    ];
    figures.extend(grants(host));
    figures
}

fn spec(index: usize, sizes: MapSizes) -> EndpointSpec {
    let attachment = Attachment::Interface { name: format!("e{index}") };
    let addresses = vec!["10.0.0.2".parse().unwrap()];
    EndpointSpec { addresses, sizes, ..EndpointSpec::new(format!("endpoint-{index}"), attachment) }
}

fn grants(host: &Host) -> Vec<Value> {
    host.remove("endpoint-0").unwrap();
    let sizes = MapSizes { addresses: 16_384, ..MapSizes::default() };
    let mut endpoint = host.attach(&spec(0, sizes)).unwrap();
    endpoint.write(&MapWrite::Switch(Switch::new(0, Mode::Enforce, 0, 1))).unwrap();
    let allow = Allow { expires_at: BootNanos::now().0 * 2, admitted_id: 7, ..Allow::default() };
    let (mut all, mut one) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let begun = Instant::now();
        for index in 0..GRANTS {
            let [a, b, c, d] = (0xcb00_7100 + index).to_be_bytes();
            let mut remote = address("203.0.113.0");
            remote[12..].copy_from_slice(&[a, b, c, d]);
            let single = Instant::now();
            endpoint.write(&MapWrite::Allow(remote, allow)).unwrap();
            one.push(single.elapsed().as_secs_f64() * 1e6);
        }
        all.push(begun.elapsed().as_secs_f64() * 1e3);
    }
    vec![
        figure("10,000 grants written, median of 7", percentile(&mut all, 0.5), "ms", Some(25.0)),
        figure("one grant written, median", percentile(&mut one, 0.5), "us", Some(30.0)),
        figure("one grant written, p99", percentile(&mut one, 0.99), "us", None),
    ]
}
