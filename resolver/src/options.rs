//! The command line of `nameward-resolver`: what is written, and what it means. Reads no file but resolv.conf.

use std::{
    net::{IpAddr, SocketAddr, SocketAddrV6},
    path::{Path, PathBuf},
    str::FromStr,
};

use clap::{Parser, ValueEnum};
use nameward_api::serve::ApiPlace;
use nameward_daemon::LogForm;
use nameward_feed::{
    folder,
    tls::{Remote, TlsFiles},
};
use nameward_policy::Name;
use rustls::pki_types::ServerName;
use thiserror::Error;

use crate::grants::Scope;

/// The port of DNS.
const DNS_PORT: u16 = 53;
/// The port of DNS over TLS (RFC 7858).
const TLS_PORT: u16 = 853;
/// What a server over TLS begins with.
const TLS_SCHEME: &str = "tls://";
/// What a server over TCP alone begins with.
const TCP_SCHEME: &str = "tcp://";
/// Where the system's servers are written.
const RESOLV_CONF: &str = "/etc/resolv.conf";

const EXAMPLES: &str = "\
Examples:
  Beside nameward-enforcer on a host, which finds it in the folder of --feed:
    nameward-resolver --upstream 198.51.100.53
  The same without root's rights once it serves, and with servers of its own for one domain:
    nameward-resolver --user nobody --upstream 198.51.100.53 --route corp.example=10.0.0.53
  Over TLS, to a server that proves its name, and another if that one fails:
    nameward-resolver --upstream 'tls://198.51.100.53#dns.example' --upstream 'tls://198.51.100.54:8853#dns.example'
  For enforcers of other hosts, behind a CoreDNS that says whom it asks for:
    nameward-resolver --feed tls://192.0.2.1:9853 --feed-certificate tls.crt --feed-key tls.key --feed-ca ca.crt \\
      --listen 192.0.2.1:53 --trusted-forwarder 192.0.2.10 --upstream 198.51.100.53
  The same behind a CoreDNS that caches: names are granted to all workloads that may use them:
    nameward-resolver --scope name --feed tls://192.0.2.1:9853 --feed-certificate tls.crt --feed-key tls.key \
      --feed-ca ca.crt --listen 192.0.2.1:53 --trusted-forwarder 192.0.2.10 --upstream 198.51.100.53
  Without an enforcer, for tests and measurements (nothing is enforced):
    nameward-resolver --listen 127.0.0.1:5300 --upstream 198.51.100.53 --endpoints endpoints.yaml

Signals: SIGTERM answers what was asked and ends; SIGHUP reads the file of --endpoints again.
Exit status: 0 after SIGTERM or SIGINT, 1 when it cannot start or go on, 2 for a mistake on the command line.
RUST_LOG sets what is logged, for instance RUST_LOG=nameward_resolver=debug.";

