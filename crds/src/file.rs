//! Reads policy files (SEMANTICS R5, X5): YAML with one or more `EgressPolicy` and `ClusterEgressPolicy` objects, or
//! lists of them.
//!
//! Checks what the API server checks, by the same schema, and more: all mistakes at once, each with its place.

use std::{
    collections::HashMap,
    io::{ErrorKind, Read},
    path::{Path, PathBuf},
    sync::LazyLock,
};

use nameward_policy::{Effect, Pattern, PolicyKind, PolicyRef, Rule, RuleWarning};
use serde::de::DeserializeOwned;
use serde_json::json;

use crate::{
    Mistake, Mistakes, Place, Policy, Warning,
    check::{self, Finding, Schema},
    patterns, schema,
    yaml::{self, Node, Value},
};

/// Largest file in bytes.
pub const MAX_BYTES: usize = yaml::MAX_BYTES;
/// Version of the objects.
pub const API_VERSION: &str = "nameward.io/v1alpha1";

/// A file without mistakes.
#[derive(Clone, Debug, Default)]
pub struct PolicyFile {
    /// Its policies, in their order. At least one.
    pub policies: Vec<Policy>,
    /// What the author should know (N1, N3, N5).
    pub warnings: Vec<Warning>,
}

impl PolicyFile {
    /// The rules of every policy, selectors ignored (X5).
    #[must_use]
    pub fn rules(&self) -> Vec<Rule> {
        self.policies.iter().flat_map(|policy| policy.to_rules().rules).collect()
    }
}

/// Reads the text of a file.
///
/// # Errors
/// All mistakes of the text, in their order.
pub fn read(text: &str, file_name: &Path) -> Result<PolicyFile, Mistakes> {
    let mut reader = Reader::default();
    reader.text(text, file_name);
    if reader.policies.is_empty() && reader.mistakes.is_empty() {
        reader.mistake(
            file_name,
            Place { line: 1, column: 1 },
            "",
            "the file holds no policy; write an EgressPolicy",
        );
    }
    let (policies, warnings) = reader.finish()?;
    Ok(PolicyFile { policies: policies.into_iter().map(|found| found.policy).collect(), warnings })
}

/// Reads a file.
///
/// # Errors
/// All mistakes of the file; one without a line when it cannot be read at all.
pub fn load(path: &Path) -> Result<PolicyFile, Mistakes> {
    load_text(path).and_then(|text| read(&text, path))
}

/// The documents of a text, whatever objects they are, each value with its place.
///
/// # Errors
/// All mistakes of the text itself.
pub fn documents(text: &str, file_name: &Path) -> Result<Vec<Node>, Mistakes> {
    let mut reader = Reader::default();
    let documents = reader.documents(text, file_name);
    reader.finish().map(|_| documents)
}

/// The text of a file.
///
/// # Errors
/// One mistake without a line: it cannot be read, or is no text.
pub fn load_text(path: &Path) -> Result<String, Mistakes> {
    text_of(path).map_err(|message| Mistakes(vec![note(path, Place::default(), "", message)]))
}

/// The text of a file, or why there is none.
pub(crate) fn text_of(path: &Path) -> Result<String, String> {
    let mut bytes = Vec::new();
    // One byte more than is taken tells a file that is too large, also one without an end.
    let limit = yaml::MAX_BYTES as u64 + 1;
    let read = std::fs::File::open(path).and_then(|file| file.take(limit).read_to_end(&mut bytes));
    read.map_err(|error| match error.kind() {
        ErrorKind::IsADirectory => "the file cannot be read: it is a folder; name the files in it".to_owned(),
        _ => format!("the file cannot be read: {error}"),
    })?;
    if bytes.len() > yaml::MAX_BYTES {
        return Err(yaml::too_large());
    }
    String::from_utf8(bytes).map_err(|error| {
        let line = error.as_bytes()[..error.utf8_error().valid_up_to()]
            .iter()
            .filter(|byte| **byte == b'\n')
            .count()
            + 1;
        format!("the file is not UTF-8 text: line {line} holds other bytes")
    })
}

