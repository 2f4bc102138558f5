//! What each format becomes, as tables: a source, the policies as lines, and what is said of it.

mod aws;
mod cilium;
mod cluster_network_policy;
mod files;
mod gke;
mod istio;
mod never_wider;
mod squid;

use std::{net::IpAddr, path::Path, time::Duration};

use nameward_crds::{Labels, NAMESPACE_NAME, Policy, Workload, isolation};
use nameward_policy::{
    Bindings, BootTime, ClusterRanges, Destination, Isolation, Name, Outcome, RuleSet, Settings, explain,
};

use super::*;

/// What an import writes and says.
struct Imported {
    objects: Vec<Value>,
    notes: Vec<String>,
    refusals: usize,
}

fn imported(text: &str, from: Option<SourceKind>, options: &Options) -> Imported {
    let mut notes = Notes::default();
    let sources = [(PathBuf::from("in.yaml"), text.to_owned())];
    let objects =
        policies(&sources, from, options, &mut notes).unwrap_or_else(|error| panic!("{error}\n{text}"));
    if !objects.is_empty() {
        written(&objects, ImportFormat::Yaml).unwrap();
        written(&objects, ImportFormat::Json).unwrap();
    }
    Imported {
        objects,
        notes: notes.list().iter().map(|note| note.to_string().replacen("in.yaml:", "", 1)).collect(),
        refusals: notes.refusals(),
    }
}

impl Imported {
    /// A line for each policy, and for each of its rules: `+ TO -> PORTS` allows, `- TO -> PORTS` denies.
    fn lines(&self) -> Vec<String> {
        self.objects.iter().flat_map(lines).collect()
    }

    /// Compares with what is expected: lines of policies, and parts of notes in their order.
    #[track_caller]
    fn is(&self, expected: &[&str], notes: &[&str]) {
        assert_eq!(self.lines(), expected, "{:#?}", self.notes);
        assert_eq!(self.notes.len(), notes.len(), "{:#?}", self.notes);
        for (note, part) in self.notes.iter().zip(notes) {
            for part in part.split(" & ") {
                assert!(note.contains(part), "`{part}` is not in `{note}`");
            }
        }
    }

    /// What the policies say, by the code that enforces: whether a connection of a workload passes.
    fn allows(&self, who: &Who<'_>, to: &To, protocol: u8, port: u16) -> bool {
        if self.objects.is_empty() {
            return true;
        }
        let text = written(&self.objects, ImportFormat::Yaml).unwrap();
        let file = file::read(&text, Path::new("out.yaml")).unwrap();
        let mut namespace_labels = who.namespace_labels.clone();
        namespace_labels.insert(NAMESPACE_NAME.into(), who.namespace.into());
        let workload = Workload {
            namespace: who.namespace,
            namespace_labels: &namespace_labels,
            labels: &who.labels,
            exempt: false,
        };
        let selected: Vec<Policy> =
            file.policies.into_iter().filter(|policy| policy.selects(&workload)).collect();
        let rules: Vec<_> = selected.iter().flat_map(|policy| policy.to_rules().rules).collect();
        let isolated = isolation(&selected);
        let ranges =
            ClusterRanges { pods: vec!["10.42.0.0/16".parse().unwrap()], ..ClusterRanges::default() };
        let now = "2027-01-01T00:00:00Z".parse().unwrap();
        let rules = RuleSet::compile(isolated, &rules, &Settings::default(), &ranges, now).unwrap();
        let (now, hour) = (BootTime(1_000_000_000), Duration::from_secs(3_600));
        let mut bindings = Bindings::new(rules.settings.limits);
        let destination = match &to.name {
            Some(name) => {
                bindings.record(name, &[], &[(to.address, hour)], Duration::ZERO, now).unwrap();
                Destination::Name(name.clone())
            }
            None => Destination::Address(to.address),
        };
        let verdict = explain(&rules, &bindings, &destination, protocol, port, now).verdict;
        assert!(isolated != Isolation::Audit);
        verdict == Outcome::Allowed
    }
}

/// A workload.
#[derive(Debug)]
struct Who<'a> {
    namespace: &'a str,
    namespace_labels: Labels,
    labels: Labels,
}

/// A destination: an address, by a name or not.
#[derive(Clone, Debug)]
struct To {
    name: Option<Name>,
    address: IpAddr,
}

fn lines(object: &Value) -> Vec<String> {
    let (spec, metadata) = (&object["spec"], &object["metadata"]);
    let name = match metadata["namespace"].as_str() {
        Some(namespace) => format!("{namespace}/{}", metadata["name"].as_str().unwrap()),
        None => metadata["name"].as_str().unwrap().to_owned(),
    };
    let whose = match object["kind"].as_str() {
        Some("EgressPolicy") => selected(&spec["podSelector"]),
        _ => format!(
            "{} / {}{}",
            selected(&spec["subject"]["namespaceSelector"]),
            selected(&spec["subject"]["podSelector"]),
            if spec["isolate"] == true { " isolated" } else { "" }
        ),
    };
    let mut lines = vec![format!("{name}: {whose}")];
    for (field, sign) in [("egress", '+'), ("deny", '-')] {
        for rule in spec[field].as_array().into_iter().flatten() {
            let to: Vec<String> = rule["to"].as_array().unwrap().iter().map(peer).collect();
            let ports: Vec<String> = rule["ports"].as_array().into_iter().flatten().map(port).collect();
            let ports = if ports.is_empty() { "all".into() } else { ports.join(" ") };
            lines.push(format!("{sign} {} -> {ports}", to.join(" ")));
        }
    }
    lines
}

/// A selector: `a=1,b in (c d)`, or `all`.
fn selected(selector: &Value) -> String {
    let labels = selector["matchLabels"].as_object().into_iter().flatten();
    let mut parts: Vec<String> =
        labels.map(|(key, value)| format!("{key}={}", value.as_str().unwrap())).collect();
    for one in selector["matchExpressions"].as_array().into_iter().flatten() {
        let values: Vec<&str> =
            one["values"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        let (key, operator) = (one["key"].as_str().unwrap(), one["operator"].as_str().unwrap());
        parts.push(format!("{key} {operator} ({})", values.join(" ")));
    }
    if parts.is_empty() { "all".into() } else { parts.join(",") }
}

fn peer(peer: &Value) -> String {
    let words = |value: &Value| {
        value.as_array().unwrap().iter().map(|one| one.as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    if let Some(block) = peer.get("ipBlock") {
        let except = block.get("except").map(words).unwrap_or_default();
        let except = if except.is_empty() { String::new() } else { format!("!{}", except.join("!")) };
        return format!("{}{except}", block["cidr"].as_str().unwrap());
    }
    match peer.get("domainNames") {
        Some(names) => words(names).join(" "),
        None => words(&peer["cluster"]).join(" "),
    }
}

fn port(port: &Value) -> String {
    let mut text = port["protocol"].as_str().unwrap().to_owned();
    for (field, sign) in [("port", '/'), ("endPort", '-')] {
        if let Some(number) = port[field].as_i64() {
            text += &format!("{sign}{number}");
        }
    }
    text
}
