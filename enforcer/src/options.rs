//! The command line of `nameward-enforcer`.

use std::{
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    str::FromStr,
    sync::Arc,
};

use clap::Parser;
use tokio::sync::watch;

use nameward_daemon::{
    LogForm,
    audit::{AuditOptions, AuditPlace},
};

use nameward_feed::tls::{self, Credentials, Remote, TlsError, TlsFiles};
use nameward_policy::Name;

use nameward_api::serve::ApiPlace;

use crate::{
    EnforcerOptions,
    dns_link::DnsLinkOptions,
    feed_client::{FoundResolver, Place},
    kernel::HostOptions,
    policies::watch::ResolverService,
};

/// Where everything of a running system is.
const RUN: &str = "/run/nameward";
/// What a service of resolvers begins with.
const SERVICE_SCHEME: &str = "service:";

/// Enforces egress policies by name on the interfaces and cgroups of this host.
///
/// Give it a file of endpoints and policies, or a Kubernetes node; resolvers are found in the folder of --feed. SIGHUP
/// reads the file again, SIGTERM ends the process and leaves the fence up, --remove takes the fence away.
#[derive(Clone, Debug, Parser)]
#[command(name = "nameward-enforcer", version)]
pub struct Options {
    /// Endpoints, policies and settings (YAML)
    #[arg(long, value_name = "FILE", required_unless_present_any = ["remove", "kubernetes", "prepare_for", "uninstall", "sign"])]
    pub config: Option<PathBuf>,

    /// Guard the pods of this Kubernetes node by the EgressPolicies of the cluster
    ///
    /// Settings of --config are below those of the object EgressConfig/default; endpoints of the file are guarded, too.
    #[arg(long, conflicts_with = "remove")]
    pub kubernetes: bool,

    /// How to reach the API server [default: $KUBECONFIG, else ~/.kube/config, else the service account of this pod]
    #[arg(long, value_name = "FILE", requires = "kubernetes")]
    pub kubeconfig: Option<PathBuf>,

    /// Nameward's own namespace, which only policies that name it select [default: $POD_NAMESPACE]
    #[arg(long, value_name = "NAME", env = "POD_NAMESPACE", hide_env_values = true)]
    pub own_namespace: Option<String>,

    /// DNS server of the cluster, as kubelet's option of the same name; may be repeated
    ///
    /// Pods may mean it: what they ask it is forwarded to it. Beside it, the servers of --config's `dns.trusted`.
    #[arg(long, value_name = "ADDR[:PORT]", requires = "kubernetes", value_parser = dns_server)]
    pub cluster_dns: Vec<SocketAddr>,

    /// Domain of the cluster, as kubelet's option of the same name
    #[arg(long, value_name = "NAME", requires = "kubernetes", value_parser = domain)]
    pub cluster_domain: Option<Name>,

    /// Where nameward-cni asks [default: /run/nameward/cni.sock]
    #[arg(long, value_name = "PATH", requires = "kubernetes")]
    pub cni_socket: Option<PathBuf>,

