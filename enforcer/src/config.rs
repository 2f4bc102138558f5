//! From a static configuration (SEMANTICS S1) to endpoints that are wanted, with the rules that hold at a time (R7).
//!
//! All mistakes of a file are found before any of it counts. Reads the file and the host's routes; attaches nothing.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
};

use ipnet::IpNet;
use jiff::Timestamp;
use nameward_crds::{
    Mistakes,
    static_config::{self, Purpose, StaticAttachment, StaticConfig, StaticEndpoint},
};
use nameward_policy::{ClusterRanges, RuleSet, Settings};
use thiserror::Error;

use crate::{
    EndpointConfig,
    guardian::WantedEndpoint,
    kernel::{self, Attachment, KernelError},
    policies::Subject,
};

/// What may be fenced although the host's own traffic passes there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HostAllowed {
    /// The interface of a default route.
    pub default_route: bool,
    /// The root cgroup.
    pub root_cgroup: bool,
}

/// Why a file changes nothing.
#[derive(Debug, Error)]
pub enum ConfigError {
    /// Mistakes in the file, or in one it names.
    #[error(transparent)]
    Mistakes(#[from] Mistakes),
    /// Endpoints that cannot be as the file has them: a line each.
    #[error("{}", .0.join("\n"))]
    Endpoints(Vec<String>),
    /// The kernel does not say which network namespace this is.
    #[error(transparent)]
    Kernel(#[from] KernelError),
}

/// A file that was understood.
#[derive(Clone, Debug)]
pub struct Config {
    file: PathBuf,
    read: StaticConfig,
    allowed: HostAllowed,
    netns_cookie: u64,
}

/// What a file wants at a time.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// The endpoints.
    pub endpoints: Vec<WantedEndpoint>,
    /// When a rule begins or ends.
    pub next_change: Option<Timestamp>,
}

impl Config {
    /// Reads a file, and the policy files it names. Cgroups count in the network namespace of the calling thread.
    ///
    /// # Errors
    /// [`ConfigError`], with all that is wrong.
    pub fn read(file: &Path, allowed: HostAllowed) -> Result<Self, ConfigError> {
        let read = static_config::read(file, Purpose::Enforce)?;
        for warning in &read.warnings {
            tracing::warn!("{warning}");
        }
        let config = Self { file: file.into(), read, allowed, netns_cookie: kernel::netns_cookie()? };
        config.check_places()?;
        config.wanted(Timestamp::now(), &[])?;
        Ok(config)
    }

    /// Reads the file again, as it is now.
    ///
    /// # Errors
    /// [`ConfigError`], with all that is wrong.
    pub fn read_again(&self) -> Result<Self, ConfigError> {
        Self::read(&self.file, self.allowed)
    }

    /// How many endpoints it names.
    pub fn len(&self) -> usize {
        self.read.endpoints.len()
    }

    /// Whether it names none.
    pub fn is_empty(&self) -> bool {
        self.read.endpoints.is_empty()
    }

    /// The file.
    pub fn file(&self) -> &Path {
        &self.file
    }

    /// What `settings:` says (R12).
    pub fn settings(&self) -> &Settings {
        &self.read.settings
    }

    /// DNS servers that endpoints may mean (Q6).
    pub fn trusted(&self) -> &[SocketAddr] {
        &self.read.settings.dns.trusted
    }

    /// The endpoints with the rules that hold at `now`, on a host with these addresses.
    ///
    /// # Errors
    /// [`ConfigError::Endpoints`] when rules do not fit into the kernel's tables.
    pub fn wanted(&self, now: Timestamp, own_addresses: &[IpNet]) -> Result<Wanted, ConfigError> {
        let ranges = ClusterRanges { own_node: own_addresses.to_vec(), ..ClusterRanges::default() };
        let (mut endpoints, mut mistakes) = (Vec::new(), Vec::new());
        for endpoint in &self.read.endpoints {
            let (settings, rules) = (&self.read.settings, &endpoint.rules);
            match RuleSet::compile(endpoint.isolation, rules, settings, &ranges, now) {
                Ok(rules) => endpoints.extend(self.want(endpoint, rules)),
                Err(error) => mistakes.push(self.mistake(endpoint, &error)),
            }
        }
        if !mistakes.is_empty() {
            return Err(ConfigError::Endpoints(mistakes));
        }
        let next_change = endpoints.iter().filter_map(|endpoint| endpoint.rules.next_change).min();
        Ok(Wanted { endpoints, next_change })
    }

    /// Refuses places where the host itself would be fenced. Places that are not there are waited for.
    fn check_places(&self) -> Result<(), ConfigError> {
        let mut mistakes = Vec::new();
        for endpoint in &self.read.endpoints {
            let Some(attachment) = self.attachment(endpoint) else { continue };
            if self.is_allowed(&attachment) {
                continue;
            }
            // What else may be wrong with a place may be right tomorrow; the guardian tries again.
            if let Err(error @ (KernelError::DefaultRoute { .. } | KernelError::RootCgroup { .. })) =
                kernel::refuse_host(&attachment)
            {
                mistakes.push(self.mistake(endpoint, &error));
            }
        }
        if mistakes.is_empty() { Ok(()) } else { Err(ConfigError::Endpoints(mistakes)) }
    }

    fn want(&self, endpoint: &StaticEndpoint, rules: RuleSet) -> Option<WantedEndpoint> {
        let attachment = self.attachment(endpoint)?;
        let config = EndpointConfig {
            uid: Arc::clone(&endpoint.uid),
            name: endpoint.uid.to_string(),
            allow_host: self.is_allowed(&attachment),
            attachment,
            addresses: endpoint.addresses.clone(),
            settings: self.read.settings.clone(),
        };
        let subject = Subject {
            namespace: endpoint.namespace.clone(),
            labels: endpoint.labels.clone(),
            namespace_labels: endpoint.namespace_labels.clone(),
            policies: endpoint.selected_by.iter().cloned().map(Arc::new).collect(),
            ..Subject::default()
        };
        Some(WantedEndpoint { config, rules: Arc::new(rules), subject: Some(Arc::new(subject)) })
    }

    fn attachment(&self, endpoint: &StaticEndpoint) -> Option<Attachment> {
        Some(match endpoint.attachment.clone()? {
            StaticAttachment::Interface(name) => Attachment::Interface { name },
            StaticAttachment::Cgroup(path) => Attachment::Cgroup { path, netns_cookie: self.netns_cookie },
        })
    }

    const fn is_allowed(&self, attachment: &Attachment) -> bool {
        match attachment {
            Attachment::Interface { .. } => self.allowed.default_route,
            Attachment::Cgroup { .. } => self.allowed.root_cgroup,
        }
    }

    fn mistake(&self, endpoint: &StaticEndpoint, error: &dyn std::fmt::Display) -> String {
        format!("{}: endpoint {}: {error}", self.file.display(), endpoint.uid)
    }
}

#[cfg(test)]
#[path = "config_tests.rs"]
mod tests;
