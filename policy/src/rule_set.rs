//! Everything one endpoint may do, compiled: what the kernel needs ([`KernelRules`]), what the resolver needs
//! ([`DnsRules`]), and which rule it all came from.
//!
//! Refuses what does not fit into the kernel's tables; it never leaves anything out.

use std::sync::Arc;

use ipnet::IpNet;
use jiff::Timestamp;

use crate::{
    ClusterPeer, ClusterRanges, DeniedNames, DnsMode, DnsRules, DnsRulesData, Effect, Inbound, Name,
    NameRule, NameRuleEntry, Peer, PolicyKind, PolicyRef, Reachable, Rule, RuleMode, Settings,
    cidrs::{self, Block, BlockKind},
    ports::{self, PortSet},
    tables::{KernelMode, KernelRules, MAX_CIDRS, MAX_CLASSES, MAX_PORTS},
};

/// Whether policies isolate a workload (R1, R6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Isolation {
    /// It may do only what its Enforce policies allow.
    Isolated,
    /// It may do everything but what is denied.
    NotIsolated,
    /// Only Audit policies isolate it: it loses nothing, and every decision says what Enforce would have done.
    Audit,
}

/// Why rules cannot be compiled.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CompileError {
    /// Over 64 distinct sets of ports.
    #[error(
        "the workload's rules have {found} different sets of ports, {MAX_CLASSES} are possible; let rules share the same ports"
    )]
    TooManyPortClasses {
        /// How many.
        found: usize,
    },
    /// Over the kernel's table of addresses.
    #[error(
        "the workload's rules need {found} address prefixes, {MAX_CIDRS} are possible; write larger blocks or fewer exceptions"
    )]
    TooManyCidrs {
        /// How many.
        found: usize,
    },
    /// Over the kernel's table of ports.
    #[error(
        "the workload's rules need {found} port prefixes, {MAX_PORTS} are possible; write fewer or rounder port ranges"
    )]
    TooManyPorts {
        /// How many.
        found: usize,
    },
}

/// A rule that counts, with its port class.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CompiledRule {
    /// The rule.
    pub rule: Rule,
    /// Its port class as a bit; 0 when it opens no port.
    pub classes: u64,
}

/// The compiled rules of one endpoint.
#[derive(Clone, Debug)]
pub struct RuleSet {
    /// Whether policies isolate it.
    pub isolation: Isolation,
    /// For the kernel.
    pub kernel: KernelRules,
    /// For the resolver.
    pub dns: Arc<DnsRules>,
    /// The workload's settings.
    pub settings: Settings,
    /// When the rules must be compiled again (R7).
    pub next_change: Option<Timestamp>,
    /// The rules that count, sorted by policy and name.
    pub rules: Vec<CompiledRule>,
    /// What would be in force if the Audit policies were enforced, too (R6). None where there are none, or where nothing
    /// but they is judged already; an error where that does not fit, which changes nothing that is in force.
    pub staged: Option<Result<Arc<Self>, CompileError>>,
    pub(crate) cluster: ClusterRanges,
}

impl RuleSet {
    /// Compiles the rules that select an endpoint.
    ///
    /// # Errors
    /// [`CompileError`] when they do not fit into the kernel's tables.
    pub fn compile(
        isolation: Isolation,
        rules: &[Rule],
        settings: &Settings,
        cluster: &ClusterRanges,
        now: Timestamp,
    ) -> Result<Self, CompileError> {
        let enforced = |rule: &&Rule| rule.mode == RuleMode::Enforce;
        // In the kernel's audit mode denies would pass, and no Audit policy may lift a deny (R2, R3).
        let denies =
            rules.iter().filter(enforced).any(|rule| rule.effect == Effect::Deny && rule.is_active(now));
        let mode = match isolation {
            Isolation::Isolated => KernelMode::Enforce,
            Isolation::Audit if !denies => KernelMode::Audit,
            Isolation::Audit | Isolation::NotIsolated => KernelMode::NotIsolated,
        };
        let counted: Vec<&Rule> = match mode {
            KernelMode::Audit => rules.iter().collect(),
            KernelMode::Enforce | KernelMode::NotIsolated => rules.iter().filter(enforced).collect(),
        };
        let mut compiled = compile(mode, &counted, settings, cluster, now)?;
        compiled.isolation = isolation;
        compiled.next_change = rules.iter().filter_map(|rule| rule.next_change(now)).min();
        if mode != KernelMode::Audit && counted.len() < rules.len() {
            let mode = match isolation {
                Isolation::Isolated | Isolation::Audit => KernelMode::Enforce,
                Isolation::NotIsolated => KernelMode::NotIsolated,
            };
            let all: Vec<&Rule> = rules.iter().collect();
            compiled.staged = Some(compile(mode, &all, settings, cluster, now).map(Arc::new));
        }
        Ok(compiled)
    }

