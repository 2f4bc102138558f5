//! What a million live bindings take: names with one address each, of as many workloads as it takes.

use std::{fs, net::Ipv6Addr, time::Duration};

use anyhow::{Context, Result};
use nameward_policy::{Bindings, BootTime, Grants, Limits, Name};

use crate::{figures::Figures, questions::Shuffle};

const WORKLOADS: u32 = 250;
const EACH: u32 = 4_000;
const BAR: f64 = 250.0;
const NOW: BootTime = BootTime(1_000_000_000);

pub(crate) fn measure(figures: &mut Figures) -> Result<()> {
    let (mut shuffle, before) = (Shuffle::new(), resident()?);
    let all: Vec<Bindings> = (0..WORKLOADS).map(|_| fill(&mut shuffle)).collect::<Result<_>>()?;
    let number = all.iter().map(|bindings| bindings.addresses().count()).sum::<usize>() as f64;
    let with_bindings = resident()?;
    let octets = with_bindings.saturating_sub(before) as f64 / number;
    figures.bounded(
        &format!("memory: each of {number} live bindings, names of 24 octets"),
        "octets",
        octets,
        BAR,
    );
    let ids: Vec<Grants> = all.iter().map(give_ids).collect();
    let octets = resident()?.saturating_sub(with_bindings) as f64 / number;
    figures.once("memory: the id under which the kernel knows its names", "octets", octets);
    drop((all, ids));
    Ok(())
}

/// In no order: names are asked for and addresses are given as they come.
fn fill(shuffle: &mut Shuffle) -> Result<Bindings> {
    let limits = Limits { names: EACH, addresses: EACH, ..Limits::default() };
    let mut bindings = Bindings::new(limits);
    for number in 0..EACH {
        let name = Name::parse(&format!("api-{:08x}.example.com", shuffle.below(u32::MAX)))?;
        let [high, low] = [shuffle.below(1 << 16), number].map(|part| part as u16);
        let address = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, high, low).into();
        let addresses = [(address, Duration::from_secs(60))];
        bindings.record(&name, &[], &addresses, Duration::from_secs(600), NOW)?;
    }
    Ok(bindings)
}

fn give_ids(bindings: &Bindings) -> Grants {
    let mut grants = Grants::default();
    for address in bindings.addresses() {
        grants.entry(bindings, address, NOW);
    }
    grants.stored();
    grants
}

/// Memory of this process, in octets.
fn resident() -> Result<usize> {
    let text = fs::read_to_string("/proc/self/status")?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    Ok(line.split_whitespace().next().context("no number")?.parse::<usize>()? * 1_024)
}
