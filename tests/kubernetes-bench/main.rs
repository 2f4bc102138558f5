//! What Nameward costs a node of a real Kubernetes, against the bars of its plan. Writes `target/bench/kubernetes.json`
//! (S3).
//!
//! ```text
//! policies  from writing a policy to its being enforced in all of 100 pods of a node
//! starts    from making a pod to its first packet's arrival, with and without the CNI plugin in turns
//! bursts    the same of many pods at once
//! objects   memory, time of an update of the index, time from start to synced, with many objects; the pods of the node
//!           have interfaces and fences, and nothing runs in them
//! ```

mod api;
mod figures;
mod objects;
mod policies;
mod starts;

use std::{path::Path, process::ExitCode, thread};

use anyhow::{Result, ensure};
use clap::{Parser, ValueEnum};
use nameward_test_support::{
    SmallInternet,
    cluster::{self, Cluster, ClusterOptions, Kind},
    privileged,
};

use crate::{figures::Figures, starts::Starts};

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
    Bursts,
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
    if [Part::Policies, Part::Starts, Part::Bursts].into_iter().any(is_meant) {
        let internet = SmallInternet::new()?;
        let cluster = up(Kind::Whole, &internet)?;
        if is_meant(Part::Starts) || is_meant(Part::Bursts) {
            let pods = Starts::new(&cluster.0, &internet)?;
            if is_meant(Part::Starts) {
                pods.measure(options.quick, &mut figures)?;
            }
            if is_meant(Part::Bursts) {
                pods.measure_bursts(options.quick, &mut figures)?;
            }
            pods.end()?;
        }
        if is_meant(Part::Policies) {
            policies::measure(&cluster.0, options.quick, &mut figures)?;
        }
    }
    if is_meant(Part::Objects) {
        objects::measure_index(options.quick, &mut figures)?;
        let internet = SmallInternet::new()?;
        let cluster = up(Kind::Api, &internet)?;
        objects::measure(&cluster.0, options.quick, &mut figures)?;
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new("."));
    figures.write(&root.join("target/bench/kubernetes.json"), !options.parts.is_empty())?;
    Ok(figures.pass())
}

/// A cluster that goes with this, also where measuring it fails.
struct Own(Cluster);

impl Drop for Own {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("{}", self.0.logs(15));
        }
        if let Err(error) = cluster::remove(self.0.name()) {
            eprintln!("the cluster is left: {error:#}; `cargo xtask clean-up` removes it");
        }
    }
}

fn up(kind: Kind, internet: &SmallInternet) -> Result<Own> {
    let name = format!("nwt{}", std::process::id());
    let options = ClusterOptions { kind, name: name.clone(), nodes: 1, dns: internet.dns() };
    // What was started of one that does not come up has nobody else who ends it.
    Cluster::up(&options, Some(internet)).map(Own).inspect_err(|_| drop(cluster::remove(&name)))
}
