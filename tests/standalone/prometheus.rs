//! Alerts and dashboard, as Prometheus' own tool reads them, against the metrics that the processes declare.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use nameward_policy::{Outcome, Reason};
use nameward_test_support::{Scratch, privileged};
use serde_json::Value;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/prometheus")
}

#[track_caller]
fn promtool(words: &[&str], file: &Path) {
    let output = Command::new("promtool").args(words).arg(file).current_dir(folder()).output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&said));
}

/// The queries of the dashboard.
fn queries() -> Vec<String> {
    let dashboard: Value =
        serde_json::from_slice(&fs::read(folder().join("dashboard.json")).unwrap()).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    let targets = panels.iter().flat_map(|panel| panel["targets"].as_array().unwrap());
    targets.map(|target| target["expr"].as_str().unwrap().replace("$__rate_interval", "5m")).collect()
}

#[test]
fn alerts_are_rules_and_fire_when_they_should() {
    if !privileged() {
        return;
    }
    promtool(&["check", "rules"], &folder().join("alerts.yaml"));
    promtool(&["test", "rules"], &folder().join("alerts_test.yaml"));
}

#[test]
fn every_query_of_the_dashboard_is_understood() {
    if !privileged() {
        return;
    }
    let rules: String = queries()
        .iter()
        .enumerate()
        .map(|(number, query)| format!("  - {{record: \"a:b:c{number}\", expr: '{query}'}}\n"))
        .collect();
    let scratch = Scratch::new("dashboard").unwrap();
    let file = scratch.file("rules.yaml", &format!("groups:\n- name: g\n  rules:\n{rules}")).unwrap();
    promtool(&["check", "rules"], &file);
}

#[test]
fn alerts_and_dashboard_speak_of_metrics_that_there_are() {
    let families = nameward_enforcer::api::metrics::FAMILIES.iter();
    let families = families.chain(nameward_resolver::wiring::metrics::families());
    let known: BTreeSet<String> = families.map(|family| family.sample_name()).collect();
    let alerts = fs::read_to_string(folder().join("alerts.yaml")).unwrap();
    let expressions =
        alerts.lines().filter(|line| line.trim_start().starts_with("expr:")).collect::<String>();
    let text = expressions + &queries().join(" ");
    let word = |character: char| character.is_ascii_alphanumeric() || character == '_';
    let named: BTreeSet<&str> =
        text.split(|character| !word(character)).filter(|one| one.starts_with("nameward_")).collect();
    assert!(named.len() > 15, "{named:?}");
    for name in named {
        assert!(known.contains(name), "{name} is no metric of ours");
    }
}

// Who is woken, or asks why, finds what to do; and nothing is explained that there is not.
#[test]
fn every_alert_and_every_denial_has_its_runbook() {
    let alerts = fs::read_to_string(folder().join("alerts.yaml")).unwrap();
    let alerts = alerts.lines().filter_map(|line| line.trim().strip_prefix("- alert: "));
    let denials = Reason::ALL.iter().filter(|reason| reason.outcome() == Outcome::Denied);
    let wanted: BTreeSet<&str> = alerts.chain(denials.map(|reason| reason.word())).collect();
    assert!(wanted.len() > 30, "{wanted:?}");
    let runbooks = fs::read_to_string(folder().join("../runbooks.md")).unwrap();
    let sections = runbooks.split("\n### ").skip(1).map(|section| section.split_once('\n').unwrap());
    let written: BTreeSet<&str> = sections.clone().map(|(name, _)| name).collect();
    assert_eq!(wanted, written);
    for (name, text) in sections {
        let text = text.split("\n## ").next().unwrap_or_default().trim();
        assert!(text.len() > 20, "{name} says nothing");
        // Links within the page lead somewhere.
        for link in text.split("](#").skip(1) {
            let target = link.split(')').next().unwrap_or_default();
            let is_there = written.iter().any(|section| section.to_lowercase() == target);
            assert!(is_there, "{name}: there is no section {target}");
        }
    }
}
