//! `--allow-private NAME`: private answers for a name that another rule allows (SEMANTICS X8, A3).

use anyhow::{Result, bail};
use nameward_policy::{Effect, Pattern, Peer, Rule};

/// For each rule that allows one of these names, or some of them, adds one that allows those with private
/// addresses, on the same ports.
pub(super) fn admit(rules: &mut Vec<Rule>, names: &[Pattern]) -> Result<()> {
    for name in names {
        let admitted: Vec<Rule> = rules.iter().filter_map(|rule| narrowed(rule, name)).collect();
        if admitted.is_empty() {
            bail!("--allow-private {name}: no rule allows that name; add --allow {name}");
        }
        rules.extend(admitted);
    }
    Ok(())
}

fn narrowed(rule: &Rule, name: &Pattern) -> Option<Rule> {
    if rule.effect != Effect::Allow {
        return None;
    }
    let common: Vec<Pattern> = rule
        .peers
        .iter()
        .filter_map(|peer| match peer {
            Peer::Names(patterns) => Some(patterns),
            Peer::Block { .. } | Peer::Cluster(_) => None,
        })
        .flatten()
        .filter_map(|pattern| intersection(pattern, name))
        .collect();
    if common.is_empty() {
        return None;
    }
    Some(Rule { peers: vec![Peer::Names(common)], private_addresses: true, ..rule.clone() })
}

/// The names that both mean. Two patterns are disjoint, or one contains the other.
fn intersection(a: &Pattern, b: &Pattern) -> Option<Pattern> {
    match (contains(a, b), contains(b, a)) {
        (true, _) => Some(b.clone()),
        (_, true) => Some(a.clone()),
        _ => None,
    }
}

fn contains(outer: &Pattern, inner: &Pattern) -> bool {
    match (outer, inner) {
        (Pattern::Any, _) => true,
        (_, Pattern::Any) => false,
        (Pattern::Below(outer), Pattern::Below(inner)) => inner == outer || inner.is_below(outer),
        (outer, Pattern::Exact(inner)) => outer.matches(inner),
        (Pattern::Exact(_), Pattern::Below(_)) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::{NameRule, name_rule, pattern};

    fn patterns(allowed: &str, private: &str) -> Result<Vec<Vec<Peer>>> {
        let mut rules: Vec<Rule> = vec![NameRule::to_rule(&name_rule(allowed).unwrap())];
        admit(&mut rules, &[pattern(private).unwrap()])?;
        Ok(rules.into_iter().filter(|rule| rule.private_addresses).map(|rule| rule.peers).collect())
    }

    // X8
    #[test]
    fn only_the_named_part_of_a_rule_is_widened() {
        let names = |text: &str| vec![vec![Peer::Names(vec![pattern(text).unwrap()])]];
        assert_eq!(patterns("*.corp.example", "db.corp.example").unwrap(), names("db.corp.example"));
        assert_eq!(patterns("db.corp.example", "*.corp.example").unwrap(), names("db.corp.example"));
        assert_eq!(patterns("*.corp.example", "*.example").unwrap(), names("*.corp.example"));
        assert_eq!(patterns("*.corp.example", "*.corp.example").unwrap(), names("*.corp.example"));
    }

    // X8
    #[test]
    fn a_name_that_nothing_allows_is_a_mistake() {
        let error = patterns("*.corp.example", "corp.example").unwrap_err();
        assert!(error.to_string().contains("add --allow corp.example"), "{error}");
    }
}
