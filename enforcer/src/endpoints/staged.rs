//! The second verdict of a decision: what would have become of it if the Audit policies that select the workload were
//! enforced, too (R6). None for workloads that no Audit policy selects beside what is enforced.

use nameward_abi::{Direction, Event};
use nameward_api::types::{Staged, Verdict};
use nameward_policy::{
    BootTime, CompiledRule, Destination, Effect, Explanation, KernelMode, Name, QueryDecision, Reason,
    RuleSet, explain,
};

use super::Endpoint;
use crate::{decisions::ip, kernel::KernelStore};

impl<S: KernelStore> Endpoint<S> {
    /// Explains a new connection under the rules that would be in force.
    pub(crate) fn explain_staged(
        &self,
        destination: &Destination,
        protocol: u8,
        port: u16,
        now: BootTime,
    ) -> Option<Explanation> {
        let rules = self.rules()?.staged()?;
        Some(explain(rules, &self.bindings, destination, protocol, port, now))
    }

    /// Of a packet.
    pub(crate) fn staged_packet(&self, event: &Event, now: BootTime) -> Option<Staged> {
        let rules = self.rules()?.staged()?;
        let word = nameward_abi::Reason::from_number(event.reason)?.word();
        let reason = Reason::from_word(word)?;
        let port = u16::from_be_bytes(event.remote_port);
        // Port 53 is redirected before rules are asked: what is denied of it is denied under any.
        let is_of_rules = reason.is_of_rules() || (reason == Reason::DnsElsewhere && port == 853);
        if !is_of_rules || event.direction != Direction::Egress as u8 {
            return Some(unchanged(rules, reason, event.verdict == nameward_abi::Verdict::Pass as u8));
        }
        let destination = Destination::Address(ip(event.remote));
        let explained = self.explain_staged(&destination, event.protocol, port, now)?;
        let mut staged = Staged::from(&explained);
        if staged.verdict == Verdict::Deny {
            // Denies of names speak of no address.
            let denied_by = explained.bindings.iter().find_map(|binding| rules.dns.denied_by(&binding.name));
            staged.policy = denied_by.map(ToString::to_string).or(staged.policy);
        }
        Some(staged)
    }

    /// Of a name that was not answered.
    pub(crate) fn staged_question(&self, name: &str, reason: Reason) -> Option<Staged> {
        let rules = self.rules()?.staged()?;
        let name = Name::parse(name).ok().filter(|_| reason.is_of_rules());
        let Some(name) = name else { return Some(unchanged(rules, reason, false)) };
        let pass =
            |reason: Reason, policy| Staged { verdict: Verdict::Pass, reason: reason.word().into(), policy };
        Some(match rules.dns.decide(&name) {
            QueryDecision::Allowed(_) => {
                let allows = |one: &&CompiledRule| one.rule.effect == Effect::Allow && one.classes != 0;
                let rule = rules.rules_of(&name).find(allows);
                let policy = rule.map(|rule| format!("{} rule {}", rule.rule.policy, rule.rule.name));
                pass(Reason::Name, policy)
            }
            QueryDecision::Unfiltered { .. } => pass(Reason::NotIsolated, None),
            QueryDecision::Filtered { .. }
            | QueryDecision::Denied { .. }
            | QueryDecision::SearchExpansion => Staged {
                verdict: Verdict::Deny,
                reason: Reason::Filtered.word().into(),
                policy: rules.dns.refused_by(&name).map(ToString::to_string),
            },
        })
    }
}

/// What no rule decides is denied under all rules that isolate.
fn unchanged(rules: &RuleSet, reason: Reason, passed: bool) -> Staged {
    let verdict = match rules.kernel.mode {
        KernelMode::Enforce | KernelMode::Audit => Verdict::from(reason.outcome()),
        KernelMode::NotIsolated if passed => Verdict::Pass,
        KernelMode::NotIsolated => Verdict::Deny,
    };
    Staged { verdict, reason: reason.word().into(), policy: None }
}

#[cfg(test)]
#[path = "staged_tests.rs"]
mod tests;