/// Answers the DNS queries of workloads by policy; answers an allowed name when its addresses have been granted.
///
/// Endpoints and their rules come from enforcers, which connect to a socket in the folder of --feed, or, for tests
/// and measurements, from a file.
#[derive(Clone, Debug, Parser)]
#[command(name = "nameward-resolver", version, after_help = EXAMPLES)]
#[command(group = clap::ArgGroup::new("rules").args(["feed", "endpoints"]).multiple(true))]
pub struct Options {
    /// Where enforcers connect; may be repeated [default: unix:/run/nameward/feed]
    ///
    /// unix:DIR is a folder where enforcers of this host find this resolver, and hand DNS sockets over.
    /// tls://ADDR:PORT is for enforcers of other hosts, which have to prove that they are the node they name. They
    /// cannot hand sockets over: name addresses with --listen, and who forwards questions to them with
    /// --trusted-forwarder.
    #[arg(
        long,
        value_name = "unix:DIR | tls://ADDR:PORT",
        conflicts_with = "endpoints",
        verbatim_doc_comment
    )]
    pub feed: Vec<FeedPlace>,

    /// Certificate of this resolver for tls:// (PEM). Read again when it changes, by --user as it were
    #[arg(long, value_name = "FILE", requires_all = ["feed_key", "feed_ca"])]
    pub feed_certificate: Option<PathBuf>,

    /// Private key of the certificate (PEM)
    #[arg(long, value_name = "FILE", requires_all = ["feed_certificate", "feed_ca"])]
    pub feed_key: Option<PathBuf>,

    /// Certificates of the authority that enforcers' certificates come from (PEM)
    #[arg(long, value_name = "FILE", requires_all = ["feed_certificate", "feed_key"])]
    pub feed_ca: Option<PathBuf>,

    /// Serve UDP and TCP here: for --trusted-forwarder, or for the workloads of --endpoints; may be repeated
    #[arg(long, value_name = "ADDR:PORT", requires = "rules")]
    pub listen: Vec<Listen>,

    /// Endpoints and policies (YAML) of the workloads that ask at --listen, told apart by their source addresses
    #[arg(long, value_name = "FILE", requires = "listen")]
    pub endpoints: Option<PathBuf>,

    /// Server for all names; may be repeated, the first that is well is asked [default: those of /etc/resolv.conf]
    ///
    /// `ADDR[:PORT]` is asked over UDP, and TCP for long answers; `tcp://ADDR[:PORT]` over TCP alone;
    /// `tls://ADDR[:PORT]#NAME` over TLS (port 853), where the server has to prove that it is NAME.
    #[arg(long, value_name = "[tcp://]ADDR[:PORT] | tls://ADDR[:PORT]#NAME", verbatim_doc_comment)]
    pub upstream: Vec<Server>,

    /// Server for a domain and all below it, written as for --upstream; may be repeated, also for the same domain
    #[arg(long, value_name = "DOMAIN=SERVER")]
    pub route: Vec<Route>,

    /// Certificates of the authorities that may vouch for tls:// servers (PEM) [default: those that the system trusts]
    #[arg(long, value_name = "FILE")]
    pub upstream_ca: Option<PathBuf>,

    /// Address of a forwarder (CoreDNS) whose word counts on whom it asks for (EDNS option 65518); may be repeated
    ///
    /// `feed` stands for the servers of the cluster's DNS, as enforcers on Kubernetes nodes name them over tls:// feeds.
    #[arg(long, value_name = "ADDR | feed", verbatim_doc_comment)]
    pub trusted_forwarder: Vec<TrustedForwarder>,

    /// What is answered to clients of a trusted forwarder that no enforcer guards
    #[arg(long, value_enum, value_name = "WHAT", default_value_t = UnknownClients::Refuse)]
    pub unknown_clients: UnknownClients,

    /// Whom the answer to a trusted forwarder is granted to
    #[arg(long, value_enum, value_name = "SCOPE", default_value_t = GrantScope::Endpoint)]
    pub scope: GrantScope,

    /// Give up root's rights for this user's once all sockets are open (name or number)
    #[arg(long, value_name = "USER")]
    pub user: Option<String>,

    /// Serve metrics for Prometheus (/metrics) and health (/healthz) here
    ///
    /// A socket can be opened by the owner and the group of this process. A loopback address answers to those who show
    /// the token of --metrics-token-file.
    #[arg(long, value_name = "unix:PATH | ADDR:PORT")]
    pub metrics: Option<ApiPlace>,

    /// The token that clients of an address show; a new one is made where there is no file
    #[arg(long, value_name = "FILE", requires = "metrics")]
    pub metrics_token_file: Option<PathBuf>,

    /// Form of the log on standard error
    #[arg(long, value_name = "FORM", default_value = "text")]
    pub log: LogForm,
}

/// A forwarder whose word counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TrustedForwarder {
    /// This one.
    Address(IpAddr),
    /// Those that enforcers name.
    Feed,
}

impl FromStr for TrustedForwarder {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "feed" => Ok(Self::Feed),
            _ => text.parse().map(Self::Address).map_err(|_| {
                "write an address, or `feed` for the servers of the cluster's DNS that enforcers name".into()
            }),
        }
    }
}

/// What clients of a trusted forwarder are answered that no enforcer guards.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum UnknownClients {
    /// Nothing: REFUSED. By name (`--scope name`) they are filtered like workloads
    Refuse,
    /// Every name, unfiltered; it is granted to nobody, but by name, where rules of a workload allow it
    Pass,
}

/// Whom the answer to a trusted forwarder is granted to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum GrantScope {
    /// The workload that the forwarder asks for. The forwarder must not cache
    Endpoint,
    /// Every workload whose rules allow the name. The forwarder may cache
    Name,
}

impl From<GrantScope> for Scope {
    fn from(scope: GrantScope) -> Self {
        match scope {
            GrantScope::Endpoint => Self::Endpoint,
            GrantScope::Name => Self::Name,
        }
    }
}

/// Where rules come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// Enforcers connect (S4).
    Feed {
        /// Where.
        places: Vec<FeedPlace>,
        /// Where questions come, beside the sockets that are handed over.
        listen: Vec<SocketAddr>,
    },
    /// A file; queries come to these addresses, and nothing is enforced (S2).
    File {
        /// The endpoints.
        file: PathBuf,
        /// Where to listen.
        listen: Vec<SocketAddr>,
    },
}

