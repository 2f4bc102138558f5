//! ApplicationNetworkPolicy, alone and after AWS's ClusterNetworkPolicy.

use super::*;

fn policy(rest: &str) -> String {
    format!(
        "apiVersion: networking.k8s.aws/v1alpha1\nkind: ApplicationNetworkPolicy\nmetadata: {{name: p, namespace: ci}}\n\
         spec:\n  podSelector: {{}}\n{rest}"
    )
}

#[test]
fn peers_and_ports() {
    let text = policy(
        "  policyTypes: [Egress]\n  egress:\n  - to: [{domainNames: ['*.example.com', Example.org.]}, {ipBlock: {cidr: 10.0.0.0/8, except: [10.1.0.0/16]}}]\n    ports: [{port: 443}, {protocol: UDP, port: 1000, endPort: 2000}]\n  - to: [{namespaceSelector: {}}]\n  - ports: [{port: 25}]\n",
    );
    imported(&text, None, &Options::default()).is(
        &[
            "ci/p: all",
            "+ *.example.com example.org 10.0.0.0/8!10.1.0.0/16 -> TCP/443 UDP/1000-2000",
            "+ Pods -> Any",
            "+ * 0.0.0.0/0 ::/0 -> TCP/25",
        ],
        &[],
    );
}

#[test]
fn what_is_not_carried_over_is_said() {
    for (rest, expected, says) in [
        (
            "  egress: [{to: [{podSelector: {matchLabels: {app: b}}}]}]\n",
            &["ci/p: all"][..],
            &["pods by label"][..],
        ),
        (
            "  egress: [{to: [{namespaceSelector: {}, podSelector: {matchLabels: {k8s-app: kube-dns}}}], ports: [{protocol: UDP, port: 53}]}]\n",
            &["ci/p: all"],
            &["note: DNS needs no rule"],
        ),
        ("  egress: [{to: [{}]}]\n", &["ci/p: all"], &["names no destination"]),
        (
            "  egress: [{to: [{domainNames: [a.example], ipBlock: {cidr: 10.0.0.0/8}}]}]\n",
            &["ci/p: all"],
            &["stand together"],
        ),
        (
            "  egress: [{to: [{domainNames: ['**.example.com']}]}]\n",
            &["ci/p: all"],
            &["domainNames[0]: not carried over"],
        ),
        ("  policyTypes: [Egress]\n", &["ci/p: all"], &[]),
        ("  policyTypes: [Ingress]\n", &[], &["keep this part where it is enforced now", "says nothing"]),
        ("  egress: {to: []}\n", &["ci/p: all"], &["spec.egress: & a list is expected here"]),
    ] {
        imported(&policy(rest), None, &Options::default()).is(expected, says);
    }
}

#[test]
fn what_the_cluster_denies_first_stays_denied() {
    let cluster = "---\napiVersion: networking.k8s.aws/v1alpha1\nkind: ClusterNetworkPolicy\nmetadata: {name: c}\nspec:\n  tier: Admin\n  priority: 1\n  subject: {namespaces: SELECTOR}\n  egress:\n  - {action: Accept, to: [{domainNames: [c.example]}], ports: [{portNumber: {port: 443}}, {portRange: {protocol: UDP, start: 5, end: 6}}]}\n  - {action: Deny, to: [{networks: [0.0.0.0/0]}]}\n";
    let own = policy("  egress: [{to: [{domainNames: [a.example]}]}]\n");
    let both = |selector: &str| format!("{own}{}", cluster.replace("SELECTOR", selector));
    imported(&both("{}"), None, &Options::default()).is(
        &["c: all / all isolated", "+ c.example -> TCP/443 UDP/5-6", "ci/p: all"],
        &["becomes isolation", "spec.egress[0]: not carried over: it does not reach all of its destinations, as ClusterNetworkPolicy c denies all networks at its end"],
    );
    let other = both("{matchLabels: {kubernetes.io/metadata.name: other}}");
    let found = imported(&other, None, &Options::default());
    assert_eq!(found.lines()[2..], ["ci/p: all", "+ a.example -> Any"], "{:?}", found.notes);
}