    /// The rules that would be in force if the Audit policies were enforced, too (R6).
    #[must_use]
    pub fn staged(&self) -> Option<&Self> {
        self.staged.as_ref()?.as_deref().ok()
    }

    /// The port classes that a name's addresses get; 0 = none.
    #[must_use]
    pub fn classes_of(&self, name: &Name) -> u64 {
        self.dns.classes_of(name)
    }

    /// The rules that speak of a name, for explanations.
    pub fn rules_of(&self, name: &Name) -> impl Iterator<Item = &CompiledRule> {
        self.rules.iter().filter(|compiled| {
            compiled.rule.peers.iter().any(|peer| match peer {
                Peer::Names(patterns) => patterns.iter().any(|pattern| pattern.matches(name)),
                Peer::Block { .. } | Peer::Cluster(_) => false,
            })
        })
    }
}

fn compile(
    mode: KernelMode,
    rules: &[&Rule],
    settings: &Settings,
    cluster: &ClusterRanges,
    now: Timestamp,
) -> Result<RuleSet, CompileError> {
    let mut active: Vec<&Rule> = rules.iter().copied().filter(|rule| rule.is_active(now)).collect();
    active.sort_by(|a, b| (&a.policy, &a.name).cmp(&(&b.policy, &b.name)));
    let marks = settings.inbound == Inbound::Cluster;
    let sets = port_sets(&active, marks)?;
    let compiled: Vec<CompiledRule> = active.into_iter().map(|rule| with_class(rule, &sets)).collect();
    let kernel = kernel_rules(mode, &compiled, &sets, cluster, marks)?;
    let dns = dns_rules(mode, &compiled, settings, cluster);
    Ok(RuleSet {
        isolation: Isolation::Isolated,
        kernel,
        dns: Arc::new(DnsRules::new(dns)),
        settings: settings.clone(),
        next_change: rules.iter().filter_map(|rule| rule.next_change(now)).min(),
        rules: compiled,
        staged: None,
        cluster: cluster.clone(),
    })
}

fn port_set(rule: &Rule) -> PortSet {
    PortSet::new(rule.effective_ports(), rule.is_direct_dns())
}

/// The distinct sets; the position is the class. The empty set is one only when cluster ranges are to be marked.
fn port_sets(rules: &[&Rule], with_empty: bool) -> Result<Vec<PortSet>, CompileError> {
    let mut sets: Vec<PortSet> =
        rules.iter().map(|rule| port_set(rule)).filter(|set| !set.is_empty()).collect();
    sets.extend(with_empty.then(PortSet::default));
    sets.sort_unstable();
    sets.dedup();
    if sets.len() > MAX_CLASSES {
        return Err(CompileError::TooManyPortClasses { found: sets.len() });
    }
    Ok(sets)
}

fn with_class(rule: &Rule, sets: &[PortSet]) -> CompiledRule {
    let set = port_set(rule);
    let class = sets.binary_search(&set).ok().filter(|_| !set.is_empty());
    CompiledRule { rule: rule.clone(), classes: class.map_or(0, |class| 1 << class) }
}

fn kernel_rules(
    mode: KernelMode,
    rules: &[CompiledRule],
    sets: &[PortSet],
    cluster: &ClusterRanges,
    marks: bool,
) -> Result<KernelRules, CompileError> {
    let ports = ports::flatten(sets);
    if ports.len() > MAX_PORTS {
        return Err(CompileError::TooManyPorts { found: ports.len() });
    }
    let mut blocks: Vec<Block> = rules.iter().flat_map(|rule| blocks_of(rule, cluster)).collect();
    if let Some(class) = sets.iter().position(PortSet::is_empty).filter(|_| marks) {
        let ranges = ALL_CLUSTER_PEERS.iter().flat_map(|peer| cluster.of(*peer));
        blocks.extend(ranges.map(|cidr| Block {
            cidr: *cidr,
            except: vec![],
            class,
            kind: BlockKind::MarkCluster,
        }));
    }
    let cidrs = cidrs::flatten(&blocks);
    if cidrs.len() > MAX_CIDRS {
        return Err(CompileError::TooManyCidrs { found: cidrs.len() });
    }
    let direct = sets.iter().enumerate().filter(|(_, set)| set.direct_dns);
    Ok(KernelRules { mode, cidrs, ports, direct_dns: direct.fold(0, |bits, (class, _)| bits | 1 << class) })
}

const ALL_CLUSTER_PEERS: [ClusterPeer; 4] =
    [ClusterPeer::Pods, ClusterPeer::Services, ClusterPeer::Nodes, ClusterPeer::ApiServer];

