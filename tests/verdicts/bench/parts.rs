//! What a verdict is made of: the same look-ups, helpers and maps by hand, over the floor of an empty program.

use std::os::fd::{AsFd, BorrowedFd};

use aya::maps::Map;
use nameward_abi::maps;

use crate::{
    bench::{
        assembly::{Assembled, call, lookup, update},
        figures::{Figures, percentile},
        packets::{flow_key, full_lab, rounds},
    },
    lab::*,
    packets::{Flag, tcp},
};

const REPEAT: u32 = 50_000;
/// `bpf_ktime_get_boot_ns`, `bpf_ktime_get_coarse_ns` and `bpf_get_smp_processor_id` (enum bpf_func_id).
const BOOT_TIME: i32 = 125;
const COARSE_TIME: i32 = 160;
const PROCESSOR: i32 = 8;

pub(crate) fn measure(figures: &mut Figures, quick: bool) {
    let mut lab = full_lab();
    // An entry to be replaced, as that of a first packet which is sent again.
    lab.put_flow(maps::FLEETING, flow_key(7), crate::bench::packets::established());
    let parts = parts(&lab);
    let empty = Assembled::empty();
    let frame = tcp((OWN4, 40_000), (NAMED4, 443), Flag::Ack);
    let mut times = vec![Vec::new(); parts.len()];
    for _ in 0..rounds(quick) {
        for ((_, part), times) in parts.iter().zip(&mut times) {
            let floor = empty.run(&frame, REPEAT) as f64;
            times.push(part.run(&frame, REPEAT) as f64 - floor);
        }
    }
    for ((name, _), times) in parts.iter().zip(&mut times) {
        figures.plain(&format!("part: {name}"), "ns", percentile(times, 0.5));
    }
}

fn parts(lab: &Lab) -> Vec<(&'static str, Assembled)> {
    let found = flow_octets(7);
    let absent = flow_octets(5_000);
    let granted = address(NAMED4);
    let unknown = address(UNKNOWN4);
    let look = |map: BorrowedFd<'_>, key: &[u8]| Assembled::load(&lookup(map, key));
    let prefix = |bits: u32, data: &[u8]| {
        let mut key = bits.to_ne_bytes().to_vec();
        key.extend(data);
        key.resize(key.len().next_multiple_of(8), 0);
        key
    };
    let flow: Vec<u8> = vec![0; size_of::<nameward_abi::Flow>()];
    vec![
        ("a helper that does nothing much", Assembled::load(&[call(PROCESSOR)])),
        ("the time", Assembled::load(&[call(BOOT_TIME)])),
        ("the time of the last tick", Assembled::load(&[call(COARSE_TIME)])),
        ("the configuration", look(fd(lab, maps::CONFIG), &[0; 8])),
        ("a counter", look(fd(lab, maps::STATS), &[0; 8])),
        ("a flow that is there, of 4,096", look(fd(lab, maps::FLOWS), &found)),
        ("a flow that is not", look(fd(lab, maps::FLOWS), &absent)),
        ("an address that is granted, of 1,000", look(fd(lab, maps::ALLOW), &granted)),
        ("an address that is not", look(fd(lab, maps::ALLOW), &unknown)),
        ("the longest prefix of an address, of 1,000", look(fd(lab, maps::CIDRS), &prefix(128, &granted))),
        ("the prefix of a port", look(fd(lab, maps::PORTS), &prefix(24, &[TCP, 1, 0xbb]))),
        ("writing a flow over", Assembled::load(&update(fd(lab, maps::FLEETING), &found, &flow))),
    ]
}

/// A key as it lies in memory.
fn flow_octets(port: u16) -> Vec<u8> {
    let key = flow_key(port);
    [&key.local[..], &key.remote, &key.local_port, &key.remote_port, &[key.protocol], &key._pad].concat()
}

fn fd<'a>(lab: &'a Lab, name: &str) -> BorrowedFd<'a> {
    match lab.ebpf.map(name).unwrap() {
        Map::Array(data)
        | Map::PerCpuArray(data)
        | Map::HashMap(data)
        | Map::LruHashMap(data)
        | Map::LpmTrie(data) => data.fd().as_fd(),
        other => panic!("{name}: {other:?}"),
    }
}
