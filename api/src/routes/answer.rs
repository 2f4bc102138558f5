//! How a list leaves: as JSON, whole or only some fields, or as a table for people; with an ETag.

use std::hash::{DefaultHasher, Hash, Hasher};

use axum::{
    Json,
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde_json::Value;

use crate::{
    Problem, table,
    types::{Item, List},
};

/// How a client wants a list.
#[derive(Debug)]
pub struct Wanted {
    fields: Option<Vec<String>>,
    as_table: bool,
    known: Option<String>,
}

impl Wanted {
    /// Reads `fields=` and the headers.
    pub fn read<T: Item>(fields: Option<&str>, headers: &HeaderMap) -> Result<Self, Problem> {
        let text = |name: header::HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
        let known = text(header::IF_NONE_MATCH).map(str::to_owned);
        let as_table = prefers_text(text(header::ACCEPT).unwrap_or("*/*"));
        Ok(Self { fields: fields.map(read_fields::<T>).transpose()?, as_table, known })
    }

    /// The answer.
    pub fn answer<T: Item>(&self, list: List<T>) -> Result<Response, Problem> {
        let tag = self.tag(&list);
        let mut response = if self.knows(&tag) {
            StatusCode::NOT_MODIFIED.into_response()
        } else if self.as_table {
            (table::of_items(&list.items) + &remarks(&list)).into_response()
        } else {
            match &self.fields {
                None => Json(list).into_response(),
                Some(fields) => Json(only(list, fields)?).into_response(),
            }
        };
        let headers = response.headers_mut();
        headers
            .insert(header::ETAG, HeaderValue::from_str(&tag).unwrap_or(HeaderValue::from_static("W/\"\"")));
        headers.insert(header::VARY, HeaderValue::from_static("accept"));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
        Ok(response)
    }

    /// Says whether the list means the same as before; the seconds that are left do not count. The hasher is the same
    /// in every process of one build, which is all that an ETag needs.
    fn tag<T: Item>(&self, list: &List<T>) -> String {
        let mut hasher = DefaultHasher::new();
        (&list.items, &list.next, &list.unanswered, &self.fields, self.as_table).hash(&mut hasher);
        format!("W/\"{:016x}\"", hasher.finish())
    }

    fn knows(&self, tag: &str) -> bool {
        self.known
            .as_deref()
            .is_some_and(|known| known == "*" || known.split(',').any(|one| one.trim() == tag))
    }
}

/// What stands below a table.
fn remarks<T>(list: &List<T>) -> String {
    let mut text = String::new();
    for one in &list.unanswered {
        text +=
            &format!("# no answer: {}: {}\n", table::printable(&one.node), table::printable(&one.problem));
    }
    text + &list.next.as_ref().map(|next| format!("# more: cursor={next}\n")).unwrap_or_default()
}

/// Whether text is accepted, and JSON is not accepted as well or better. Weights are in the order that clients write.
fn prefers_text(accept: &str) -> bool {
    let ranges = accept.split(',').map(|range| range.split(';').next().unwrap_or("").trim());
    let mut ranges = ranges.filter_map(|range| match range {
        "text/plain" => Some(true),
        "application/json" | "application/*" | "*/*" => Some(false),
        _ => None,
    });
    ranges.next().unwrap_or(false)
}

fn read_fields<T: Item>(text: &str) -> Result<Vec<String>, Problem> {
    let all = T::fields();
    let read = |field: &str| match all.contains(&field) {
        true => Ok(field.to_owned()),
        false => Err(Problem::bad(format!("fields: there is no {field:?}; there are {}", all.join(", ")))),
    };
    text.split(',').map(str::trim).filter(|field| !field.is_empty()).map(read).collect()
}

fn only<T: Item>(list: List<T>, fields: &[String]) -> Result<Value, Problem> {
    let failed = |_| Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "the list cannot be written");
    let mut value = serde_json::to_value(list).map_err(failed)?;
    for item in value.get_mut("items").and_then(Value::as_array_mut).into_iter().flatten() {
        if let Some(item) = item.as_object_mut() {
            item.retain(|name, _| fields.iter().any(|field| field == name));
        }
    }
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_client_prefers_is_what_it_names_first() {
        assert!(prefers_text("text/plain"));
        assert!(prefers_text("text/plain;q=0.9, */*;q=0.1"));
        for accept in ["*/*", "application/json, text/plain", "text/html,application/xhtml+xml,*/*;q=0.8", ""]
        {
            assert!(!prefers_text(accept), "{accept}");
        }
    }
}
