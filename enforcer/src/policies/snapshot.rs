//! What the API server said last, in a file: a process that starts while the API server is away goes on with it.
//!
//! Holds objects, not decisions; the next process decides by itself. A file that cannot be read counts as none.

use std::{
    collections::BTreeSet,
    fs,
    io::{self, Write},
    net::{IpAddr, SocketAddr},
    os::unix::fs::OpenOptionsExt,
    path::Path,
    sync::Arc,
};

use ipnet::IpNet;
use nameward_crds::{ClusterEgressPolicy, EgressConfigSpec, EgressPolicy, Labels};
use serde::{Deserialize, Serialize};

use super::PodFacts;

/// Shape of the file. Another one counts as none.
const VERSION: u32 = 1;

/// Everything that was known.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Snapshot {
    version: u32,
    /// The node it is about.
    pub node: String,
    /// Its pods.
    pub pods: Vec<PodFacts>,
    /// Namespaces and their labels.
    pub namespaces: Vec<(Arc<str>, Labels)>,
    /// Policies of namespaces.
    pub policies: Vec<EgressPolicy>,
    /// Those of the administrator.
    pub cluster_policies: Vec<ClusterEgressPolicy>,
    /// The configuration.
    pub config: Option<EgressConfigSpec>,
    /// Addresses of the API server.
    pub api_server: Vec<IpNet>,
    /// Pods that serve the cluster's DNS.
    pub dns_backends: BTreeSet<Arc<str>>,
    /// Where these serve it by another port than 53.
    #[serde(default)]
    pub dns_servers: Vec<SocketAddr>,
    /// Their addresses.
    #[serde(default)]
    pub dns_addresses: BTreeSet<IpAddr>,
}

impl Snapshot {
    /// Nothing known of a node yet.
    #[must_use]
    pub fn of(node: &str) -> Self {
        Self { version: VERSION, node: node.into(), ..Self::default() }
    }

    /// Whether a file is one of these, of whatever node.
    #[must_use]
    pub fn is_one(path: &Path) -> bool {
        let is_json = path.extension().is_some_and(|ending| ending == "json");
        is_json && fs::read(path).is_ok_and(|text| serde_json::from_slice::<Self>(&text).is_ok())
    }

    /// Reads a file; none when there is none, or none of this node that is understood.
    ///
    /// # Errors
    /// When it is there and cannot be read.
    pub fn read(path: &Path, node: &str) -> io::Result<Option<Self>> {
        let text = match fs::read(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            other => other?,
        };
        let read: Self = serde_json::from_slice(&text)?;
        Ok((read.version == VERSION && read.node == node).then_some(read))
    }

    /// Writes the file: whole, or not at all. Only root may read it.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write(&self, path: &Path) -> io::Result<()> {
        let new = path.with_extension("new");
        let options = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).to_owned();
        let mut file = io::BufWriter::new(options.open(&new)?);
        serde_json::to_writer(&mut file, self)?;
        file.flush()?;
        fs::rename(new, path)
    }
}
