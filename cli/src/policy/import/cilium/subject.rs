//! Whom Cilium's policies are about: selectors of endpoints, whose labels tell of pods and of their namespaces.

use nameward_crds::{LabelExpression, LabelSelector, NAMESPACE_NAME, Subject};

use crate::policy::import::{
    Options,
    at::At,
    kubernetes::{self, Object},
    notes::Notes,
};

/// The pod's namespace, and labels of namespaces, among the labels of an endpoint.
const POD_NAMESPACE: &str = "io.kubernetes.pod.namespace";
const NAMESPACE_LABELS: &str = "io.cilium.k8s.namespace.labels.";

/// Whom it selects. Labels of endpoints tell of pods and of their namespaces; those of other sources have no
/// counterpart.
pub(super) fn subject(
    object: &Object<'_>,
    spec: &At<'_>,
    options: &Options,
    notes: &mut Notes,
) -> Option<Subject> {
    let Some(at) = spec.get("endpointSelector") else {
        notes.left(spec, "`endpointSelector` is missing");
        return None;
    };
    let selector = kubernetes::selector(&at, notes)?;
    let mut subject = Subject::default();
    let own = object.namespace.or(options.namespace.as_deref()).unwrap_or("default");
    let namespaced = object.kind == "CiliumNetworkPolicy";
    for (key, value) in selector.match_labels {
        match owner(&key) {
            // What Cilium itself adds to the policies of a namespace.
            Some((Owner::NamespaceName, _)) if namespaced && value == own => {}
            Some((Owner::NamespaceName | Owner::Namespace, key)) if !namespaced => {
                subject.namespace_selector.match_labels.insert(key, value);
            }
            Some((Owner::Pod, key)) => {
                subject.pod_selector.match_labels.insert(key, value);
            }
            _ => return unsayable(&at, &key, notes),
        }
    }
    for expression in selector.match_expressions {
        let place: &mut LabelSelector = match owner(&expression.key) {
            Some((Owner::NamespaceName | Owner::Namespace, _)) if !namespaced => {
                &mut subject.namespace_selector
            }
            Some((Owner::Pod, _)) => &mut subject.pod_selector,
            _ => return unsayable(&at, &expression.key, notes),
        };
        let key = owner(&expression.key).map(|(_, key)| key).unwrap_or_default();
        place.match_expressions.push(LabelExpression { key, ..expression });
    }
    Some(subject)
}

fn unsayable<T>(at: &At<'_>, key: &str, notes: &mut Notes) -> Option<T> {
    notes.left(at, format!("the label `{key}` is none of a pod that selectors here know of"));
    None
}

/// Whose label it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Owner {
    Pod,
    Namespace,
    NamespaceName,
}

/// Whose label a selector asks for, and what it is called there. `k8s:` and `any:` say nothing that matters here; other
/// sources (`reserved:`, `container:`, ...) are no labels of pods.
fn owner(key: &str) -> Option<(Owner, String)> {
    let key = match key.split_once(':') {
        None => key,
        Some(("k8s" | "any", key)) => key,
        Some(_) => return None,
    };
    if key == POD_NAMESPACE {
        return Some((Owner::NamespaceName, NAMESPACE_NAME.to_owned()));
    }
    if let Some(label) = key.strip_prefix(NAMESPACE_LABELS) {
        return Some((Owner::Namespace, label.to_owned()));
    }
    let of_cilium = key.starts_with("io.cilium.") || key.starts_with("io.kubernetes.");
    (!of_cilium && !key.is_empty()).then(|| (Owner::Pod, key.to_owned()))
}
