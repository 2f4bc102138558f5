//! Static configuration of the standalone processes (SEMANTICS S1): endpoints, policies, settings.
//!
//! Gives each endpoint with the rules that select it, ready for `RuleSet::compile`. Watches nothing and attaches
//! nothing.

mod schema;

use std::{
    collections::HashMap,
    net::IpAddr,
    path::{Path, PathBuf},
    sync::Arc,
};

use nameward_policy::{Isolation, Rule, Settings};
use serde::Deserialize;

use crate::{
    Labels, Mistakes, NAMESPACE_NAME, Place, Policy, Warning, Workload, check,
    file::{Found, Reader, text_of},
    isolation,
    yaml::Node,
};

/// What a file is read for: which fields of an endpoint must be there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// `nameward-enforcer`: exactly one of `interface` and `cgroup`, and `addresses` beside `interface`.
    Enforce,
    /// `nameward-resolver`: `addresses`, which tell endpoints apart.
    Resolve,
}

/// A whole file, with the policy files it names.
#[derive(Clone, Debug)]
pub struct StaticConfig {
    /// The endpoints, in the order of the file. No two share a uid, an attachment or an address.
    pub endpoints: Vec<StaticEndpoint>,
    /// `settings:`, the same for every endpoint.
    pub settings: Settings,
    /// What the author should know.
    pub warnings: Vec<Warning>,
}

/// A workload of the file.
#[derive(Clone, Debug, PartialEq)]
pub struct StaticEndpoint {
    /// `NAMESPACE/NAME`: stable, and unique in the file.
    pub uid: Arc<str>,
    /// Its name.
    pub name: String,
    /// Its namespace, `default` when the file says none.
    pub namespace: String,
    /// Its labels.
    pub labels: Labels,
    /// Its own addresses.
    pub addresses: Vec<IpAddr>,
    /// Where it is attached; always there for [`Purpose::Enforce`].
    pub attachment: Option<StaticAttachment>,
    /// Labels of its namespace.
    pub namespace_labels: Labels,
    /// The policies that select it.
    pub selected_by: Vec<Policy>,
    /// Whether policies isolate it (R1, R6).
    pub isolation: Isolation,
    /// The rules of every policy that selects it.
    pub rules: Vec<Rule>,
}

/// Where an endpoint is attached.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum StaticAttachment {
    /// The host side of a workload's interface, by name.
    Interface(String),
    /// A cgroup v2 folder, absolute.
    Cgroup(PathBuf),
}

/// Reads a file and the policy files it names; their paths are relative to it.
///
/// # Errors
/// All mistakes of all files at once.
pub fn read(path: &Path, purpose: Purpose) -> Result<StaticConfig, Mistakes> {
    let mut reader = Reader::default();
    match text_of(path) {
        Ok(text) => parse(&text, path, purpose, reader),
        Err(message) => {
            reader.mistake(path, Place::default(), "", message);
            Err(reader.finish().err().unwrap_or_else(|| Mistakes(Vec::new())))
        }
    }
}

fn parse(text: &str, path: &Path, purpose: Purpose, mut reader: Reader) -> Result<StaticConfig, Mistakes> {
    let mut documents = reader.documents(text, path);
    if let Some(second) = documents.get(1) {
        reader.mistake(
            path,
            second.place,
            "",
            "a configuration is one document; remove the `---` before this one",
        );
    }
    let Some(mut root) = documents.drain(..).next() else {
        if reader.mistakes.is_empty() {
            reader.mistake(
                path,
                Place { line: 1, column: 1 },
                "",
                "the file is empty; write `endpoints:` and `policies:`",
            );
        }
        return Err(Mistakes(reader.mistakes));
    };
    reader.found(path, check::check(&mut root, "", schema::schema()));
    policies(&root, path, &mut reader);
    let drafts = endpoints(&root, path, purpose, &mut reader);
    let settings = settings(&root, path, &mut reader);
    let endpoints = select(drafts, path, &mut reader);
    let (_, warnings) = reader.finish()?;
    Ok(StaticConfig { endpoints, settings, warnings })
}

/// Reads what stands under `policies`: objects, and paths of files.
fn policies(root: &Node, path: &Path, reader: &mut Reader) {
    let folder = path.parent().unwrap_or(Path::new(""));
    for (index, item) in root.get("policies").map(Node::items).into_iter().flatten().enumerate() {
        let place = item.place;
        let field = format!("policies[{index}]");
        let Some(named) = item.text() else {
            reader.object(&mut item.clone(), path, &field);
            continue;
        };
        let file = folder.join(named);
        match text_of(&file) {
            Ok(text) => {
                let before = (reader.policies.len(), reader.mistakes.len());
                reader.text(&text, &file);
                if before == (reader.policies.len(), reader.mistakes.len()) {
                    reader.mistake(path, place, &field, format!("{} holds no policy", file.display()));
                }
            }
            Err(message) => reader.mistake(path, place, &field, format!("{}: {message}", file.display())),
        }
    }
}

/// An endpoint as the file has it.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Entry {
    name: String,
    #[serde(default = "default_namespace")]
    namespace: String,
    #[serde(default)]
    labels: Labels,
    #[serde(default)]
    namespace_labels: Labels,
    #[serde(default)]
    addresses: Vec<IpAddr>,
    interface: Option<String>,
    cgroup: Option<PathBuf>,
}

fn default_namespace() -> String {
    "default".into()
}

/// An endpoint, and where it stands.
type Draft = (StaticEndpoint, Place);