/// What cannot be served.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum OptionsError {
    /// Nobody to ask.
    #[error("there is no DNS server to ask: {RESOLV_CONF} names none; name one with --upstream ADDR")]
    NoUpstream,
    /// The resolver would ask itself.
    #[error("--upstream {0} is where this resolver listens: it would ask itself; name another server")]
    OwnUpstream(SocketAddr),
    /// Nobody's questions would be judged by it.
    #[error(
        "--scope name is for questions of a forwarder: name its address with --trusted-forwarder, and where it asks with \
         --listen"
    )]
    NoForwarder,
    /// Nobody can prove anything.
    #[error(
        "--feed tls://{0} needs certificates: name the files with --feed-certificate, --feed-key and --feed-ca"
    )]
    NoCertificates(SocketAddr),
}

impl Options {
    /// Where rules come from.
    pub fn source(&self) -> Source {
        let listen = self.listen.iter().map(|one| one.0).collect();
        match &self.endpoints {
            Some(file) => Source::File { file: file.clone(), listen },
            None if self.feed.is_empty() => {
                Source::Feed { places: vec![FeedPlace::Folder(folder::DEFAULT.into())], listen }
            }
            None => Source::Feed { places: self.feed.clone(), listen },
        }
    }

    /// The certificates for enforcers of other hosts.
    ///
    /// # Errors
    /// [`OptionsError::NoCertificates`].
    pub fn feed_files(&self) -> Result<Option<TlsFiles>, OptionsError> {
        let far = self.feed.iter().find_map(|place| match place {
            FeedPlace::Far(address) => Some(*address),
            FeedPlace::Folder(_) => None,
        });
        match (far, &self.feed_certificate, &self.feed_key, &self.feed_ca) {
            (_, Some(certificate), Some(key), Some(authority)) => Ok(Some(TlsFiles {
                certificate: certificate.clone(),
                key: key.clone(),
                authority: authority.clone(),
            })),
            (Some(address), ..) => Err(OptionsError::NoCertificates(address)),
            (None, ..) => Ok(None),
        }
    }

    /// Addresses of forwarders that are named here.
    pub fn forwarders(&self) -> Vec<IpAddr> {
        let address = |one: &TrustedForwarder| match one {
            TrustedForwarder::Address(address) => Some(*address),
            TrustedForwarder::Feed => None,
        };
        self.trusted_forwarder.iter().filter_map(address).collect()
    }

    /// Whether enforcers may name others.
    pub fn believes_feed(&self) -> bool {
        self.trusted_forwarder.contains(&TrustedForwarder::Feed)
    }

    /// Whom the answer to a trusted forwarder is granted to.
    ///
    /// # Errors
    /// [`OptionsError::NoForwarder`].
    pub fn scope(&self) -> Result<Scope, OptionsError> {
        let nobody_forwards = self.trusted_forwarder.is_empty() || self.listen.is_empty();
        match self.scope {
            GrantScope::Name if nobody_forwards => Err(OptionsError::NoForwarder),
            scope => Ok(scope.into()),
        }
    }

    /// Servers for all names.
    ///
    /// # Errors
    /// [`OptionsError`].
    pub fn upstreams(&self) -> Result<Vec<Server>, OptionsError> {
        self.upstreams_or(Path::new(RESOLV_CONF))
    }

    fn upstreams_or(&self, resolv_conf: &Path) -> Result<Vec<Server>, OptionsError> {
        let mut servers = self.upstream.clone();
        if servers.is_empty() {
            let known = system_servers(&std::fs::read_to_string(resolv_conf).unwrap_or_default());
            servers = known.into_iter().map(Server::plain).collect();
        }
        let all = servers.iter().chain(self.route.iter().map(|route| &route.server));
        let all = all.map(|server| server.address);
        let own = |server: &SocketAddr| self.listen.iter().any(|listen| reaches(listen.0, *server));
        match all.into_iter().find(own) {
            Some(server) => Err(OptionsError::OwnUpstream(server)),
            None if servers.is_empty() => Err(OptionsError::NoUpstream),
            None => Ok(servers),
        }
    }

    /// Servers by domain.
    pub fn routes(&self) -> Vec<(Name, Vec<Server>)> {
        let mut routes: Vec<(Name, Vec<Server>)> = Vec::new();
        for Route { domain, server } in &self.route {
            match routes.iter_mut().find(|(known, _)| known == domain) {
                Some((_, servers)) => servers.push(server.clone()),
                None => routes.push((domain.clone(), vec![server.clone()])),
            }
        }
        routes
    }
}

/// Whether what is sent to `server` arrives at a socket that listens at `listen`, as far as addresses tell.
fn reaches(listen: SocketAddr, server: SocketAddr) -> bool {
    let any_of_this_host = listen.ip().is_unspecified() && server.ip().is_loopback();
    listen.port() == server.port() && (listen.ip() == server.ip() || any_of_this_host)
}

