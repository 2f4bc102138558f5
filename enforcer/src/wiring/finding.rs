//! Finds sandboxes that the CNI plugin did not name to this process: those that an earlier process guarded, and those in
//! which something runs.

use std::{collections::BTreeMap, io, sync::Arc};

use crate::{
    Enforcer,
    endpoints::chain_text,
    pods::{Origin, Sandbox, Sandboxes, endpoints_of, inside, namespaces, pod_of},
    policies::Index,
};

/// Sandboxes of a pod, its UID, and what is in its namespace.
pub(super) type FoundPod = (Vec<Sandbox>, Arc<str>, inside::Inside);

/// Takes up what an earlier process attached, as far as its interfaces are there. In a sandbox that the plugin named to that
/// process nothing may run yet by which it could be found.
pub(super) fn take_up(enforcer: &Enforcer, sandboxes: &Sandboxes, index: &Index) {
    let attached = match enforcer.attached() {
        Ok(attached) => attached,
        Err(error) => {
            tracing::warn!(error = chain_text(&error), "what an earlier process attached is not known");
            return;
        }
    };
    for endpoint in attached {
        let Some(pod_uid) = pod_of(&endpoint) else { continue };
        let Some(host_index) = enforcer.interface_of(&endpoint) else { continue };
        let Some(host_interface) = inside::name_of(host_index) else { continue };
        let pod = index.pods().find(|pod| &*pod.uid == pod_uid);
        sandboxes.add(Sandbox {
            pod_uid: pod_uid.into(),
            pod_name: pod.map(|pod| format!("{}/{}", pod.namespace, pod.name)).unwrap_or_default(),
            host_index,
            host_interface,
            // As the plugin said then, or the pod's status.
            addresses: enforcer.addresses_of(&endpoint),
            origin: Origin::Found,
            endpoint: endpoint.into(),
        });
    }
}

/// The sandboxes of `pods` (names by UID) in which a process runs.
///
/// # Errors
/// When `/proc` cannot be read.
pub(super) fn running(pods: &BTreeMap<String, String>) -> io::Result<Vec<FoundPod>> {
    let mut found = Vec::new();
    for one in namespaces::find(|uid| pods.contains_key(uid))? {
        // A pod may go while it is looked at.
        let Ok(inside) = inside::look(&one.namespace) else { continue };
        let name = pods.get(&one.pod_uid).cloned().unwrap_or_default();
        let uid: Arc<str> = one.pod_uid.as_str().into();
        let sandboxes = endpoints_of(&uid, &inside).into_iter().filter_map(|(_, host_index, endpoint)| {
            Some(Sandbox {
                endpoint,
                pod_uid: Arc::clone(&uid),
                pod_name: name.clone(),
                host_index,
                host_interface: inside::name_of(host_index)?,
                addresses: Vec::new(),
                origin: Origin::Found,
            })
        });
        found.push((sandboxes.collect(), uid, inside));
    }
    Ok(found)
}
