//! `--policy FILE`: every policy of a file, as in a cluster but for its selectors (SEMANTICS X5).
//!
//! Reading and checking is `nameward_crds`'; this only collects files and what is wrong with any of them.

use std::collections::BTreeSet;
use std::path::PathBuf;

use anyhow::{Result, bail};
use jiff::Timestamp;
use nameward_crds::{file, render};
use nameward_policy::{Rule, RuleMode};

/// The rules of all files; or all mistakes of all of them, a line each.
pub(super) fn read_all(files: &[PathBuf]) -> Result<Vec<Rule>> {
    let mut rules = Vec::new();
    let mut mistakes = Vec::new();
    for path in files {
        match file::load(path) {
            Ok(file) => rules.extend(file.rules()),
            Err(found) => mistakes.extend(found.0),
        }
    }
    if !mistakes.is_empty() {
        bail!("the policy cannot be used as it is:\n{}", render(&mistakes));
    }
    Ok(rules)
}

/// Which of the rules do nothing in a run that begins `now`, and why: what they would allow is denied.
pub(super) fn idle(rules: &[Rule], now: Timestamp, is_audit: bool) -> Vec<String> {
    let audited: BTreeSet<_> = rules
        .iter()
        .filter(|rule| rule.mode == RuleMode::Audit && !is_audit)
        .map(|rule| {
            format!(
                "{}: its mode is Audit, so it changes nothing here; write Enforce, or use --audit",
                rule.policy
            )
        })
        .collect();
    let ended = rules.iter().filter_map(|rule| {
        let end = rule.expires_at.filter(|end| *end <= now)?;
        Some(format!("{} rule {}: it ended at {end}; give it another end", rule.policy, rule.name))
    });
    audited.into_iter().chain(ended).collect()
}

#[cfg(test)]
mod tests {
    use nameward_policy::{Effect, PolicyKind, PolicyRef};

    use super::*;

    // X5, R6, R7
    #[test]
    fn what_does_nothing_is_told() {
        let now = Timestamp::from_second(1_000).unwrap();
        let rule = |policy: &str, name: &str| {
            Rule::new(PolicyRef::new(PolicyKind::EgressPolicy, "", policy), name, Effect::Allow)
        };
        let audited = |name: &str| Rule { mode: RuleMode::Audit, ..rule("a", name) };
        let until = |second: i64| Rule {
            expires_at: Some(Timestamp::from_second(second).unwrap()),
            ..rule("b", "short")
        };
        let idle = |rules: &[Rule], is_audit: bool| idle(rules, now, is_audit);
        let both = [audited("one"), audited("two")];
        assert!(
            matches!(&idle(&both, false)[..], [text] if text.starts_with("EgressPolicy a: its mode is Audit"))
        );
        assert!(idle(&both, true).is_empty());
        let told = idle(&[rule("b", "web"), until(1_001), until(1_000)], false);
        assert_eq!(
            told,
            ["EgressPolicy b rule short: it ended at 1970-01-01T00:16:40Z; give it another end"]
        );
    }

    #[test]
    fn every_policy_of_every_file_counts_selectors_ignored() {
        // X5
        let folder = std::env::temp_dir().join(format!("nwt-policy-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let policy = |name: &str, host: &str| {
            format!(
                "apiVersion: nameward.io/v1alpha1\nkind: EgressPolicy\nmetadata: {{name: {name}}}\nspec:\n  \
                 podSelector: {{matchLabels: {{app: other}}}}\n  egress:\n  - name: web\n    to: [{{domainNames: \
                 [{host}]}}]\n    ports: [{{protocol: TCP, port: 443}}]\n"
            )
        };
        let (one, two) = (folder.join("one.yaml"), folder.join("two.yaml"));
        std::fs::write(&one, policy("a", "a.example") + "---\n" + &policy("b", "b.example")).unwrap();
        std::fs::write(&two, policy("a", "c.example")).unwrap();
        let rules = read_all(&[one.clone(), two.clone()]).unwrap();
        let names: Vec<String> = rules.iter().map(|rule| rule.policy.to_string()).collect();
        assert_eq!(names, ["EgressPolicy a", "EgressPolicy b", "EgressPolicy a"]);

        std::fs::write(&one, policy("a", "foo*.example").replace("443", "0")).unwrap();
        std::fs::write(&two, "kind: EgressPolicy\n").unwrap();
        let message = read_all(&[one, two]).unwrap_err().to_string();
        assert!(message.contains("one.yaml:8:25: ") && message.contains("one.yaml:9:35: "), "{message}");
        assert!(message.contains("two.yaml:1:1: `apiVersion` is missing"), "{message}");
        std::fs::remove_dir_all(folder).unwrap();
    }
}
