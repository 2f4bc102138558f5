//! Grants: ten thousand at once, and one until a packet passes by it.

use std::{os::fd::AsFd, time::Instant};

use nameward_abi::programs;
use nameward_enforcer::kernel::{KernelEndpoint, KernelStore, MapSizes, MapWrite};

use crate::{
    bench::{
        assembly::run,
        estate::{Estate, enforce, grant, granted, linked_program, spec},
        figures::{Figures, percentile},
    },
    lab::{DROP, OWN4, PASS, REDIRECT},
    packets::udp,
};

const GRANTS: u32 = 10_000;
const ROUNDS: usize = 15;
const SINGLES: u32 = 2_000;

pub(crate) fn measure(figures: &mut Figures) {
    let estate = Estate::new(1);
    let sizes = MapSizes { addresses: 16_384, ..MapSizes::default() };
    estate.with(|host| {
        let mut endpoint = host.attach(&spec(0, sizes)).unwrap();
        enforce(&mut endpoint);
        visible(&estate, &mut endpoint, figures);
        many(&mut endpoint, figures);
    });
}

/// From the beginning of the write to the end of a test run of a packet that it lets through.
fn visible(estate: &Estate, endpoint: &mut KernelEndpoint, figures: &mut Figures) {
    let program = linked_program(&estate.pins(0), programs::POD_EGRESS).fd().unwrap();
    let (mut until_verdict, mut written) = (Vec::new(), Vec::new());
    for number in 0..SINGLES {
        let [a, b, c, d] = (0xcb00_7100 + number).to_be_bytes();
        let packet = udp((OWN4, 4_000), (&format!("{a}.{b}.{c}.{d}"), 443), b"first");
        let (before, _) = run(program.as_fd(), &packet, 1);
        assert!([DROP, REDIRECT].contains(&before), "{before}");
        let write = grant(granted(number));
        let begun = Instant::now();
        endpoint.write(&write).unwrap();
        written.push(begun.elapsed().as_secs_f64() * 1e6);
        let (verdict, _) = run(program.as_fd(), &packet, 1);
        until_verdict.push(begun.elapsed().as_secs_f64() * 1e6);
        assert_eq!(verdict, PASS);
        endpoint.write(&MapWrite::ForgetAllow(granted(number))).unwrap();
    }
    figures.at_most(
        "one grant until a packet passes, median",
        "us",
        percentile(&mut until_verdict, 0.5),
        30.0,
    );
    figures.plain("one grant until a packet passes, p99", "us", percentile(&mut until_verdict, 0.99));
    figures.plain("one grant written, median", "us", percentile(&mut written, 0.5));
}

fn many(endpoint: &mut KernelEndpoint, figures: &mut Figures) {
    let writes: Vec<MapWrite> = (0..GRANTS).map(|number| grant(granted(number))).collect();
    let (mut fresh, mut again) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        for times in [&mut fresh, &mut again] {
            let begun = Instant::now();
            for write in &writes {
                endpoint.write(write).unwrap();
            }
            times.push(begun.elapsed().as_secs_f64() * 1e3);
        }
        for number in 0..GRANTS {
            endpoint.write(&MapWrite::ForgetAllow(granted(number))).unwrap();
        }
    }
    figures.at_most("10,000 grants written, median of 15", "ms", percentile(&mut fresh, 0.5), 25.0);
    figures.at_most("10,000 grants written over, median of 15", "ms", percentile(&mut again, 0.5), 25.0);
}
