//! What the resolver costs, against the bars of its plan. Writes `target/bench/dns.json` (S3).
//!
//! ```text
//! answers  cached answers and their latency, beside nsd, unbound, dnsdist, dnsmasq and CoreDNS
//! misses   questions that are forwarded, beside dnsdist without its cache
//! grants   new names a second, from answer to acknowledgement over the unix socket, with the real kernel map
//! barrier  names for all behind a forwarder's cache: until every one of many enforcers has acknowledged
//! churn    names whose addresses change all the time, used as long as they may be
//! memory   what a binding takes
//! ```

mod answers;
mod barrier;
mod churn;
mod client;
mod cpu;
mod figures;
mod grants;
mod memory;
mod questions;
mod servers;
mod world;

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::{Parser, ValueEnum};
use nameward_test_support::{privileged, program};

use crate::figures::Figures;

/// Measures the resolver; all parts, one after the other, unless some are named.
#[derive(Debug, Parser)]
struct Options {
    /// What to measure
    parts: Vec<Part>,
    /// Few and short rounds, to see whether it works: intervals are wide
    #[arg(long, conflicts_with = "whole")]
    quick: bool,
    /// Ten minutes of churn instead of one
    #[arg(long)]
    whole: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Part {
    Answers,
    Misses,
    Grants,
    Barrier,
    Churn,
    Memory,
}

/// How much is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Extent {
    Quick,
    Usual,
    Whole,
}

impl Extent {
    /// Rounds in which all servers have a turn.
    fn rounds(self) -> usize {
        if self == Self::Quick { 5 } else { 20 }
    }

    /// How long a turn is.
    fn turn(self) -> Duration {
        Duration::from_millis(if self == Self::Quick { 250 } else { 500 })
    }

    /// How long new names are asked for.
    fn grants(self) -> Duration {
        Duration::from_secs(if self == Self::Quick { 2 } else { 10 })
    }

    /// How long addresses change.
    fn churn(self) -> Duration {
        Duration::from_secs(match self {
            Self::Quick => 15,
            Self::Usual => 60,
            Self::Whole => 600,
        })
    }
}

fn main() -> Result<()> {
    let options = Options::parse();
    ensure!(privileged(), "this needs root, for network namespaces and kernel maps");
    let extent = match options {
        Options { quick: true, .. } => Extent::Quick,
        Options { whole: true, .. } => Extent::Whole,
        Options { .. } => Extent::Usual,
    };
    let all = Part::value_variants();
    let parts = if options.parts.is_empty() { all } else { &options.parts };
    let mut figures = Figures::default();
    for part in parts {
        match part {
            Part::Answers => answers::measure(extent, answers::cached, &mut figures)?,
            Part::Misses => answers::measure(extent, answers::misses, &mut figures)?,
            Part::Grants => grants::measure(extent, &mut figures)?,
            Part::Barrier => barrier::measure(extent, &mut figures)?,
            Part::Churn => churn::measure(extent, &mut figures)?,
            Part::Memory => memory::measure(&mut figures)?,
        }
    }
    let resolver = program("nameward-resolver")?;
    let target = resolver.ancestors().nth(2).context("the programs lie in no target folder")?;
    figures.write(&target.join("bench").join("dns.json"))?;
    std::process::exit(i32::from(!figures.pass()));
}
