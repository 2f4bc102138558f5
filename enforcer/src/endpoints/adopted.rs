//! Connections that lived before rules isolated their workload for the first time (R11): kept as flows until they end.

use std::{collections::HashMap, net::SocketAddr};

use nameward_abi::{Flow, FlowKey, FlowState, Reason};
pub use nameward_api::types::AdoptedConnection;
use nameward_policy::{BootTime, Destination, KernelMode, RuleSet, explain};

use super::{Endpoint, EndpointError};
use crate::{
    connections::Connection,
    decisions::ip,
    kernel::{KernelStore, MapWrite, address_bytes},
};

const TCP: u8 = 6;

/// Those that have not ended yet, as far as was last seen.
pub(super) type AdoptedConnections = HashMap<FlowKey, AdoptedConnection>;

/// What becomes of a live connection when rules isolate its workload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// Rules allow it: a flow as any other.
    Allowed(Reason, u32),
    /// No rule allows it.
    Adopted,
    /// A rule denies it (R2).
    Denied,
}

impl<S: KernelStore> Endpoint<S> {
    /// Whether these rules would be the first to isolate the workload.
    pub fn isolates_first(&self, rules: &RuleSet) -> bool {
        rules.kernel.mode == KernelMode::Enforce && !self.isolated_before
    }

    /// Connections that go on although no rule allows them, in order.
    pub fn adopted(&self) -> Vec<AdoptedConnection> {
        let mut all: Vec<_> = self.adopted.values().copied().collect();
        all.sort();
        all
    }

    /// Makes flows of live connections, for rules that are about to be applied. Returns those that have no place under
    /// them: what a rule denies, and, unless `keep`, what none allows.
    ///
    /// # Errors
    /// [`EndpointError`]; what was not written ends at its next packet.
    pub(crate) fn adopt<'a>(
        &mut self,
        live: &'a [Connection],
        rules: &RuleSet,
        keep: bool,
        by_socket: bool,
        now: BootTime,
    ) -> Result<Vec<&'a Connection>, EndpointError> {
        let fates: Vec<(&Connection, Fate)> =
            live.iter().map(|one| (one, self.fate(one, rules, now))).collect();
        self.note_ids()?;
        let mut ended = Vec::new();
        for (connection, fate) in fates {
            let (admitted_by, admitted_id) = match fate {
                Fate::Allowed(reason, id) => (reason, id),
                Fate::Adopted if keep => (Reason::Adopted, 0),
                Fate::Adopted | Fate::Denied => {
                    ended.push(connection);
                    continue;
                }
            };
            let key = key(connection, by_socket);
            // Of no generation: the kernel asks at the next packet whether a rule denies it.
            let flow = Flow {
                last_seen: now.0,
                admitted_id,
                state: FlowState::Established as u8,
                admitted_by: admitted_by as u8,
                ..Flow::default()
            };
            self.store.write(&MapWrite::KeepFlow(key, flow))?;
            if fate == Fate::Adopted {
                let (local, remote) = (Some(connection.local), Some(connection.remote));
                self.adopted.insert(key, AdoptedConnection { local, remote });
            }
        }
        Ok(ended)
    }

    fn fate(&mut self, connection: &Connection, rules: &RuleSet, now: BootTime) -> Fate {
        let remote = connection.remote;
        let destination = Destination::Address(remote.ip());
        let explained = explain(rules, &self.bindings, &destination, TCP, remote.port(), now);
        match explained.reason {
            nameward_policy::Reason::Name => match self.grants.entry(&self.bindings, remote.ip(), now) {
                Some(entry) => Fate::Allowed(Reason::Name, entry.admitted_id),
                None => Fate::Adopted,
            },
            nameward_policy::Reason::Cidr => Fate::Allowed(Reason::Cidr, 0),
            nameward_policy::Reason::Cluster => Fate::Allowed(Reason::Cluster, 0),
            nameward_policy::Reason::NoMatch
            | nameward_policy::Reason::Expired
            | nameward_policy::Reason::Port
            | nameward_policy::Reason::DnsElsewhere => Fate::Adopted,
            _ => Fate::Denied,
        }
    }

    /// Forgets those that have ended.
    pub(super) fn forget_ended(&mut self, live: &[(FlowKey, Flow)]) {
        let now = found(live);
        self.adopted.retain(|key, _| now.contains_key(key));
    }
}

/// Adopted connections among flows, by what their keys say.
pub(super) fn found(flows: &[(FlowKey, Flow)]) -> AdoptedConnections {
    let adopted =
        |flow: &Flow| flow.admitted_by == Reason::Adopted as u8 && flow.state == FlowState::Established as u8;
    let flows = flows.iter().filter(|(_, flow)| adopted(flow));
    flows.map(|(key, _)| (*key, ends(key))).collect()
}

fn ends(key: &FlowKey) -> AdoptedConnection {
    let end = |address, port| Some(SocketAddr::new(ip(address), u16::from_be_bytes(port)));
    if key.remote == [0; 16] {
        return AdoptedConnection { local: None, remote: None };
    }
    AdoptedConnection { local: end(key.local, key.local_port), remote: end(key.remote, key.remote_port) }
}

/// What the kernel knows a connection by, see [`FlowKey`].
fn key(connection: &Connection, by_socket: bool) -> FlowKey {
    let mut key = FlowKey { protocol: TCP, ..FlowKey::default() };
    if by_socket {
        key.local[..8].copy_from_slice(&connection.cookie.to_ne_bytes());
        return key;
    }
    key.local = address_bytes(connection.local.ip());
    key.remote = address_bytes(connection.remote.ip());
    key.local_port = connection.local.port().to_be_bytes();
    key.remote_port = connection.remote.port().to_be_bytes();
    key
}
