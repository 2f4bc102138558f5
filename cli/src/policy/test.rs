//! `nameward policy test`: what policies say of given workloads and destinations, compared with what is expected.
//!
//! The verdict is that of the very code that enforces: rules are compiled, names answered with an address, and the
//! connection explained.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use jiff::Timestamp;
use nameward_api::client::Target;
use nameward_crds::{Labels, NAMESPACE_NAME, Policy, Workload, isolation};
use nameward_policy::{
    Bindings, BootTime, ClusterRanges, Destination, Explanation, Name, Outcome, RuleSet, Settings, explain,
};
use serde::Deserialize;

use super::{NO, args::Test, read_all};
use crate::see::output::print;

/// What a name is taken to resolve to when nothing else is said: documentation addresses count as external (A3).
const EXTERNAL: &str = "203.0.113.1";

/// A file of assertions.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Assertions {
    /// Files of policies, relative to this one.
    policies: Vec<PathBuf>,
    /// The assertions.
    tests: Vec<Assertion>,
}

/// One assertion.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Assertion {
    #[serde(default)]
    name: Option<String>,
    workload: Who,
    to: String,
    #[serde(default)]
    protocol: Option<String>,
    expect: Expected,
    #[serde(default)]
    rule: Option<String>,
    #[serde(default)]
    at: Option<Timestamp>,
    /// What the name resolves to.
    #[serde(default)]
    address: Option<IpAddr>,
}

/// A workload.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Who {
    #[serde(default = "default_namespace")]
    namespace: String,
    #[serde(default)]
    namespace_labels: Labels,
    #[serde(default)]
    labels: Labels,
}

