//! Checks a tree against a schema as the API server would, and finds all that is wrong at once.
//!
//! Stricter than the API server in one point: what it would silently drop (unknown fields, R5) is a mistake.

mod cel;
mod report;
mod schema;

use std::{collections::HashMap, rc::Rc};

pub(crate) use self::report::{missing, nearest};
pub(crate) use self::schema::Schema;
use self::{
    cel::Verdict,
    report::{describe, unknown},
    schema::{Kind, ListType},
};
use crate::{
    Place,
    patterns::{self, Judgement},
    yaml::{self, Node, Value},
};

/// Something wrong at a place of one file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Finding {
    pub(crate) place: Place,
    pub(crate) path: String,
    pub(crate) message: String,
}

/// What a check gives.
#[derive(Debug, Default)]
pub(crate) struct Findings {
    /// What is wrong.
    pub(crate) mistakes: Vec<Finding>,
    /// What the author should know.
    pub(crate) warnings: Vec<Finding>,
}

/// Checks a node that stands at `path`, and puts in place of it what it means (N1).
pub(crate) fn check(node: &mut Node, path: &str, schema: &Schema) -> Findings {
    let mut findings = Findings::default();
    Checker { findings: &mut findings }.node(node, path, schema);
    findings
}

struct Checker<'a> {
    findings: &'a mut Findings,
}

