//! The sandboxes of this node: which pod is behind which interface of the host.
//!
//! Bookkeeping only. An entry lives as long as its interface, or until the CNI plugin says that the sandbox goes.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use super::inside::{Inside, Way};

/// How a sandbox became known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The CNI plugin named it before its containers started.
    Cni {
        /// The sandbox, as the runtime calls it.
        container_id: String,
        /// The interface inside, as the runtime calls it.
        ifname: String,
    },
    /// It ran when we looked.
    Found,
}

/// A pod's interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sandbox {
    /// The endpoint's identifier: the pod's UID and the namespace's cookie. A pod whose sandbox is made anew has
    /// another one.
    pub endpoint: Arc<str>,
    /// The pod.
    pub pod_uid: Arc<str>,
    /// What people call the pod, `NAMESPACE/NAME`.
    pub pod_name: String,
    /// Index of the interface of the host.
    pub host_index: u32,
    /// Its name.
    pub host_interface: String,
    /// The sandbox's own addresses as the CNI plugins gave them; empty where nobody said, then the pod's status counts.
    pub addresses: Vec<IpAddr>,
    /// How it became known.
    pub origin: Origin,
}

/// An interface that leads out of a pod and cannot be guarded.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct NotCovered {
    /// The interface, as the pod calls it.
    pub interface: String,
    /// Its kind.
    pub kind: String,
}

/// All sandboxes that are known.
#[derive(Debug, Default)]
pub struct Sandboxes(Mutex<Known>);

#[derive(Debug, Default)]
struct Known {
    sandboxes: BTreeMap<Arc<str>, Sandbox>,
    /// Endpoints that the CNI server attaches just now.
    attaching: BTreeSet<Arc<str>>,
    /// By pod.
    not_covered: BTreeMap<Arc<str>, Vec<NotCovered>>,
}

/// An endpoint that is being attached: until this is dropped, nobody else touches it.
#[derive(Debug)]
pub struct Attaching<'a> {
    sandboxes: &'a Sandboxes,
    endpoint: Arc<str>,
}

impl Drop for Attaching<'_> {
    fn drop(&mut self) {
        self.sandboxes.lock().attaching.remove(&self.endpoint);
    }
}

/// The interfaces of a namespace that lead to the host: name inside, index outside, and the endpoint's identifier.
pub fn endpoints_of(pod_uid: &str, inside: &Inside) -> Vec<(String, u32, Arc<str>)> {
    let leading = inside.interfaces.iter().filter_map(|one| match one.way {
        Way::Host { index } => Some((one.name.clone(), index)),
        Way::Unguardable(_) | Way::Nowhere => None,
    });
    let mut leading: Vec<(String, u32)> = leading.collect();
    leading.sort_unstable();
    let numbered = leading.into_iter().enumerate();
    numbered
        .map(|(position, (name, index))| (name, index, endpoint_of(pod_uid, inside.cookie, position)))
        .collect()
}

/// Identifier of a pod's endpoint.
fn endpoint_of(pod_uid: &str, cookie: u64, position: usize) -> Arc<str> {
    match position {
        0 => format!("{pod_uid}-{cookie:x}").into(),
        // Further interfaces of the same sandbox.
        position => format!("{pod_uid}-{cookie:x}-{position}").into(),
    }
}

/// Where the hyphens of a UUID are, and its length.
const HYPHENS: [usize; 4] = [8, 13, 18, 23];
const UUID: usize = 36;
/// Length of the UID that kubelet gives to a static pod: a hash.
const HASH: usize = 32;

/// The pod whose endpoint an identifier names; none where it is none of [`endpoints_of`].
#[must_use]
pub fn pod_of(endpoint: &str) -> Option<&str> {
    let digits = |text: &str, hyphens: &[usize]| {
        let mut bytes = text.bytes().enumerate();
        bytes.all(|(at, byte)| if hyphens.contains(&at) { byte == b'-' } else { byte.is_ascii_hexdigit() })
    };
    let begins_with = |length: usize, hyphens: &[usize]| {
        let (uid, rest) = (endpoint.get(..length)?, endpoint.get(length..)?);
        (digits(uid, hyphens) && rest.starts_with('-')).then_some(uid)
    };
    begins_with(UUID, &HYPHENS).or_else(|| begins_with(HASH, &[]))
}

impl Sandboxes {
    fn lock(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a sandbox, or replaces what was known of it. What the CNI plugin said is not replaced by what was found.
    pub fn add(&self, sandbox: Sandbox) {
        let mut known = self.lock();
        let keep = known
            .sandboxes
            .get(&sandbox.endpoint)
            .is_some_and(|before| before.host_index == sandbox.host_index && sandbox.origin == Origin::Found);
        if !keep {
            known.sandboxes.insert(Arc::clone(&sandbox.endpoint), sandbox);
        }
    }

    /// From here on the endpoint is the caller's alone.
    pub fn attaching(&self, endpoint: &Arc<str>) -> Attaching<'_> {
        self.lock().attaching.insert(Arc::clone(endpoint));
        Attaching { sandboxes: self, endpoint: Arc::clone(endpoint) }
    }

    /// Whether somebody attaches the endpoint just now.
    #[must_use]
    pub fn is_attaching(&self, endpoint: &str) -> bool {
        self.lock().attaching.contains(endpoint)
    }

