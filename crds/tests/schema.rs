//! The CustomResourceDefinitions: generated, structural, bounded, documented.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::{collections::BTreeSet, fs, path::Path};

use nameward_crds::schema::{Definition, definitions};
use serde_json::Value;

/// Calls `visit` with every schema of a definition and its path.
fn walk(definition: &Definition, visit: &mut dyn FnMut(&str, &Value)) {
    descend(definition.schema(), definition.kind, visit);
}

fn descend(schema: &Value, path: &str, visit: &mut dyn FnMut(&str, &Value)) {
    visit(path, schema);
    for (name, property) in schema["properties"].as_object().into_iter().flatten() {
        descend(property, &format!("{path}.{name}"), visit);
    }
    for (keyword, mark) in [("items", "[]"), ("additionalProperties", "{}")] {
        if let Some(inner) = schema.get(keyword) {
            descend(inner, &format!("{path}{mark}"), visit);
        }
    }
}

#[test]
fn generated_files_are_those_of_the_types() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("generated");
    for definition in definitions() {
        let text = fs::read_to_string(folder.join(&definition.file_name)).unwrap();
        assert!(text == definition.to_yaml(), "{}: run crdgen", definition.file_name);
    }
    assert_eq!(fs::read_dir(folder).unwrap().count(), definitions().len());
}

#[test]
fn names_of_the_objects() {
    let scopes = definitions().iter().map(|one| (one.kind, one.object["spec"]["scope"].as_str().unwrap()));
    assert_eq!(
        scopes.collect::<Vec<_>>(),
        [
            ("ClusterEgressPolicy", "Cluster"),
            ("EgressConfig", "Cluster"),
            ("EgressNode", "Cluster"),
            ("EgressPolicy", "Namespaced")
        ]
    );
    for definition in definitions() {
        let names = &definition.object["spec"]["names"];
        assert_eq!(names["categories"], serde_json::json!(["nameward"]));
        let version = &definition.object["spec"]["versions"][0];
        assert_eq!(version["name"], "v1alpha1");
        // A node's report has no author but the enforcer.
        let has_status = version["subresources"]["status"].is_object();
        assert!(has_status || definition.kind == "EgressNode", "users could write the status");
    }
    assert_eq!(definitions()[3].object["spec"]["names"]["shortNames"], serde_json::json!(["egpol"]));
}

#[test]
fn schemas_are_structural() {
    // What the API server accepts in apiextensions.k8s.io/v1, and nothing that it would silently ignore.
    const KEYWORDS: &[&str] = &[
        "additionalProperties",
        "default",
        "description",
        "enum",
        "format",
        "items",
        "maxItems",
        "maxLength",
        "maxProperties",
        "maximum",
        "minItems",
        "minLength",
        "minimum",
        "pattern",
        "properties",
        "required",
        "type",
        "x-kubernetes-int-or-string",
        "x-kubernetes-list-map-keys",
        "x-kubernetes-list-type",
        "x-kubernetes-validations",
    ];
    for definition in definitions() {
        walk(definition, &mut |path, schema| {
            let schema = schema.as_object().unwrap();
            for keyword in schema.keys() {
                assert!(KEYWORDS.contains(&keyword.as_str()), "{path}: {keyword}");
            }
            let int_or_string = schema.contains_key("x-kubernetes-int-or-string");
            assert!(schema.contains_key("type") != int_or_string, "{path} has no type, or two");
            assert!(
                !(schema.contains_key("properties") && schema.contains_key("additionalProperties")),
                "{path}: the API server takes one of the two"
            );
            assert!(
                schema.get("additionalProperties").is_none_or(Value::is_object),
                "{path}: no booleans there"
            );
            let keys =
                schema.get("x-kubernetes-list-map-keys").and_then(Value::as_array).into_iter().flatten();
            for key in keys {
                let required = schema["items"]["required"].as_array().unwrap();
                assert!(required.contains(key), "{path}: the key {key} may be missing");
            }
        });
    }
}

#[test]
fn everything_that_rules_may_read_is_bounded() {
    // The API server estimates the cost of CEL rules from these, and refuses a definition that may cost too much.
    for definition in definitions() {
        walk(definition, &mut |path, schema| {
            let has = |keyword: &str| schema.get(keyword).is_some();
            match schema["type"].as_str() {
                Some("array") => assert!(has("maxItems"), "{path} has no maxItems"),
                Some("string") => assert!(has("maxLength") || has("enum"), "{path} has no maxLength"),
                Some("object") if has("additionalProperties") => {
                    assert!(has("maxProperties"), "{path} has no maxProperties");
                }
                _ => {}
            }
        });
    }
}

#[test]
fn every_field_is_explained() {
    for definition in definitions() {
        walk(definition, &mut |path, schema| {
            let field = !path.ends_with("[]") && !path.ends_with("{}");
            let described = schema["description"]
                .as_str()
                .is_some_and(|text| text.ends_with('.') && !text.contains('\n'));
            assert!(described || !field, "{path} has no sentence");
        });
    }
}

#[test]
fn rules_are_explained() {
    let mut rules = BTreeSet::new();
    for definition in definitions() {
        walk(definition, &mut |path, schema| {
            for rule in schema["x-kubernetes-validations"].as_array().into_iter().flatten() {
                if definition.kind.ends_with("EgressPolicy") {
                    rules.insert(rule["rule"].to_string());
                }
                assert!(rule["message"].as_str().is_some_and(|message| message.len() > 20), "{path}: {rule}");
                if let Some(field) = rule["fieldPath"].as_str() {
                    assert!(schema["properties"].get(&field[1..]).is_some(), "{path}: no field {field}");
                }
            }
        });
    }
    assert_eq!(rules.len(), 8, "each rule has its cases among the mistakes of policy files");
}

#[test]
fn the_api_server_warns_of_the_same_resolvers() {
    // N5: the list of the admission policy is that of the conditions.
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/admission-policy.yaml");
    let text = fs::read_to_string(file).unwrap();
    for resolver in nameward_policy::PUBLIC_RESOLVERS {
        assert!(text.contains(&format!("'{resolver}'")), "{resolver}");
    }
}