    /// Where resolvers are; may be repeated, all are connected to [default: unix:/run/nameward/feed]
    ///
    /// unix:DIR is a folder where resolvers of this host listen, and get the DNS sockets of its workloads.
    /// service:NAMESPACE/NAME are the resolvers behind a service of the cluster (its port `feed`), which have to prove
    /// NAME.NAMESPACE.svc; all of them are connected to, as they come and go.
    /// tls://ADDR:PORT is a resolver elsewhere, which has to prove NAME (ADDR, where it is left out). DNS sockets cannot
    /// be given away over the network: workloads have to reach it by a forwarder that it trusts.
    #[arg(
        long,
        value_name = "unix:DIR | service:NAMESPACE/NAME | tls://ADDR:PORT[#NAME]",
        verbatim_doc_comment
    )]
    pub feed: Vec<FeedPlace>,

    /// Have certificates for resolvers of the cluster signed by its signer (nameward.io/feed), and keep them in this folder
    #[arg(long, value_name = "DIR", requires = "kubernetes", conflicts_with = "feed_certificate")]
    pub feed_certificates: Option<PathBuf>,

    /// Pods ask the cluster's DNS themselves, which forwards what it does not know to resolvers of the cluster
    ///
    /// Nothing is redirected: questions for other servers are denied. The Corefile has to be written for it; `nameward check
    /// corefile` says whether it is.
    #[arg(long, requires_all = ["kubernetes", "cluster_dns"])]
    pub forwarded: bool,

    /// Certificate for tls:// resolvers (PEM): it has to be for the name of --node. Read again when it changes
    #[arg(long, value_name = "FILE", requires_all = ["feed_key", "feed_ca"])]
    pub feed_certificate: Option<PathBuf>,

    /// Private key of the certificate (PEM)
    #[arg(long, value_name = "FILE", requires_all = ["feed_certificate", "feed_ca"])]
    pub feed_key: Option<PathBuf>,

    /// Certificates of the authority that resolvers' certificates come from (PEM)
    #[arg(long, value_name = "FILE", requires_all = ["feed_certificate", "feed_key"])]
    pub feed_ca: Option<PathBuf>,

    /// Serve endpoints, bindings, decisions, explanations, health and metrics here
    ///
    /// A socket can be opened by the owner and the group of this process, to read; only root may flush bindings. A loopback
    /// address answers to those who show the token of --api-token-file, and is for reading.
    #[arg(long, value_name = "unix:PATH | ADDR:PORT")]
    pub api: Option<ApiPlace>,

    /// The token that clients of an address show (`Authorization: Bearer TOKEN`); a new one is made where there is no file
    #[arg(long, value_name = "FILE", requires = "api")]
    pub api_token_file: Option<PathBuf>,

    /// Serve the same on a network, over TLS, to nameward-api
    ///
    /// The certificates may come later than the process, and are read again when they change. In a cluster nameward-api learns
    /// of the address by the node's EgressNode.
    #[arg(long, value_name = "ADDR:PORT", requires_all = ["api_tls_certificate", "api_tls_key", "api_tls_ca", "api_tls_client"])]
    pub api_tls: Option<SocketAddr>,

    /// Certificate for --api-tls (PEM): for the node's name, or that of nameward-api's --node-name
    #[arg(long, value_name = "FILE", requires = "api_tls")]
    pub api_tls_certificate: Option<PathBuf>,

    /// Its private key (PEM)
    #[arg(long, value_name = "FILE", requires = "api_tls")]
    pub api_tls_key: Option<PathBuf>,

    /// Certificates of the authority that clients' certificates come from (PEM)
    #[arg(long, value_name = "FILE", requires = "api_tls")]
    pub api_tls_ca: Option<PathBuf>,

    /// Answer to clients whose certificate is for this name; may be repeated
    #[arg(long, value_name = "NAME", requires = "api_tls")]
    pub api_tls_client: Vec<String>,

    /// Write every decision to a file, or to standard output with -, as JSON lines in OCSF 1.8 (class 4001)
    ///
    /// Records are numbered, and what could not be written is said: `nameward audit verify FILE` shows that none is
    /// missing. A file that is moved away is made anew.
    #[arg(long, value_name = "FILE | -")]
    pub audit_log: Option<AuditPlace>,

    /// Size in MiB at which the audit log's file is turned over (FILE.1 is the one before)
    #[arg(long, value_name = "MIB", default_value_t = 100, value_parser = clap::value_parser!(u64).range(1..=1_048_576))]
    pub audit_log_size: u64,

    /// How many turned-over files of the audit log are kept
    #[arg(long, value_name = "COUNT", default_value_t = 10)]
    pub audit_log_keep: usize,

    /// Take every program, map, pin, link and file of ours away, and end
    #[arg(long)]
    pub remove: bool,

    /// Wait so long for another process that enforces to end before --remove, in seconds
    #[arg(long, value_name = "SECONDS", requires = "remove", default_value_t = 0)]
    pub wait: u64,

    /// Make a node ready for a resolver that runs as this user, and end
    ///
    /// Mounts the BPF file system where there is none, and makes the folder of --feed, which belongs to the user then.
    #[arg(long, value_name = "UID", conflicts_with_all = ["remove", "kubernetes", "config"])]
    pub prepare_for: Option<u32>,

    /// Take Nameward off the nodes of a cluster, in order, and end: what the chart starts before it is uninstalled
    #[arg(long, hide = true, requires = "own_namespace", conflicts_with_all = ["remove", "kubernetes", "config", "prepare_for"])]
    pub uninstall: bool,

    /// Sign certificates of nodes for the feed, and keep those of the resolver beside us in this folder: what the chart runs
    /// beside each resolver of the cluster
    #[arg(long, hide = true, value_name = "DIR", requires = "own_namespace", conflicts_with_all = ["remove", "kubernetes", "config", "prepare_for", "uninstall"])]
    pub sign: Option<PathBuf>,

    /// End when the resolver has its certificates
    #[arg(long, hide = true, requires = "sign")]
    pub once: bool,

    /// A mounted BPF file system
    #[arg(long, value_name = "DIR", default_value = "/sys/fs/bpf")]
    pub bpffs: PathBuf,

    /// Name that keeps several enforcers on one host apart: pins, files and link have it in their names
    #[arg(long, value_name = "NAME", value_parser = instance_name)]
    pub instance: Option<String>,

    /// Folder for the names that a restart needs [default: /run/nameward/state]
    #[arg(long, value_name = "DIR")]
    pub state: Option<PathBuf>,

    /// What resolvers and logs call this host; with --kubernetes, the name of the node [default: its host name]
    #[arg(long, value_name = "NAME", env = "NODE_NAME", hide_env_values = true)]
    pub node: Option<String>,

    /// Accept endpoints on the interface that carries the host's default route
    #[arg(long)]
    pub allow_default_route: bool,

    /// Accept the root cgroup as an endpoint
    #[arg(long)]
    pub allow_root_cgroup: bool,

    /// Attach to interfaces by filters of a qdisc, as kernels before 6.6 need it
    #[arg(long)]
    pub clsact: bool,

    /// Form of the log on standard error
    #[arg(long, value_name = "FORM", default_value = "text")]
    pub log: LogForm,
}

