//! A CNI's configuration with our entry at its end. Text in, text out.

use nameward_feed::cni::PLUGIN;
use serde_json::{Value, json};

use crate::call::VERSIONS;

/// The text of our configuration, from that of the CNI: a list of plugins, or the older form of a single one.
///
/// The network's name stays: address management and the runtime's cache of results go by it.
pub(super) fn chained(cni: &str, entry: &Value) -> Result<String, String> {
    let parsed: Value = serde_json::from_str(cni).map_err(|error| format!("it is not JSON: {error}"))?;
    let mut list = if parsed["plugins"].is_array() { parsed } else { as_list(parsed)? };
    check_version(&list)?;
    let plugins = list["plugins"].as_array_mut().ok_or("it has no list of plugins")?;
    if plugins.is_empty() {
        return Err("its list of plugins is empty".into());
    }
    // Whoever chained us by hand may have said it differently; ours is what was asked for now.
    plugins.retain(|plugin| plugin["type"] != PLUGIN);
    plugins.push(entry.clone());
    let text = serde_json::to_string_pretty(&list).map_err(|error| error.to_string())?;
    Ok(text + "\n")
}

fn as_list(single: Value) -> Result<Value, String> {
    if !single["type"].is_string() {
        return Err("it has neither plugins nor a type".into());
    }
    Ok(json!({"cniVersion": single["cniVersion"], "name": single["name"], "plugins": [single]}))
}

fn check_version(list: &Value) -> Result<(), String> {
    match list["cniVersion"].as_str() {
        Some(version) if VERSIONS.contains(&version) => Ok(()),
        Some(version) => Err(format!("its cniVersion {version:?} is not supported; 0.3.0 to 1.1.0 are")),
        None => Err("it names no cniVersion".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry() -> Value {
        json!({"type": PLUGIN, "socket": "/run/x.sock"})
    }

    #[test]
    fn we_stand_last_and_the_rest_stays() {
        let cni = r#"{"cniVersion":"0.3.1","name":"cbr0","disableCheck":true,
            "plugins":[{"type":"flannel","delegate":{"hairpinMode":true}},{"type":"portmap","capabilities":{"portMappings":true}}]}"#;
        let ours: Value = serde_json::from_str(&chained(cni, &entry()).unwrap()).unwrap();
        let mut expected: Value = serde_json::from_str(cni).unwrap();
        expected["plugins"].as_array_mut().unwrap().push(entry());
        assert_eq!(ours, expected);
        // A copy of a copy has us once.
        let again = chained(&ours.to_string(), &entry()).unwrap();
        assert_eq!(serde_json::from_str::<Value>(&again).unwrap(), expected);
    }

    #[test]
    fn a_single_plugin_becomes_a_list() {
        let cni = r#"{"cniVersion":"1.0.0","name":"net","type":"ptp","ipam":{"type":"host-local"}}"#;
        let ours: Value = serde_json::from_str(&chained(cni, &entry()).unwrap()).unwrap();
        assert_eq!((ours["name"].as_str(), ours["cniVersion"].as_str()), (Some("net"), Some("1.0.0")));
        assert_eq!(ours["plugins"][0]["ipam"]["type"], "host-local");
        assert_eq!(ours["plugins"][1], entry());
    }

    #[test]
    fn what_makes_no_sense_says_why() {
        let cases = [
            ("{", "not JSON"),
            (r#"{"cniVersion":"1.0.0","plugins":[]}"#, "empty"),
            (r#"{"cniVersion":"1.0.0"}"#, "neither plugins nor a type"),
            (r#"{"cniVersion":"0.1.0","type":"ptp"}"#, "0.1.0"),
            (r#"{"type":"ptp"}"#, "no cniVersion"),
            ("[]", "neither"),
        ];
        for (cni, expected) in cases {
            let said = chained(cni, &entry()).unwrap_err();
            assert!(said.contains(expected), "{cni}: {said}");
        }
    }
}
