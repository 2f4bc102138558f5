//! An `EgressConfig` that was understood: settings by namespace, exemptions, observation, break-glass, ranges.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use ipnet::IpNet;
use jiff::Timestamp;
use nameward_crds::{BreakGlassScope, EgressConfigSpec, Problem, ServiceName};
use nameward_policy::{ClusterRanges, Settings};

use super::PodFacts;

/// What holds for the whole cluster.
#[derive(Clone, Debug)]
pub struct Configured {
    settings: Arc<Settings>,
    by_namespace: BTreeMap<String, Arc<Settings>>,
    exempt: BTreeSet<String>,
    observe_all: bool,
    observed: BTreeSet<String>,
    suspensions: Vec<Suspension>,
    /// Ranges of `cluster` peers (R8).
    pub(super) ranges: ClusterRanges,
    /// The cluster's DNS (R10).
    pub cluster_dns: ServiceName,
}

/// Enforcement that is suspended (R13).
#[derive(Clone, Debug, PartialEq)]
pub struct Suspension {
    /// What the administrator calls it.
    pub name: String,
    /// Where.
    pub scope: BreakGlassScope,
    /// Until when.
    pub until: Timestamp,
    /// Why.
    pub reason: String,
}

impl Configured {
    /// What holds without an object: `base`, and defaults.
    #[must_use]
    pub fn standard(base: &Settings) -> Self {
        // An empty object says nothing that could be wrong.
        Self::read(&EgressConfigSpec::default(), base).unwrap_or_else(|_| Self {
            settings: Arc::new(base.clone()),
            by_namespace: BTreeMap::new(),
            exempt: BTreeSet::from(["kube-system".into()]),
            observe_all: false,
            observed: BTreeSet::new(),
            suspensions: Vec::new(),
            ranges: ClusterRanges::default(),
            cluster_dns: ServiceName::default(),
        })
    }

    /// Reads an object whose settings are over `base`.
    ///
    /// # Errors
    /// All that is not understood; then nothing of the object may count (F2).
    pub fn read(spec: &EgressConfigSpec, base: &Settings) -> Result<Self, Vec<Problem>> {
        let mut problems = Vec::new();
        let settings = spec.settings.over(base);
        let by_namespace =
            spec.namespaces.iter().map(|one| (one.name.clone(), Arc::new(one.settings.over(&settings))));
        let by_namespace: BTreeMap<_, _> = by_namespace.collect();
        let cluster = &spec.cluster;
        let ranges = ClusterRanges {
            pods: blocks("pods", &cluster.pods, &mut problems),
            services: blocks("services", &cluster.services, &mut problems),
            nodes: blocks("nodes", &cluster.nodes, &mut problems),
            api_server: blocks("apiServer", &cluster.api_server, &mut problems),
            own_node: Vec::new(),
        };
        let suspensions = suspensions(spec, &mut problems);
        if !problems.is_empty() {
            return Err(problems);
        }
        Ok(Self {
            settings: Arc::new(settings),
            by_namespace,
            exempt: spec.exempt.namespaces.iter().cloned().collect(),
            observe_all: spec.observe.cluster,
            observed: spec.observe.namespaces.iter().cloned().collect(),
            suspensions,
            ranges,
            cluster_dns: spec.cluster_dns.clone(),
        })
    }

    /// Settings of workloads of a namespace (R12).
    #[must_use]
    pub fn settings_of(&self, namespace: &str) -> &Arc<Settings> {
        self.by_namespace.get(namespace).unwrap_or(&self.settings)
    }

    /// Whether a namespace is exempt (R10).
    #[must_use]
    pub fn is_exempt(&self, namespace: &str) -> bool {
        self.exempt.contains(namespace)
    }

    /// Whether a namespace is observed (R11).
    #[must_use]
    pub fn is_observed(&self, namespace: &str) -> bool {
        self.observe_all || self.observed.contains(namespace)
    }

    /// Until when enforcement of a pod is suspended (R13): the latest end that lies ahead.
    #[must_use]
    pub fn suspended_until(&self, pod: &PodFacts, node: &str, now: Timestamp) -> Option<Timestamp> {
        let meant = self.suspensions.iter().filter(|one| one.until > now && one.means(pod, node));
        meant.map(|one| one.until).max()
    }

    /// What is suspended now.
    pub fn suspensions(&self, now: Timestamp) -> impl Iterator<Item = &Suspension> {
        self.suspensions.iter().filter(move |one| one.until > now)
    }
}

impl Suspension {
    fn means(&self, pod: &PodFacts, node: &str) -> bool {
        let scope = &self.scope;
        scope.cluster
            || scope.namespace.as_deref() == Some(&*pod.namespace)
            || scope.node.as_deref() == Some(node)
            || scope
                .pod
                .as_ref()
                .is_some_and(|one| *one.namespace == *pod.namespace && *one.name == *pod.name)
    }
}

fn blocks(field: &str, texts: &[String], problems: &mut Vec<Problem>) -> Vec<IpNet> {
    let mut blocks = Vec::with_capacity(texts.len());
    for (index, text) in texts.iter().enumerate() {
        match text.parse::<IpNet>() {
            Ok(block) => blocks.push(block.trunc()),
            Err(_) => problems.push(Problem {
                path: format!("spec.cluster.{field}[{index}]"),
                message: format!("`{text}` is not a block of addresses; write one like 10.0.0.0/16"),
            }),
        }
    }
    blocks
}

fn suspensions(spec: &EgressConfigSpec, problems: &mut Vec<Problem>) -> Vec<Suspension> {
    let mut suspensions = Vec::with_capacity(spec.break_glass.len());
    for (index, one) in spec.break_glass.iter().enumerate() {
        match one.until.parse::<Timestamp>() {
            Ok(until) => suspensions.push(Suspension {
                name: one.name.clone(),
                scope: one.scope.clone(),
                until,
                reason: one.reason.clone(),
            }),
            Err(_) => problems.push(Problem {
                path: format!("spec.breakGlass[{index}].until"),
                message: format!("`{}` is not a time; write one like 2027-01-31T00:00:00Z", one.until),
            }),
        }
    }
    suspensions
}
