//! Writes YAML: plain where that is safe, quoted as JSON where it is not.
//!
//! Only for what we generate. Keys stay in the order they come in.

use serde_json::Value;

/// The value as a YAML document.
#[must_use]
pub fn to_yaml(value: &Value) -> String {
    let mut text = String::new();
    write_value(&mut text, value, 0);
    text
}

/// Writes what follows a key's colon or an item's dash, with the line's end.
fn write_value(text: &mut String, value: &Value, indent: usize) {
    match value {
        Value::Object(fields) if !fields.is_empty() => {
            for (position, (key, value)) in fields.iter().enumerate() {
                if position > 0 || indent == 0 || text.ends_with('\n') {
                    pad(text, indent);
                }
                text.push_str(&scalar(key));
                text.push(':');
                write_nested(text, value, indent);
            }
        }
        Value::Array(items) if !items.is_empty() => {
            for item in items {
                pad(text, indent);
                text.push_str("- ");
                write_value(text, item, indent + 2);
            }
        }
        Value::String(string) => line(text, &scalar(string)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) => {
            line(text, &value.to_string());
        }
    }
}

fn write_nested(text: &mut String, value: &Value, indent: usize) {
    match value {
        Value::Object(fields) if !fields.is_empty() => {
            text.push('\n');
            write_value(text, value, indent + 2);
        }
        Value::Array(items) if !items.is_empty() => {
            text.push('\n');
            write_value(text, value, indent);
        }
        Value::Null
        | Value::Bool(_)
        | Value::Number(_)
        | Value::String(_)
        | Value::Array(_)
        | Value::Object(_) => {
            text.push(' ');
            write_value(text, value, indent);
        }
    }
}

fn line(text: &mut String, content: &str) {
    text.push_str(content);
    text.push('\n');
}

fn pad(text: &mut String, indent: usize) {
    text.extend(std::iter::repeat_n(' ', indent));
}

/// A string in its plain form when nothing could take it for something else.
fn scalar(string: &str) -> String {
    let plain = string.starts_with(|first: char| first.is_ascii_alphabetic() || matches!(first, '.' | '$'))
        && string.chars().all(|c| c.is_ascii_alphanumeric() || " .,;/_()-$'".contains(c))
        && !string.ends_with(' ')
        && !matches!(
            string.to_ascii_lowercase().as_str(),
            "true" | "false" | "yes" | "no" | "on" | "off" | "y" | "n" | "null"
        );
    if plain { string.to_owned() } else { Value::String(string.to_owned()).to_string() }
}
