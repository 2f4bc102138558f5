//! `nameward check`: whether what stands around Nameward lets it keep its promises, and what to write where not.
//!
//! Reads files and prints; changes nothing, needs no rights and no running process.

mod caddyfile;
mod corefile;
mod node;
mod report;

use std::{fs, io::Read, path::Path, process::ExitCode};

use anyhow::{Context, Result};
use clap::{Args, Subcommand, ValueEnum};

const COREFILE_ABOUT: &str = "\
Check the Corefile of a CoreDNS that forwards to nameward-resolver

Says what would have workloads get answers that were not granted to them, or names that no policy was asked about, and \
what to write instead. With --scope name (names are granted to every workload whose rules allow them) CoreDNS may cache; with \
--scope endpoint (the default) it may not.";

const COREFILE_EXAMPLES: &str = "\
Examples:
  nameward check corefile /etc/coredns/Corefile
  nameward check corefile Corefile --resolver 10.96.0.53 --scope name
  kubectl -n kube-system get configmap coredns -o jsonpath='{.data.Corefile}' | nameward check corefile -
  nameward check corefile Corefile -o json | jq -r '.findings[].write'

A Corefile that passes, without a cache and with one (--scope name):
  .:53 {
      rewrite edns0 local set 0xffee {client_ip}
      cache 30 {
          servfail 0
      }
      forward . 10.96.0.53
  }

Exit status:
  0 when nothing has to be changed (there may be warnings), 1 when something has, 125 when the file cannot be read.";

const NODE_ABOUT: &str = "\
Check whether Nameward can guard the pods of this Kubernetes node

Says which row of docs/platforms.md the node is: its kernel, what is mounted, and which CNI makes the interfaces of its pods. \
Run it on the node. Exit status: 0 when nothing has to be changed (there may be warnings), 1 when something has.";

/// What can be checked.
#[derive(Debug, Subcommand)]
pub(crate) enum Check {
    /// Check the Corefile of a CoreDNS that forwards to nameward-resolver
    #[command(long_about = COREFILE_ABOUT, after_help = "Try --help for examples.")]
    #[command(after_long_help = COREFILE_EXAMPLES)]
    Corefile(Corefile),
    /// Check whether Nameward can guard the pods of this Kubernetes node
    #[command(long_about = NODE_ABOUT)]
    Node(Node),
}

/// Arguments of `nameward check corefile`.
#[derive(Debug, Args)]
pub(crate) struct Corefile {
    /// The Corefile; - for standard input
    #[arg(value_name = "FILE")]
    file: std::path::PathBuf,

    /// Address of nameward-resolver, as the Corefile has it; may be repeated [default: whatever is forwarded to]
    #[arg(long, value_name = "ADDR")]
    resolver: Vec<String>,

    /// Whom nameward-resolver grants names to, as its own --scope says
    #[arg(long, value_enum, value_name = "SCOPE", default_value_t = Scope::Endpoint)]
    scope: Scope,

    /// Form of the findings
    #[arg(long, short, value_enum, value_name = "FORM", default_value_t = Output::Text)]
    output: Output,
}

/// Arguments of `nameward check node`.
#[derive(Debug, Args)]
pub(crate) struct Node {
    /// Where the container runtime reads CNI configurations
    #[arg(long, value_name = "DIR", default_value = "/etc/cni/net.d")]
    cni_conf_dir: std::path::PathBuf,

    /// Form of the findings
    #[arg(long, short, value_enum, value_name = "FORM", default_value_t = Output::Text)]
    output: Output,
}

/// Whom names are granted to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Scope {
    /// The workload that asked: CoreDNS must not cache
    Endpoint,
    /// Every workload whose rules allow the name: CoreDNS may cache
    Name,
}

/// How findings are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Output {
    /// Lines with the place, what is wrong, and what to write
    Text,
    /// One JSON object
    Json,
}

/// Runs a check; its exit status says whether something has to be changed.
pub(crate) fn run(check: &Check) -> Result<ExitCode> {
    match check {
        Check::Corefile(arguments) => {
            let text = read(&arguments.file)?;
            let terms =
                corefile::Terms { resolvers: &arguments.resolver, by_name: arguments.scope == Scope::Name };
            let findings = corefile::check(&text, &terms)
                .with_context(|| format!("{} is no Corefile", arguments.file.display()))?;
            report::print(&arguments.file, &findings, arguments.output)
        }
        Check::Node(arguments) => {
            let findings = node::judge(&node::Facts::read(&arguments.cni_conf_dir)?);
            report::print(Path::new("node"), &findings, arguments.output)
        }
    }
}

fn read(file: &Path) -> Result<String> {
    if file == Path::new("-") {
        let mut text = String::new();
        std::io::stdin().read_to_string(&mut text).context("cannot read standard input")?;
        return Ok(text);
    }
    fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))
}
