//! May it be asked (Q2-Q4, Q6): the words of `policy` turned into what the resolver does.

use std::net::IpAddr;

use hickory_proto::rr::Name as DnsName;
use nameward_policy::{Admission, DnsAnswer, DnsRules, Hints, Name, NameRule, PolicyRef, QueryDecision};

use crate::check::Terms;
use crate::wire::reply::ExtendedError;
use crate::wire::{codes, ede};

/// What becomes of a question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Asked, and its addresses granted.
    Grant(NameRule),
    /// Asked and passed on, nothing granted.
    Pass {
        /// Enforcement would have filtered it.
        would_filter: bool,
    },
    /// Answered here.
    Here {
        /// Response code.
        code: u16,
        /// Whether a SOA goes with it.
        soa: bool,
        /// Why; nothing for search expansions, which are nobody's fault.
        error: Option<ExtendedError>,
        /// The policy that decided, where one did.
        policy: Option<PolicyRef>,
    },
}

/// Judges a name. Behind a forwarder policy answers carry no SOA and are never NODATA (Q3, Q9): its cache
/// would keep them for others.
pub(crate) fn decide(rules: &DnsRules, name: &Name, forwarded: bool) -> Verdict {
    match rules.decide(name) {
        QueryDecision::Allowed(rule) => Verdict::Grant(rule),
        QueryDecision::Unfiltered { would_filter } => Verdict::Pass { would_filter },
        QueryDecision::SearchExpansion => {
            Verdict::Here { code: codes::NXDOMAIN, soa: !forwarded, error: None, policy: None }
        }
        QueryDecision::Filtered { policy, name_below_allowed } => {
            let code = filtered_code(rules, name_below_allowed && !forwarded);
            let error = ExtendedError::new(ede::FILTERED, filtered_text(name, policy.as_ref()));
            here(code, forwarded, error, policy)
        }
        QueryDecision::Denied { policy } => {
            let text = format!("nameward: {name} is denied by {policy}");
            let error = ExtendedError::new(ede::BLOCKED, text);
            here(filtered_code(rules, false), forwarded, error, Some(policy))
        }
    }
}

/// The terms of an answer that grants something.
pub(crate) struct RuleTerms<'a> {
    pub(crate) rules: &'a DnsRules,
    pub(crate) rule: NameRule,
}

impl Terms for RuleTerms<'_> {
    fn admission(&self, address: IpAddr) -> Admission {
        self.rules.admission(&self.rule, address)
    }

    fn forbids_target(&self, target: &DnsName) -> bool {
        let allowed = || {
            let name = Name::parse(&target.to_ascii()).ok()?;
            matches!(self.rules.decide(&name), QueryDecision::Allowed(_)).then_some(())
        };
        self.rule.strict_chain && allowed().is_none()
    }

    fn learns_hints(&self) -> bool {
        self.rules.settings().hints == Hints::Learn
    }
}

fn here(code: u16, forwarded: bool, error: ExtendedError, policy: Option<PolicyRef>) -> Verdict {
    Verdict::Here { code, soa: !forwarded && code != codes::REFUSED, error: Some(error), policy }
}

fn filtered_code(rules: &DnsRules, name_below_allowed: bool) -> u16 {
    match rules.settings().answer {
        DnsAnswer::Refused => codes::REFUSED,
        DnsAnswer::NxDomain if name_below_allowed => codes::NOERROR,
        DnsAnswer::NxDomain => codes::NXDOMAIN,
    }
}

fn filtered_text(name: &Name, policy: Option<&PolicyRef>) -> String {
    match policy {
        Some(policy) => format!("nameward: no rule allows {name}; isolated by {policy}"),
        None => format!("nameward: no rule allows {name}"),
    }
}
