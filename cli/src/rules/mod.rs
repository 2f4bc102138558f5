//! What the user allows, from the command line, policy files and the hosts file, as rules of `policy`.
//!
//! Reads and checks everything before anything is started, so that all mistakes are known then. Decides nothing.

mod grammar;
mod hosts;
mod policy_file;
mod private;

use anyhow::{Result, bail};
use ipnet::IpNet;
use jiff::Timestamp;
use nameward_policy::{Effect, Peer, PolicyKind, PolicyRef, Rule, RuleMode};

pub(crate) use grammar::{CidrRule, NameRule, cidr_rule, dns_server, name_rule, pattern};

use crate::args::Run;

/// All rules of a run, and what the user should know about them.
#[derive(Debug, Default)]
pub(crate) struct Rules {
    /// Those of the command line and of policy files.
    rules: Vec<Rule>,
    /// Those of the hosts file.
    hosts: Vec<Rule>,
    /// Warnings about single rules.
    pub(crate) warnings: Vec<String>,
}

impl Rules {
    /// Collects the rules of the arguments. `hosts` is the content of the hosts file.
    pub(crate) fn collect(arguments: &Run, hosts: &str) -> Result<Self> {
        let mut rules: Vec<Rule> = arguments.allow.iter().map(NameRule::to_rule).collect();
        rules.extend(arguments.allow_cidr.iter().map(CidrRule::to_rule));
        let from_files = policy_file::read_all(&arguments.policy)?;
        let idle = policy_file::idle(&from_files, Timestamp::now(), arguments.audit);
        rules.extend(from_files);
        if arguments.audit {
            rules.iter_mut().for_each(|rule| rule.mode = RuleMode::Audit);
        }
        private::admit(&mut rules, &arguments.allow_private)?;
        let hosts::Granted { rules: hosts, mut warnings } = hosts::rules(&rules, hosts);
        for rule in rules.iter().chain(&hosts) {
            warnings.extend(rule.warnings().iter().map(|warning| format!("{}: {warning}", rule.policy)));
        }
        warnings.extend(arguments.allow_cidr.iter().filter_map(CidrRule::warning));
        warnings.extend(idle);
        Ok(Self { rules, hosts, warnings })
    }

    /// All of them, on a host with these addresses: the hosts file grants none of its own (A3).
    pub(crate) fn on_host(&self, own_addresses: &[IpNet]) -> Vec<Rule> {
        [self.rules.clone(), hosts::without(&self.hosts, own_addresses)].concat()
    }

    /// Whether any rule lets a name be looked up.
    pub(crate) fn need_dns(&self) -> bool {
        let names = |rule: &Rule| rule.peers.iter().any(|peer| matches!(peer, Peer::Names(_)));
        self.rules.iter().any(|rule| rule.effect == Effect::Allow && names(rule))
    }
}

/// The reference that rules of the command line carry: the flag as it was typed.
fn typed(flag: &str, text: &str) -> PolicyRef {
    PolicyRef::new(PolicyKind::CommandLine, "", &format!("{flag} {text}"))
}

/// Refuses an empty text with a sentence that says what to write.
fn not_empty(text: &str, example: &str) -> Result<()> {
    if text.is_empty() {
        bail!("the value is empty; write one like {example}");
    }
    Ok(())
}
