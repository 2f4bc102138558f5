//! The command line of `nameward-api`.

use std::{net::SocketAddr, path::PathBuf, str::FromStr};

use clap::Parser;
use nameward_daemon::LogForm;
use nameward_tls::{ServerName, TlsFiles};

const EXAMPLES: &str = "\
Examples:
  nameward-api --kubernetes --certificate tls.crt --key tls.key \\
      --node-certificate node.crt --node-key node.key --node-ca ca.crt
  nameward-api --node n1=192.0.2.1:9855 --node n2=192.0.2.2:9855 --api-token-file token ...   # these nodes and no others";

/// Answers for a whole cluster: asks the enforcers of all nodes and puts their answers together.
///
/// It is asked over TLS, by those whom the cluster's API server knows and lets, or who show a token; /healthz and /readyz
/// answer everybody. Enforcers that it asks serve with --api-tls.
#[derive(Clone, Debug, Parser)]
#[command(name = "nameward-api", version, after_help = EXAMPLES)]
#[command(group = clap::ArgGroup::new("which").required(true).args(["kubernetes", "node"]))]
pub struct Options {
    /// Where to serve
    #[arg(long, value_name = "ADDR:PORT", default_value = "[::]:9856")]
    pub listen: SocketAddr,

    /// Certificate that clients see (PEM). Read again when it changes
    #[arg(long, value_name = "FILE")]
    pub certificate: PathBuf,

    /// Its private key (PEM)
    #[arg(long, value_name = "FILE")]
    pub key: PathBuf,

    /// The token that clients show (`Authorization: Bearer TOKEN`); a new one is made where there is no file
    ///
    /// With --kubernetes and without it, clients show a token of the cluster's: the API server says whose it is, and whether that
    /// user may list (get, watch, delete) egressbindings, egressendpoints and egressdecisions of live.nameward.io.
    #[arg(long, value_name = "FILE", required_unless_present = "kubernetes")]
    pub api_token_file: Option<PathBuf>,

    /// Ask the nodes of this cluster, where each enforcer says in its EgressNode how it is reached
    #[arg(long)]
    pub kubernetes: bool,

    /// How to reach the API server [default: $KUBECONFIG, else ~/.kube/config, else the service account of this pod]
    #[arg(long, value_name = "FILE", requires = "kubernetes")]
    pub kubeconfig: Option<PathBuf>,

    /// Ask this node; may be repeated
    #[arg(long, value_name = "NAME=ADDR:PORT")]
    pub node: Vec<NamedNode>,

    /// Certificate that nodes see (PEM): it has to be for the name of their --api-tls-client
    #[arg(long, value_name = "FILE")]
    pub node_certificate: PathBuf,

    /// Its private key (PEM)
    #[arg(long, value_name = "FILE")]
    pub node_key: PathBuf,

    /// Certificates of the authority that nodes' certificates come from (PEM)
    #[arg(long, value_name = "FILE")]
    pub node_ca: PathBuf,

    /// The name that the certificates of all nodes have [default: each its own]
    #[arg(long, value_name = "NAME", value_parser = server_name)]
    pub node_name: Option<ServerName<'static>>,

    /// Form of the log on standard error
    #[arg(long, value_name = "FORM", default_value = "text")]
    pub log: LogForm,
}

/// A node that somebody named.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamedNode {
    /// What it is called.
    pub name: String,
    /// Where its enforcer serves.
    pub address: SocketAddr,
}

impl FromStr for NamedNode {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parts = text.split_once('=').filter(|(name, _)| !name.is_empty());
        let read = parts
            .and_then(|(name, address)| Some(Self { name: name.into(), address: address.parse().ok()? }));
        read.ok_or_else(|| "write a name, an address and a port, such as n1=192.0.2.1:9855".into())
    }
}

fn server_name(text: &str) -> Result<ServerName<'static>, String> {
    ServerName::try_from(text.to_owned()).map_err(|_| "this is no name that a certificate can have".into())
}

impl Options {
    /// Our side of what is between us and nodes.
    pub fn node_files(&self) -> TlsFiles {
        TlsFiles {
            certificate: self.node_certificate.clone(),
            key: self.node_key.clone(),
            authority: self.node_ca.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    const FILES: [&str; 11] = [
        "nameward-api",
        "--certificate",
        "c",
        "--key",
        "k",
        "--node-certificate",
        "nc",
        "--node-key",
        "nk",
        "--node-ca",
        "na",
    ];

    fn read(more: &[&str]) -> Result<Options, String> {
        Options::try_parse_from(FILES.iter().chain(more)).map_err(|error| error.to_string())
    }

    #[test]
    fn nodes_are_named_or_the_cluster_is() {
        Options::command().debug_assert();
        let options = read(&[
            "--api-token-file",
            "t",
            "--node",
            "n1=192.0.2.1:9855",
            "--node",
            "n2=[2001:db8::1]:9855",
        ])
        .unwrap();
        assert_eq!(
            options.node[1],
            NamedNode { name: "n2".into(), address: "[2001:db8::1]:9855".parse().unwrap() }
        );
        assert!(read(&["--kubernetes", "--node-name", "node.nameward"]).is_ok());
        assert!(read(&[]).unwrap_err().contains("--kubernetes"));
        assert!(read(&["--kubernetes", "--node", "n1=192.0.2.1:1"]).unwrap_err().contains("cannot be used"));
        assert!(read(&["--node", "n1=192.0.2.1:1"]).unwrap_err().contains("--api-token-file"));
        assert!(read(&["--node", "192.0.2.1:1"]).unwrap_err().contains("such as n1="));
        assert!(read(&["--kubernetes", "--node-name", "no name"]).unwrap_err().contains("no name that"));
    }
}
