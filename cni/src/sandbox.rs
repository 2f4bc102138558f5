//! What the plugins before us say they made (`prevResult`): the host's end of the sandbox's interface, its addresses.
//!
//! Both are hints for the enforcer, which looks at the namespace itself: results in the field lack the one or the other.

use std::net::IpAddr;

use serde_json::Value;

/// The host's end: of the interfaces outside of any sandbox the last one, since a bridge is listed before its ports.
pub(crate) fn host_interface(result: &Value) -> Option<String> {
    let interfaces = result["interfaces"].as_array()?;
    let mut outside =
        interfaces.iter().filter(|interface| interface["sandbox"].as_str().unwrap_or_default().is_empty());
    Some(outside.next_back()?["name"].as_str()?.to_owned())
}

/// Addresses of the sandbox's interface `ifname`, without the length of their prefix.
pub(crate) fn addresses(result: &Value, ifname: &str) -> Vec<IpAddr> {
    let entries = result["ips"].as_array().into_iter().flatten();
    let own = entries.filter(|entry| match entry["interface"].as_u64() {
        Some(index) => is_own(result, index, ifname),
        None => true,
    });
    own.filter_map(|entry| entry["address"].as_str()?.split('/').next()?.parse().ok()).collect()
}

fn is_own(result: &Value, index: u64, ifname: &str) -> bool {
    let interface = usize::try_from(index).ok().and_then(|index| result["interfaces"].get(index));
    interface.is_some_and(|interface| {
        interface["name"] == ifname && !interface["sandbox"].as_str().unwrap_or_default().is_empty()
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn of_a_routed_sandbox() {
        let result = json!({
            "interfaces": [{"name": "veth1"}, {"name": "eth0", "sandbox": "/run/netns/x"}],
            "ips": [{"version": "4", "address": "10.0.0.2/24", "interface": 1}, {"address": "2001:db8::2/64", "interface": 1}],
        });
        assert_eq!(host_interface(&result).as_deref(), Some("veth1"));
        let expected: [IpAddr; 2] = ["10.0.0.2".parse().unwrap(), "2001:db8::2".parse().unwrap()];
        assert_eq!(addresses(&result, "eth0"), expected);
    }

    #[test]
    fn a_bridge_is_not_the_sandboxes_interface() {
        let result = json!({
            "interfaces": [{"name": "cni0"}, {"name": "veth1", "sandbox": ""}, {"name": "eth0", "sandbox": "/x"}],
            "ips": [{"address": "10.0.0.2/24", "interface": 2}, {"address": "10.0.0.1/24", "interface": 0}],
        });
        assert_eq!(host_interface(&result).as_deref(), Some("veth1"));
        assert_eq!(addresses(&result, "eth0"), ["10.0.0.2".parse::<IpAddr>().unwrap()]);
    }

    #[test]
    fn of_results_that_lack_something() {
        let bare = json!({"ips": [{"address": "10.0.0.2/32"}, {"address": "nonsense"}, {"interface": 9, "address": "10.0.0.3/32"}]});
        assert_eq!(host_interface(&bare), None);
        assert_eq!(addresses(&bare, "eth0"), ["10.0.0.2".parse::<IpAddr>().unwrap()]);
        assert!(addresses(&json!({"interfaces": 7, "ips": "x"}), "eth0").is_empty());
    }
}
