//! Why a destination may or may not be reached, in one structure for events, the API and the command line.
//!
//! Looks at rules and bindings, never at flows: it answers for a new connection. A live one may go on (G3).

use std::{fmt, net::IpAddr};

use serde::Serialize;

use crate::{
    Binding, Bindings, BootTime, Effect, Lease, Name, Outcome, PolicyRef, QueryDecision, Reason, RuleSet,
    address::{self, from_octets, to_octets},
    rule_set::{CompiledRule, address_peers, patterns_of},
    tables::Granted,
};

/// What is asked about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Destination {
    /// A name: may it be asked, and may what it gave be reached.
    Name(Name),
    /// An address.
    Address(IpAddr),
}

/// Why, and what would change it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Explanation {
    /// Whether a new connection passes.
    pub verdict: Outcome,
    /// The word of G5.
    pub reason: Reason,
    /// The address that was judged; none when a name has none.
    pub address: Option<IpAddr>,
    /// The rules that allow or deny it, or come close.
    pub rules: Vec<RuleRef>,
    /// The names that gave the address.
    pub bindings: Vec<BindingView>,
    /// What is missing; none when it passes.
    pub missing: Option<Missing>,
    /// What would allow it; none where a deny stands in the way, or nothing is missing.
    pub suggestion: Option<Suggestion>,
}

/// A rule by name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RuleRef {
    /// The policy.
    pub policy: PolicyRef,
    /// The rule's name in it.
    pub rule: String,
}

/// A binding of the address that was asked about.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct BindingView {
    /// The name.
    pub name: Name,
    /// Its aliases in the last answer.
    pub chain: Vec<Name>,
    /// When it was last asked.
    pub asked_at: BootTime,
    /// Until when it counts.
    pub expires_at: BootTime,
    /// Whether it counts now.
    pub live: bool,
    /// Whether the rules allow the name on some port.
    pub allowed: bool,
}

/// What is missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Missing {
    /// A rule for the name or the address.
    Rule,
    /// A question: the name is allowed, and has no address yet.
    Question,
    /// A new question: the name is allowed, and its address has lapsed.
    NewQuestion,
    /// The port in a rule that allows the destination.
    Port,
    /// The absence of a deny.
    NoDeny,
}

/// A rule that would allow it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Suggestion {
    /// The name or address to allow.
    pub destination: String,
    /// IP protocol number.
    pub protocol: u8,
    /// The port; none for protocols without.
    pub port: Option<u16>,
    /// The flag of `nameward run` that says so; none where no flag can.
    pub flag: Option<String>,
}

impl Suggestion {
    /// The same as part of a policy; none for protocols without ports.
    fn rule(&self) -> Option<String> {
        let protocol = match self.protocol {
            6 => "TCP",
            17 => "UDP",
            132 => "SCTP",
            _ => return None,
        };
        let destination = &self.destination;
        let peer = match destination.parse::<IpAddr>() {
            Ok(IpAddr::V4(_)) => format!("ipBlock: {{cidr: {destination}/32}}"),
            Ok(IpAddr::V6(_)) => format!("ipBlock: {{cidr: \"{destination}/128\"}}"),
            Err(_) => format!("domainNames: [{destination}]"),
        };
        let port = self.port?;
        Some(format!("to: [{{{peer}}}], ports: [{{protocol: {protocol}, port: {port}}}]"))
    }
}

/// Explains a new connection of an endpoint.
#[must_use]
pub fn explain(
    rules: &RuleSet,
    bindings: &Bindings,
    destination: &Destination,
    protocol: u8,
    port: u16,
    now: BootTime,
) -> Explanation {
    let question = Question { rules, bindings, protocol, port, now };
    match destination {
        Destination::Address(address) => question.explain_address(*address),
        Destination::Name(name) => question.explain_name(name),
    }
}

struct Question<'a> {
    rules: &'a RuleSet,
    bindings: &'a Bindings,
    protocol: u8,
    port: u16,
    now: BootTime,
}

