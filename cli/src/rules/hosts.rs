//! Names of the hosts file (SEMANTICS X8): no query is made for them, so rules that name them grant the file's
//! addresses at the start.

use std::net::IpAddr;

use ipnet::IpNet;
use nameward_policy::{Effect, Name, Peer, PolicyRef, Rule};

/// Rules for the addresses of all names of the hosts file that a rule allows by name.
pub(super) fn rules(rules: &[Rule], hosts: &str) -> Vec<Rule> {
    let entries = parse(hosts);
    rules
        .iter()
        .filter(|rule| rule.effect == Effect::Allow)
        .filter_map(|rule| {
            let peers: Vec<Peer> = entries
                .iter()
                .filter(|(_, name)| names(rule, name))
                .map(|(address, _)| Peer::Block { cidr: IpNet::from(*address), except: vec![] })
                .collect();
            let policy = PolicyRef {
                name: format!("{} (hosts file)", rule.policy.name).into(),
                ..rule.policy.clone()
            };
            (!peers.is_empty()).then(|| Rule { peers, policy, ..rule.clone() })
        })
        .collect()
}

fn names(rule: &Rule, name: &Name) -> bool {
    rule.peers.iter().any(|peer| match peer {
        Peer::Names(patterns) => patterns.iter().any(|pattern| pattern.matches(name)),
        Peer::Block { .. } | Peer::Cluster(_) => false,
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

    // X8
    #[test]
    fn rules_that_name_hosts_grant_their_addresses_on_the_same_ports() {
        let hosts = "127.0.0.1 localhost # loopback\n10.0.0.9\tdb.corp.example DB\n::1 localhost\nbad line\n";
        let allowed = [NameRule::to_rule(&name_rule("*.corp.example:5432/tcp").unwrap())];
        let granted = rules(&allowed, hosts);
        assert_eq!(granted.len(), 1);
        assert_eq!(granted[0].peers, [Peer::Block { cidr: "10.0.0.9/32".parse().unwrap(), except: vec![] }]);
        assert_eq!(granted[0].ports, allowed[0].ports);
        assert!(granted[0].policy.to_string().contains("--allow *.corp.example:5432/tcp (hosts file)"));
        assert!(rules(&[NameRule::to_rule(&name_rule("other.example").unwrap())], hosts).is_empty());
    }
}