/// The endpoints in which the schema finds no mistake.
fn endpoints(root: &Node, path: &Path, purpose: Purpose, reader: &mut Reader) -> Vec<Draft> {
    let mut drafts: Vec<Draft> = Vec::new();
    let mut seen: HashMap<String, Place> = HashMap::new();
    for (index, item) in root.get("endpoints").map(Node::items).into_iter().flatten().enumerate() {
        let field = format!("endpoints[{index}]");
        // What does not convert has its mistake from the schema.
        let Ok(entry) = serde_json::from_value::<Entry>(item.to_json()) else { continue };
        let mut wrong = |message: String| reader.mistake(path, item.place, &field, message);
        if let Some(message) = lacking(&entry, purpose) {
            wrong(message.into());
        }
        for identity in identities(&entry, purpose) {
            match seen.get(&identity) {
                Some(first) => wrong(format!(
                    "{identity} is there twice, first in line {}; remove or change one",
                    first.line
                )),
                None => {
                    seen.insert(identity, item.place);
                }
            }
        }
        drafts.push(draft(entry, item.place));
    }
    drafts
}

/// What an endpoint needs beside what every endpoint needs.
fn lacking(entry: &Entry, purpose: Purpose) -> Option<&'static str> {
    match purpose {
        Purpose::Enforce if entry.interface.is_none() && entry.cgroup.is_none() => {
            Some("the endpoint is attached to nothing; write `interface: NAME` or `cgroup: PATH`")
        }
        Purpose::Enforce if entry.interface.is_some() && entry.addresses.is_empty() => Some(
            "`addresses` is missing; write the workload's own addresses, what it sends from others is dropped",
        ),
        Purpose::Resolve if entry.addresses.is_empty() => {
            Some("`addresses` is missing; write the addresses the workload asks from, they tell who asks")
        }
        Purpose::Enforce | Purpose::Resolve => None,
    }
}

/// What no two endpoints may share.
fn identities(entry: &Entry, purpose: Purpose) -> Vec<String> {
    let mut identities = vec![format!("the endpoint {}/{}", entry.namespace, entry.name)];
    identities.extend(entry.interface.iter().map(|name| format!("the interface {name}")));
    identities.extend(entry.cgroup.iter().map(|path| format!("the cgroup {}", path.display())));
    if purpose == Purpose::Resolve {
        identities
            .extend(entry.addresses.iter().map(|address| format!("the address {}", address.to_canonical())));
    }
    identities
}

fn draft(entry: Entry, place: Place) -> Draft {
    let mut namespace_labels = entry.namespace_labels;
    namespace_labels.insert(NAMESPACE_NAME.into(), entry.namespace.clone());
    let interface = entry.interface.map(StaticAttachment::Interface);
    let endpoint = StaticEndpoint {
        uid: format!("{}/{}", entry.namespace, entry.name).into(),
        name: entry.name,
        namespace: entry.namespace,
        labels: entry.labels,
        addresses: entry.addresses,
        attachment: interface.or(entry.cgroup.map(StaticAttachment::Cgroup)),
        namespace_labels,
        selected_by: Vec::new(),
        isolation: Isolation::NotIsolated,
        rules: Vec::new(),
    };
    (endpoint, place)
}

fn settings(root: &Node, path: &Path, reader: &mut Reader) -> Settings {
    let Some(node) = root.get("settings") else { return Settings::default() };
    let clean = reader.mistakes.is_empty();
    serde_json::from_value(node.to_json()).unwrap_or_else(|error| {
        if clean {
            reader.mistake(path, node.place, "settings", error.to_string());
        }
        Settings::default()
    })
}

/// Gives each endpoint the rules of the policies that select it.
fn select(drafts: Vec<Draft>, path: &Path, reader: &mut Reader) -> Vec<StaticEndpoint> {
    let policies: Vec<Found> = std::mem::take(&mut reader.policies).into_iter().map(in_namespace).collect();
    let mut used = vec![false; policies.len()];
    let mut endpoints = Vec::with_capacity(drafts.len());
    for (mut endpoint, place) in drafts {
        let workload = Workload {
            namespace: &endpoint.namespace,
            namespace_labels: &endpoint.namespace_labels,
            labels: &endpoint.labels,
            exempt: false,
        };
        let selected: Vec<usize> =
            (0..policies.len()).filter(|at| policies[*at].policy.selects(&workload)).collect();
        selected.iter().for_each(|at| used[*at] = true);
        endpoint.selected_by = selected.iter().map(|at| policies[*at].policy.clone()).collect();
        endpoint.isolation = isolation(&endpoint.selected_by);
        endpoint.rules = endpoint.selected_by.iter().flat_map(|policy| policy.to_rules().rules).collect();
        if selected.is_empty() {
            let message = format!("no policy selects the endpoint {}: it may do everything", endpoint.uid);
            reader.warn(path, place, "", message);
        }
        endpoints.push(endpoint);
    }
    for (found, used) in policies.iter().zip(used) {
        if !used {
            let message = format!("{} selects no endpoint of {}", found.policy.policy_ref(), path.display());
            reader.warn(&found.file, found.place, "", message);
        }
    }
    endpoints
}

/// A policy without a namespace is one of `default`, as an endpoint is.
fn in_namespace(mut found: Found) -> Found {
    if let Policy::Namespaced(policy) = &mut found.policy {
        policy.metadata.namespace.get_or_insert_with(default_namespace);
    }
    found
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
