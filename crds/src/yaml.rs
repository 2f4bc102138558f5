//! YAML as a tree in which everything knows its place.
//!
//! Reads what clusters' tools read: plain scalars that YAML 1.1 takes for something else than YAML 1.2 (`no`, `0123`)
//! are kept apart, so that nobody is surprised in a cluster. Size, depth and what aliases unfold to are bounded.

use std::{collections::HashMap, rc::Rc};

use saphyr_parser::{Event, Marker, Parser, ScalarStyle, Span, Tag};

use crate::Place;

/// Largest file in bytes.
pub(crate) const MAX_BYTES: usize = 4 << 20;
/// Deepest nesting.
const MAX_DEPTH: usize = 48;
/// Most values in a file, each use of an alias counted in full.
const MAX_NODES: usize = 400_000;

/// Most stars without quotes after which a text is read on; each costs a reading.
const MAX_STARS: usize = 32;

const UNKNOWN_ALIAS: &str = "this alias names nothing that stands whole before it in its document";

/// A value and where it stands.
#[derive(Clone, Debug)]
pub struct Node {
    /// Where it begins; of an alias, where the alias stands.
    pub place: Place,
    /// What it is.
    pub value: Value,
    /// How many nodes it has, itself included.
    weight: usize,
}

/// What stands there.
#[derive(Clone, Debug)]
pub enum Value {
    /// Nothing.
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// A whole number.
    Integer(i64),
    /// Another number.
    Float(f64),
    /// A text.
    Text(String),
    /// A plain scalar that YAML 1.1 and 1.2 read differently: the text, and what 1.1 takes it for.
    Ambiguous(String, &'static str),
    /// A list.
    List(Rc<Vec<Node>>),
    /// A mapping, in the order of the text.
    Map(Rc<Vec<(Key, Node)>>),
}

/// The key of an entry.
#[derive(Clone, Debug)]
pub struct Key {
    /// Where it stands.
    pub place: Place,
    /// Its text.
    pub text: String,
}

/// A mistake of the text itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct YamlMistake {
    pub(crate) place: Place,
    pub(crate) message: String,
}

/// A text of one document as JSON, for files of others than policies.
///
/// # Errors
/// `LINE:COLUMN: message` for each mistake, a line each.
pub fn from_yaml(text: &str) -> Result<serde_json::Value, String> {
    let (documents, mistakes) = parse(text);
    let line = |place: Place, message: &str| format!("{}:{}: {message}", place.line, place.column);
    match (documents.as_slice(), mistakes.as_slice()) {
        ([one], []) => Ok(one.to_json()),
        ([], []) => Err("1:1: the file is empty".into()),
        (documents, []) => {
            Err(line(documents[1].place, "one document is expected; remove the `---` before this one"))
        }
        (_, mistakes) => {
            let lines = mistakes.iter().map(|mistake| line(mistake.place, &mistake.message));
            Err(lines.collect::<Vec<_>>().join("\n"))
        }
    }
}

impl Node {
    fn new(place: Place, value: Value) -> Self {
        let weight = 1 + match &value {
            Value::List(items) => items.iter().map(|item| item.weight).sum(),
            Value::Map(entries) => entries.iter().map(|(_, value)| value.weight).sum(),
            Value::Null
            | Value::Bool(_)
            | Value::Integer(_)
            | Value::Float(_)
            | Value::Text(_)
            | Value::Ambiguous(..) => 0,
        };
        Self { place, value, weight }
    }

    /// The entries of a mapping.
    #[must_use]
    pub fn entries(&self) -> &[(Key, Self)] {
        if let Value::Map(entries) = &self.value { entries } else { &[] }
    }

    /// The items of a list.
    #[must_use]
    pub fn items(&self) -> &[Self] {
        if let Value::List(items) = &self.value { items } else { &[] }
    }