impl Question<'_> {
    fn explain_name(&self, name: &Name) -> Explanation {
        let found = self.bindings.of(name).map_or(&[][..], |binding| &binding.addresses);
        let latest = found.iter().max_by_key(|lease| lease.expires_at);
        match (self.rules.dns.decide(name), latest) {
            (QueryDecision::Denied { .. }, _) => self.filtered(name, Missing::NoDeny),
            (QueryDecision::Filtered { .. } | QueryDecision::SearchExpansion, _) => {
                self.filtered(name, Missing::Rule)
            }
            (QueryDecision::Allowed(_) | QueryDecision::Unfiltered { .. }, Some(lease)) => {
                self.explain_address(lease.address)
            }
            (QueryDecision::Allowed(_), None) => Explanation {
                missing: Some(Missing::Question),
                rules: self.rules_for_name(name),
                ..denied(Reason::NoMatch)
            },
            (QueryDecision::Unfiltered { .. }, None) => Explanation {
                missing: Some(Missing::Rule),
                suggestion: Some(self.suggest(name.as_str())),
                ..denied(Reason::NoMatch)
            },
        }
    }

    fn filtered(&self, name: &Name, missing: Missing) -> Explanation {
        let suggestion = (missing == Missing::Rule).then(|| self.suggest(name.as_str()));
        let denying = self.rules.rules.iter().filter(|compiled| compiled.rule.effect == Effect::Deny);
        let rules = denying.filter(|compiled| speaks_of(compiled, name)).map(reference).collect();
        Explanation { missing: Some(missing), suggestion, rules, ..denied(Reason::Filtered) }
    }

    fn explain_address(&self, address: IpAddr) -> Explanation {
        let remote = to_octets(address);
        let found: Vec<(&Binding, &Lease)> = self.bindings.names_of(address).collect();
        let any_live = found.iter().any(|(_, lease)| lease.is_live(self.now));
        let counting = || found.iter().filter(|(_, lease)| lease.is_live(self.now) || !any_live);
        let classes = counting().fold(0, |bits, (binding, _)| bits | self.rules.classes_of(&binding.name));
        let granted = (!found.is_empty()).then_some(Granted { classes, expired: !any_live });
        let reason = self.rules.kernel.judge(granted, remote, self.protocol, self.port);
        let missing = missing(reason);
        let name =
            counting().max_by_key(|(_, lease)| lease.expires_at).map(|(binding, _)| binding.name.as_str());
        let literal = address.to_canonical().to_string();
        let wants_rule = matches!(missing, Some(Missing::Rule | Missing::Port));
        Explanation {
            verdict: reason.outcome(),
            reason,
            address: Some(address.to_canonical()),
            rules: self.rules_for_address(reason, address, counting().map(|(binding, _)| &binding.name)),
            bindings: found.iter().map(|(binding, lease)| self.view(binding, lease)).collect(),
            missing,
            suggestion: wants_rule.then(|| self.suggest(name.unwrap_or(&literal))),
        }
    }

    fn view(&self, binding: &Binding, lease: &Lease) -> BindingView {
        BindingView {
            name: binding.name.clone(),
            chain: binding.chain.to_vec(),
            asked_at: binding.asked_at,
            expires_at: lease.expires_at,
            live: lease.is_live(self.now),
            allowed: self.rules.classes_of(&binding.name) != 0,
        }
    }

    fn rules_for_name(&self, name: &Name) -> Vec<RuleRef> {
        let allowing = self.rules.rules_of(name).filter(|compiled| compiled.rule.effect == Effect::Allow);
        allowing.map(reference).collect()
    }

    /// The rules behind a reason: those of the port where it matters, else those of the destination.
    fn rules_for_address<'n>(
        &self,
        reason: Reason,
        address: IpAddr,
        names: impl Iterator<Item = &'n Name> + Clone,
    ) -> Vec<RuleRef> {
        let wanted = self.rules.kernel.classes(self.protocol, self.port);
        let effect = if reason == Reason::DeniedCidr { Effect::Deny } else { Effect::Allow };
        let inner = address::embedded_destination(to_octets(address)).filter(|_| effect == Effect::Deny);
        let about = |compiled: &&CompiledRule| {
            let by_name = effect == Effect::Allow && names.clone().any(|name| speaks_of(compiled, name));
            let covers = |address| self.covers(compiled, address);
            by_name || covers(address) || inner.is_some_and(|inner| covers(from_octets(inner)))
        };
        let of_port = |compiled: &&CompiledRule| reason == Reason::Port || compiled.classes & wanted != 0;
        let rules = self.rules.rules.iter().filter(|compiled| compiled.rule.effect == effect);
        rules.filter(of_port).filter(about).map(reference).collect()
    }

    fn covers(&self, compiled: &CompiledRule, address: IpAddr) -> bool {
        address_peers(&compiled.rule, &self.rules.cluster).iter().any(|(cidr, except, _)| {
            address::covers(cidr, address) && !except.iter().any(|net| address::covers(net, address))
        })
    }

    fn suggest(&self, destination: &str) -> Suggestion {
        let ports = matches!(self.protocol, 6 | 17 | 132);
        let suffix = match self.protocol {
            6 => Some("tcp"),
            17 => Some("udp"),
            _ => None,
        };
        let flag = suffix.map(|suffix| match destination.parse::<IpAddr>() {
            Ok(IpAddr::V6(_)) => format!("--allow-cidr [{destination}]:{}/{suffix}", self.port),
            Ok(IpAddr::V4(_)) => format!("--allow-cidr {destination}:{}/{suffix}", self.port),
            Err(_) => format!("--allow {destination}:{}/{suffix}", self.port),
        });
        let port = ports.then_some(self.port);
        Suggestion { destination: destination.to_owned(), protocol: self.protocol, port, flag }
    }
}

