//! A server in this process, with workloads known by the port they ask at, a scripted upstream and a scripted
//! enforcer.

use std::{
    net::{IpAddr, SocketAddr, TcpListener, UdpSocket},
    pin::Pin,
    sync::{Arc, Mutex},
    time::Duration,
};

use hickory_proto::rr::Record;
use nameward_feed::sockets::{DnsSocket, Transport};
use nameward_policy::{
    DeniedNames, DnsMode, DnsRules, DnsRulesData, DnsSettings, Limits, NameRule, NameRuleEntry, Pattern,
    PolicyKind, PolicyRef, TtlBounds,
};
use nameward_resolver::{
    Server, ServerConfig, Serving,
    decisions::{Decision, DecisionSink, Outcome, Reason},
    endpoints::{EndpointView, Endpoints, Identity},
    grants::{GrantRequest, Granted, Grantor, Refused},
};
use nameward_test_support::{Asked, FakeDns, Reply, address_record};

use crate::client::Client;

/// Longer than anything takes here that ends at all.
pub(crate) const SOON: Duration = Duration::from_secs(15);

/// Everything around one server. It ends when it is dropped.
pub(crate) struct Lab {
    pub(crate) server: Server,
    pub(crate) upstream: FakeDns,
    pub(crate) enforcer: Arc<Enforcer>,
    pub(crate) log: Arc<Log>,
    pub(crate) endpoints: Arc<Endpoints>,
    serving: Mutex<Vec<Serving>>,
}

impl Lab {
    /// The usual server with this upstream.
    pub(crate) async fn new(script: impl Fn(&Asked) -> Reply + Send + Sync + 'static) -> Self {
        Self::with(script, |_| {}).await
    }

    /// The same, told something else.
    pub(crate) async fn with(
        script: impl Fn(&Asked) -> Reply + Send + Sync + 'static,
        change: impl FnOnce(&mut ServerConfig),
    ) -> Self {
        let upstream = FakeDns::start(script).await.unwrap();
        // A busy machine is not what is tested.
        let mut config = ServerConfig { grant_wait: SOON, ..ServerConfig::new([upstream.address()]) };
        change(&mut config);
        let (enforcer, log) = (Arc::<Enforcer>::default(), Arc::<Log>::default());
        let endpoints = Arc::new(Endpoints::new());
        let server = Server::new(config, endpoints.clone(), enforcer.clone(), log.clone());
        Self { server, upstream, enforcer, log, endpoints, serving: Mutex::default() }
    }

    /// A workload with the usual rules.
    pub(crate) fn workload(&self) -> Client {
        self.workload_with("w", |_| {})
    }

    /// A workload with other rules.
    pub(crate) fn workload_with(&self, uid: &str, change: impl FnOnce(&mut DnsRulesData)) -> Client {
        let client = self.listen(None);
        self.apply(uid, 1, Identity::Port(client.server.port()), change);
        client
    }

    /// Gives an endpoint its rules.
    pub(crate) fn apply(
        &self,
        uid: &str,
        generation: u32,
        identity: Identity,
        change: impl FnOnce(&mut DnsRulesData),
    ) {
        self.endpoints.apply(view(uid, generation, identity, change));
    }

    /// Serves UDP and TCP at a free port that stands for a server. Nobody is known by it yet.
    pub(crate) fn listen(&self, server: Option<SocketAddr>) -> Client {
        let (udp, tcp) = (0..20)
            .find_map(|_| {
                let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
                let tcp = TcpListener::bind(udp.local_addr().unwrap()).ok()?;
                Some((udp, tcp))
            })
            .expect("no port is free for UDP and TCP");
        let address = udp.local_addr().unwrap();
        let sockets = [(Transport::Udp, udp.into()), (Transport::Tcp, tcp.into())];
        for (transport, socket) in sockets {
            let serving = self.server.serve(DnsSocket { transport, server, socket }).unwrap();
            self.serving.lock().unwrap().push(serving);
        }
        Client { server: address }
    }
}

/// An endpoint with the usual rules, changed.
pub(crate) fn view(
    uid: &str,
    generation: u32,
    identity: Identity,
    change: impl FnOnce(&mut DnsRulesData),
) -> EndpointView {
    let mut data = DnsRulesData {
        mode: DnsMode::Filter,
        allowed: ["allowed.example", "*.wild.example", "deep.below.example"]
            .map(|pattern| allow(pattern, |_| {}))
            .into(),
        denied: vec![DeniedNames {
            pattern: "denied.wild.example".parse().unwrap(),
            policy: PolicyRef::new(PolicyKind::ClusterEgressPolicy, "", "guardrails"),
        }],
        reachable: Vec::new(),
        own_node: Vec::new(),
        isolated_by: Some(policy()),
        settings: DnsSettings::default(),
        ttl: TtlBounds::default(),
        limits: Limits::default(),
    };
    change(&mut data);
    EndpointView {
        uid: uid.into(),
        name: format!("ci/{uid}").into(),
        generation,
        rules: Arc::new(DnsRules::new(data)),
        identity: vec![identity],
    }
}