    /// A field of a mapping.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&Self> {
        self.entries().iter().find(|(own, _)| own.text == key).map(|(_, value)| value)
    }

    /// The text of a string.
    #[must_use]
    pub fn text(&self) -> Option<&str> {
        if let Value::Text(text) = &self.value { Some(text) } else { None }
    }

    /// As JSON.
    #[must_use]
    pub fn to_json(&self) -> serde_json::Value {
        match &self.value {
            Value::Null => serde_json::Value::Null,
            Value::Bool(truth) => (*truth).into(),
            Value::Integer(number) => (*number).into(),
            Value::Float(number) => (*number).into(),
            Value::Text(text) | Value::Ambiguous(text, _) => text.clone().into(),
            Value::List(items) => items.iter().map(Self::to_json).collect(),
            Value::Map(entries) => entries
                .iter()
                .map(|(key, value)| (key.text.clone(), value.to_json()))
                .collect::<serde_json::Map<_, _>>()
                .into(),
        }
    }
}

/// The documents of a text that could be read, and what is wrong with the text. A document without content is left
/// out.
pub(crate) fn parse(text: &str) -> (Vec<Node>, Vec<YamlMistake>) {
    if text.len() > MAX_BYTES {
        let place = Place { line: 1, column: 1 };
        return (Vec::new(), vec![YamlMistake { place, message: too_large() }]);
    }
    let mut text = text.strip_prefix('\u{feff}').unwrap_or(text).to_owned();
    let mut stars = Vec::new();
    loop {
        let mut builder = Builder::default();
        let Err(error) = builder.read(&text) else { return builder.finished(stars) };
        let star = (stars.len() < MAX_STARS).then(|| unquoted_star(&mut text, error.place)).flatten();
        match star {
            Some(mistake) => stars.push(mistake),
            None => {
                builder.mistakes.push(error);
                return builder.finished(stars);
            }
        }
    }
}

/// What is said of a text that is larger than [`MAX_BYTES`].
pub(crate) fn too_large() -> String {
    format!("the file has more than {} MiB; split it", MAX_BYTES >> 20)
}

/// A star without quotes begins an alias, so `*.example.com` ends the reading. To read on it becomes a letter.
fn unquoted_star(text: &mut String, place: Place) -> Option<YamlMistake> {
    let line_start: usize = text.split_inclusive('\n').take(place.line.checked_sub(1)?).map(str::len).sum();
    let (offset, _) = text.get(line_start..)?.char_indices().nth(place.column - 1)?;
    let start = line_start + offset;
    let rest = text.get(start..)?.strip_prefix('*')?;
    let rest: String = rest.chars().take_while(|c| !c.is_whitespace() && !",[]{}".contains(*c)).collect();
    if !rest.is_empty() && !rest.starts_with('.') {
        return None;
    }
    text.replace_range(start..=start, "x");
    let message = format!("`*{rest}` must stand in quotes: \"*{rest}\"; without them a star begins an alias");
    Some(YamlMistake { place, message })
}

fn syntax(info: &str) -> String {
    match info.contains("unknown anchor") {
        true => UNKNOWN_ALIAS.to_owned(),
        false => format!("this is not YAML: {info}"),
    }
}

fn place(marker: Marker) -> Place {
    Place { line: marker.line(), column: marker.col() + 1 }
}

/// A collection that is not complete.
#[derive(Debug)]
struct Open {
    place: Place,
    anchor: usize,
    kind: OpenKind,
}

#[derive(Debug)]
enum OpenKind {
    List(Vec<Node>),
    Map { entries: Vec<(Key, Node)>, seen: HashMap<String, Place>, key: Option<Key> },
}

#[derive(Debug, Default)]
struct Builder {
    documents: Vec<Node>,
    mistakes: Vec<YamlMistake>,
    open: Vec<Open>,
    anchors: HashMap<usize, Node>,
    nodes: usize,
}

