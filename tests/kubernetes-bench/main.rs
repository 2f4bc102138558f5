//! What Nameward costs a node of a real Kubernetes, against the bars of its plan. Writes `target/bench/kubernetes.json`
//! (S3).
//!
//! ```text
//! policies  from writing a policy to its being enforced in all of 100 pods of a node
//! starts    from making a pod to its first packet's arrival, with and without the CNI plugin in turns; a burst of pods
//! objects   memory, time of an update of the index, time from start to synced, with many objects and no real pod
//! ```

mod api;
mod figures;
mod objects;
mod policies;
mod starts;

use std::{path::Path, process::ExitCode};

use anyhow::{Result, ensure};
use clap::{Parser, ValueEnum};
use nameward_test_support::{
    SmallInternet,
    cluster::{Cluster, ClusterOptions, Kind},
    privileged,
};

use crate::figures::Figures;

/// Measures Nameward on a node of Kubernetes; all parts, one after the other, unless some are named.
#[derive(Debug, Parser)]
struct Options {
    /// What to measure
    parts: Vec<Part>,
    /// Few samples and small numbers, to see whether it works
    #[arg(long)]
    quick: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Part {
    Policies,
    Starts,
    Objects,
}

fn main() -> ExitCode {
    match measure(&Options::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn measure(options: &Options) -> Result<bool> {
    ensure!(privileged(), "this needs root");
    let is_meant = |part: Part| options.parts.is_empty() || options.parts.contains(&part);
    let mut figures = Figures::default();
    if is_meant(Part::Policies) || is_meant(Part::Starts) {
        let internet = SmallInternet::new()?;
        let cluster = up(Kind::Whole, &internet)?;
        if is_meant(Part::Starts) {
            starts::measure(&cluster, &internet, options.quick, &mut figures)?;
        }
        if is_meant(Part::Policies) {
            policies::measure(&cluster, options.quick, &mut figures)?;
        }
        cluster.down()?;
    }
    if is_meant(Part::Objects) {
        objects::measure_index(options.quick, &mut figures)?;
        let internet = SmallInternet::new()?;
        let cluster = up(Kind::Api, &internet)?;
        objects::measure(&cluster, options.quick, &mut figures)?;
        cluster.down()?;
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new("."));
    figures.write(&root.join("target/bench/kubernetes.json"))?;
    Ok(figures.pass())
}

fn up(kind: Kind, internet: &SmallInternet) -> Result<Cluster> {
    let name = format!("nwt{}", std::process::id());
    Cluster::up(&ClusterOptions { kind, name, nodes: 1, dns: internet.dns() }, Some(internet))
}
