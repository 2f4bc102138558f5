//! A value of a document with its place and its path, and readers that note what they cannot read instead of guessing.

use nameward_crds::{Node, Place, Value};

use super::notes::Notes;

/// A value, where it stands and how it is reached.
#[derive(Clone, Debug)]
pub(super) struct At<'a> {
    pub(super) node: &'a Node,
    /// Like `spec.egress[0].toPorts`; empty for the whole document.
    pub(super) path: String,
}

impl<'a> At<'a> {
    /// A whole document.
    pub(super) const fn root(node: &'a Node) -> Self {
        Self { node, path: String::new() }
    }

    pub(super) const fn place(&self) -> Place {
        self.node.place
    }

    /// A field that has a value: `null` says as little as nothing.
    pub(super) fn get(&self, key: &str) -> Option<Self> {
        let node = self.node.get(key)?;
        (!matches!(node.value, Value::Null)).then(|| Self { node, path: join(&self.path, key) })
    }

    /// Whether a field has a value other than an empty mapping or list.
    pub(super) fn says(&self, key: &str) -> bool {
        self.get(key).is_some_and(|at| match &at.node.value {
            Value::List(items) => !items.is_empty(),
            Value::Map(entries) => !entries.is_empty(),
            _ => true,
        })
    }

    /// Whether a field has a value other than an empty list; what is no list counts, and is noted when it is read.
    pub(super) fn lists(&self, key: &str) -> bool {
        self.get(key).is_some_and(|at| !matches!(&at.node.value, Value::List(items) if items.is_empty()))
    }

    /// The items of a list.
    pub(super) fn items(&self, notes: &mut Notes) -> Vec<Self> {
        if !matches!(self.node.value, Value::List(_)) {
            notes.left(self, "a list is expected here (`- item`), so nothing is known of it");
        }
        let item = |(index, node): (usize, &'a Node)| Self { node, path: format!("{}[{index}]", self.path) };
        self.node.items().iter().enumerate().map(item).collect()
    }

    /// The items of a field's list; none without the field.
    pub(super) fn list(&self, key: &str, notes: &mut Notes) -> Vec<Self> {
        self.get(key).map(|at| at.items(notes)).unwrap_or_default()
    }

    /// A text.
    pub(super) fn text(&self, notes: &mut Notes) -> Option<&'a str> {
        let text = self.node.text();
        if text.is_none() {
            notes.left(self, "a text is expected here; numbers, `yes`, `no` and the like stand in quotes");
        }
        text
    }

    /// The texts of a field's list, each with its place; what is no text is noted.
    pub(super) fn texts(&self, key: &str, notes: &mut Notes) -> Vec<(Self, &'a str)> {
        let items = self.list(key, notes);
        items.into_iter().filter_map(|at| at.text(notes).map(|text| (at, text))).collect()
    }

    /// A field's text; empty without the field, or when it is no text.
    pub(super) fn word(&self, key: &str) -> &'a str {
        self.node.get(key).and_then(Node::text).unwrap_or_default()
    }

    /// A field's text where leaving it out means something, too: `None` is noted.
    pub(super) fn optional(&self, key: &str, notes: &mut Notes) -> Option<&'a str> {
        self.get(key).map_or(Some(""), |at| at.text(notes))
    }

    /// A port, as a number or in quotes.
    pub(super) fn port(&self, notes: &mut Notes) -> Option<u16> {
        let port = match &self.node.value {
            Value::Integer(number) => u16::try_from(*number).ok(),
            Value::Text(text) => text.parse().ok(),
            _ => None,
        };
        let port = port.filter(|port| *port > 0);
        if port.is_none() {
            notes.left(self, "this is no port; here ports are numbers from 1 to 65535");
        }
        port
    }

    /// Whether it has no other fields than these. What others mean is not known, and they may narrow what they stand in.
    pub(super) fn only(&self, known: &[&str], notes: &mut Notes) -> bool {
        let Value::Map(entries) = &self.node.value else {
            notes.left(self, "fields are expected here (`key: value`), so nothing is known of it");
            return false;
        };
        let mut all_known = true;
        for (key, node) in entries.iter() {
            if known.contains(&key.text.as_str()) || matches!(node.value, Value::Null) {
                continue;
            }
            all_known = false;
            let reason = "what this field means is not known, and it may narrow what it stands in";
            notes.left_at(key.place, join(&self.path, &key.text), reason);
        }
        all_known
    }
}

fn join(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
}
