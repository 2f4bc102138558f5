//! `--policy FILE`: every policy of a file, as in a cluster but for its selectors (SEMANTICS X5).
//!
//! Reading and checking is `nameward_crds`'; this only collects files and what is wrong with any of them.

use std::path::PathBuf;

use anyhow::{Result, bail};
use nameward_crds::{file, render};
use nameward_policy::Rule;

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

#[cfg(test)]
mod tests {
    use super::*;

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
