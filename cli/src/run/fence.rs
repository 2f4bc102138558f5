//! The fence of one run: programs on the sandbox's cgroup, and the resolver that fills their tables, in one process.
//!
//! What an enforcer and a resolver on a host say to each other over the feed are direct calls here. The fence does
//! not fall by itself: its pins are [`super::pins`], which outlive every process of the sandbox.

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use futures::future::BoxFuture;
use ipnet::IpNet;
use jiff::Timestamp;
use nameward_api::serve::ApiListener;
use nameward_daemon::clock;
use nameward_enforcer::kernel::{self, Attachment, HostOptions};
use nameward_enforcer::{EndpointConfig, Enforcer, EnforcerOptions, api, decisions};
use nameward_policy::{ClusterRanges, Inbound, Isolation, RuleSet, Settings};
use nameward_resolver::endpoints::{EndpointView, Endpoints};
use nameward_resolver::grants::{self, Grantor};
use nameward_resolver::refused::RefusedNames;
use nameward_resolver::{Server, ServerConfig, Serving};
use tokio::sync::{
    broadcast::{self, error::RecvError},
    watch,
};
use tokio::task::JoinSet;

use super::pins::BPFFS;
use super::questions::{self, Questions};
use crate::report::{Fact, Report, Subject, Verdict};
use crate::rules::Rules;

/// The only endpoint.
const SANDBOX: &str = "sandbox";
/// When nothing has been told for this long after the last process has ended, nothing more is.
const SILENCE: Duration = Duration::from_millis(20);

/// What a fence needs to know.
pub(crate) struct FenceOptions<'a> {
    /// Distinct among all runs.
    pub(crate) name: &'a str,
    /// The sandbox's cgroup.
    pub(crate) cgroup: &'a Path,
    /// What the command may do.
    pub(crate) rules: Rules,
    /// Deny nothing.
    pub(crate) audit: bool,
    /// DNS servers to ask.
    pub(crate) upstream: &'a [SocketAddr],
    /// Where to tell what is known, over HTTP.
    pub(crate) api: Option<ApiListener>,
}

/// The fence, up.
pub(crate) struct Fence {
    enforcer: Enforcer,
    packets: broadcast::Receiver<Arc<decisions::Followed>>,
    questions: Questions,
    tasks: JoinSet<&'static str>,
    /// Decisions that came faster than they could be told.
    missed: u64,
    server: Server,
    _serving: Vec<Serving>,
}

impl Fence {
    /// Attaches the programs, puts the rules into force and serves DNS. When it returns, nothing of the cgroup gets
    /// through that is not allowed.
    pub(crate) fn raise(options: FenceOptions<'_>) -> Result<Self> {
        let settings = Settings { inbound: Inbound::None, ..Settings::default() };
        let enforcer = open(options.name, options.cgroup, settings.clone())?;
        let isolation = if options.audit { Isolation::Audit } else { Isolation::Isolated };
        let rules = Compiler { rules: options.rules, isolation, settings };
        let packets = enforcer.decisions();
        let mut tasks = enforcer.start(|| true)?;
        let mut own_addresses = enforcer.own_addresses();
        let compiled = rules.compile(&own_addresses.borrow_and_update())?;
        let next_change = compiled.next_change;
        let endpoints = Arc::new(Endpoints::new());
        put_into_force(&enforcer, &endpoints, compiled)?;
        let (known, of) = (Arc::clone(&endpoints), enforcer.clone());
        tasks.spawn(async move {
            if let Err(error) = rules.follow(next_change, own_addresses, &of, &known).await {
                tracing::error!(
                    error = format!("{error:#}"),
                    "the rules cannot follow the clock and the host"
                );
            }
            "rules"
        });
        let refused = options.api.as_ref().map(|_| Arc::new(RefusedNames::default()));
        let (sink, questions) = questions::channel(enforcer.own_addresses(), refused.clone());
        if let Some(refused) = refused {
            let enforcer = enforcer.clone();
            tasks.spawn(async move {
                // Names that are not answered become decisions, for the API.
                refused.follow(|batch, now| enforcer.tell_refused(&batch.message(now))).await;
                "refused-names"
            });
        }
        let grantor = Arc::new(Direct(enforcer.clone()));
        let server =
            Server::new(ServerConfig::new(options.upstream.to_vec()), endpoints, grantor, Arc::new(sink));
        let sockets = enforcer.dns_sockets().context("cannot share the DNS sockets")?;
        let serving = sockets.into_iter().map(|socket| server.serve(socket)).collect::<io::Result<_>>();
        let serving = serving.context("cannot serve DNS")?;
        if let Some(listening) = options.api {
            let serving = nameward_api::serve::serve(api::site(enforcer.clone(), options.name), listening);
            tasks.spawn(async {
                drop(serving.await);
                "api"
            });
        }
        Ok(Self { enforcer, packets, questions, tasks, missed: 0, server, _serving: serving })
    }

    /// Waits for something to tell, and tells it. Fails when a part of the fence has ended, which none may.
    pub(crate) async fn tell(&mut self, report: &mut Report) -> Result<()> {
        tokio::select! {
            decision = self.packets.recv() => match decision {
                // Questions are told as they come, not as the API has them.
                Ok(decision) if decision.query_type.is_some() => {}
                Ok(decision) => report.add(packet(&decision), decision.packets),
                Err(RecvError::Lagged(count)) => self.missed += count,
                Err(RecvError::Closed) => bail!("events of the kernel cannot be read any more"),
            },
            question = self.questions.next() => report.add(question, 1),
            Some(ended) = self.tasks.join_next() => match ended {
                Ok(task) => bail!("the fence's task `{task}` ended by itself"),
                Err(error) => bail!("a task of the fence broke off: {error}"),
            },
        }
        Ok(())
    }

