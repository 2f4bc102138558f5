//! Round trips, connections and a stream through a veth: with the programs, without, and behind nftables, in turns.

use std::time::Duration;

use crate::bench::{
    figures::{Figures, percentile},
    road::{Guard, Place, Road, Traffic},
};

/// Each guard is tried so long in each round.
const SLICE: Duration = Duration::from_millis(60);

/// What is measured, and by how much the programs may slow it down, in per cent.
const BARS: [(Traffic, &str, f64); 3] = [
    (Traffic::Requests, "TCP_RR", 2.0),
    (Traffic::Connections, "TCP_CRR", 5.0),
    (Traffic::Stream, "stream", 2.0),
];

/// The bars hold for a client and a server that have a processor each, as two workloads of a node have. Together on one
/// processor nobody waits for anybody, and a packet's cost is the largest part of all that happens.
pub(crate) fn measure(figures: &mut Figures, quick: bool) {
    let rounds = if quick { 50 } else { 150 };
    let mut road = Road::new(Place::Apart);
    for (traffic, name, bar) in BARS {
        let rates = rates(&mut road, traffic, rounds);
        tell_rates(figures, name, traffic, &rates);
        let (none, ours, theirs) = (Guard::None, Guard::Programs, Guard::Nftables);
        figures.percentage_at_most(
            &format!("{name}: the programs cost"),
            &slower(&rates, ours, none),
            bar,
            bar,
        );
        figures.percentage(&format!("{name}: nftables costs"), &slower(&rates, theirs, none));
        let name = format!("{name}: the programs cost more than nftables");
        figures.percentage_at_most(&name, &slower(&rates, ours, theirs), 0.0, bar);
    }
    drop(road);
    let mut road = Road::new(Place::Together);
    for (traffic, name, _) in BARS {
        let rates = rates(&mut road, traffic, rounds / 2);
        let (none, ours, theirs) = (Guard::None, Guard::Programs, Guard::Nftables);
        figures.percentage(&format!("{name}, one processor: the programs cost"), &slower(&rates, ours, none));
        figures.percentage(&format!("{name}, one processor: nftables costs"), &slower(&rates, theirs, none));
    }
}

fn tell_rates(figures: &mut Figures, name: &str, traffic: Traffic, rates: &[[f64; 3]]) {
    let (unit, scale) = if traffic == Traffic::Stream { ("Gbit/s", 8e-9) } else { ("/s", 1.0) };
    for (guard, word) in
        [(Guard::None, "without"), (Guard::Programs, "with the programs"), (Guard::Nftables, "with nftables")]
    {
        let mut column: Vec<f64> = rates.iter().map(|round| round[guard as usize]).collect();
        figures.plain(&format!("{name} {word}"), unit, percentile(&mut column, 0.5) * scale);
    }
}

/// By how much each round is slower under one guard than under the other, in per cent.
fn slower(rates: &[[f64; 3]], by: Guard, than: Guard) -> Vec<f64> {
    rates.iter().map(|round| (round[than as usize] / round[by as usize] - 1.0) * 100.0).collect()
}

/// Rates of all guards, a row a round; each round goes the other way round.
fn rates(road: &mut Road, traffic: Traffic, rounds: usize) -> Vec<[f64; 3]> {
    let order = [Guard::None, Guard::Programs, Guard::Nftables];
    for guard in order {
        road.rate(guard, traffic, SLICE);
    }
    (0..rounds)
        .map(|round| {
            let mut row = [0.0; 3];
            let mut turns = order;
            turns.rotate_left(round % 3);
            if round % 2 == 1 {
                turns.reverse();
            }
            for guard in turns {
                row[guard as usize] = road.rate(guard, traffic, SLICE);
            }
            row
        })
        .collect()
}
