//! What others may see of an enforcer: resolvers, the API, the command line.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use nameward_feed::sockets::DnsSocket;
use nameward_policy::{Binding, Destination, Explanation};
use serde::Serialize;

use super::{Enforcer, EnforcerError, Guarded, now};
use crate::{
    GrantRequest, Granted, Refused,
    feed_client::{Backend, BindingView, EndpointView},
    kernel::Attachment,
};

/// An endpoint as it is now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct EndpointStatus {
    /// Its identifier.
    pub uid: Arc<str>,
    /// What people call it.
    pub name: String,
    /// `interface NAME` or `cgroup PATH`.
    pub attachment: String,
    /// Its own addresses.
    pub addresses: Vec<IpAddr>,
    /// Generation of its rules; 0 = none yet.
    pub generation: u32,
    /// Packets and bytes by reason; reasons that never came are left out.
    pub counters: BTreeMap<&'static str, Counts>,
    /// Events that were kept back.
    pub lost_events: u64,
    /// Repairs of map contents that were not what they should have been.
    pub drift_repairs: u64,
}

/// A counter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// Packets.
    pub packets: u64,
    /// Bytes, layer 3.
    pub bytes: u64,
}

impl Enforcer {
    /// All endpoints.
    ///
    /// # Errors
    /// [`EnforcerError::Kernel`].
    pub fn endpoints(&self) -> Result<Vec<EndpointStatus>, EnforcerError> {
        self.all().iter().map(|guarded| status(guarded)).collect()
    }

    /// One endpoint.
    ///
    /// # Errors
    /// [`EnforcerError::NoSuchEndpoint`], [`EnforcerError::Kernel`].
    pub fn endpoint(&self, uid: &str) -> Result<EndpointStatus, EnforcerError> {
        status(&*self.guarded(uid)?)
    }

    /// Names and addresses of an endpoint, lapsed ones too.
    ///
    /// # Errors
    /// [`EnforcerError::NoSuchEndpoint`].
    pub fn bindings(&self, uid: &str) -> Result<Vec<Binding>, EnforcerError> {
        Ok(self.guarded(uid)?.lock().bindings().cloned().collect())
    }

    /// Explains a new connection of an endpoint; none while it has no rules.
    ///
    /// # Errors
    /// [`EnforcerError::NoSuchEndpoint`].
    pub fn explain(
        &self,
        uid: &str,
        destination: &Destination,
        protocol: u8,
        port: u16,
    ) -> Result<Option<Explanation>, EnforcerError> {
        Ok(self.guarded(uid)?.lock().explain(destination, protocol, port, now()))
    }

    /// An endpoint as resolvers see it; none while it has no rules.
    ///
    /// # Errors
    /// [`EnforcerError::NoSuchEndpoint`].
    pub fn view(&self, uid: &str) -> Result<Option<EndpointView>, EnforcerError> {
        Ok(view(&*self.guarded(uid)?))
    }
}

impl Backend for Enforcer {
    fn endpoints(&self) -> Vec<EndpointView> {
        self.all().iter().filter_map(|guarded| view(guarded)).collect()
    }

    fn bindings(&self) -> Vec<BindingView> {
        self.all().iter().flat_map(|guarded| live_bindings(guarded)).collect()
    }

    fn grant(&self, request: GrantRequest) -> Result<Granted, Refused> {
        Self::grant(self, &request)
    }

    fn dns_sockets(&self) -> std::io::Result<Vec<DnsSocket>> {
        Self::dns_sockets(self)
    }
}

fn status(guarded: &Guarded) -> Result<EndpointStatus, EnforcerError> {
    let endpoint = guarded.lock();
    let counters = endpoint.store().stats()?;
    Ok(EndpointStatus {
        uid: guarded.config.uid.clone(),
        name: guarded.config.name.clone(),
        attachment: match &guarded.config.attachment {
            Attachment::Interface { name } => format!("interface {name}"),
            Attachment::Cgroup { path, .. } => format!("cgroup {}", path.display()),
        },
        addresses: guarded.config.addresses.clone(),
        generation: endpoint.generation(),
        counters: counters
            .into_iter()
            .filter(|(_, counter)| counter.packets != 0)
            .map(|(reason, counter)| {
                (reason.word(), Counts { packets: counter.packets, bytes: counter.bytes })
            })
            .collect(),
        lost_events: endpoint.store().lost_events()?,
        drift_repairs: endpoint.drift_repairs(),
    })
}

fn view(guarded: &Guarded) -> Option<EndpointView> {
    let endpoint = guarded.lock();
    let rules = endpoint.rules()?;
    let json = serde_json::to_vec(&*rules.dns).unwrap_or_else(|error| {
        // An endpoint without rules may ask nothing, which is what resolvers make of this.
        tracing::error!(endpoint = &*guarded.config.uid, %error, "rules cannot be told to resolvers");
        Vec::new()
    });
    Some(EndpointView {
        uid: guarded.config.uid.clone(),
        name: guarded.config.name.clone(),
        generation: endpoint.generation(),
        identity: guarded.identity.clone(),
        rules: json.into(),
    })
}

fn live_bindings(guarded: &Guarded) -> Vec<BindingView> {
    let now = now();
    let endpoint = guarded.lock();
    let live = endpoint.bindings().map(|binding| BindingView {
        endpoint: guarded.config.uid.clone(),
        name: binding.name.as_str().into(),
        addresses: binding
            .addresses
            .iter()
            .filter(|lease| lease.is_live(now))
            .map(|lease| (lease.address, lease.expires_at.since(now)))
            .collect(),
    });
    live.filter(|binding| !binding.addresses.is_empty()).collect()
}
