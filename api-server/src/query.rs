//! What was asked: what is for us (which nodes, the page, the fields), and what is passed on to nodes as it is.

use std::sync::Arc;

use axum::{extract::Query, http::Uri};
use nameward_api::{Problem, client::address, types::namespace_of};

use crate::{Node, nodes::NodeMap};

/// A question.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Asked {
    /// Only these nodes; none = all.
    pub(crate) nodes: Vec<String>,
    /// Items of a page.
    pub(crate) limit: Option<usize>,
    /// Where it begins.
    pub(crate) cursor: Option<String>,
    /// Only these fields.
    pub(crate) fields: Option<String>,
    /// The rest.
    pub(crate) passed_on: Vec<(String, String)>,
}

impl Asked {
    /// Reads what follows `?`. What is not for us is not looked at: nodes refuse what they do not know.
    pub(crate) fn read(uri: &Uri) -> Result<Self, Problem> {
        let pairs = Query::<Vec<(String, String)>>::try_from_uri(uri);
        let Query(pairs) = pairs.map_err(|error| Problem::bad(error.body_text()))?;
        let mut asked = Self::default();
        let mut seen: Vec<&str> = Vec::new();
        for (name, value) in &pairs {
            if seen.contains(&name.as_str()) {
                return Err(Problem::bad(format!("duplicate field `{name}`")));
            }
            seen.push(name);
            let given = || Some(value.clone()).filter(|value| !value.is_empty());
            match name.as_str() {
                "node" => {
                    let words = value.split(',').map(str::trim).filter(|word| !word.is_empty());
                    asked.nodes = words.map(str::to_owned).collect();
                }
                "limit" => {
                    let number = value
                        .parse()
                        .map_err(|_| Problem::bad(format!("limit {value:?}: write a number")))?;
                    asked.limit = Some(number);
                }
                "cursor" => asked.cursor = given(),
                "fields" => asked.fields = given(),
                _ => asked.passed_on.push((name.clone(), value.clone())),
            }
        }
        Ok(asked)
    }

    /// The namespace that the question is about, if it is about one: that of `namespace=`, or of an endpoint that is called
    /// `NAMESPACE/NAME`. Nodes are asked for nothing else then.
    pub(crate) fn narrow(&mut self) -> Option<String> {
        if let Some(namespace) = self.value("namespace") {
            return Some(namespace.to_owned()).filter(|namespace| !namespace.is_empty());
        }
        let namespace = self.value("endpoint").and_then(namespace_of)?.to_owned();
        self.passed_on.push(("namespace".into(), namespace.clone()));
        Some(namespace)
    }

    /// The value of a parameter that is passed on.
    pub(crate) fn value(&self, name: &str) -> Option<&str> {
        self.passed_on.iter().find(|(one, _)| one == name).map(|(_, value)| value.as_str())
    }

    /// The nodes that are meant.
    pub(crate) fn choose(&self, all: &NodeMap) -> Result<Vec<Arc<Node>>, Problem> {
        if self.nodes.is_empty() {
            return Ok(all.values().cloned().collect());
        }
        let find = |name: &String| {
            let unknown = || Problem::bad(format!("node {name:?}: no node of this name can be asked"));
            all.get(name.as_str()).cloned().ok_or_else(unknown)
        };
        self.nodes.iter().map(find).collect()
    }

    /// The address to ask a node for, with these beside what is passed on.
    pub(crate) fn address(&self, path: &str, more: &[(&str, String)]) -> String {
        let passed_on = self.passed_on.iter().map(|(name, value)| (name.as_str(), value.clone()));
        address(path, &passed_on.chain(more.iter().cloned()).collect::<Vec<_>>())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(text: &str) -> Result<Asked, Problem> {
        Asked::read(&format!("/v1/bindings?{text}").parse().unwrap())
    }

    #[test]
    fn what_is_for_us_is_not_passed_on() {
        let asked = asked("node=a,b&limit=3&name=*.a%20b&cursor=&fields=name&x=%26y").unwrap();
        assert_eq!(
            (asked.nodes.join(" "), asked.limit, asked.cursor.as_deref()),
            ("a b".into(), Some(3), None)
        );
        assert_eq!(asked.fields.as_deref(), Some("name"));
        assert_eq!(
            asked.address("/v1/bindings", &[("limit", "3".into())]),
            "/v1/bindings?name=%2A.a%20b&x=%26y&limit=3"
        );
        assert_eq!(asked.value("x"), Some("&y"));
    }

    #[test]
    fn a_question_about_one_namespace_stays_in_it() {
        let narrowed = |text: &str| {
            let mut asked = asked(text).unwrap();
            (asked.narrow(), asked.address("/x", &[]))
        };
        assert_eq!(narrowed("namespace=ci"), (Some("ci".into()), "/x?namespace=ci".into()));
        assert_eq!(narrowed("endpoint=ci/a"), (Some("ci".into()), "/x?endpoint=ci/a&namespace=ci".into()));
        assert_eq!(
            narrowed("endpoint=b/a&namespace=ci"),
            (Some("ci".into()), "/x?endpoint=b/a&namespace=ci".into())
        );
        assert_eq!(narrowed("endpoint=uid"), (None, "/x?endpoint=uid".into()));
        // Nobody has an empty namespace: whoever may see all sees nothing by it.
        assert_eq!(narrowed("namespace="), (None, "/x?namespace=".into()));
    }

    #[test]
    fn mistakes_are_told() {
        assert!(asked("limit=many").unwrap_err().detail.contains("write a number"));
        assert!(asked("namespace=a&namespace=b").unwrap_err().detail.contains("duplicate"));
        let unknown = asked("node=a").unwrap().choose(&NodeMap::new()).unwrap_err();
        assert!(unknown.detail.contains("\"a\"") && unknown.status == 400);
    }
}