/// Servers of a resolv.conf, in order.
pub fn system_servers(resolv_conf: &str) -> Vec<SocketAddr> {
    resolv_conf
        .lines()
        .filter_map(|line| {
            let mut words = line.split_whitespace();
            (words.next()? == "nameserver").then_some(())?;
            with_zone(words.next()?)
        })
        .collect()
}

/// A link-local server has its interface behind a percent sign.
fn with_zone(text: &str) -> Option<SocketAddr> {
    let (address, zone) = text.split_once('%').map_or((text, None), |(address, zone)| (address, Some(zone)));
    let scope = zone.and_then(|zone| zone.parse().ok().or_else(|| nix::net::if_::if_nametoindex(zone).ok()));
    Some(match address.parse().ok()? {
        IpAddr::V4(v4) => (v4, DNS_PORT).into(),
        IpAddr::V6(v6) => SocketAddrV6::new(v6, DNS_PORT, 0, scope.unwrap_or(0)).into(),
    })
}

/// Where enforcers connect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FeedPlace {
    /// `unix:DIR`: those of this host.
    Folder(PathBuf),
    /// `tls://ADDR:PORT`: those of others.
    Far(SocketAddr),
}

impl FromStr for FeedPlace {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(address) = text.strip_prefix(Remote::SCHEME) {
            let address = address.parse().map(Self::Far);
            return address.map_err(|_| "write an address and a port, such as tls://192.0.2.1:9853".into());
        }
        match text.strip_prefix("unix:") {
            Some(path) if path.starts_with('/') => Ok(Self::Folder(path.into())),
            Some(_) => Err("the folder must begin with /".into()),
            None => Err(format!(
                "write unix:{text} for a folder, or tls://ADDR:PORT for enforcers of other hosts"
            )),
        }
    }
}

/// An address and port to listen at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Listen(pub SocketAddr);

impl FromStr for Listen {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        text.parse().map(Self).map_err(|_| match text.parse::<IpAddr>() {
            Ok(IpAddr::V4(address)) => format!("the port is missing: write {address}:{DNS_PORT}"),
            Ok(IpAddr::V6(address)) => format!("the port is missing: write [{address}]:{DNS_PORT}"),
            Err(_) => "write an address and a port, such as 127.0.0.1:5300 or [::1]:5300".into(),
        })
    }
}

/// A DNS server; port 53, or 853 over TLS, unless said otherwise.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    /// Where it is.
    pub address: SocketAddr,
    /// How it is asked.
    pub over: ServerOver,
}

/// How a server is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ServerOver {
    /// UDP, and TCP for long answers.
    Udp,
    /// TCP alone.
    Tcp,
    /// TLS; the server has to prove this name.
    Tls(ServerName<'static>),
}

impl Server {
    fn plain(address: SocketAddr) -> Self {
        Self { address, over: ServerOver::Udp }
    }
}

impl FromStr for Server {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(rest) = text.strip_prefix(TCP_SCHEME) {
            return Ok(Self { address: server_address(rest, DNS_PORT)?, over: ServerOver::Tcp });
        }
        let Some(rest) = text.strip_prefix(TLS_SCHEME) else {
            return Ok(Self::plain(server_address(text, DNS_PORT)?));
        };
        let Some((address, name)) = rest.split_once('#') else {
            return Err(format!(
                "the name that the server has to prove is missing: write {text}#NAME, such as \
                 {TLS_SCHEME}198.51.100.53#dns.example"
            ));
        };
        let tls_name = ServerName::try_from(name.to_owned())
            .map_err(|_| format!("`{name}` is no name that a certificate can have"))?;
        Ok(Self { address: server_address(address, TLS_PORT)?, over: ServerOver::Tls(tls_name) })
    }
}

fn server_address(text: &str, port: u16) -> Result<SocketAddr, String> {
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    let with_port = || bare.parse::<IpAddr>().ok().map(|address| (address, port).into());
    let server: SocketAddr = text.parse().ok().or_else(with_port).ok_or_else(|| {
        String::from(
            "write the address of a DNS server, such as 198.51.100.53, [2001:db8::53]:5353 or \
             tls://198.51.100.53#dns.example",
        )
    })?;
    match server.port() {
        0 => Err("no server has port 0".into()),
        _ if server.ip().is_unspecified() => Err("no server has this address".into()),
        _ => Ok(server),
    }
}

/// A domain and a server for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// The domain; names below it are meant, too.
    pub domain: Name,
    /// Whom to ask.
    pub server: Server,
}

impl FromStr for Route {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (domain, server) =
            text.split_once('=').ok_or("write DOMAIN=ADDR, such as corp.example=10.0.0.53")?;
        let domain = domain.strip_prefix("*.").unwrap_or(domain);
        let domain = Name::from_input(domain).map_err(|error| error.to_string())?;
        Ok(Self { domain, server: server.parse()? })
    }
}

#[cfg(test)]
#[path = "options_tests.rs"]
mod tests;