impl Builder {
    /// Reads up to the first mistake of the text itself: what follows it cannot be told apart reliably.
    fn read(&mut self, text: &str) -> Result<(), YamlMistake> {
        for event in Parser::new_from_str(text) {
            let (event, span) = event.map_err(|error| YamlMistake {
                place: place(*error.marker()),
                message: syntax(error.info()),
            })?;
            self.take(event, span)?;
        }
        Ok(())
    }

    fn finished(mut self, stars: Vec<YamlMistake>) -> (Vec<Node>, Vec<YamlMistake>) {
        self.mistakes.extend(stars);
        (self.documents, self.mistakes)
    }

    fn take(&mut self, event: Event<'_>, span: Span) -> Result<(), YamlMistake> {
        let at = place(span.start);
        match event {
            Event::Nothing | Event::StreamStart | Event::StreamEnd | Event::DocumentEnd => Ok(()),
            Event::DocumentStart(_) => {
                self.anchors.clear();
                Ok(())
            }
            Event::Alias(anchor) => self.alias(anchor, at),
            Event::Scalar(text, style, anchor, tag) => {
                let value = scalar(text.into_owned(), style, tag.as_deref());
                let value = value.map_err(|message| YamlMistake { place: at, message })?;
                self.finish(Node::new(at, value), anchor)
            }
            Event::SequenceStart(_, Some(tag)) | Event::MappingStart(_, Some(tag)) if !is_core(&tag) => {
                Err(YamlMistake { place: at, message: unknown_tag(&tag) })
            }
            Event::SequenceStart(anchor, _) => self.begin(at, anchor, OpenKind::List(Vec::new())),
            Event::MappingStart(anchor, _) => {
                self.begin(at, anchor, OpenKind::Map { entries: Vec::new(), seen: HashMap::new(), key: None })
            }
            Event::SequenceEnd | Event::MappingEnd => self.end(),
        }
    }

    fn begin(&mut self, place: Place, anchor: usize, kind: OpenKind) -> Result<(), YamlMistake> {
        if self.open.len() >= MAX_DEPTH {
            let message = format!("this is nested more than {MAX_DEPTH} levels deep; no policy is");
            return Err(YamlMistake { place, message });
        }
        self.open.push(Open { place, anchor, kind });
        Ok(())
    }

    fn end(&mut self) -> Result<(), YamlMistake> {
        let Some(open) = self.open.pop() else { return Ok(()) };
        let value = match open.kind {
            OpenKind::List(items) => Value::List(Rc::new(items)),
            OpenKind::Map { entries, .. } => Value::Map(Rc::new(entries)),
        };
        self.finish(Node::new(open.place, value), open.anchor)
    }

    fn alias(&mut self, anchor: usize, at: Place) -> Result<(), YamlMistake> {
        let Some(node) = self.anchors.get(&anchor) else {
            return Err(YamlMistake { place: at, message: UNKNOWN_ALIAS.into() });
        };
        let copy = Node { place: at, ..node.clone() };
        self.nodes += copy.weight - 1;
        self.finish(copy, 0)
    }

    /// Puts a complete node where it belongs.
    fn finish(&mut self, node: Node, anchor: usize) -> Result<(), YamlMistake> {
        self.nodes += 1;
        if self.nodes > MAX_NODES {
            let message = format!("the file holds more than {MAX_NODES} values, aliases unfolded; split it");
            return Err(YamlMistake { place: node.place, message });
        }
        if anchor > 0 {
            self.anchors.insert(anchor, node.clone());
        }
        match self.open.last_mut().map(|open| &mut open.kind) {
            None => {
                if !matches!(node.value, Value::Null) {
                    self.documents.push(node);
                }
            }
            Some(OpenKind::List(items)) => items.push(node),
            Some(OpenKind::Map { entries, seen, key }) => match key.take() {
                Some(key) => entries.push((key, node)),
                None => *key = Some(key_of(node, seen, &mut self.mistakes)),
            },
        }
        Ok(())
    }
}