/// A policy and where it stands.
#[derive(Clone, Debug)]
pub(crate) struct Found {
    pub(crate) policy: Policy,
    pub(crate) file: PathBuf,
    pub(crate) place: Place,
}

/// Collects policies and mistakes of one or more files.
#[derive(Debug, Default)]
pub(crate) struct Reader {
    pub(crate) policies: Vec<Found>,
    pub(crate) mistakes: Vec<Mistake>,
    pub(crate) warnings: Vec<Warning>,
    seen: HashMap<PolicyRef, (PathBuf, Place)>,
    /// The text that is read has mistakes of its own: what it would say is not what it says.
    unsound: bool,
}

impl Reader {
    /// Everything, in the order of the files; or all mistakes.
    pub(crate) fn finish(mut self) -> Result<(Vec<Found>, Vec<Warning>), Mistakes> {
        self.mistakes.sort();
        self.mistakes.dedup();
        self.warnings.sort();
        if self.mistakes.is_empty() {
            Ok((self.policies, self.warnings))
        } else {
            Err(Mistakes(self.mistakes))
        }
    }

    pub(crate) fn mistake(&mut self, file: &Path, place: Place, path: &str, message: impl Into<String>) {
        self.mistakes.push(note(file, place, path, message));
    }

    pub(crate) fn warn(&mut self, file: &Path, place: Place, path: &str, message: impl Into<String>) {
        self.warnings.push(note(file, place, path, message));
    }

    pub(crate) fn found(&mut self, file: &Path, findings: check::Findings) {
        let notes = |found: Vec<Finding>| {
            found.into_iter().map(|one| note(file, one.place, &one.path, one.message)).collect::<Vec<_>>()
        };
        self.mistakes.extend(notes(findings.mistakes));
        self.warnings.extend(notes(findings.warnings));
    }

    /// Reads every document of a text.
    pub(crate) fn text(&mut self, text: &str, file: &Path) {
        for mut document in self.documents(text, file) {
            self.object(&mut document, file, "");
        }
    }

    /// The documents of a text; what is wrong with the text itself is noted.
    pub(crate) fn documents(&mut self, text: &str, file: &Path) -> Vec<Node> {
        let (documents, mistakes) = yaml::parse(text);
        self.unsound = !mistakes.is_empty();
        for mistake in mistakes {
            self.mistake(file, mistake.place, "", mistake.message);
        }
        documents
    }

    /// Reads one object, or the items of a list object.
    pub(crate) fn object(&mut self, node: &mut Node, file: &Path, path: &str) {
        let Some(kind) = self.kind(node, file, path) else { return };
        if !matches!(kind.as_str(), "EgressPolicy" | "ClusterEgressPolicy") {
            return self.list(node, file, path);
        }
        let before = self.mistakes.len();
        if kind == "ClusterEgressPolicy"
            && let Some(namespace) = node.get("metadata").and_then(|metadata| metadata.get("namespace"))
        {
            let message = "a ClusterEgressPolicy has no namespace; remove it, or write an EgressPolicy";
            self.mistake(file, namespace.place, &check::join(path, "metadata.namespace"), message);
        }
        self.found(file, check::check(node, path, schema_of(&kind)));
        if self.mistakes.len() == before && !self.unsound {
            self.policy(node, file, path, &kind);
        }
    }

    /// The kind of an object that is read here.
    fn kind(&mut self, node: &Node, file: &Path, path: &str) -> Option<String> {
        if !matches!(node.value, Value::Map(_)) {
            self.mistake(
                file,
                node.place,
                path,
                "this is not an object; write `apiVersion`, `kind`, `metadata` and `spec`",
            );
            return None;
        }
        let mut field = |name: &str| match node.get(name) {
            Some(value) => match value.text() {
                Some(text) => Some((text.to_owned(), value.place)),
                None => {
                    self.mistake(file, value.place, &check::join(path, name), "write a word");
                    None
                }
            },
            None => {
                self.mistake(file, node.place, path, check::missing(name));
                None
            }
        };
        let (version, kind) = (field("apiVersion"), field("kind"));
        let (kind, kind_place) = kind?;
        let ours = ["EgressPolicy", "ClusterEgressPolicy", "EgressPolicyList", "ClusterEgressPolicyList"];
        let expected = if kind == "List" { "v1" } else { API_VERSION };
        if kind != "List" && !ours.contains(&kind.as_str()) {
            let advice = match check::nearest(&kind, ours.into_iter()) {
                Some(near) => format!("did you mean {near}?"),
                None => {
                    "only EgressPolicy and ClusterEgressPolicy are; keep other objects in other files".into()
                }
            };
            self.mistake(
                file,
                kind_place,
                &check::join(path, "kind"),
                format!("`{kind}` is not read here; {advice}"),
            );
            return None;
        }
        if let Some((version, place)) = version
            && version != expected
        {
            let message = format!("`{version}` is not read here; write `{expected}`");
            self.mistake(file, place, &check::join(path, "apiVersion"), message);
        }
        Some(kind)
    }

