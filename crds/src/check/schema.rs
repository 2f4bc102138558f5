//! A structural schema, made ready for checking.
//!
//! Knows the keywords that our schemas use, and says so when there is one that it does not know.

use std::collections::BTreeMap;

use regex::Regex;
use serde_json::Value;

use super::cel::CelRule;

/// What a node must be.
#[derive(Debug, Default)]
pub(crate) struct Schema {
    pub(super) kind: Kind,
    pub(super) properties: BTreeMap<String, Self>,
    pub(super) required: Vec<String>,
    /// For every other key.
    pub(super) additional: Option<Box<Self>>,
    pub(super) items: Option<Box<Self>>,
    pub(super) default: Option<Value>,
    pub(super) allowed: Vec<String>,
    pub(super) pattern: Option<(String, Regex)>,
    pub(super) length: (Option<u64>, Option<u64>),
    pub(super) count: (Option<u64>, Option<u64>),
    pub(super) range: (Option<i64>, Option<i64>),
    pub(super) list: ListType,
    pub(super) rules: Vec<CelRule>,
    /// Whatever stands there, it is somebody else's.
    pub(super) open: bool,
}

/// The type of a value.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Kind {
    #[default]
    Anything,
    Object,
    Array,
    String,
    Integer,
    Boolean,
    IntegerOrString,
}

/// What makes items of a list the same.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) enum ListType {
    #[default]
    Atomic,
    Set,
    Map(Vec<String>),
}

/// A schema that cannot be checked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the schema has {keyword}: {problem}")]
pub(crate) struct SchemaError {
    keyword: String,
    problem: String,
}

impl Schema {
    /// Reads a schema as the API server has it.
    pub(crate) fn new(json: &Value) -> Result<Self, SchemaError> {
        let mut schema = Self::default();
        for (keyword, value) in json.as_object().into_iter().flatten() {
            schema.set(keyword, value)?;
        }
        Ok(schema)
    }

    /// The same schema with one more property, for what the API server checks by itself.
    pub(crate) fn with(mut self, name: &str, property: Self, required: bool) -> Self {
        if required && !self.required.iter().any(|known| known == name) {
            self.required.push(name.into());
        }
        self.properties.insert(name.into(), property);
        self
    }

    fn set(&mut self, keyword: &str, value: &Value) -> Result<(), SchemaError> {
        let error = |problem: String| SchemaError { keyword: keyword.into(), problem };
        match keyword {
            "description" | "format" => {}
            "type" => self.kind = kind(value).ok_or_else(|| error(format!("unknown type {value}")))?,
            "x-kubernetes-int-or-string" => self.kind = Kind::IntegerOrString,
            "x-kubernetes-preserve-unknown-fields" => self.open = true,
            "properties" => {
                for (name, property) in value.as_object().into_iter().flatten() {
                    self.properties.insert(name.clone(), Self::new(property)?);
                }
            }
            "required" => self.required = strings(value),
            "additionalProperties" => self.additional = Some(Box::new(Self::new(value)?)),
            "items" => self.items = Some(Box::new(Self::new(value)?)),
            "default" => self.default = Some(value.clone()),
            "enum" => self.allowed = strings(value),
            "pattern" => {
                let text = value.as_str().unwrap_or_default();
                let regex = Regex::new(text).map_err(|problem| error(problem.to_string()))?;
                self.pattern = Some((text.into(), regex));
            }
            "minLength" => self.length.0 = value.as_u64(),
            "maxLength" => self.length.1 = value.as_u64(),
            "minItems" | "minProperties" => self.count.0 = value.as_u64(),
            "maxItems" | "maxProperties" => self.count.1 = value.as_u64(),
            "minimum" => self.range.0 = value.as_i64(),
            "maximum" => self.range.1 = value.as_i64(),
            "x-kubernetes-list-type" => match value.as_str() {
                Some("set") => self.list = ListType::Set,
                Some("map") if self.list == ListType::Atomic => self.list = ListType::Map(Vec::new()),
                _ => {}
            },
            "x-kubernetes-list-map-keys" => self.list = ListType::Map(strings(value)),
            "x-kubernetes-validations" => {
                for rule in value.as_array().into_iter().flatten() {
                    self.rules.push(CelRule::new(rule).map_err(error)?);
                }
            }
            _ => return Err(error("this reader does not know the keyword".into())),
        }
        Ok(())
    }
}

fn kind(value: &Value) -> Option<Kind> {
    Some(match value.as_str()? {
        "object" => Kind::Object,
        "array" => Kind::Array,
        "string" => Kind::String,
        "integer" => Kind::Integer,
        "boolean" => Kind::Boolean,
        _ => return None,
    })
}

fn strings(value: &Value) -> Vec<String> {
    value.as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
}
