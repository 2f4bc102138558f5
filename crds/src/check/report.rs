//! The words for what is wrong: what was found, and what to write.

use super::schema::Kind;
use crate::yaml::Value;

/// Something of another type than the schema says.
pub(super) fn describe(value: &Value, kind: Kind) -> String {
    let wanted = match kind {
        Kind::Anything => "anything",
        Kind::Object => "fields (`key: value`)",
        Kind::Array => "a list (`- item`)",
        Kind::String => "a text",
        Kind::Integer => "a whole number",
        Kind::Boolean => "`true` or `false`",
        Kind::IntegerOrString => "a word or a number",
    };
    let text = matches!(kind, Kind::String | Kind::IntegerOrString);
    match value {
        Value::Null => format!("has no value; write {wanted}, or remove the field"),
        Value::Bool(found) if text => quoted(&found.to_string(), "a boolean"),
        Value::Integer(found) if text => quoted(&found.to_string(), "a number"),
        Value::Float(found) if text => quoted(&found.to_string(), "a number"),
        Value::Ambiguous(found, taken_for) if text => quoted(found, taken_for),
        Value::Ambiguous(found, _) if kind == Kind::Boolean => {
            let meant = matches!(found.to_ascii_lowercase().as_str(), "yes" | "on" | "y");
            format!("`{found}` is not a boolean everywhere; write `{meant}`")
        }
        Value::Ambiguous(found, _) => format!("`{found}` is not read alike everywhere; write {wanted}"),
        Value::Bool(found) => format!("`{found}` cannot stand here; write {wanted}"),
        Value::Integer(found) => format!("`{found}` cannot stand here; write {wanted}"),
        Value::Float(found) => format!("`{found}` cannot stand here; write {wanted}"),
        Value::Text(found) => match found.parse::<i64>() {
            Ok(number) if kind == Kind::Integer => format!("`{number}` must stand without quotes"),
            _ if kind == Kind::Boolean && matches!(found.as_str(), "true" | "false") => {
                format!("`{found}` must stand without quotes")
            }
            _ => format!("`{}` cannot stand here; write {wanted}", shorten(found)),
        },
        Value::List(_) => format!("a list cannot stand here; write {wanted}"),
        Value::Map(_) => format!("fields cannot stand here; write {wanted}"),
    }
}

fn quoted(found: &str, taken_for: &str) -> String {
    format!("`{found}` without quotes is {taken_for}; write \"{found}\"")
}

fn shorten(text: &str) -> String {
    let short: String = text.escape_debug().take(60).collect();
    if short.len() < text.len() { format!("{short}...") } else { short }
}

/// A field that must be there.
pub(crate) fn missing(field: &str) -> String {
    let advice = match field {
        "ports" => "write them, or `ports: [{protocol: Any}]` to mean every port of every protocol",
        "podSelector" => "write `podSelector: {}` to mean the whole namespace",
        "namespaceSelector" => "write `namespaceSelector: {}` to mean every namespace",
        "subject" => "write `subject: {namespaceSelector: {}}` to mean every workload",
        "egress" => "write the rules, or `egress: []` to allow nothing",
        "to" => "write where to, like `to: [{domainNames: [\"example.com\"]}]`",
        "name" => "name it with lower-case letters, digits and dashes",
        "protocol" => "write TCP, UDP, SCTP, ICMPEcho, a protocol number or Any",
        "cidr" => "write a block of addresses like `198.51.100.0/24`",
        "timeZone" => "write an IANA name like `Europe/Berlin` or `UTC`",
        "addresses" => "write the workload's own addresses",
        "apiVersion" => "write `apiVersion: nameward.io/v1alpha1`",
        "kind" => "write `kind: EgressPolicy` or `kind: ClusterEgressPolicy`",
        "metadata" => "write `metadata: {name: NAME}`",
        "spec" => "write what the policy says",
        _ => return format!("`{field}` is missing"),
    };
    format!("`{field}` is missing; {advice}")
}

/// A list that means nothing (R5).
pub(super) fn empty(path: &str) -> String {
    let field = path.rsplit('.').next().unwrap_or(path);
    match field {
        "ports" => "an empty list means no port; write `[{protocol: Any}]` to mean every port".to_owned(),
        "to" | "domainNames" | "cluster" => {
            "an empty list means nothing; write destinations, or remove it".to_owned()
        }
        _ => "an empty list means nothing; write something, or remove it".to_owned(),
    }
}

/// A text below its least length.
pub(super) fn too_short(least: u64) -> String {
    match least {
        1 => "is empty; write something".to_owned(),
        _ => format!("is too short; at least {least} characters are needed"),
    }
}

/// A word that is none of those possible.
pub(super) fn not_allowed(text: &str, allowed: &[String]) -> String {
    let near = nearest(text, allowed.iter().map(String::as_str));
    let all = allowed.join(", ");
    match near {
        Some(near) => format!("`{}` cannot stand here; did you mean {near}? Possible: {all}", shorten(text)),
        None => format!("`{}` cannot stand here; write one of {all}", shorten(text)),
    }
}

/// A field that nobody knows (R5).
pub(super) fn unknown<'a>(field: &str, known: impl Iterator<Item = &'a String>) -> String {
    let known: Vec<&str> = known.map(String::as_str).collect();
    match nearest(field, known.iter().copied()) {
        Some(near) => format!("unknown field; did you mean `{near}`?"),
        None if known.is_empty() => "unknown field; remove it".to_owned(),
        None => format!("unknown field; here stand {}", known.join(", ")),
    }
}

/// The known word that is most like what was written, when one is.
pub(crate) fn nearest<'a>(word: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let lower = word.to_ascii_lowercase();
    known
        .map(|known| (strsim::osa_distance(&lower, &known.to_ascii_lowercase()), known))
        .filter(|(distance, known)| *distance <= known.len().min(word.len()) / 3)
        .min()
        .map(|(_, known)| known)
}
