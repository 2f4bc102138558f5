//! The words of `nameward policy`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use crate::see::{args::Reach, output::Format};

/// What `nameward policy` does.
#[derive(Debug, Subcommand)]
pub(crate) enum PolicyCommand {
    Check(Check),
    Test(Test),
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
