//! The words of the commands that ask an API, and their help.

use std::path::PathBuf;

use clap::Args;
use nameward_api::{client::Target, serve::ApiPlace};

use super::output::Format;

/// Whom to ask.
#[derive(Debug, Args)]
pub(crate) struct Reach {
    /// Where the API is [default: unix:/run/nameward/api.sock]
    #[arg(long, visible_alias = "server", env = "NAMEWARD_API", value_name = "unix:PATH | ADDR:PORT")]
    pub(crate) api: Option<ApiPlace>,

    /// The file of the token that an address asks for
    #[arg(long, env = "NAMEWARD_API_TOKEN_FILE", value_name = "FILE")]
    pub(crate) api_token_file: Option<PathBuf>,
}

/// Which endpoints.
#[derive(Debug, Args)]
pub(crate) struct EndpointFilter {
    /// Only this endpoint, by identifier or name
    #[arg(short, long, value_name = "UID")]
    pub(crate) endpoint: Option<String>,

    /// Only those of a namespace
    #[arg(short, long, value_name = "NAME")]
    pub(crate) namespace: Option<String>,

    /// Only the workload of this name, in any namespace
    #[arg(long, value_name = "NAME")]
    pub(crate) pod: Option<String>,
}

impl EndpointFilter {
    pub(crate) fn query(&self) -> Vec<(&'static str, String)> {
        let all = [("endpoint", &self.endpoint), ("namespace", &self.namespace), ("pod", &self.pod)];
        all.into_iter().filter_map(|(name, value)| Some((name, value.clone()?))).collect()
    }
}

const ENDPOINTS_EXAMPLES: &str = "\
Examples:
  nameward endpoints                    # who is guarded, how, and what is wrong with it
  nameward endpoints -n ci -o json | jq '.[].counters'";

/// Show who is guarded, and how
#[derive(Debug, Args)]
#[command(after_help = ENDPOINTS_EXAMPLES)]
pub(crate) struct Endpoints {
    #[command(flatten)]
    pub(crate) filter: EndpointFilter,

    /// How it is shown
    #[arg(short, long, value_name = "FORMAT", default_value = "table")]
    pub(crate) output: Format,

    /// So many at most
    #[arg(long, value_name = "COUNT", default_value_t = 100_000)]
    pub(crate) most: usize,

    #[command(flatten)]
    pub(crate) reach: Reach,
}

const BINDINGS_EXAMPLES: &str = "\
Examples:
  nameward bindings                              # every name with its addresses, and until when
  nameward bindings '*.example.com' -e ci/runner # below a name, of one endpoint
  nameward bindings -a 198.51.100.7              # which name gave this address, to whom, by which rule";

/// Show which name gave which address to whom, and until when
#[derive(Debug, Args)]
#[command(after_help = BINDINGS_EXAMPLES)]
pub(crate) struct Bindings {
    /// A name, *.NAME for all below it
    #[arg(value_name = "NAME")]
    pub(crate) name: Option<String>,

    /// An address or a range that the name gave
    #[arg(short, long, value_name = "ADDRESS | CIDR")]
    pub(crate) address: Option<String>,

    /// A policy that allows the name
    #[arg(short, long, value_name = "[NAMESPACE/]NAME")]
    pub(crate) policy: Option<String>,

    /// Only what new connections may use
    #[arg(long)]
    pub(crate) live: bool,

    #[command(flatten)]
    pub(crate) filter: EndpointFilter,

    /// How it is shown
    #[arg(short, long, value_name = "FORMAT", default_value = "table")]
    pub(crate) output: Format,

    /// So many at most
    #[arg(long, value_name = "COUNT", default_value_t = 100_000)]
    pub(crate) most: usize,

    #[command(flatten)]
    pub(crate) reach: Reach,
}

impl Bindings {
    pub(super) fn query(&self) -> Vec<(&'static str, String)> {
        let mut query = self.filter.query();
        let all = [("name", &self.name), ("address", &self.address), ("policy", &self.policy)];
        query.extend(all.into_iter().filter_map(|(name, value)| Some((name, value.clone()?))));
        query.extend(self.live.then(|| ("live", "true".into())));
        query
    }
}

const FLUSH_EXAMPLES: &str = "\
Examples:
  sudo nameward flush registry.example.com                # of all endpoints of this node
  sudo nameward flush '*.example.com' -e ci/runner        # below a name, of one endpoint
  sudo nameward flush -a 198.51.100.7                     # the names that gave this address, with all they gave
  sudo nameward flush --dry-run '*'                       # what would be taken back

New connections under these names are denied `expired` until the name is asked again, and servers are asked anew for it. \
Live connections go on; to end those, too, take the rule away. What a program, or a cache in front of the resolver, \
remembers of earlier answers is not known here.

Exit status: 0; 1 when a resolver did not confirm; 125 when there is no answer.";

/// Take back what names gave: new connections need a new answer
#[derive(Debug, Args)]
#[command(after_help = FLUSH_EXAMPLES)]
#[command(group = clap::ArgGroup::new("which").required(true).multiple(true).args(["name", "address"]))]
pub(crate) struct Flush {
    /// A name, *.NAME for all below it, * for all
    #[arg(value_name = "NAME")]
    pub(crate) name: Option<String>,

    /// An address or a range: the names that gave it
    #[arg(short, long, value_name = "ADDRESS | CIDR")]
    pub(crate) address: Option<String>,

    #[command(flatten)]
    pub(crate) filter: EndpointFilter,

    /// Show what would be taken back, and leave it
    #[arg(long)]
    pub(crate) dry_run: bool,

