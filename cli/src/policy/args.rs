//! The words of `nameward policy`.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};
use ipnet::IpNet;
use nameward_crds::LabelSelector;

use crate::see::{args::Reach, output::Format};

/// What `nameward policy` does.
#[derive(Debug, Subcommand)]
pub(crate) enum PolicyCommand {
    Check(Check),
    Test(Test),
    Diff(Diff),
    Import(Import),
    Suggest(Suggest),
    Review(Review),
}

const CHECK_EXAMPLES: &str = "\
Examples:
  nameward policy check policies/*.yaml
  nameward policy check --strict policies/*.yaml   # warnings fail, too: for your own CI

Exit status: 0 in order; 1 mistakes, or warnings with --strict; 125 when it could not be checked.";

/// Check policy files: the schema, and what an author should know
///
/// Beside the mistakes that a cluster would refuse: patterns over public and multi-tenant suffixes, public resolvers that
/// would pass the DNS proxy by, rules that others make superfluous, rules that a deny takes away, rules that have ended.
#[derive(Debug, Args)]
#[command(after_help = CHECK_EXAMPLES)]
pub(crate) struct Check {
    /// Files of EgressPolicy and ClusterEgressPolicy objects
    #[arg(required = true, value_name = "FILE")]
    pub(crate) files: Vec<PathBuf>,

    /// Fail also when there are warnings only
    #[arg(long)]
    pub(crate) strict: bool,
}

const TEST_EXAMPLES: &str = "\
Examples:
  nameward policy test policies_test.yaml

A file of assertions:
  policies: [policies.yaml]          # relative to this file
  tests:
  - name: runners fetch packages
    workload: {namespace: ci, labels: {app: runner}}
    to: registry.npmjs.org:443       # a name or an address; [2001:db8::1]:443
    expect: allowed                  # or denied
    rule: registries                 # may be left out: the rule that decides
  - workload: {namespace: ci, labels: {app: runner}}
    to: 203.0.113.7:53
    protocol: UDP                    # TCP when it is left out; SCTP, ICMPEcho or a number
    expect: denied
    at: 2027-01-31T00:00:00Z         # now when it is left out

Exit status: 0 all as expected; 1 some are not; 125 when they could not be tested.";

/// Test policies against a file of assertions, for your own CI
#[derive(Debug, Args)]
#[command(after_help = TEST_EXAMPLES)]
pub(crate) struct Test {
    /// Files of assertions
    #[arg(required = true, value_name = "FILE")]
    pub(crate) files: Vec<PathBuf>,

    /// Say every result, not only the failures
    #[arg(short, long)]
    pub(crate) verbose: bool,
}

const DIFF_EXAMPLES: &str = "\
Examples:
  nameward policy diff --live policies/*.yaml           # what these files would cut and open, of what was seen
  nameward policy diff --live next.yaml -n ci -o wide   # in one namespace
  nameward policy diff --live next.yaml --delete ci/old # with a policy taken away

A policy of the files takes the place of the one of its kind and name that is in force; the others stay. What was seen: names \
that were asked for, live connections, and the latest decisions of this node. What nobody tried is not in it.

  cut          it passes, and would be denied
  opened       it is denied, and would pass
  would-cut    it passes, and would be denied if the policies in Audit were enforced

Exit status: 0 nothing that was seen changes; 1 something does; 125 when there is no answer.";

/// Show what a change of policies would cut or open, of what was seen on this node
#[derive(Debug, Args)]
#[command(after_help = DIFF_EXAMPLES)]
pub(crate) struct Diff {
    /// Files of EgressPolicy and ClusterEgressPolicy objects
    #[arg(required_unless_present = "delete", value_name = "FILE")]
    pub(crate) files: Vec<PathBuf>,

    /// Compare with what is in force and was seen; there is nothing else to compare with yet
    #[arg(long, required = true)]
    pub(crate) live: bool,

    /// Take a policy away that is in force
    #[arg(long, value_name = "[NAMESPACE/]NAME")]
    pub(crate) delete: Vec<String>,

    #[command(flatten)]
    pub(crate) filter: crate::see::args::EndpointFilter,

    /// How it is shown
    #[arg(short, long, value_name = "FORMAT", default_value = "table")]
    pub(crate) output: Format,

    #[command(flatten)]
    pub(crate) reach: Reach,
}

const IMPORT_EXAMPLES: &str = "\
Examples:
  nameward policy import cilium/*.yaml > policies.yaml
  kubectl get cnp,ccnp -A -o yaml | nameward policy import /dev/stdin --cluster-cidr 10.0.0.0/12 > policies.yaml
  nameward policy import fqdn.yaml --widen one-label      # *.x of one label becomes *.x of any number
  nameward policy import serviceentries.yaml mesh.yaml    # or --registry-only in place of the mesh's configuration
  nameward policy import --from squid squid.conf allowed.txt --namespace ci --selector app=runner --widen clients
  nameward policy import --from list domains.txt --port 443

What cannot be said in a policy of Nameward is listed on stderr: where it stands, why, and what to write instead. What is \
written never allows more than it did, unless you agree with --widen.

Exit status: 0 all carried over; 1 something was not, the rest was written; 125 when files could not be read.";

/// Write policies that say what those of another tool say
///
/// Reads CiliumNetworkPolicy and CiliumClusterwideNetworkPolicy, GKE's FQDNNetworkPolicy, AWS's ApplicationNetworkPolicy and
/// ClusterNetworkPolicy, ClusterNetworkPolicy of policy.networking.k8s.io, Istio's ServiceEntry under REGISTRY_ONLY, Squid's
/// dstdomain lists, and plain lists of domains. Give all policies of a cluster together: which comes first may matter.
#[derive(Debug, Args)]
#[command(after_help = IMPORT_EXAMPLES)]
pub(crate) struct Import {
    /// Files of the other tool
    #[arg(required = true, value_name = "FILE")]
    pub(crate) files: Vec<PathBuf>,

    /// What the files are; without it, their text tells
    #[arg(long, value_name = "KIND")]
    pub(crate) from: Option<SourceKind>,

    /// How policies are written
    #[arg(short, long, value_name = "FORMAT", default_value = "yaml")]
    pub(crate) output: ImportFormat,

    /// Agree that something allows more than it did
    #[arg(long, value_name = "WHAT", value_delimiter = ',')]
    pub(crate) widen: Vec<Widen>,

    /// A range of the cluster's own addresses (pods, services, nodes), which Cilium's blocks and `world` are not about
    #[arg(long, value_name = "CIDR")]
    pub(crate) cluster_cidr: Vec<IpNet>,

    /// The namespace of policies whose source names none
    #[arg(short, long, value_name = "NAME")]
    pub(crate) namespace: Option<String>,

    /// The pods of policies whose source names none
    #[arg(short = 'l', long, value_name = "LABEL=VALUE,...", value_parser = label_selector)]
    pub(crate) selector: Option<LabelSelector>,

    /// Istio's mesh is set to REGISTRY_ONLY
    #[arg(long)]
    pub(crate) registry_only: bool,

    /// A TCP port for names of Squid and of lists, which are written for ports of their own choosing otherwise
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) port: Vec<u16>,
}

/// Whose policies are imported.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum SourceKind {
    /// CiliumNetworkPolicy, CiliumClusterwideNetworkPolicy
    Cilium,
    /// FQDNNetworkPolicy
    Gke,
    /// ApplicationNetworkPolicy and ClusterNetworkPolicy of networking.k8s.aws
    Aws,
    /// ClusterNetworkPolicy of policy.networking.k8s.io
    ClusterNetworkPolicy,
    /// ServiceEntry, with Sidecar or the mesh's configuration
    Istio,
    /// squid.conf, with the files of names that it reads
    Squid,
    /// A domain a line, with a dot before it for all below it, too
    List,
}

/// How imported policies are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ImportFormat {
    /// YAML documents
    Yaml,
    /// One JSON list
    Json,
}

/// What may become wider than it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Widen {
    /// `*.x` of one label: names of any number of labels below x
    OneLabel,
    /// Cilium's blocks: the cluster's own addresses in them, too
    Cluster,
    /// Cilium's `host` and `remote-node`: every node
    Nodes,
    /// Squid's lines for some clients: all workloads that the policy selects
    Clients,
}

/// `app=runner,tier=build`.
fn label_selector(text: &str) -> Result<LabelSelector, String> {
    let label = |part: &str| match part.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err(format!("`{part}` is no label; write `app=runner`")),
    };
    let match_labels = text.split(',').map(label).collect::<Result<_, _>>()?;
    Ok(LabelSelector { match_labels, ..LabelSelector::default() })
}

const SUGGEST_EXAMPLES: &str = "\
Examples:
  nameward policy suggest -e ci/runner > runner.yaml     # what it tried and no rule allows
  nameward policy suggest -n ci --since 2h

Run the workload with `mode: Audit` for a while first, so that it shows all that it needs.";

/// Write the smallest policy that allows what was denied, or would have been
#[derive(Debug, Args)]
#[command(after_help = SUGGEST_EXAMPLES)]
pub(crate) struct Suggest {
    /// Only for this endpoint
    #[arg(short, long, value_name = "UID")]
    pub(crate) endpoint: Option<String>,

    /// Only for those of a namespace
    #[arg(short, long, value_name = "NAME")]
    pub(crate) namespace: Option<String>,

    /// Only what was tried since then: 90s, 10m, 2h, or a time
    #[arg(long, value_name = "TIME")]
    pub(crate) since: Option<String>,

    #[command(flatten)]
    pub(crate) reach: Reach,
}

const REVIEW_EXAMPLES: &str = "\
Examples:
  nameward policy review policies/*.yaml           # rules by owner, which have ended or end soon
  nameward policy review --used policies/*.yaml    # and when each was last needed, from this node's API";

/// List rules by owner, for a review: what each allows, why, until when, and whether it was used
#[derive(Debug, Args)]
#[command(after_help = REVIEW_EXAMPLES)]
pub(crate) struct Review {
    /// Files of EgressPolicy and ClusterEgressPolicy objects
    #[arg(required = true, value_name = "FILE")]
    pub(crate) files: Vec<PathBuf>,

    /// Ask the API when names of each rule were last asked for
    #[arg(long)]
    pub(crate) used: bool,

    /// How it is shown
    #[arg(short, long, value_name = "FORMAT", default_value = "table")]
    pub(crate) output: Format,

    #[command(flatten)]
    pub(crate) reach: Reach,
}