fn missing(reason: Reason) -> Option<Missing> {
    match reason {
        Reason::Expired => Some(Missing::NewQuestion),
        Reason::Port => Some(Missing::Port),
        Reason::DeniedCidr => Some(Missing::NoDeny),
        reason if reason.outcome() == Outcome::Denied => Some(Missing::Rule),
        _ => None,
    }
}

fn denied(reason: Reason) -> Explanation {
    Explanation {
        verdict: Outcome::Denied,
        reason,
        address: None,
        rules: Vec::new(),
        bindings: Vec::new(),
        missing: None,
        suggestion: None,
    }
}

fn speaks_of(compiled: &CompiledRule, name: &Name) -> bool {
    patterns_of(&compiled.rule).any(|pattern| pattern.matches(name))
}

fn reference(compiled: &CompiledRule) -> RuleRef {
    RuleRef { policy: compiled.rule.policy.clone(), rule: compiled.rule.name.to_string() }
}

impl fmt::Display for Explanation {
    /// One line for people.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verdict = if self.verdict == Outcome::Allowed { "allowed" } else { "denied" };
        write!(f, "{verdict}: {}", self.reason)?;
        if let Some(rule) = self.rules.first() {
            write!(f, ", rule `{}` of {}", rule.rule, rule.policy)?;
        }
        match (self.address, self.bindings.first()) {
            (Some(address), Some(binding)) => write!(f, "; {address} is {}", binding.name)?,
            (Some(address), None) => write!(f, "; {address} was never resolved")?,
            (None, _) => {}
        }
        match self.missing {
            Some(Missing::Rule) => write!(f, "; no rule allows it")?,
            Some(Missing::Question) => write!(f, "; the name is allowed, and has not been asked yet")?,
            Some(Missing::NewQuestion) => write!(f, "; its time has ended: ask the name again")?,
            Some(Missing::Port) => write!(f, "; no rule allows this port")?,
            Some(Missing::NoDeny) => write!(f, "; a deny wins over every allow")?,
            None => {}
        }
        match self.suggestion.as_ref().and_then(Suggestion::rule) {
            Some(rule) => write!(f, "; a rule `{rule}` would allow it"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
#[path = "explain_tests.rs"]
mod tests;
