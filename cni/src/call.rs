//! What a container runtime says when it starts a plugin: variables of the environment, and a network configuration.
//!
//! Reads and checks; whom to ask about it stands in `plugin`.

use std::{
    collections::{BTreeSet, HashMap},
    path::PathBuf,
    time::Duration,
};

use nameward_feed::cni::SOCKET;
use serde::Deserialize;
use serde_json::Value;

use crate::failure::Failure;

/// The variable that makes this program a plugin.
pub(crate) const COMMAND: &str = "CNI_COMMAND";
/// Versions of the specification that this plugin speaks, oldest first. Conflists in the field still say 0.3.1.
pub(crate) const VERSIONS: [&str; 5] = ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"];
/// What is answered when the configuration names none, as the specification's own library does.
const OLDEST: &str = "0.1.0";

/// What the plugin does when the enforcer does not answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
pub(crate) enum OnAgentDown {
    /// No new pod starts.
    #[default]
    Fail,
    /// Pods of `exemptNamespaces` start unguarded; the enforcer finds them when it is back.
    AllowExempt,
}

/// Our entry of the conflist.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Configuration {
    #[serde(default)]
    pub(crate) cni_version: Option<String>,
    /// What the plugins before us made.
    #[serde(default)]
    pub(crate) prev_result: Option<Value>,
    /// Where the enforcer listens.
    #[serde(default = "socket")]
    pub(crate) socket: PathBuf,
    #[serde(default)]
    pub(crate) on_agent_down: OnAgentDown,
    #[serde(default)]
    pub(crate) exempt_namespaces: BTreeSet<String>,
    /// How long a new sandbox may wait for the enforcer.
    #[serde(default = "timeout")]
    timeout_seconds: u64,
}

fn socket() -> PathBuf {
    SOCKET.into()
}

/// Longer than an enforcer needs to start again, shorter than any runtime waits for a plugin.
const fn timeout() -> u64 {
    10
}

impl Configuration {
    pub(crate) fn parse(text: &str) -> Result<Self, Failure> {
        let parsed: Self = serde_json::from_str(text)?;
        if !(1..=100).contains(&parsed.timeout_seconds) {
            return Err(Failure::Configuration("timeoutSeconds must be between 1 and 100".into()));
        }
        Ok(parsed)
    }

    pub(crate) fn version(&self) -> &str {
        self.cni_version.as_deref().unwrap_or(OLDEST)
    }

    pub(crate) fn check_version(&self) -> Result<(), Failure> {
        let version = self.version();
        if VERSIONS.contains(&version) { Ok(()) } else { Err(Failure::Version(version.to_owned())) }
    }

    /// Whether the specification had a command at this configuration's version already.
    pub(crate) fn is_since(&self, first: &str) -> bool {
        let place = |wanted: &str| VERSIONS.iter().position(|version| *version == wanted);
        place(self.version()) >= place(first)
    }

    pub(crate) const fn timeout(&self) -> Duration {
        Duration::from_secs(self.timeout_seconds)
    }
}

/// The variables that name a sandbox.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Sandbox {
    pub(crate) container: String,
    pub(crate) interface: String,
    pub(crate) netns: String,
    pub(crate) namespace: String,
    pub(crate) pod: String,
    pub(crate) uid: String,
}

impl Sandbox {
    /// Whatever of it is there; `DEL` must live with less.
    pub(crate) fn read(variables: &HashMap<String, String>) -> Self {
        let variable = |name: &str| variables.get(name).cloned().unwrap_or_default();
        let arguments = variable("CNI_ARGS");
        let argument = |name: &str| {
            let found =
                arguments.split(';').filter_map(|pair| pair.split_once('=')).find(|(key, _)| *key == name);
            found.map(|(_, value)| value.to_owned()).unwrap_or_default()
        };
        Self {
            container: variable("CNI_CONTAINERID"),
            interface: variable("CNI_IFNAME"),
            netns: variable("CNI_NETNS"),
            namespace: argument("K8S_POD_NAMESPACE"),
            pod: argument("K8S_POD_NAME"),
            uid: argument("K8S_POD_UID"),
        }
    }

    /// Fails when something is missing that names a new sandbox.
    pub(crate) fn check(&self) -> Result<(), Failure> {
        let needed = [
            ("CNI_CONTAINERID", &self.container),
            ("CNI_IFNAME", &self.interface),
            ("CNI_NETNS", &self.netns),
        ];
        match needed.iter().find(|(_, value)| value.is_empty()) {
            Some((name, _)) => Err(Failure::Environment(name)),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sandbox_is_named_by_variables_and_arguments() {
        let variables = [
            ("CNI_CONTAINERID", "c1"),
            ("CNI_IFNAME", "eth0"),
            ("CNI_NETNS", "/run/netns/x"),
            ("CNI_ARGS", "IgnoreUnknown=1;K8S_POD_NAMESPACE=ci;K8S_POD_NAME=runner;K8S_POD_UID=u1"),
        ];
        let sandbox =
            Sandbox::read(&variables.map(|(name, value)| (name.to_owned(), value.to_owned())).into());
        assert_eq!(
            (sandbox.namespace.as_str(), sandbox.pod.as_str(), sandbox.uid.as_str()),
            ("ci", "runner", "u1")
        );
        sandbox.check().unwrap();
        let nothing = Sandbox::read(&HashMap::new());
        assert!(nothing.check().unwrap_err().to_string().contains("CNI_CONTAINERID"));
    }

    #[test]
    fn settings_have_defaults_that_fail_closed_and_mistakes_are_said() {
        let plain =
            Configuration::parse(r#"{"cniVersion":"0.3.1","name":"net","type":"nameward-cni"}"#).unwrap();
        assert_eq!((plain.on_agent_down, plain.socket), (OnAgentDown::Fail, PathBuf::from(SOCKET)));
        let wrong = Configuration::parse(r#"{"onAgentDown":"Open"}"#).unwrap_err().to_string();
        assert!(wrong.contains("Fail"), "{wrong}");
        assert!(Configuration::parse(r#"{"timeoutSeconds":0}"#).is_err());
    }

    #[test]
    fn commands_have_a_first_version() {
        let at = |version: &str| Configuration::parse(&format!(r#"{{"cniVersion":"{version}"}}"#)).unwrap();
        assert!(
            !at("0.3.1").is_since("0.4.0") && at("0.4.0").is_since("0.4.0") && at("1.1.0").is_since("0.4.0")
        );
        assert!(at("0.2.0").check_version().is_err() && at("2.0.0").check_version().is_err());
        assert!(Configuration::parse("{}").unwrap().check_version().is_err());
    }
}