    fn list(&mut self, node: &mut Node, file: &Path, path: &str) {
        let findings = check::check(node, path, schema_of("List"));
        self.found(file, findings);
        let Value::Map(entries) = &node.value else { return };
        let items = entries.iter().find(|(key, _)| key.text == "items").map(|(_, items)| items.clone());
        for (index, item) in items.iter().flat_map(Node::items).enumerate() {
            self.object(&mut item.clone(), file, &check::join(path, &format!("items[{index}]")));
        }
    }

    /// Takes an object in which the schema finds no mistake.
    fn policy(&mut self, node: &Node, file: &Path, path: &str, kind: &str) {
        let json = node.to_json();
        let policy = match kind {
            "EgressPolicy" => typed(json).map(Policy::Namespaced),
            _ => typed(json).map(Policy::Cluster),
        };
        let policy = match policy {
            Ok(policy) => policy,
            Err(message) => return self.mistake(file, node.place, path, message),
        };
        for problem in policy.to_rules().problems {
            let path = check::join(path, &problem.path);
            self.mistake(file, place_of(node, &problem.path), &path, problem.message);
        }
        let reference = in_namespace(policy.policy_ref());
        if let Some((first_file, first)) = self.seen.get(&reference) {
            let message = format!(
                "{reference} is there twice, first at {}:{}; rename one of them",
                first_file.display(),
                first.line
            );
            self.mistake(file, place_of(node, "metadata.name"), &check::join(path, "metadata.name"), message);
        } else {
            self.seen.insert(reference, (file.to_owned(), node.place));
        }
        self.advise(node, &policy, file, path);
        self.policies.push(Found { policy, file: file.to_owned(), place: node.place });
    }

    /// Warnings of rules, each at its place.
    fn advise(&mut self, node: &Node, policy: &Policy, file: &Path, path: &str) {
        let rules = policy.to_rules().rules;
        let allows = rules.iter().filter(|rule| rule.effect == Effect::Allow);
        for (index, rule) in allows.enumerate() {
            for warning in rule.warnings() {
                let rule_path = format!("spec.egress[{index}]");
                let field = match &warning {
                    RuleWarning::Pattern(_) => self::names(node, &rule_path, &warning),
                    RuleWarning::Services => format!("{rule_path}.to"),
                    RuleWarning::DirectDns => format!("{rule_path}.ports"),
                };
                self.warn(file, place_of(node, &field), &check::join(path, &field), warning.to_string());
            }
        }
    }
}

/// Without a namespace, a policy is one of `default`.
fn in_namespace(policy: PolicyRef) -> PolicyRef {
    match (policy.kind, &*policy.namespace) {
        (PolicyKind::EgressPolicy, "") => PolicyRef { namespace: "default".into(), ..policy },
        _ => policy,
    }
}

/// The field of the pattern that a warning is about.
fn names(node: &Node, rule_path: &str, warning: &RuleWarning) -> String {
    let to = format!("{rule_path}.to");
    let peers = find(node, &to).map(Node::items).unwrap_or_default();
    for (peer_index, peer) in peers.iter().enumerate() {
        let names = peer.get("domainNames").map(Node::items).unwrap_or_default();
        for (index, name) in names.iter().enumerate() {
            let pattern = name.text().and_then(|text| Pattern::parse(text).ok());
            let warned = pattern.is_some_and(|pattern| {
                pattern.warnings().into_iter().any(|one| RuleWarning::Pattern(one) == *warning)
            });
            if warned {
                return format!("{to}[{peer_index}].domainNames[{index}]");
            }
        }
    }
    to
}

