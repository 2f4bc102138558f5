//! What the node's API says, from the enforcer's state. Routes, sockets and types are in `nameward-api`.

mod changes;
pub mod metrics;

use std::{
    collections::{BTreeMap, HashMap},
    ops::Bound,
    sync::Arc,
};

use nameward_api::{
    Changes, Followed, Site, Source, SourceError,
    filter::BindingFilter,
    types::{
        BindingStatus, EndpointStatus, Explained, PolicyStatus, RuleStatus, SubjectStatus, TrafficStatus,
    },
};
use nameward_policy::{
    BootTime, ClusterPeer, CompiledRule, Destination, Effect, Name, Pattern, Peer, PolicyKind, PolicyRef,
};
use tokio::sync::broadcast;

use self::changes::Operated;
use crate::{
    Enforcer, EnforcerError,
    enforcer::{Clock, InForce},
    feed_client::FeedClient,
};

/// An enforcer as the API's routes need it. Nothing can be changed over it.
pub fn site(enforcer: Enforcer, node: &str) -> Site {
    Site { source: Arc::new(enforcer), node: node.into(), changes: None }
}

/// The same, where root may change things. `feed`: to the resolvers that have to hear of it.
pub fn changeable_site(enforcer: Enforcer, feed: Arc<FeedClient>, node: &str) -> Site {
    let changes: Arc<dyn Changes> = Arc::new(Operated { enforcer: enforcer.clone(), feed });
    Site { changes: Some(changes), ..site(enforcer, node) }
}

impl Source for Enforcer {
    fn endpoints(&self) -> Result<Vec<EndpointStatus>, SourceError> {
        Ok(Self::endpoints(self)?)
    }

    fn endpoint(&self, uid: &str) -> Result<EndpointStatus, SourceError> {
        Ok(Self::endpoint(self, uid)?)
    }

    fn endpoint_names(&self) -> Vec<(Arc<str>, String)> {
        Self::endpoint_names(self)
    }

    fn bindings(
        &self,
        uid: &str,
        filter: &BindingFilter,
        first: Bound<&str>,
        limit: usize,
    ) -> Result<Vec<BindingStatus>, SourceError> {
        Ok(self.some_binding_statuses(uid, filter, first, limit)?)
    }

    fn traffic(&self, uid: &str) -> Result<Vec<TrafficStatus>, SourceError> {
        Ok(Self::traffic(self, uid)?)
    }

    fn subjects(&self) -> Vec<SubjectStatus> {
        Self::subjects(self)
    }

    fn policies(&self) -> Vec<PolicyStatus> {
        policies(self)
    }

    fn explain(
        &self,
        uid: &str,
        destination: &Destination,
        protocol: u8,
        port: u16,
    ) -> Result<Explained, SourceError> {
        let clock = Clock::now();
        let explanation = Self::explain(self, uid, destination, protocol, port)?;
        let explanation = explanation.ok_or_else(|| SourceError::NoRules(uid.into()))?;
        let staged = self.explain_staged(uid, destination, protocol, port)?;
        Ok(Explained::new(&explanation, |moment| clock.wall(moment)).with_staged(staged.as_ref()))
    }

    fn forbids(&self, uid: &str, name: &Name) -> bool {
        Self::forbids(self, uid, name)
    }

    fn recent_decisions(&self) -> Vec<Arc<Followed>> {
        Self::recent_decisions(self)
    }

    fn follow(&self) -> broadcast::Receiver<Arc<Followed>> {
        self.decisions()
    }

    fn epoch(&self) -> u64 {
        Self::epoch(self)
    }

    fn not_ready(&self) -> Vec<String> {
        Self::not_ready(self)
    }

    fn metrics(&self) -> Result<(String, &'static str), SourceError> {
        Ok((metrics::scrape(self)?, metrics::FORMAT))
    }
}

impl From<EnforcerError> for SourceError {
    fn from(error: EnforcerError) -> Self {
        match error {
            EnforcerError::NoSuchEndpoint { uid } => Self::NoSuchEndpoint(uid),
            other => Self::Failed(crate::endpoints::chain_text(&other)),
        }
    }
}