impl Checker<'_> {
    fn wrong(&mut self, place: Place, path: &str, message: impl Into<String>) {
        self.findings.mistakes.push(Finding { place, path: path.into(), message: message.into() });
    }

    fn node(&mut self, node: &mut Node, path: &str, schema: &Schema) {
        let before = self.findings.mistakes.len();
        if let Err(message) = fits(&node.value, schema.kind) {
            return self.wrong(node.place, path, message);
        }
        let place = node.place;
        match &mut node.value {
            Value::Map(entries) => self.map(place, Rc::make_mut(entries).as_mut_slice(), path, schema),
            Value::List(items) => self.list(place, Rc::make_mut(items).as_mut_slice(), path, schema),
            Value::Text(text) => self.text(place, text, path, schema),
            Value::Integer(number) => self.integer(place, *number, path, schema),
            Value::Null | Value::Bool(_) | Value::Float(_) | Value::Ambiguous(..) => {}
        }
        self.rules(node, path, schema, before);
    }

    fn map(&mut self, place: Place, entries: &mut [(yaml::Key, Node)], path: &str, schema: &Schema) {
        for name in &schema.required {
            if !entries.iter().any(|(key, _)| key.text == *name) {
                self.wrong(place, path, missing(name));
            }
        }
        self.count(place, entries.len(), path, schema);
        for (key, node) in entries {
            let path = join(path, &key.text);
            match schema.properties.get(&key.text).or(schema.additional.as_deref()) {
                Some(property) => self.node(node, &path, property),
                None if schema.open || yaml::is_no_key(&key.text) => {}
                None => self.wrong(key.place, &path, unknown(&key.text, schema.properties.keys())),
            }
        }
    }

    fn list(&mut self, place: Place, items: &mut [Node], path: &str, schema: &Schema) {
        self.count(place, items.len(), path, schema);
        if let Some(items_schema) = schema.items.as_deref() {
            for (index, item) in items.iter_mut().enumerate() {
                self.node(item, &format!("{path}[{index}]"), items_schema);
            }
        }
        let identity = |item: &Node| match &schema.list {
            ListType::Atomic => None,
            ListType::Set => item.text().map(str::to_owned),
            ListType::Map(keys) => keys
                .iter()
                .map(|key| item.get(key)?.text().map(str::to_owned))
                .collect::<Option<Vec<_>>>()
                .map(|k| k.join("/")),
        };
        let mut seen: HashMap<String, Place> = HashMap::new();
        for (index, item) in items.iter().enumerate() {
            let Some(identity) = identity(item) else { continue };
            if let Some(first) = seen.get(&identity) {
                let message = format!(
                    "`{identity}` stands here twice, first in line {}; remove or rename one",
                    first.line
                );
                self.wrong(item.place, &format!("{path}[{index}]"), message);
            } else {
                seen.insert(identity, item.place);
            }
        }
    }

    fn count(&mut self, place: Place, count: usize, path: &str, schema: &Schema) {
        let count = count as u64;
        match schema.count {
            (Some(1), _) if count == 0 => self.wrong(place, path, report::empty(path)),
            (Some(least), _) if count < least => {
                self.wrong(place, path, format!("has {count} items; at least {least} are needed"));
            }
            (_, Some(most)) if count > most => {
                self.wrong(
                    place,
                    path,
                    format!("has {count} items; at most {most} are possible, so split it"),
                );
            }
            _ => {}
        }
    }

    fn text(&mut self, place: Place, text: &mut String, path: &str, schema: &Schema) {
        if !schema.allowed.is_empty() && !schema.allowed.contains(text) {
            return self.wrong(place, path, report::not_allowed(text, &schema.allowed));
        }
        let judgement = schema.pattern.as_ref().and_then(|(pattern, _)| patterns::judge(pattern, text));
        match judgement {
            Some(Judgement::Wrong(message)) => return self.wrong(place, path, message),
            Some(Judgement::Means(meant)) => {
                let message = format!("read as `{meant}`; objects in a cluster must say it so");
                self.findings.warnings.push(Finding { place, path: path.into(), message });
                *text = meant;
            }
            Some(Judgement::Fits) | None => {}
        }
        let length = text.chars().count() as u64;
        match schema.length {
            (Some(least), _) if length < least => return self.wrong(place, path, report::too_short(least)),
            (_, Some(most)) if length > most => {
                let message = format!("has {length} characters; at most {most} are possible");
                return self.wrong(place, path, message);
            }
            _ => {}
        }
        if let Some((pattern, regex)) = &schema.pattern
            && !regex.is_match(text)
        {
            self.wrong(
                place,
                path,
                format!("`{}` cannot stand here; {}", text.escape_debug(), patterns::advice(pattern)),
            );
        }
    }

    fn integer(&mut self, place: Place, number: i64, path: &str, schema: &Schema) {
        let (least, most) = schema.range;
        if least.is_some_and(|least| number < least) || most.is_some_and(|most| number > most) {
            let bound = |bound: Option<i64>, word: &str| bound.map(|bound| format!("{word} {bound}"));
            let range =
                [bound(least, "from"), bound(most, "to")].into_iter().flatten().collect::<Vec<_>>().join(" ");
            self.wrong(place, path, format!("{number} cannot stand here; write a number {range}"));
        }
    }

    /// Rules that read what is wrong already say nothing new.
    fn rules(&mut self, node: &Node, path: &str, schema: &Schema, before: usize) {
        if schema.rules.is_empty() {
            return;
        }
        let scope = cel::scope(node, schema);
        for rule in &schema.rules {
            let known = self.findings.mistakes[before..].iter().any(|finding| {
                let rest = finding.path.strip_prefix(path).unwrap_or_default().trim_start_matches('.');
                let field = rest.split(['.', '[']).next().unwrap_or_default();
                // A field nobody knows may be a known one, misspelt.
                field.is_empty() || rule.reads(field) || !schema.properties.contains_key(field)
            });
            let (place, path) = rule.field().map_or_else(
                || (node.place, path.to_owned()),
                |field| (node.get(field).map_or(node.place, |found| found.place), join(path, field)),
            );
            match rule.evaluate(&scope) {
                Verdict::Holds => {}
                Verdict::Fails | Verdict::Unknown(_) if known => {}
                Verdict::Fails | Verdict::Unknown(_) => self.wrong(place, &path, rule.message()),
            }
        }
    }
}

/// Whether a value is of the type, or what to write instead.
fn fits(value: &Value, kind: Kind) -> Result<(), String> {
    let fits = match (kind, value) {
        (Kind::Anything, _)
        | (Kind::Object, Value::Map(_))
        | (Kind::Array, Value::List(_))
        | (Kind::String | Kind::IntegerOrString, Value::Text(_))
        | (Kind::Integer | Kind::IntegerOrString, Value::Integer(_))
        | (Kind::Boolean, Value::Bool(_)) => true,
        (
            Kind::Object | Kind::Array | Kind::String | Kind::Integer | Kind::Boolean | Kind::IntegerOrString,
            _,
        ) => false,
    };
    if fits { Ok(()) } else { Err(describe(value, kind)) }
}

pub(crate) fn join(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
}