/// Where resolvers are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FeedPlace {
    /// On this host.
    Folder(PathBuf),
    /// Elsewhere.
    Remote(Remote),
    /// Behind a service of the cluster.
    Service(ResolverService),
}

impl FromStr for FeedPlace {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(rest) = text.strip_prefix(Remote::SCHEME) {
            return Remote::read(rest).map(Self::Remote);
        }
        if let Some(rest) = text.strip_prefix(SERVICE_SCHEME) {
            return service(rest).map(Self::Service);
        }
        match text.strip_prefix("unix:") {
            Some(path) if path.starts_with('/') => Ok(Self::Folder(path.into())),
            Some(_) => Err("the path must begin with /".into()),
            None => Err(format!(
                "write unix:{text} for a folder, or tls://ADDR:PORT#NAME for a resolver elsewhere"
            )),
        }
    }
}

impl std::fmt::Display for FeedPlace {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Folder(path) => write!(f, "unix:{}", path.display()),
            Self::Remote(remote) => remote.fmt(f),
            Self::Service(service) => write!(f, "{SERVICE_SCHEME}{}/{}", service.namespace, service.name),
        }
    }
}

/// Resolvers that cannot be connected to.
#[derive(Debug, thiserror::Error)]
pub enum FeedError {
    /// No certificates for them.
    #[error(
        "--feed {0} needs certificates: name the files with --feed-certificate, --feed-key and --feed-ca, or have them signed in \
         the cluster with --feed-certificates"
    )]
    NoCertificates(FeedPlace),
    /// Only the API server knows who is behind a service.
    #[error("--feed {0} is for nodes of a cluster: it needs --kubernetes")]
    NoCluster(FeedPlace),
    /// Bad ones.
    #[error(transparent)]
    Tls(#[from] TlsError),
}

impl Options {
    /// Where the enforcer keeps things.
    pub fn enforcer(&self, trusted: Vec<SocketAddr>) -> EnforcerOptions {
        EnforcerOptions {
            host: HostOptions {
                bpffs: self.bpffs.clone(),
                instance: self.instance.clone(),
                clsact: self.clsact,
                ..HostOptions::default()
            },
            state: Some(self.state()),
            dns_link: (!self.forwarded).then(|| DnsLinkOptions { trusted, ..self.dns_link() }),
        }
    }

    /// Names of the DNS link.
    pub fn dns_link(&self) -> DnsLinkOptions {
        let standard = DnsLinkOptions::default();
        match &self.instance {
            None => standard,
            Some(instance) => DnsLinkOptions {
                link: format!("nw-{instance}"),
                namespace: self.run_folder().join("netns/dns"),
                ..standard
            },
        }
    }

    /// The audit log, where one is wanted.
    pub fn audit(&self) -> Option<AuditOptions> {
        let place = self.audit_log.clone()?;
        Some(AuditOptions { place, max_bytes: self.audit_log_size << 20, keep: self.audit_log_keep })
    }

    /// Where resolvers are.
    pub fn feed(&self) -> Vec<FeedPlace> {
        match self.feed.is_empty() {
            true => vec![FeedPlace::Folder(self.run_folder().join("feed"))],
            false => self.feed.clone(),
        }
    }

