//! Names of the hosts file (SEMANTICS X8): no query is made for them, so rules that name them grant the file's
//! addresses at the start.
//!
//! Only names that a rule spells out: who allows `*.example` did not mean what a distribution writes into the file. A rule
//! that denies a name wins (R2), and what no name may give (A3) the file does not give either.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::IpNet;
use nameward_policy::{
    Effect, Name, Pattern, Peer, PolicyRef, Rule, RuleMode,
    address::{AddressClass, judge},
};

/// What the hosts file grants.
#[derive(Debug, Default)]
pub(super) struct Granted {
    /// Rules for the addresses of names that a rule allows by name.
    pub(super) rules: Vec<Rule>,
    /// Names that are allowed in vain.
    pub(super) warnings: Vec<String>,
}

/// Rules for the addresses of all names of the hosts file that a rule allows by name.
pub(super) fn rules(rules: &[Rule], hosts: &str) -> Granted {
    let entries = parse(hosts);
    let denied = |name: &Name| {
        let denies = |rule: &&Rule| rule.effect == Effect::Deny && rule.mode == RuleMode::Enforce;
        rules.iter().filter(denies).any(|rule| patterns(rule).any(|pattern| pattern.matches(name)))
    };
    let (mut granted, mut in_vain) = (Vec::new(), BTreeSet::new());
    for rule in rules.iter().filter(|rule| rule.effect == Effect::Allow) {
        let spelled = |name: &Name| patterns(rule).any(|pattern| *pattern == Pattern::Exact(name.clone()));
        let named = entries.iter().filter(|(_, name)| spelled(name) && !denied(name));
        let (never, usable): (Vec<_>, Vec<_>) = named.partition(|(address, _)| is_never_granted(*address));
        in_vain.extend(never.into_iter().map(|(address, name)| (name, *address)));
        if usable.is_empty() {
            continue;
        }
        let block = |address: IpAddr| Peer::Block { cidr: IpNet::from(address), except: vec![] };
        let name = format!("{} (hosts file)", rule.policy.name).into();
        granted.push(Rule {
            peers: usable.into_iter().map(|(address, _)| block(*address)).collect(),
            policy: PolicyRef { name, ..rule.policy.clone() },
            ..rule.clone()
        });
    }
    let warnings = in_vain.into_iter().map(|(name, address)| {
        format!(
            "the hosts file gives {name} the address {address}, which no name may open: use --allow-cidr {}",
            match address {
                IpAddr::V4(v4) => format!("{v4}:PORT"),
                IpAddr::V6(v6) => format!("[{v6}]:PORT"),
            }
        )
    });
    Granted { warnings: warnings.collect(), rules: granted }
}

/// The same without what it says of these addresses, which are the host's own.
pub(super) fn without(rules: &[Rule], own_addresses: &[IpNet]) -> Vec<Rule> {
    let is_own = |cidr: &IpNet| own_addresses.iter().any(|own| own.contains(cidr));
    let foreign = |peer: &&Peer| !matches!(peer, Peer::Block { cidr, .. } if is_own(cidr));
    let narrowed = rules
        .iter()
        .map(|rule| Rule { peers: rule.peers.iter().filter(foreign).cloned().collect(), ..rule.clone() });
    narrowed.filter(|rule| !rule.peers.is_empty()).collect()
}

fn is_never_granted(address: IpAddr) -> bool {
    matches!(judge(address), AddressClass::Never(_))
}

fn patterns(rule: &Rule) -> impl Iterator<Item = &Pattern> {
    rule.peers.iter().flat_map(|peer| match peer {
        Peer::Names(patterns) => patterns.as_slice(),
        Peer::Block { .. } | Peer::Cluster(_) => &[],
    })
}

/// Lines of hosts(5): an address and its names, `#` begins a comment.
fn parse(text: &str) -> Vec<(IpAddr, Name)> {
    text.lines()
        .filter_map(|line| {
            let mut words = line.split('#').next()?.split_whitespace();
            let address = words.next()?.split('%').next()?.parse::<IpAddr>().ok()?;
            Some(words.filter_map(move |word| Some((address, Name::parse(word).ok()?))).collect::<Vec<_>>())
        })
        .flatten()
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::{NameRule, name_rule};

    const HOSTS: &str = "127.0.0.1 localhost # loopback\n127.0.1.1 box.corp.example box\n::1 localhost\n\
                         169.254.169.254 db.corp.example\n10.0.0.9\tdb.corp.example DB\nbad line\n";

    fn allow(text: &str) -> Rule {
        NameRule::to_rule(&name_rule(text).unwrap())
    }

    fn block(text: &str) -> Peer {
        Peer::Block { cidr: text.parse().unwrap(), except: vec![] }
    }

    // X8
    #[test]
    fn rules_that_name_hosts_grant_their_addresses_on_the_same_ports() {
        let allowed = [allow("db.corp.example:5432/tcp")];
        let granted = rules(&allowed, HOSTS);
        assert_eq!(granted.rules.len(), 1);
        assert_eq!(granted.rules[0].peers, [block("10.0.0.9/32")]);
        assert_eq!(granted.rules[0].ports, allowed[0].ports);
        let policy = granted.rules[0].policy.to_string();
        assert!(policy.contains("--allow db.corp.example:5432/tcp (hosts file)"), "{policy}");
        assert!(rules(&[allow("other.example")], HOSTS).rules.is_empty());
    }

    // X8
    #[test]
    fn a_pattern_names_nobody_of_the_file() {
        for pattern in ["*", "*.corp.example"] {
            let granted = rules(&[allow(pattern)], HOSTS);
            assert!(granted.rules.is_empty() && granted.warnings.is_empty(), "{pattern}: {granted:?}");
        }
    }

    // X6, A3
    #[test]
    fn neither_loopback_nor_the_host_s_own_addresses_are_granted() {
        for (name, address) in [("localhost", "[::1]:PORT"), ("box.corp.example", "127.0.1.1:PORT")] {
            let granted = rules(&[allow(name)], HOSTS);
            assert!(granted.rules.is_empty(), "{granted:?}");
            assert!(granted.warnings.iter().any(|text| text.contains(address)), "{granted:?}");
        }
        let granted = rules(&[allow("db.corp.example")], HOSTS).rules;
        assert_eq!(without(&granted, &["192.0.2.1/32".parse().unwrap()]), granted);
        assert_eq!(without(&granted, &["10.0.0.9/32".parse().unwrap()]), []);
    }

    // R2
    #[test]
    fn deny_wins() {
        let mut rules_of = [allow("db.corp.example"), allow("*.corp.example")];
        rules_of[1].effect = Effect::Deny;
        assert!(rules(&rules_of, HOSTS).rules.is_empty());
        rules_of[1].mode = RuleMode::Audit;
        assert_eq!(rules(&rules_of, HOSTS).rules.len(), 1, "what is not enforced denies nothing");
    }
}