    /// Tells what is left to tell, after the last process of the sandbox. Returns how many events nobody saw.
    pub(crate) async fn finish(mut self, report: &mut Report) -> Result<u64> {
        self.tell_all(report).await?;
        // And what the kernel has folded behind the last event of its kind.
        if self.enforcer.tell_rest() {
            self.tell_all(report).await?;
        }
        let lost = self.enforcer.endpoint(SANDBOX)?.lost_events;
        Ok(lost + self.missed + self.questions.missed(self.server.counters()))
    }

    async fn tell_all(&mut self, report: &mut Report) -> Result<()> {
        while let Ok(told) = tokio::time::timeout(SILENCE, self.tell(report)).await {
            told?;
        }
        Ok(())
    }
}

fn open(name: &str, cgroup: &Path, settings: Settings) -> Result<Enforcer> {
    let host = HostOptions { bpffs: BPFFS.into(), instance: Some(name.into()), ..HostOptions::default() };
    let enforcer = Enforcer::open(EnforcerOptions { host, ..EnforcerOptions::default() })?;
    enforcer.apply_endpoint(EndpointConfig {
        uid: SANDBOX.into(),
        name: SANDBOX.into(),
        attachment: Attachment::Cgroup { path: cgroup.into(), netns_cookie: kernel::netns_cookie()? },
        addresses: Vec::new(),
        settings,
        allow_host: false,
    })?;
    Ok(enforcer)
}

/// What the command may do, at whatever time and on whatever addresses the host has.
struct Compiler {
    rules: Rules,
    isolation: Isolation,
    settings: Settings,
}

impl Compiler {
    /// No name opens an address of the host (A3).
    fn compile(&self, own_addresses: &[IpNet]) -> Result<RuleSet> {
        let host = ClusterRanges { own_node: own_addresses.to_vec(), ..ClusterRanges::default() };
        let rules = self.rules.on_host(own_addresses);
        Ok(RuleSet::compile(self.isolation, &rules, &self.settings, &host, Timestamp::now())?)
    }

    /// Compiles them anew when one begins or ends (R7) and when the host's addresses change. Ends with the first failure.
    async fn follow(
        &self,
        mut next_change: Option<Timestamp>,
        mut own_addresses: watch::Receiver<Vec<IpNet>>,
        enforcer: &Enforcer,
        endpoints: &Endpoints,
    ) -> Result<()> {
        loop {
            tokio::select! {
                changed = own_addresses.changed() => changed?,
                () = clock::until(next_change) => {}
            }
            let compiled = self.compile(&own_addresses.borrow_and_update())?;
            next_change = compiled.next_change;
            endpoints.revoke(SANDBOX, enforcer.next_generation(SANDBOX)?);
            put_into_force(enforcer, endpoints, compiled)?;
        }
    }
}

/// Rules for kernel and resolver: the resolver learns them when the kernel has them.
fn put_into_force(enforcer: &Enforcer, endpoints: &Endpoints, rules: RuleSet) -> Result<()> {
    let rules = Arc::new(rules);
    enforcer.apply_rules(SANDBOX, Arc::clone(&rules))?;
    let view = enforcer.view(SANDBOX)?.ok_or_else(|| anyhow!("the rules are not in force"))?;
    endpoints.apply(EndpointView {
        uid: view.uid,
        name: view.name.into(),
        generation: view.generation,
        rules: Arc::clone(&rules.dns),
        identity: view.identity,
    });
    Ok(())
}

/// Grants by a call: the kernel has the addresses when it returns (G1).
struct Direct(Enforcer);

impl Grantor for Direct {
    fn grant(
        &self,
        request: grants::GrantRequest,
    ) -> BoxFuture<'_, Result<grants::Granted, grants::Refused>> {
        Box::pin(async move {
            let asked = nameward_enforcer::GrantRequest {
                endpoint: request.endpoint,
                generation: request.generation,
                name: request.name.to_string(),
                chain: request.chain.iter().map(ToString::to_string).collect(),
                addresses: request.addresses,
                grace: request.grace,
            };
            match self.0.grant(&asked) {
                Ok(granted) => Ok(grants::Granted { usable_for: granted.usable_for }),
                Err(refused) => Err(refusal(refused)),
            }
        })
    }
}

fn refusal(refused: nameward_enforcer::Refused) -> grants::Refused {
    use nameward_enforcer::Refused;
    match refused {
        Refused::StaleGeneration { .. } => grants::Refused::StaleGeneration,
        Refused::NoSuchEndpoint { .. } => grants::Refused::NoSuchEndpoint,
        Refused::NotAllowed { .. } => grants::Refused::NotAllowed,
        Refused::Limit { .. } => grants::Refused::Limit(refused.to_string()),
        Refused::Kernel { detail } => grants::Refused::Kernel(detail),
    }
}

fn packet(decision: &decisions::Decision) -> Fact {
    Fact {
        subject: Subject::Packet {
            protocol: decision.protocol,
            address: decision.remote,
            port: decision.remote_port,
            name: decision.name.clone(),
            inbound: decision.direction == decisions::Direction::Ingress,
        },
        verdict: match decision.verdict {
            decisions::Verdict::Pass => Verdict::Pass,
            decisions::Verdict::WouldDeny => Verdict::WouldDeny,
            decisions::Verdict::Deny => Verdict::Deny,
        },
        reason: decision.reason.to_string(),
        policy: decision.policy.clone(),
        unopenable: None,
    }
}