    /// The same, with the certificates that those elsewhere need; those behind a service are said by `found`.
    ///
    /// # Errors
    /// [`FeedError`].
    pub fn places(&self, found: &watch::Receiver<Vec<FoundResolver>>) -> Result<Vec<Place>, FeedError> {
        let credentials = self.credentials()?;
        let place = |place| match (place, &credentials) {
            (FeedPlace::Folder(folder), _) => Ok(Place::Folder(folder)),
            (FeedPlace::Remote(remote), Some(credentials)) => {
                Ok(Place::Remote(remote, Arc::clone(credentials)))
            }
            (place @ FeedPlace::Service(_), _) if !self.kubernetes => Err(FeedError::NoCluster(place)),
            (FeedPlace::Service(_), credentials)
                if credentials.is_some() || self.feed_certificates.is_some() =>
            {
                Ok(Place::Found(found.clone()))
            }
            (place @ (FeedPlace::Remote(_) | FeedPlace::Service(_)), _) => {
                Err(FeedError::NoCertificates(place))
            }
        };
        self.feed().into_iter().map(place).collect()
    }

    /// Certificates of the files that are named.
    ///
    /// # Errors
    /// [`FeedError::Tls`].
    pub fn credentials(&self) -> Result<Option<Arc<Credentials>>, FeedError> {
        match (&self.feed_certificate, &self.feed_key, &self.feed_ca) {
            (Some(certificate), Some(key), Some(authority)) => {
                let (certificate, key, authority) = (certificate.clone(), key.clone(), authority.clone());
                Ok(Some(tls::credentials(TlsFiles { certificate, key, authority })?))
            }
            _ => Ok(None),
        }
    }

    /// Services of resolvers.
    pub fn services(&self) -> Vec<ResolverService> {
        let service = |place| match place {
            FeedPlace::Service(service) => Some(service),
            FeedPlace::Folder(_) | FeedPlace::Remote(_) => None,
        };
        self.feed().into_iter().filter_map(service).collect()
    }

    /// Where the API is served over TLS, and by which certificates.
    pub(crate) fn api_tls(&self) -> Option<(SocketAddr, TlsFiles)> {
        let files = TlsFiles {
            certificate: self.api_tls_certificate.clone()?,
            key: self.api_tls_key.clone()?,
            authority: self.api_tls_ca.clone()?,
        };
        Some((self.api_tls?, files))
    }

    /// Where others are told to ask for it: an address that stands for all of a host's is none.
    pub(crate) fn reported_api(&self) -> Option<String> {
        let address = self.api_tls.filter(|address| !address.ip().is_unspecified());
        address.map(|address| address.to_string())
    }

    /// What this host is called.
    pub fn node(&self) -> String {
        let host = || nix::unistd::gethostname().map(|name| name.to_string_lossy().into_owned());
        self.node.clone().unwrap_or_else(|| host().unwrap_or_else(|_| "unnamed".into()))
    }

    /// Where the CNI plugin asks.
    pub fn cni_socket(&self) -> PathBuf {
        let standard = || match &self.instance {
            None => PathBuf::from(nameward_feed::cni::SOCKET),
            Some(_) => self.run_folder().join("cni.sock"),
        };
        self.cni_socket.clone().unwrap_or_else(standard)
    }

    /// The folder of files that a restart needs.
    pub fn state(&self) -> PathBuf {
        self.state.clone().unwrap_or_else(|| self.run_folder().join("state"))
    }

    /// Folders that may be empty after a removal, inner ones first.
    pub(crate) fn own_folders(&self) -> Vec<PathBuf> {
        let namespace = self.dns_link().namespace;
        let netns = namespace.parent().map(PathBuf::from);
        netns.into_iter().chain([self.run_folder(), PathBuf::from(RUN)]).collect()
    }

    fn run_folder(&self) -> PathBuf {
        let run = PathBuf::from(RUN);
        self.instance.as_ref().map_or(run.clone(), |instance| run.join(instance))
    }
}

/// `NAMESPACE/NAME`.
fn service(text: &str) -> Result<ResolverService, String> {
    let is_label = |text: &str| {
        let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        (1..=63).contains(&text.len()) && text.bytes().all(plain)
    };
    match text.split_once('/') {
        Some((namespace, name)) if is_label(namespace) && is_label(name) => {
            Ok(ResolverService { namespace: namespace.into(), name: name.into() })
        }
        _ => Err("write a namespace and a name, such as service:nameward/nameward-resolver".into()),
    }
}