fn note(file: &Path, place: Place, path: &str, message: impl Into<String>) -> Mistake {
    Mistake {
        file: file.into(),
        line: place.line,
        column: place.column,
        path: path.into(),
        message: message.into(),
    }
}

fn typed<T: DeserializeOwned>(json: serde_json::Value) -> Result<T, String> {
    serde_json::from_value(json).map_err(|error| error.to_string())
}

/// The node at a path like `spec.egress[0].to`.
fn find<'a>(node: &'a Node, path: &str) -> Option<&'a Node> {
    path.split('.').try_fold(node, |node, step| {
        let (field, index) = step.split_once('[').unwrap_or((step, ""));
        let node = node.get(field)?;
        match index.trim_end_matches(']') {
            "" => Some(node),
            index => node.items().get(index.parse::<usize>().ok()?),
        }
    })
}

/// Where a field stands, or what is nearest above it.
fn place_of(node: &Node, path: &str) -> Place {
    let mut path = path;
    loop {
        match (find(node, path), path.rsplit_once('.')) {
            (Some(found), _) => return found.place,
            (None, Some((above, _))) => path = above,
            (None, None) => return node.place,
        }
    }
}

/// What an object of a kind must be. Each is made when it is first asked for.
fn schema_of(kind: &str) -> &'static Schema {
    static NAMESPACED: LazyLock<Schema> = LazyLock::new(|| object_schema("EgressPolicy"));
    static CLUSTER: LazyLock<Schema> = LazyLock::new(|| object_schema("ClusterEgressPolicy"));
    static LIST: LazyLock<Schema> = LazyLock::new(|| {
        own(&json!({
            "type": "object",
            "required": ["items"],
            "properties": {
                "apiVersion": {}, "kind": {},
                "metadata": { "type": "object", "x-kubernetes-preserve-unknown-fields": true },
                "items": { "type": "array" },
            },
        }))
    });
    match kind {
        "EgressPolicy" => &NAMESPACED,
        "ClusterEgressPolicy" => &CLUSTER,
        _ => &LIST,
    }
}

/// A whole object: the definition's schema, and what the API server itself adds to it.
fn object_schema(kind: &str) -> Schema {
    let definition = schema::definitions().iter().find(|definition| definition.kind == kind);
    let schema = definition.map(|definition| own(definition.schema())).unwrap_or_default();
    schema
        .with("apiVersion", own(&json!({ "type": "string" })), true)
        .with("kind", own(&json!({ "type": "string" })), true)
        .with("metadata", metadata_schema(kind), true)
}

fn metadata_schema(kind: &str) -> Schema {
    let anything = json!({ "x-kubernetes-preserve-unknown-fields": true });
    let texts = json!({ "type": "object", "additionalProperties": { "type": "string" } });
    let mut properties = json!({
        "name": { "type": "string", "pattern": patterns::OBJECT_NAME, "maxLength": 253 },
        "namespace": { "type": "string", "pattern": patterns::LABEL, "maxLength": 63 },
        "labels": texts, "annotations": texts,
    });
    if kind == "ClusterEgressPolicy" {
        // Refused elsewhere, with better words.
        properties["namespace"] = anything.clone();
    }
    // What `kubectl get -o yaml` writes.
    for field in [
        "creationTimestamp",
        "deletionGracePeriodSeconds",
        "deletionTimestamp",
        "finalizers",
        "generation",
        "managedFields",
        "ownerReferences",
        "resourceVersion",
        "selfLink",
        "uid",
    ] {
        properties[field] = anything.clone();
    }
    own(&json!({ "type": "object", "required": ["name"], "properties": properties }))
}

/// A schema of this crate; tests read every one of them.
pub(crate) fn own(json: &serde_json::Value) -> Schema {
    Schema::new(json).unwrap_or_else(|error| unreachable!("a schema of this crate cannot be read: {error}"))
}
