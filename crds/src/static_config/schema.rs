//! The schema of a static configuration, beside that of the policies in it.
//!
//! Settings are those of `nameward_policy::Settings`; a test holds the two together.

use std::sync::OnceLock;

use serde_json::{Value, json};

use crate::{
    check::Schema,
    file::own,
    patterns::{ABSOLUTE, ADDRESS, INTERFACE, LABEL, LABEL_VALUE, NAME, OBJECT_NAME, SOCKET_ADDRESS},
};

/// The schema of the whole file; what stands under `policies` is checked by itself.
pub(super) fn schema() -> &'static Schema {
    static SCHEMA: OnceLock<Schema> = OnceLock::new();
    SCHEMA.get_or_init(|| {
        own(&json!({
            "type": "object",
            "required": ["endpoints"],
            "properties": {
                "endpoints": { "type": "array", "maxItems": 100_000, "items": endpoint() },
                "policies": { "type": "array", "maxItems": 100_000 },
                "settings": settings(),
            },
        }))
    })
}

fn endpoint() -> Value {
    let labels = json!({
        "type": "object",
        "additionalProperties": { "type": "string", "maxLength": 63, "pattern": LABEL_VALUE },
    });
    json!({
        "type": "object",
        "required": ["name"],
        "properties": {
            "name": { "type": "string", "maxLength": 253, "pattern": OBJECT_NAME },
            "namespace": { "type": "string", "maxLength": 63, "pattern": LABEL },
            "labels": labels,
            "namespaceLabels": labels,
            "addresses": {
                "type": "array", "maxItems": 64, "x-kubernetes-list-type": "set",
                "items": { "type": "string", "pattern": ADDRESS },
            },
            "interface": { "type": "string", "pattern": INTERFACE },
            "cgroup": { "type": "string", "pattern": ABSOLUTE, "maxLength": 4096 },
        },
        "x-kubernetes-validations": [{
            "rule": "!has(self.interface) || !has(self.cgroup)",
            "message": "write one of `interface` and `cgroup`; an endpoint is attached to one place",
        }],
    })
}

/// The schema of `settings:`.
pub(super) fn settings() -> Value {
    let word = |words: &[&str]| json!({ "type": "string", "enum": words });
    let number = |least: u64, most: u64| json!({ "type": "integer", "minimum": least, "maximum": most });
    let truth = json!({ "type": "boolean" });
    let fields = |fields: Value| json!({ "type": "object", "properties": fields });
    let day = 86_400;
    let million = 1_000_000;
    fields(json!({
        "onDeny": word(&["Reject", "Drop"]),
        "failurePolicy": word(&["Static", "Closed"]),
        "inbound": word(&["All", "Cluster", "None"]),
        "adopt": word(&["Keep", "Cut"]),
        "delivery": word(&["Host", "Peer"]),
        "dns": fields(json!({
            "filter": truth,
            "answer": word(&["NxDomain", "Refused"]),
            "trusted": {
                "type": "array", "maxItems": 64, "x-kubernetes-list-type": "set",
                "items": { "type": "string", "pattern": SOCKET_ADDRESS },
            },
            "hints": word(&["Remove", "Learn"]),
            "clusterDomain": { "type": "string", "pattern": NAME, "maxLength": 253 },
            "filterClusterDomain": truth,
        })),
        "ttl": {
            "type": "object",
            "properties": {
                "minSeconds": { "type": "integer", "minimum": 0, "maximum": 7 * day, "default": 5 },
                "maxSeconds": { "type": "integer", "minimum": 1, "maximum": 7 * day, "default": 3_600 },
            },
            "x-kubernetes-validations": [{
                "rule": "self.minSeconds <= self.maxSeconds",
                "message": "`minSeconds` (5 when absent) must not be above `maxSeconds` (3600 when absent)",
            }],
        },
        "grace": fields(json!({
            "defaultSeconds": number(0, day),
            "maxSeconds": number(0, day),
        })),
        "limits": fields(json!({
            "names": number(1, million),
            "addresses": number(1, million),
            "addressesPerName": number(1, million),
            "queriesPerSecond": number(1, million),
            "pendingQueries": number(1, million),
            "flows": number(1, 16 * million),
        })),
    }))
}

#[cfg(test)]
mod tests {
    use nameward_policy::Settings;

    use super::*;
    use crate::{check::check, yaml::parse};

    /// The paths of all properties, without what has further ones.
    fn paths(properties: &Value, prefix: &str, found: &mut Vec<String>) {
        for (name, property) in properties["properties"].as_object().unwrap() {
            let path = format!("{prefix}{name}");
            if property["properties"].is_object() {
                paths(property, &format!("{path}."), found);
            } else {
                found.push(path);
            }
        }
    }

    fn value_paths(value: &Value, prefix: &str, found: &mut Vec<String>) {
        for (name, value) in value.as_object().unwrap() {
            let path = format!("{prefix}{name}");
            if value.is_object() { value_paths(value, &format!("{path}."), found) } else { found.push(path) }
        }
    }

    #[test]
    fn settings_are_those_of_the_policy_crate() {
        // R12, S1
        let defaults = serde_json::to_value(Settings::default()).unwrap();
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        paths(&settings(), "", &mut ours);
        value_paths(&defaults, "", &mut theirs);
        ours.sort();
        theirs.sort();
        assert_eq!(ours, theirs);
    }

    #[test]
    fn defaults_pass_and_every_word_is_understood() {
        // R12, S1
        let mut defaults = serde_json::to_value(Settings::default()).unwrap();
        defaults["dns"].as_object_mut().unwrap().remove("clusterDomain");
        let (mut nodes, _) = parse(&defaults.to_string());
        let findings = check(&mut nodes[0], "settings", &own(&settings()));
        assert_eq!(findings.mistakes, []);
        for (field, words) in [
            ("onDeny", &["Reject", "Drop"][..]),
            ("failurePolicy", &["Static", "Closed"]),
            ("inbound", &["All", "Cluster", "None"]),
            ("adopt", &["Keep", "Cut"]),
            ("delivery", &["Host", "Peer"]),
        ] {
            let schema = settings();
            assert_eq!(schema["properties"][field]["enum"], json!(words));
            for word in words {
                serde_json::from_value::<Settings>(json!({ field: word })).unwrap();
            }
        }
    }
}
