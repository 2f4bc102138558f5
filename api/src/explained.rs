//! From the core's explanation to what the API says: its times become those of the wall clock.

use jiff::Timestamp;
use nameward_policy::{BootTime, Explanation, Missing, Outcome, RuleRef};

use crate::types::{Explained, ExplainedBinding, Proposal, RuleName, Staged, Verdict};

impl Explained {
    /// With the wall clock's time of each moment.
    pub fn new(explanation: &Explanation, wall_clock: impl Fn(BootTime) -> Timestamp) -> Self {
        let binding = |binding: &nameward_policy::BindingView| ExplainedBinding {
            name: binding.name.to_string(),
            chain: binding.chain.iter().map(ToString::to_string).collect(),
            asked_at: wall_clock(binding.asked_at),
            expires_at: wall_clock(binding.expires_at),
            live: binding.live,
            allowed: binding.allowed,
        };
        let proposal = |suggestion: &nameward_policy::Suggestion| Proposal {
            destination: suggestion.destination.clone(),
            protocol: suggestion.protocol,
            port: suggestion.port,
            flag: suggestion.flag.clone(),
        };
        Self {
            text: explanation.to_string(),
            verdict: match explanation.verdict {
                Outcome::Allowed => "allowed".into(),
                Outcome::Denied => "denied".into(),
            },
            reason: explanation.reason.word().into(),
            address: explanation.address,
            rules: explanation.rules.iter().map(RuleName::from).collect(),
            bindings: explanation.bindings.iter().map(binding).collect(),
            missing: explanation.missing.map(|missing| word(missing).into()),
            suggestion: explanation.suggestion.as_ref().map(proposal),
            staged: None,
        }
    }

    /// With what the Audit policies would make of it.
    #[must_use]
    pub fn with_staged(self, staged: Option<&Explanation>) -> Self {
        Self { staged: staged.map(Staged::from), ..self }
    }
}

impl From<&Explanation> for Staged {
    fn from(explanation: &Explanation) -> Self {
        Self {
            verdict: Verdict::from(explanation.verdict),
            reason: explanation.reason.word().into(),
            policy: explanation.rules.first().map(|rule| format!("{} rule {}", rule.policy, rule.rule)),
        }
    }
}

impl From<Outcome> for Verdict {
    fn from(outcome: Outcome) -> Self {
        match outcome {
            Outcome::Allowed => Self::Pass,
            Outcome::Denied => Self::Deny,
        }
    }
}

impl From<&RuleRef> for RuleName {
    fn from(rule: &RuleRef) -> Self {
        Self { policy: rule.policy.to_string(), rule: rule.rule.clone() }
    }
}

const fn word(missing: Missing) -> &'static str {
    match missing {
        Missing::Rule => "rule",
        Missing::Question => "question",
        Missing::NewQuestion => "new-question",
        Missing::Port => "port",
        Missing::NoDeny => "no-deny",
    }
}
