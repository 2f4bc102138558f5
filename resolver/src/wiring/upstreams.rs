//! Servers to ask, from the command line, with the certificates that those over TLS need.

use std::fmt;

use anyhow::{Result, bail};
use nameward_policy::Name;

use crate::{
    options::{self, Options, ServerOver},
    upstream::{Over, Tls, Trust, Upstream},
};

/// All servers.
#[derive(Clone, Debug)]
pub(super) struct Upstreams {
    /// For all names.
    pub(super) default: Vec<Upstream>,
    /// For domains and what is below them.
    pub(super) routes: Vec<(Name, Vec<Upstream>)>,
}

impl Upstreams {
    /// Reads certificates only where a server needs them.
    pub(super) fn read(options: &Options) -> Result<Self> {
        let (default, routes) = (options.upstreams()?, options.routes());
        let mut all = default.iter().chain(routes.iter().flat_map(|(_, servers)| servers));
        let trust = match &options.upstream_ca {
            Some(path) => Some(Trust::of_file(path)?),
            None if all.any(|server| matches!(server.over, ServerOver::Tls(_))) => Some(Trust::of_system()?),
            None => None,
        };
        let upstreams = |servers: Vec<options::Server>| {
            servers.into_iter().map(|server| upstream(server, trust.as_ref())).collect::<Result<Vec<_>>>()
        };
        let routes = routes.into_iter().map(|(domain, servers)| Ok((domain, upstreams(servers)?)));
        let routes = routes.collect::<Result<_>>()?;
        Ok(Self { default: upstreams(default)?, routes })
    }
}

fn upstream(server: options::Server, trust: Option<&Trust>) -> Result<Upstream> {
    let over = match (server.over, trust) {
        (ServerOver::Udp, _) => Over::Udp,
        (ServerOver::Tcp, _) => Over::Tcp,
        (ServerOver::Tls(name), Some(trust)) => Over::Tls(Tls { name, trust: trust.clone() }),
        // Never without encryption what was asked for with it.
        (ServerOver::Tls(_), None) => {
            bail!("{} is asked over TLS, and nobody may vouch for it", server.address)
        }
    };
    Ok(Upstream { address: server.address, over })
}

impl fmt::Display for Upstreams {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list =
            |servers: &[Upstream]| servers.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
        write!(f, "{}", list(&self.default))?;
        self.routes.iter().try_for_each(|(domain, servers)| write!(f, " {domain}={}", list(servers)))
    }
}