fn default_namespace() -> String {
    "default".into()
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Expected {
    Allowed,
    Denied,
}

/// Tests files.
pub(super) fn test(arguments: &Test) -> Result<ExitCode> {
    let now = Timestamp::now();
    let (mut passed, mut failed) = (0_usize, 0_usize);
    for path in &arguments.files {
        for (title, result) in results(path, now)? {
            match result {
                Ok(said) => {
                    passed += 1;
                    if arguments.verbose {
                        print(&format!("ok    {title}: {said}\n"))?;
                    }
                }
                Err(said) => {
                    failed += 1;
                    print(&format!("FAIL  {}: {title}: {said}\n", path.display()))?;
                }
            }
        }
    }
    eprintln!("nameward: {passed} as expected, {failed} not");
    Ok(if failed == 0 { ExitCode::SUCCESS } else { ExitCode::from(NO) })
}

/// What is said where it is as expected, and where it is not.
type Outcomes = Vec<(String, Result<String, String>)>;

fn results(path: &Path, now: Timestamp) -> Result<Outcomes> {
    let assertions = read(path)?;
    let folder = path.parent().unwrap_or(Path::new(""));
    let files: Vec<PathBuf> = assertions.policies.iter().map(|file| folder.join(file)).collect();
    let (policies, _) = read_all(&files)?;
    let judge = |(number, assertion): (usize, &Assertion)| {
        let title = title(assertion, number);
        let judged = assertion.judge(&policies, now).with_context(|| format!("{}: {title}", path.display()));
        judged.map(|result| (title, result))
    };
    assertions.tests.iter().enumerate().map(judge).collect()
}

fn read(path: &Path) -> Result<Assertions> {
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    let value =
        nameward_crds::from_yaml(&text).map_err(|message| anyhow::anyhow!("{}:{message}", path.display()))?;
    let read: Assertions = serde_json::from_value(value).with_context(|| path.display().to_string())?;
    ensure!(!read.policies.is_empty(), "{}: `policies` names no file", path.display());
    ensure!(!read.tests.is_empty(), "{}: `tests` holds no assertion", path.display());
    Ok(read)
}

fn title(assertion: &Assertion, number: usize) -> String {
    let unnamed = || format!("test {} ({} to {})", number + 1, assertion.workload.namespace, assertion.to);
    assertion.name.clone().unwrap_or_else(unnamed)
}

impl Assertion {
    /// What the policies say, as it should be or not; an error when the assertion itself makes no sense.
    fn judge(&self, policies: &[Policy], now: Timestamp) -> Result<Result<String, String>> {
        let explanation = self.explain(policies, self.at.unwrap_or(now))?;
        let Some(explanation) = explanation else {
            return Ok(match self.expect {
                Expected::Allowed => Ok("no policy isolates the workload: it may do everything".into()),
                Expected::Denied => {
                    Err("expected denied, but no policy isolates the workload: it may do everything".into())
                }
            });
        };
        let said = explanation.to_string();
        let as_expected = match self.expect {
            Expected::Allowed => explanation.verdict == Outcome::Allowed,
            Expected::Denied => explanation.verdict == Outcome::Denied,
        };
        if !as_expected {
            return Ok(Err(format!(
                "expected {}, but {said}",
                if self.expect == Expected::Allowed { "allowed" } else { "denied" }
            )));
        }
        match &self.rule {
            Some(rule) if !explanation.rules.iter().any(|one| one.rule == *rule) => {
                Ok(Err(format!("expected rule {rule}, but {said}")))
            }
            _ => Ok(Ok(said)),
        }
    }

    /// None when nothing isolates the workload and no deny speaks of the destination.
    fn explain(&self, policies: &[Policy], at: Timestamp) -> Result<Option<Explanation>> {
        let mut namespace_labels = self.workload.namespace_labels.clone();
        namespace_labels.insert(NAMESPACE_NAME.into(), self.workload.namespace.clone());
        let workload = Workload {
            namespace: &self.workload.namespace,
            namespace_labels: &namespace_labels,
            labels: &self.workload.labels,
            exempt: false,
        };
        let selected: Vec<Policy> =
            policies.iter().map(in_namespace).filter(|policy| policy.selects(&workload)).collect();
        let rules: Vec<_> = selected.iter().flat_map(|policy| policy.to_rules().rules).collect();
        let (settings, cluster) = (Settings::default(), ClusterRanges::default());
        // As if every Audit policy were enforced: a test asks what a policy means, not whether it counts yet.
        let isolated = match isolation(&selected) {
            nameward_policy::Isolation::Audit => nameward_policy::Isolation::Isolated,
            other => other,
        };
        let rules: Vec<_> = rules
            .into_iter()
            .map(|rule| nameward_policy::Rule { mode: nameward_policy::RuleMode::Enforce, ..rule })
            .collect();
        let rules = RuleSet::compile(isolated, &rules, &settings, &cluster, at)?;
        let explanation = self.ask(&rules)?;
        let open =
            isolated == nameward_policy::Isolation::NotIsolated && explanation.verdict == Outcome::Allowed;
        Ok((!open).then_some(explanation))
    }

    fn ask(&self, rules: &RuleSet) -> Result<Explanation> {
        let target: Target = self.to.parse().map_err(|error| anyhow::anyhow!("to: {error}"))?;
        let protocol = protocol(self.protocol.as_deref().unwrap_or("TCP"))?;
        let has_ports = matches!(protocol, 6 | 17 | 132);
        let port = match target.port {
            Some(port) => port,
            None if has_ports => bail!("to: write the port, as in {}:443", self.to),
            None => 0,
        };
        let destination = match target.destination.parse::<IpAddr>() {
            Ok(address) => Destination::Address(address),
            Err(_) => Destination::Name(Name::from_input(&target.destination)?),
        };
        let (now, hour) = (BootTime(1_000_000_000), Duration::from_secs(3_600));
        let mut bindings = Bindings::new(rules.settings.limits);
        if let Destination::Name(name) = &destination {
            let address = self.address.map_or_else(|| EXTERNAL.parse(), Ok)?;
            bindings.record(name, &[], &[(address, hour)], Duration::ZERO, now)?;
        }
        Ok(explain(rules, &bindings, &destination, protocol, port, now))
    }
}

/// A policy without a namespace is one of `default`.
pub(super) fn in_namespace(policy: &Policy) -> Policy {
    let mut policy = policy.clone();
    if let Policy::Namespaced(own) = &mut policy {
        own.metadata.namespace.get_or_insert_with(default_namespace);
    }
    policy
}

fn protocol(text: &str) -> Result<u8> {
    let known: BTreeMap<&str, u8> =
        [("tcp", 6), ("udp", 17), ("sctp", 132), ("icmpecho", 1), ("icmp", 1)].into();
    let word = text.to_ascii_lowercase();
    known
        .get(word.as_str())
        .copied()
        .or_else(|| word.parse().ok())
        .with_context(|| format!("protocol {text}: write TCP, UDP, SCTP, ICMPEcho or a number"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLICY: &str = "
apiVersion: nameward.io/v1alpha1
kind: EgressPolicy
metadata: {name: runners, namespace: ci}
spec:
  podSelector: {matchLabels: {app: runner}}
  mode: Audit
  egress:
  - name: registries
    to: [{domainNames: ['*.registry.example']}]
    ports: [{protocol: TCP, port: 443}]
  - name: soon-over
    to: [{ipBlock: {cidr: 198.51.100.0/24}}]
    ports: [{protocol: UDP, port: 53}]
    expiresAt: '2027-01-31T00:00:00Z'
  deny: [{name: never, to: [{domainNames: [bad.registry.example]}]}]
";

    /// Whether each assertion holds, or why the file makes no sense.
    fn held(name: &str, tests: &str) -> Result<Vec<bool>> {
        let folder = std::env::temp_dir().join(format!("nwt{}-policy-{name}", std::process::id()));
        std::fs::create_dir_all(&folder)?;
        std::fs::write(folder.join("policies.yaml"), POLICY)?;
        let file = folder.join("test.yaml");
        std::fs::write(&file, format!("policies: [policies.yaml]\ntests:\n{tests}"))?;
        let results = results(&file, "2027-01-01T00:00:00Z".parse()?);
        std::fs::remove_dir_all(&folder)?;
        Ok(results?.iter().map(|(_, result)| result.is_ok()).collect())
    }

    #[test]
    fn assertions_hold_or_do_not() {
        let runner = "workload: {namespace: ci, labels: {app: runner}}";
        let tests = [
            format!("- {{{runner}, to: 'npm.registry.example:443', expect: allowed, rule: registries}}"),
            format!("- {{{runner}, to: 'npm.registry.example:80', expect: denied}}"),
            format!("- {{{runner}, to: 'bad.registry.example:443', expect: denied}}"),
            format!("- {{{runner}, to: '198.51.100.7:53', protocol: UDP, expect: allowed, rule: soon-over}}"),
            format!(
                "- {{{runner}, to: '198.51.100.7:53', protocol: UDP, expect: denied, at: '2027-02-01T00:00:00Z'}}"
            ),
            "- {workload: {namespace: ci}, to: 'any.example:443', expect: allowed}".into(),
            // These are wrong.
            format!("- {{{runner}, to: 'npm.registry.example:443', expect: denied}}"),
            format!("- {{{runner}, to: 'npm.registry.example:443', expect: allowed, rule: soon-over}}"),
            "- {workload: {namespace: ci}, to: 'any.example:443', expect: denied}".into(),
        ];
        let held = held("hold", &tests.join("\n")).unwrap();
        assert_eq!(held, [true, true, true, true, true, true, false, false, false]);
    }

    #[test]
    fn files_that_make_no_sense_are_no_results() {
        for (name, tests, says) in [
            ("port", "- {workload: {}, to: a.example, expect: denied}", "write the port"),
            ("field", "- {workload: {}, too: 'a.example:1', expect: denied}", "unknown field `too`"),
            ("protocol", "- {workload: {}, to: 'a.example:1', protocol: tpc, expect: denied}", "write TCP"),
            ("none", "", "expected a sequence"),
        ] {
            let error = format!("{:#}", held(name, tests).unwrap_err());
            assert!(error.contains(says), "{name}: {error}");
        }
    }
}