/// A pattern that is allowed.
pub(crate) fn allow(pattern: &str, change: impl FnOnce(&mut NameRule)) -> NameRuleEntry {
    let mut rule =
        NameRule { grace: Duration::from_secs(600), private_addresses: false, strict_chain: false };
    change(&mut rule);
    let pattern: Pattern = pattern.parse().unwrap();
    NameRuleEntry { pattern, policy: policy(), rule, classes: 1 }
}

fn policy() -> PolicyRef {
    PolicyRef::new(PolicyKind::EgressPolicy, "ci", "runners")
}

type Answer<'a> = Pin<Box<dyn Future<Output = Result<Granted, Refused>> + Send + 'a>>;
type Script = Arc<dyn Fn(&GrantRequest) -> Word + Send + Sync>;

/// What the enforcer says to a grant.
pub(crate) enum Word {
    /// Usable for the shortest TTL and the grace.
    Granted,
    /// Usable for so long.
    For(Duration),
    /// No.
    Refused(Refused),
    /// Nothing, until it is told to ([`Enforcer::speak`]).
    Later,
}

/// Grants what its script says.
pub(crate) struct Enforcer {
    asked: Mutex<Vec<GrantRequest>>,
    script: Mutex<Script>,
    speaks: tokio::sync::watch::Sender<bool>,
}

impl Default for Enforcer {
    fn default() -> Self {
        Self {
            asked: Mutex::default(),
            script: Mutex::new(Arc::new(|_| Word::Granted)),
            speaks: tokio::sync::watch::Sender::new(false),
        }
    }
}

impl Enforcer {
    pub(crate) fn script(&self, script: impl Fn(&GrantRequest) -> Word + Send + Sync + 'static) {
        *self.script.lock().unwrap() = Arc::new(script);
    }

    pub(crate) fn asked(&self) -> Vec<GrantRequest> {
        self.asked.lock().unwrap().clone()
    }

    /// The addresses of all requests.
    pub(crate) fn addresses(&self) -> Vec<IpAddr> {
        self.asked().iter().flat_map(|request| request.addresses.iter().map(|(ip, _)| *ip)).collect()
    }

    /// Grants what it has kept waiting.
    pub(crate) fn speak(&self) {
        self.speaks.send_replace(true);
    }
}

impl Grantor for Enforcer {
    fn grant(&self, request: GrantRequest) -> Answer<'_> {
        let script = self.script.lock().unwrap().clone();
        let word = script(&request);
        let shortest = request.addresses.iter().map(|(_, ttl)| *ttl).min().unwrap();
        let usual = Granted { usable_for: shortest + request.grace };
        self.asked.lock().unwrap().push(request);
        let mut speaks = self.speaks.subscribe();
        Box::pin(async move {
            match word {
                Word::Granted => Ok(usual),
                Word::For(usable_for) => Ok(Granted { usable_for }),
                Word::Refused(refused) => Err(refused),
                Word::Later => {
                    speaks.wait_for(|speaks| *speaks).await.unwrap();
                    Ok(usual)
                }
            }
        })
    }
}

/// Every decision.
#[derive(Default)]
pub(crate) struct Log(Mutex<Vec<Decision>>);

impl DecisionSink for Log {
    fn decided(&self, decision: Decision) {
        self.0.lock().unwrap().push(decision);
    }
}

impl Log {
    /// Response code and policy of what was told last.
    pub(crate) fn last(&self) -> (u16, Option<String>) {
        let decisions = self.0.lock().unwrap();
        let last = decisions.last().expect("nothing is told");
        (last.code, last.policy.as_ref().map(ToString::to_string))
    }

    /// Why questions for a name were denied.
    pub(crate) fn denials(&self, name: &str) -> Vec<Reason> {
        let decisions = self.0.lock().unwrap();
        let of_name = decisions.iter().filter(|decision| &*decision.name == name);
        of_name
            .filter_map(|decision| match &decision.outcome {
                Outcome::Denied { reason, .. } => Some(*reason),
                Outcome::Answered { .. } => None,
            })
            .collect()
    }
}

/// An external address.
pub(crate) fn external(last: u8) -> IpAddr {
    [198, 51, 100, last].into()
}

/// An answer with these addresses at the name that was asked for.
pub(crate) fn at(asked: &Asked, ttl: u32, addresses: impl IntoIterator<Item = IpAddr>) -> Reply {
    Reply::Records(addresses.into_iter().map(|ip| address_record(&asked.name, ttl, ip)).collect())
}

/// An upstream that knows every name.
pub(crate) fn one(asked: &Asked) -> Reply {
    at(asked, 60, [external(1)])
}

/// An alias.
pub(crate) fn alias(name: &str, target: &str) -> Record {
    use hickory_proto::rr::{Name, RData, rdata::CNAME};
    let data = RData::CNAME(CNAME(Name::from_ascii(target).unwrap()));
    Record::from_rdata(Name::from_ascii(name).unwrap(), 60, data)
}