/// Whether a key has its mistake already.
pub(crate) fn is_no_key(text: &str) -> bool {
    text == "<<"
}

fn key_of(node: Node, seen: &mut HashMap<String, Place>, mistakes: &mut Vec<YamlMistake>) -> Key {
    let place = node.place;
    let text = match node.value {
        Value::Text(text) | Value::Ambiguous(text, _) => text,
        Value::Bool(truth) => truth.to_string(),
        Value::Integer(number) => number.to_string(),
        Value::Float(number) => number.to_string(),
        Value::Null | Value::List(_) | Value::Map(_) => {
            mistakes.push(YamlMistake { place, message: "a key must be a word; write `key: value`".into() });
            return Key { place, text: String::new() };
        }
    };
    if is_no_key(&text) {
        let message = "merge keys are not read; write the fields, or an alias for a whole value".into();
        mistakes.push(YamlMistake { place, message });
    }
    match seen.get(&text) {
        Some(first) => {
            let message =
                format!("`{text}` stands here twice, first in line {}; remove one of them", first.line);
            mistakes.push(YamlMistake { place, message });
        }
        None => {
            seen.insert(text.clone(), place);
        }
    }
    Key { place, text }
}

/// Only the tags that say what is read anyway are taken.
fn scalar(text: String, style: ScalarStyle, tag: Option<&Tag>) -> Result<Value, String> {
    match tag {
        Some(tag) if tag.is_yaml_core_schema() && tag.suffix == "str" => Ok(Value::Text(text)),
        Some(tag) if !is_core(tag) => Err(unknown_tag(tag)),
        Some(_) | None if style == ScalarStyle::Plain => Ok(plain(text)),
        Some(_) | None => Ok(Value::Text(text)),
    }
}

fn is_core(tag: &Tag) -> bool {
    tag.is_yaml_core_schema()
        && matches!(tag.suffix.as_str(), "int" | "bool" | "float" | "null" | "seq" | "map")
}

fn unknown_tag(tag: &Tag) -> String {
    format!("the tag `{tag}` is not read; remove it")
}

/// What a plain scalar is.
fn plain(text: String) -> Value {
    match text.as_str() {
        "" | "~" | "null" | "Null" | "NULL" => return Value::Null,
        "true" | "True" | "TRUE" => return Value::Bool(true),
        "false" | "False" | "FALSE" => return Value::Bool(false),
        _ => {}
    }
    let lower = text.to_ascii_lowercase();
    if matches!(lower.as_str(), "yes" | "no" | "on" | "off" | "y" | "n") {
        return Value::Ambiguous(text, "a boolean");
    }
    let digits = lower.trim_start_matches(['+', '-']);
    if !digits.starts_with(|first: char| first.is_ascii_digit() || first == '.') {
        return Value::Text(text);
    }
    number(&text, digits).unwrap_or(Value::Text(text))
}

fn number(text: &str, digits: &str) -> Option<Value> {
    let decimal = digits.bytes().all(|digit| digit.is_ascii_digit());
    if decimal && (digits == "0" || !digits.starts_with('0')) {
        return Some(text.parse().map_or_else(|_| float(text), Value::Integer));
    }
    let prefixed = ["0x", "0o", "0b"].iter().any(|prefix| digits.starts_with(prefix));
    let underscored =
        digits.contains('_') && digits.bytes().all(|digit| digit.is_ascii_digit() || digit == b'_');
    if decimal || prefixed || underscored {
        return Some(Value::Ambiguous(text.to_owned(), "a number"));
    }
    let float_like = digits.bytes().all(|byte| byte.is_ascii_digit() || b".e+-".contains(&byte));
    (float_like && text.parse::<f64>().is_ok()).then(|| float(text))
}

fn float(text: &str) -> Value {
    text.parse().map_or_else(|_| Value::Text(text.to_owned()), Value::Float)
}