/// Policies from the rules of all endpoints: each rule once, whoever it binds.
fn policies(enforcer: &Enforcer) -> Vec<PolicyStatus> {
    let clock = Clock::now();
    let mut all: BTreeMap<PolicyRef, PolicyStatus> = BTreeMap::new();
    for InForce { uid, rules, asked } in enforcer.rule_sets() {
        let asked = LastAsked::new(&asked);
        for compiled in &rules.rules {
            let policy = &compiled.rule.policy;
            let status = all.entry(policy.clone()).or_insert_with(|| empty(policy));
            if status.endpoints.last().is_none_or(|last| **last != *uid) {
                status.endpoints.push(uid.to_string());
            }
            let last = asked.of(compiled).map(|moment| clock.wall(moment));
            let effect = effect_word(compiled.rule.effect);
            let same = |rule: &&mut RuleStatus| rule.name == *compiled.rule.name && rule.effect == effect;
            match status.rules.iter_mut().find(same) {
                Some(rule) => rule.last_asked_at = rule.last_asked_at.max(last),
                None => status.rules.push(RuleStatus { last_asked_at: last, ..rule_status(compiled) }),
            }
        }
    }
    all.into_values().collect()
}

fn empty(policy: &PolicyRef) -> PolicyStatus {
    let kind = match policy.kind {
        PolicyKind::EgressPolicy => "EgressPolicy",
        PolicyKind::ClusterEgressPolicy => "ClusterEgressPolicy",
        PolicyKind::EgressConfig => "EgressConfig",
        PolicyKind::CommandLine => "CommandLine",
    };
    PolicyStatus {
        kind: kind.into(),
        namespace: policy.namespace.to_string(),
        name: policy.name.to_string(),
        endpoints: Vec::new(),
        rules: Vec::new(),
    }
}

fn rule_status(compiled: &CompiledRule) -> RuleStatus {
    let rule = &compiled.rule;
    RuleStatus {
        name: rule.name.to_string(),
        effect: effect_word(rule.effect).into(),
        to: rule.peers.iter().flat_map(peer_texts).collect(),
        ports: rule.effective_ports().iter().map(ToString::to_string).collect(),
        expires_at: rule.expires_at,
        last_asked_at: None,
    }
}

const fn effect_word(effect: Effect) -> &'static str {
    match effect {
        Effect::Allow => "allow",
        Effect::Deny => "deny",
    }
}

fn peer_texts(peer: &Peer) -> Vec<String> {
    match peer {
        Peer::Names(patterns) => patterns.iter().map(ToString::to_string).collect(),
        Peer::Block { cidr, except } if except.is_empty() => vec![cidr.to_string()],
        Peer::Block { cidr, except } => {
            let except: Vec<String> = except.iter().map(ToString::to_string).collect();
            vec![format!("{cidr} except {}", except.join(", "))]
        }
        Peer::Cluster(kinds) => kinds.iter().map(|kind| format!("cluster {}", cluster_word(*kind))).collect(),
    }
}

const fn cluster_word(kind: ClusterPeer) -> &'static str {
    match kind {
        ClusterPeer::Pods => "Pods",
        ClusterPeer::Services => "Services",
        ClusterPeer::Nodes => "Nodes",
        ClusterPeer::ApiServer => "APIServer",
    }
}

/// When names were last asked, by name and by what they are below: each pattern of a rule is one look.
#[derive(Default)]
struct LastAsked<'a> {
    any: Option<BootTime>,
    exact: HashMap<&'a str, BootTime>,
    below: HashMap<&'a str, BootTime>,
}

impl<'a> LastAsked<'a> {
    fn new(asked: &'a [(Name, BootTime)]) -> Self {
        let mut all = Self::default();
        for (name, at) in asked {
            all.any = all.any.max(Some(*at));
            all.exact.insert(name.as_str(), *at);
            let mut rest = name.as_str();
            while let Some((_, parent)) = rest.split_once('.') {
                let known = all.below.entry(parent).or_insert(*at);
                *known = (*known).max(*at);
                rest = parent;
            }
        }
        all
    }

    fn of(&self, compiled: &CompiledRule) -> Option<BootTime> {
        let of_pattern = |pattern: &Pattern| match pattern {
            Pattern::Exact(name) => self.exact.get(name.as_str()).copied(),
            Pattern::Below(name) => self.below.get(name.as_str()).copied(),
            Pattern::Any => self.any,
        };
        let patterns = compiled.rule.peers.iter().flat_map(|peer| match peer {
            Peer::Names(patterns) => patterns.as_slice(),
            Peer::Block { .. } | Peer::Cluster(_) => &[],
        });
        patterns.filter_map(of_pattern).max()
    }
}