fn blocks_of(compiled: &CompiledRule, cluster: &ClusterRanges) -> Vec<Block> {
    if compiled.classes == 0 {
        return Vec::new();
    }
    let class = compiled.classes.trailing_zeros() as usize;
    let effect = compiled.rule.effect;
    let mut blocks = Vec::new();
    for (cidr, except, from_cluster) in address_peers(&compiled.rule, cluster) {
        let kind = match effect {
            Effect::Deny => BlockKind::Deny,
            Effect::Allow if from_cluster => BlockKind::AllowCluster,
            Effect::Allow => BlockKind::Allow,
        };
        blocks.push(Block { cidr, except, class, kind });
    }
    blocks
}

/// The blocks of a rule: address, exceptions, whether a `cluster` peer names them.
pub(crate) fn address_peers(rule: &Rule, cluster: &ClusterRanges) -> Vec<(IpNet, Vec<IpNet>, bool)> {
    let mut blocks = Vec::new();
    for peer in &rule.peers {
        match peer {
            Peer::Names(_) => {}
            Peer::Block { cidr, except } => {
                blocks.push((canonical(*cidr), except.iter().copied().map(canonical).collect(), false))
            }
            Peer::Cluster(kinds) => {
                blocks.extend(
                    kinds
                        .iter()
                        .flat_map(|kind| cluster.of(*kind))
                        .map(|cidr| (canonical(*cidr), vec![], true)),
                );
            }
        }
    }
    blocks
}

/// A block of v4-mapped addresses is one of IPv4; host bits are cleared.
fn canonical(net: IpNet) -> IpNet {
    let IpNet::V6(v6) = net else { return net.trunc() };
    let v4 = v6.network().to_ipv4_mapped().filter(|_| v6.prefix_len() >= 96);
    let v4 = v4.and_then(|v4| ipnet::Ipv4Net::new(v4, v6.prefix_len() - 96).ok());
    v4.map_or(IpNet::V6(v6.trunc()), |v4| IpNet::V4(v4.trunc()))
}

fn dns_rules(
    mode: KernelMode,
    rules: &[CompiledRule],
    settings: &Settings,
    cluster: &ClusterRanges,
) -> DnsRulesData {
    let mut data = DnsRulesData {
        mode: match mode {
            KernelMode::Enforce => DnsMode::Filter,
            KernelMode::Audit => DnsMode::Audit,
            KernelMode::NotIsolated => DnsMode::Pass,
        },
        allowed: Vec::new(),
        denied: Vec::new(),
        reachable: Vec::new(),
        own_node: cluster.own_node.iter().copied().map(canonical).collect(),
        isolated_by: isolated_by(rules),
        settings: settings.dns.clone(),
        ttl: settings.ttl,
        limits: settings.limits,
    };
    for compiled in rules {
        match compiled.rule.effect {
            Effect::Allow => add_allow(&mut data, compiled, settings, cluster),
            Effect::Deny => {
                let patterns = patterns_of(&compiled.rule);
                let policy = &compiled.rule.policy;
                data.denied.extend(
                    patterns.map(|pattern| DeniedNames { pattern: pattern.clone(), policy: policy.clone() }),
                );
            }
        }
    }
    data
}

fn add_allow(data: &mut DnsRulesData, compiled: &CompiledRule, settings: &Settings, cluster: &ClusterRanges) {
    let CompiledRule { rule, classes } = compiled;
    let name_rule = NameRule {
        grace: settings.grace.of(rule.grace),
        private_addresses: rule.private_addresses,
        strict_chain: rule.strict_chain,
    };
    data.allowed.extend(patterns_of(rule).map(|pattern| NameRuleEntry {
        pattern: pattern.clone(),
        policy: rule.policy.clone(),
        rule: name_rule,
        classes: *classes,
    }));
    if *classes != 0 {
        let blocks = address_peers(rule, cluster).into_iter();
        data.reachable.extend(blocks.map(|(cidr, except, _)| Reachable { cidr, except }));
    }
}

pub(crate) fn patterns_of(rule: &Rule) -> impl Iterator<Item = &crate::Pattern> {
    rule.peers
        .iter()
        .filter_map(|peer| match peer {
            Peer::Names(patterns) => Some(patterns),
            Peer::Block { .. } | Peer::Cluster(_) => None,
        })
        .flatten()
}

/// The policy to name when no rule knows a name: one of the workload's own before a guardrail.
fn isolated_by(rules: &[CompiledRule]) -> Option<PolicyRef> {
    let policies = rules.iter().map(|compiled| &compiled.rule.policy);
    policies.min_by_key(|policy| (policy.kind == PolicyKind::ClusterEgressPolicy, *policy)).cloned()
}

#[cfg(test)]
#[path = "rule_set_tests.rs"]
mod tests;