    /// How it is shown
    #[arg(short, long, value_name = "FORMAT", default_value = "table")]
    pub(crate) output: Format,

    #[command(flatten)]
    pub(crate) reach: Reach,
}

impl Flush {
    pub(super) fn query(&self) -> Vec<(&'static str, String)> {
        let mut query = self.filter.query();
        let all = [("name", &self.name), ("address", &self.address)];
        query.extend(all.into_iter().filter_map(|(name, value)| Some((name, value.clone()?))));
        query
    }
}

const EXPLAIN_EXAMPLES: &str = "\
Examples:
  nameward explain ci/runner registry.example.com       # port 443, TCP
  nameward explain ci/runner 198.51.100.7:22
  nameward explain ci/runner '[2001:db8::7]:53' --protocol udp
  nameward explain --exit-code ci/runner registry.example.com && echo may

Exit status: 0; 1 with --exit-code when it is denied; 125 when there is no answer.";

/// Say whether a new connection would pass, why, and what would change it
#[derive(Debug, Args)]
#[command(after_help = EXPLAIN_EXAMPLES)]
pub(crate) struct Explain {
    /// The endpoint's identifier, as `nameward endpoints` shows it
    #[arg(value_name = "ENDPOINT")]
    pub(crate) endpoint: String,

    /// Where to
    #[arg(value_name = "NAME|ADDRESS[:PORT]")]
    pub(crate) target: Target,

    /// tcp, udp, sctp, icmp or a number
    #[arg(long, value_name = "PROTOCOL", default_value = "tcp")]
    pub(crate) protocol: String,

    /// Exit with 1 when it is denied
    #[arg(long)]
    pub(crate) exit_code: bool,

    /// How it is shown
    #[arg(short, long, value_name = "FORMAT", default_value = "table")]
    pub(crate) output: Format,

    #[command(flatten)]
    pub(crate) reach: Reach,
}

const WATCH_EXAMPLES: &str = "\
Examples:
  nameward watch                                # every decision as it happens
  nameward watch --verdict deny,would-deny      # only what was denied, or would have been
  nameward watch --verdict pass,staged-deny     # what the policies in Audit would cut, if they were enforced
  nameward watch -e ci/runner --name '*.example.com'
  nameward watch --since 10m                    # what is remembered of the last ten minutes first
  nameward watch -o json | jq -r .name          # one JSON object a line";

/// Show decisions as they happen
#[derive(Debug, Args)]
#[command(after_help = WATCH_EXAMPLES)]
pub(crate) struct Watch {
    #[command(flatten)]
    pub(crate) filter: EndpointFilter,

    /// The name that the peer's address had: a name, *.NAME for all below it
    #[arg(long, value_name = "NAME")]
    pub(crate) name: Option<String>,

    /// An address or a range of the peer
    #[arg(short, long, value_name = "ADDRESS | CIDR")]
    pub(crate) address: Option<String>,

    /// A policy that took part
    #[arg(short, long, value_name = "[NAMESPACE/]NAME")]
    pub(crate) policy: Option<String>,

    /// pass, deny, would-deny; staged-pass, staged-deny: what Audit policies would make of it; several with commas
    #[arg(long, value_name = "WORDS")]
    pub(crate) verdict: Option<String>,

    /// Words like no-match; several with commas
    #[arg(long, value_name = "WORDS")]
    pub(crate) reason: Option<String>,

    /// Show first what is remembered since then: 90s, 10m, 2h, or a time like 2027-01-31T00:00:00Z
    #[arg(long, value_name = "TIME")]
    pub(crate) since: Option<String>,

    /// End after so many decisions
    #[arg(long, value_name = "COUNT")]
    pub(crate) count: Option<u64>,

    /// `table` or `json`, one object a line
    #[arg(short, long, value_name = "FORMAT", default_value = "table")]
    pub(crate) output: Format,

    #[command(flatten)]
    pub(crate) reach: Reach,
}

impl Watch {
    pub(super) fn query(&self) -> Vec<(&'static str, String)> {
        let mut query = self.filter.query();
        let all = [
            ("name", &self.name),
            ("address", &self.address),
            ("policy", &self.policy),
            ("verdict", &self.verdict),
            ("reason", &self.reason),
        ];
        query.extend(all.into_iter().filter_map(|(name, value)| Some((name, value.clone()?))));
        query
    }
}

const TRAFFIC_EXAMPLES: &str = "\
Examples:
  nameward traffic                      # live connections by name, those that carry most first
  nameward traffic -e ci/runner -o json";

/// Show packets and bytes of live connections, by name
#[derive(Debug, Args)]
#[command(after_help = TRAFFIC_EXAMPLES)]
pub(crate) struct Traffic {
    #[command(flatten)]
    pub(crate) filter: EndpointFilter,

    /// How it is shown
    #[arg(short, long, value_name = "FORMAT", default_value = "table")]
    pub(crate) output: Format,

    /// So many at most
    #[arg(long, value_name = "COUNT", default_value_t = 100_000)]
    pub(crate) most: usize,

    #[command(flatten)]
    pub(crate) reach: Reach,
}

/// Show the policies in force on this node, and whom they bind
#[derive(Debug, Args)]
pub(crate) struct Policies {
    /// Only this policy
    #[arg(value_name = "[NAMESPACE/]NAME")]
    pub(crate) policy: Option<String>,

    /// How it is shown
    #[arg(short, long, value_name = "FORMAT", default_value = "table")]
    pub(crate) output: Format,

    #[command(flatten)]
    pub(crate) reach: Reach,
}
