//! The schema's CEL rules, evaluated as the API server does.
//!
//! The language comes from a library; the functions that Kubernetes adds to it and our rules use are here:
//! `isCIDR`, `cidr`, `masked`, `containsCIDR`. A block is its text in canonical form.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, LazyLock, Mutex, PoisonError},
};

use cel::{Context, Env, ExecutionError, Program, Value, extractors::This};
use ipnet::IpNet;

use super::schema::Schema;
use crate::{patterns, yaml};

/// A rule of `x-kubernetes-validations`.
#[derive(Debug)]
pub(crate) struct CelRule {
    text: String,
    message: String,
    field: Option<String>,
    program: Arc<Program>,
}

/// What a rule says of a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It holds.
    Holds,
    /// It does not.
    Fails,
    /// It cannot be evaluated: something it reads is not what the schema says.
    Unknown(String),
}

impl CelRule {
    pub(super) fn new(json: &serde_json::Value) -> Result<Self, String> {
        let text = json["rule"].as_str().unwrap_or_default().to_owned();
        let message = json["message"].as_str().map_or_else(|| format!("`{text}` must hold"), str::to_owned);
        let program = compiled(&text)?;
        let field = json["fieldPath"].as_str().map(|path| path.trim_start_matches('.').to_owned());
        Ok(Self { text, message, field, program })
    }

    /// What to tell the author.
    pub(super) fn message(&self) -> &str {
        &self.message
    }

    /// The field that the rule is about, when it is about one.
    pub(super) fn field(&self) -> Option<&str> {
        self.field.as_deref()
    }

    /// Whether the rule reads a field of the value.
    pub(super) fn reads(&self, field: &str) -> bool {
        self.text.match_indices("self.").any(|(at, prefix)| {
            let rest = &self.text[at + prefix.len()..];
            rest.strip_prefix(field)
                .is_some_and(|rest| !rest.starts_with(|c: char| c.is_ascii_alphanumeric()))
        })
    }

    /// Evaluates the rule with `self` in the context.
    pub(super) fn evaluate(&self, context: &Context<'_, '_>) -> Verdict {
        match self.program.execute(context) {
            Ok(Value::Bool(true)) => Verdict::Holds,
            Ok(Value::Bool(false)) => Verdict::Fails,
            Ok(other) => Verdict::Unknown(format!("{other:?}")),
            Err(error) => Verdict::Unknown(error.to_string()),
        }
    }
}

/// The program of a rule. Most rules stand in several places of a schema, and compiling is what takes time.
fn compiled(text: &str) -> Result<Arc<Program>, String> {
    static PROGRAMS: Mutex<BTreeMap<String, Arc<Program>>> = Mutex::new(BTreeMap::new());
    let mut programs = PROGRAMS.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(program) = programs.get(text) {
        return Ok(program.clone());
    }
    let program = Arc::new(environment().compile(text).map_err(|error| error.to_string())?);
    programs.insert(text.to_owned(), program.clone());
    Ok(program)
}

fn environment() -> Arc<Env> {
    static ENVIRONMENT: LazyLock<Arc<Env>> = LazyLock::new(|| Arc::new(Env::stdlib()));
    ENVIRONMENT.clone()
}

/// The functions of Kubernetes.
static ROOT: LazyLock<Context<'static, 'static>> = LazyLock::new(root);

fn root() -> Context<'static, 'static> {
    let mut context = Context::with_env(environment());
    let functions = [
        context.add_function("isCIDR", |text: Arc<String>| patterns::any_cidr(&text).is_some()),
        context.add_function("cidr", |text: Arc<String>| block(&text).map(text_of)),
        context.add_function("masked", |This(text): This<Arc<String>>| {
            block(&text).map(|net| text_of(net.trunc()))
        }),
        context.add_function("containsCIDR", |This(outer): This<Arc<String>>, inner: Arc<String>| {
            Ok::<bool, ExecutionError>(block(&outer)?.contains(&block(&inner)?))
        }),
    ];
    // A name that is taken would leave out ours, and every rule that needs it would fail: tests see it.
    debug_assert!(functions.iter().all(Result::is_ok), "{functions:?}");
    context
}

/// A scope in which `self` is the value, defaults filled in.
pub(super) fn scope(node: &yaml::Node, schema: &Schema) -> Context<'static, 'static> {
    let mut scope = ROOT.new_inner_scope();
    scope.add_variable_from_value("self", value(node, schema));
    scope
}

fn block(text: &str) -> Result<IpNet, ExecutionError> {
    patterns::any_cidr(text).ok_or_else(|| {
        ExecutionError::function_error("cidr", format!("`{text}` is not a block of addresses"))
    })
}

fn text_of(net: IpNet) -> Value {
    Value::String(Arc::new(net.to_string()))
}

fn value(node: &yaml::Node, schema: &Schema) -> Value {
    match &node.value {
        yaml::Value::Null => Value::Null,
        yaml::Value::Bool(truth) => Value::Bool(*truth),
        yaml::Value::Integer(number) => Value::Int(*number),
        yaml::Value::Float(number) => Value::Float(*number),
        yaml::Value::Text(text) | yaml::Value::Ambiguous(text, _) => Value::String(Arc::new(text.clone())),
        yaml::Value::List(items) => {
            let nothing = Schema::default();
            let schema = schema.items.as_deref().unwrap_or(&nothing);
            Value::List(Arc::new(items.iter().map(|item| value(item, schema)).collect()))
        }
        yaml::Value::Map(entries) => map(entries, schema),
    }
}

fn map(entries: &[(yaml::Key, yaml::Node)], schema: &Schema) -> Value {
    let nothing = Schema::default();
    let mut fields: HashMap<String, Value> = HashMap::with_capacity(entries.len());
    for (name, property) in &schema.properties {
        if let Some(default) = &property.default {
            fields.insert(name.clone(), cel::to_value(default).unwrap_or(Value::Null));
        }
    }
    for (key, node) in entries {
        let schema = schema.properties.get(&key.text).or(schema.additional.as_deref()).unwrap_or(&nothing);
        fields.insert(key.text.clone(), value(node, schema));
    }
    fields.into()
}