    /// What of a pod's namespace cannot be guarded.
    pub fn note_inside(&self, pod_uid: &Arc<str>, inside: &Inside) {
        let mut found: Vec<NotCovered> = inside.interfaces.iter().filter_map(not_covered).collect();
        found.sort_unstable();
        let mut known = self.lock();
        if found.is_empty() {
            known.not_covered.remove(pod_uid);
        } else {
            known.not_covered.insert(Arc::clone(pod_uid), found);
        }
    }

    /// A sandbox goes. Returns its endpoint; none when it is not known, or a newer one has its place.
    pub fn remove(&self, container_id: &str, ifname: &str) -> Option<Arc<str>> {
        let mut known = self.lock();
        let wanted = Origin::Cni { container_id: container_id.to_owned(), ifname: ifname.to_owned() };
        let endpoint = known.sandboxes.values().find(|one| one.origin == wanted)?.endpoint.clone();
        known.sandboxes.remove(&endpoint);
        Some(endpoint)
    }

    /// Takes one away again.
    pub fn forget(&self, endpoint: &str) {
        self.lock().sandboxes.remove(endpoint);
    }

    /// Drops those whose interface is gone, and learns new names of interfaces. `name_of` gives the name of an index.
    pub fn sweep(&self, name_of: impl Fn(u32) -> Option<String>) {
        let mut known = self.lock();
        known.sandboxes.retain(|_, sandbox| match name_of(sandbox.host_index) {
            Some(name) => {
                sandbox.host_interface = name;
                true
            }
            None => false,
        });
    }

    /// Forgets what is not covered of pods that are gone.
    pub fn keep_pods(&self, is_there: impl Fn(&str) -> bool) {
        self.lock().not_covered.retain(|pod, _| is_there(pod));
    }

    /// One of them.
    #[must_use]
    pub fn get(&self, endpoint: &str) -> Option<Sandbox> {
        self.lock().sandboxes.get(endpoint).cloned()
    }

    /// All, by endpoint.
    #[must_use]
    pub fn all(&self) -> Vec<Sandbox> {
        self.lock().sandboxes.values().cloned().collect()
    }

    /// Interfaces of a pod that cannot be guarded.
    #[must_use]
    pub fn not_covered(&self, pod_uid: &str) -> Vec<NotCovered> {
        self.lock().not_covered.get(pod_uid).cloned().unwrap_or_default()
    }
}

fn not_covered(interface: &super::inside::Interface) -> Option<NotCovered> {
    match &interface.way {
        Way::Unguardable(kind) => Some(NotCovered { interface: interface.name.clone(), kind: kind.clone() }),
        Way::Host { .. } | Way::Nowhere => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sandbox(cookie: u64, container: &str) -> Sandbox {
        Sandbox {
            endpoint: endpoint_of("u1", cookie, 0),
            pod_uid: "u1".into(),
            pod_name: "ci/runner".into(),
            host_index: u32::try_from(cookie).unwrap(),
            host_interface: format!("veth{cookie}"),
            addresses: vec!["10.0.0.2".parse().unwrap()],
            origin: Origin::Cni { container_id: container.into(), ifname: "eth0".into() },
        }
    }

    #[test]
    fn a_late_word_about_an_old_sandbox_changes_nothing_about_the_new_one() {
        let known = Sandboxes::default();
        known.add(sandbox(1, "old"));
        known.add(sandbox(2, "new"));
        assert_eq!(known.remove("old", "eth0"), Some(endpoint_of("u1", 1, 0)));
        assert_eq!(known.remove("old", "eth0"), None, "a second time");
        assert_eq!(known.remove("new", "net1"), None, "another interface");
        assert_eq!(known.all(), [sandbox(2, "new")]);
    }

    #[test]
    fn what_was_found_does_not_replace_what_was_said() {
        let known = Sandboxes::default();
        known.add(sandbox(1, "one"));
        let found = Sandbox { origin: Origin::Found, addresses: Vec::new(), ..sandbox(1, "one") };
        known.add(found.clone());
        assert_eq!(known.all(), [sandbox(1, "one")]);
        let moved = Sandbox { host_index: 9, ..found };
        known.add(moved.clone());
        assert_eq!(known.all(), [moved], "its interface is another one");
    }

    #[test]
    fn an_endpoint_names_its_pod() {
        let uid = "11111111-2222-3333-4444-555555555555";
        for (uid, position) in [(uid, 0), (uid, 1), ("0123456789abcdef0123456789abcdef", 1)] {
            assert_eq!(pod_of(&endpoint_of(uid, 0x123, position)), Some(uid));
        }
        for other in ["vm/web", uid, "an-endpoint-of-a-file-that-has-a-long-name", ""] {
            assert_eq!(pod_of(other), None, "{other}");
        }
    }

    #[test]
    fn gone_with_the_interface() {
        let known = Sandboxes::default();
        known.add(sandbox(1, "one"));
        known.add(sandbox(2, "two"));
        known.sweep(|index| (index == 2).then(|| "renamed".to_owned()));
        let left = known.all();
        assert_eq!((left.len(), left[0].host_interface.as_str()), (1, "renamed"));
    }
}