/// A DNS server; port 53 where none is written.
fn dns_server(text: &str) -> Result<SocketAddr, String> {
    let address = text.parse::<IpAddr>().map(|address| SocketAddr::new(address, 53));
    address.or_else(|_| text.parse()).map_err(|_| {
        "write an address like 10.96.0.10, or with its port like 10.96.0.10:53 or [fd00::a]:53".into()
    })
}

fn domain(text: &str) -> Result<Name, String> {
    Name::parse(text).map_err(|error| error.to_string())
}

/// An instance's name becomes part of an interface's name, which has at most 14 bytes and one more at its far end.
fn instance_name(text: &str) -> Result<String, String> {
    let plain = text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-');
    if plain && (1..=11).contains(&text.len()) && text != nameward_abi::LAYOUT {
        return Ok(text.into());
    }
    Err("write 1 to 11 lower-case letters, digits or dashes, but not v1".into())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn instances_do_not_meet() {
        let read = |arguments: &[&str]| {
            Options::try_parse_from(["nameward-enforcer", "--config", "f"].iter().chain(arguments)).unwrap()
        };
        let (one, two) = (read(&[]), read(&["--instance", "blue"]));
        assert_eq!(one.feed(), [FeedPlace::Folder("/run/nameward/feed".into())]);
        assert_ne!(one.state(), two.state());
        assert_ne!(one.dns_link().link, two.dns_link().link);
        assert_ne!(one.dns_link().namespace, two.dns_link().namespace);
    }

    #[test]
    fn resolvers_elsewhere_need_certificates() {
        let feed = ["--feed", "unix:/x", "--feed", "tls://192.0.2.1:9853#r.example"];
        let all = ["nameward-enforcer", "--config", "f"].iter().chain(&feed);
        let options = Options::try_parse_from(all).unwrap();
        let told = options.feed().iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
        assert_eq!(told, "unix:/x tls://192.0.2.1:9853#r.example");
        let (_, nobody) = watch::channel(Vec::new());
        assert!(options.places(&nobody).unwrap_err().to_string().contains("--feed-certificate"));
    }

    #[test]
    fn resolvers_behind_a_service_are_the_cluster_s() {
        let (_, nobody) = watch::channel(Vec::new());
        let read = |arguments: &[&str]| {
            let feed = ["nameward-enforcer", "--feed", "service:nameward/nameward-resolver"];
            Options::try_parse_from(feed.iter().chain(arguments)).unwrap()
        };
        let alone = read(&["--config", "f"]).places(&nobody).unwrap_err().to_string();
        assert!(
            alone.contains("service:nameward/nameward-resolver") && alone.contains("--kubernetes"),
            "{alone}"
        );
        let bare = read(&["--kubernetes"]).places(&nobody).unwrap_err().to_string();
        assert!(bare.contains("--feed-certificates"), "{bare}");
        let whole = read(&[
            "--kubernetes",
            "--feed-certificates",
            "/x",
            "--cluster-dns",
            "10.96.0.10",
            "--forwarded",
        ]);
        assert_eq!(whole.places(&nobody).unwrap().len(), 1);
        assert_eq!(whole.services().len(), 1);
        assert!(whole.enforcer(Vec::new()).dns_link.is_none());
    }

    #[test]
    fn mistakes_say_what_to_write() {
        Options::command().debug_assert();
        let error = |arguments: &[&str]| {
            let all = ["nameward-enforcer"].iter().chain(arguments);
            Options::try_parse_from(all).unwrap_err().to_string()
        };
        assert!(error(&["--config", "f", "--api", "/run/api"]).contains("write unix:/run/api"));
        assert!(error(&["--config", "f", "--instance", "a/b"]).contains("lower-case letters"));
        assert!(error(&["--config", "f", "--feed", "/x"]).contains("write unix:/x"));
        assert!(error(&["--config", "f", "--feed", "tls://192.0.2.1"]).contains("a port"));
        assert!(error(&["--config", "f", "--feed", "service:x"]).contains("a namespace and a name"));
        assert!(error(&["--kubernetes", "--forwarded"]).contains("--cluster-dns"));
        assert!(error(&["--config", "f", "--feed-key", "k"]).contains("--feed-ca"));
        assert!(error(&["--config", "f", "--api-tls", "192.0.2.1:9855"]).contains("--api-tls-client"));
        assert!(error(&[]).contains("--config"));
        assert!(Options::try_parse_from(["nameward-enforcer", "--remove"]).is_ok());
    }
}
