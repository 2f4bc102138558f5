//! FQDNNetworkPolicy.

use super::*;

fn policy(version: &str, egress: &str) -> String {
    format!(
        "apiVersion: networking.gke.io/{version}\nkind: FQDNNetworkPolicy\nmetadata: {{name: p, namespace: ci}}\n\
         spec:\n  podSelector: {{matchLabels: {{app: a}}}}\n  egress:\n{egress}"
    )
}

#[test]
fn matches_become_names() {
    // N6: a star stands for one label there.
    let text = policy(
        "v1alpha1",
        "  - matches: [{name: A.example.}, {pattern: '*.b.example'}]\n    ports: [{protocol: TCP, port: 443}, {port: 80}]\n  - matches: [{name: c.example}]\n",
    );
    let first = "+ a.example -> TCP/443 TCP/80";
    imported(&text, None, &Options::default()).is(
        &["ci/p: app=a", first, "+ c.example -> Any"],
        &["7:45: & egress[0].matches[1].pattern: not carried over: `*.b.example` stands for one label"],
    );
    let widened = Options { widen: vec![Widen::OneLabel], ..Options::default() };
    imported(&text, None, &widened).is(
        &["ci/p: app=a", "+ a.example *.b.example -> TCP/443 TCP/80", "+ c.example -> Any"],
        &["widened, as you said"],
    );
}

#[test]
fn fqdns_of_the_older_controllers() {
    let text = policy(
        "v1alpha3",
        "  - to: [{fqdns: [a.example, b.example]}]\n    ports: [{protocol: UDP, port: 53}]\n",
    );
    imported(&text, None, &Options::default()).is(&["ci/p: app=a", "+ a.example b.example -> UDP/53"], &[]);
}

#[test]
fn what_is_not_understood_is_said() {
    for (egress, says) in [
        ("  - matches: [{name: '*.a.example'}]\n", "is a pattern where a name is expected"),
        ("  - matches: [{name: a.example, pattern: b.example}]\n", "exactly one of `name` and `pattern`"),
        ("  - matches: [{pattern: '*'}]\n", "what it means there is not known"),
        ("  - matches: [{name: 'a..example'}]\n", "empty label"),
        ("  - ports: [{port: 1}]\n", "names no destination"),
        ("  - to: [{ipBlock: {cidr: 10.0.0.0/8}}]\n", "to[0].ipBlock: not carried over"),
        ("  - {matches: [{name: a.example}], ports: [{port: web}]}\n", "ports by name"),
        ("  - {matches: [{name: a.example}], ports: [{endPort: 5}]}\n", "means nothing without `port`"),
        ("  - {matches: [{name: a.example}], ports: {port: 5}}\n", "a list is expected here"),
        ("  - {matches: [{name: a.example}], ports: [{port: 1, protocol: GRE}]}\n", "no protocol with ports"),
    ] {
        // Isolated all the same: what is not carried over is not allowed.
        imported(&policy("v1alpha1", egress), None, &Options::default()).is(&["ci/p: app=a"], &[says]);
    }
    let unselected = policy("v1alpha1", "  - {}\n").replace("podSelector", "podSelektor");
    imported(&unselected, None, &Options::default())
        .is(&[], &["podSelektor", "refused: whom it is about is not understood"]);
    let nothing = policy("v1alpha1", "").replace("egress:\n", "egress: []\n");
    imported(&nothing, None, &Options::default()).is(&[], &["says nothing of what may leave"]);
}
