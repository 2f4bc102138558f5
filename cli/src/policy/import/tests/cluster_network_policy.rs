//! ClusterNetworkPolicy v1alpha2.

use super::*;

fn policy(name: &str, priority: u16, subject: &str, egress: &[&str]) -> String {
    let rules: String = egress.iter().map(|rule| format!("  - {{{rule}}}\n")).collect();
    format!(
        "---\napiVersion: policy.networking.k8s.io/v1alpha2\nkind: ClusterNetworkPolicy\nmetadata: {{name: {name}}}\n\
         spec:\n  tier: Admin\n  priority: {priority}\n  subject: {{{subject}}}\n  egress:\n{rules}"
    )
}

const ALL: &str = "namespaces: {}";
const DENY_ALL: &str = "action: Deny, to: [{networks: [0.0.0.0/0, '::/0']}]";
const ISOLATED: &str = "note: the final Deny of all networks becomes isolation";

#[track_caller]
fn becomes(text: &str, expected: &[&str], notes: &[&str]) {
    imported(text, None, &Options::default()).is(expected, notes);
}

#[test]
fn a_final_deny_becomes_isolation() {
    // N3
    let text = policy(
        "p",
        10,
        "pods: {namespaceSelector: {matchLabels: {team: a}}, podSelector: {matchExpressions: [{key: app, operator: Exists}]}}",
        &[
            "name: Web, action: Accept, to: [{domainNames: ['*.Kubernetes.IO', example.com.]}], protocols: [{tcp: {destinationPort: {number: 443}}}, {udp: {destinationPort: {range: {start: 5, end: 9}}}}, {sctp: {}}]",
            "action: Accept, to: [{networks: [198.51.100.0/24]}, {namespaces: {}}, {nodes: {}}]",
            "action: Deny, to: [{networks: [203.0.113.0/24]}]",
            DENY_ALL,
        ],
    );
    becomes(
        &text,
        &[
            "p: team=a / app Exists () isolated",
            "+ *.kubernetes.io example.com -> TCP/443 UDP/5-9 SCTP",
            "+ 198.51.100.0/24 Pods Nodes -> Any",
            "- 203.0.113.0/24 -> all",
        ],
        // A name that it accepts may lead there.
        &["egress[2]: not carried over: a rule before it may accept some of what it denies", ISOLATED],
    );
}

#[test]
fn without_one_it_only_denies() {
    becomes(
        &policy("p", 1, ALL, &["action: Deny, to: [{networks: [169.254.169.254/32]}]"]),
        &["p: all / all", "- 169.254.169.254/32 -> all"],
        &[],
    );
    let ports =
        "action: Deny, to: [{networks: [0.0.0.0/0]}], protocols: [{tcp: {destinationPort: {number: 25}}}]";
    becomes(&policy("p", 1, ALL, &[ports]), &["p: all / all", "- 0.0.0.0/0 -> TCP/25"], &[]);
    // What it accepts beside that is decided before, and on other ports.
    let accept = "action: Accept, to: [{domainNames: [a.example]}], protocols: [{tcp: {destinationPort: {number: 443}}}]";
    becomes(
        &policy("p", 1, ALL, &[accept, ports]),
        &["p: all / all", "+ a.example -> TCP/443", "- 0.0.0.0/0 -> TCP/25"],
        &[],
    );
}

#[test]
fn what_decides_earlier_is_not_undone() {
    // R2: there the first match decides, here a deny does.
    let accept = "action: Accept, to: [{networks: [198.51.100.0/24]}]";
    let within = "action: Deny, to: [{networks: [198.51.100.7/32]}]";
    becomes(
        &policy("p", 1, ALL, &[accept, within]),
        &["p: all / all", "+ 198.51.100.0/24 -> Any", "- 198.51.100.7/32 -> all"],
        &["egress[1]: not carried over: a rule before it may accept some of what it denies"],
    );
    becomes(
        &policy("p", 1, ALL, &[within, accept]),
        &["p: all / all", "+ 198.51.100.0/24 -> Any", "- 198.51.100.7/32 -> all"],
        &[],
    );
    becomes(
        &policy(
            "p",
            1,
            ALL,
            &[accept, "action: Deny, to: [{networks: [0.0.0.0/0]}], protocols: [{tcp: {}}]"],
        ),
        &[],
        &["a rule before it may accept", "refused: written without"],
    );
    becomes(
        &policy("p", 1, ALL, &["action: Pass, to: [{networks: [198.51.100.0/24]}]", accept, within]),
        &["p: all / all", "- 198.51.100.7/32 -> all"],
        &[
            "egress[1]: not carried over: it does not reach all of its destinations, as ClusterNetworkPolicy p passes",
            "egress[2]: & may pass some of what it denies",
        ],
    );
    becomes(
        &policy(
            "p",
            1,
            ALL,
            &[
                "action: Pass, to: [{namespaces: {}}]",
                "action: Accept, to: [{domainNames: [a.example]}]",
                DENY_ALL,
            ],
        ),
        &["p: all / all isolated", "+ a.example -> Any"],
        &[ISOLATED, "what it passes to other policies is denied here"],
    );
    becomes(
        &policy("p", 1, ALL, &[DENY_ALL, accept, within]),
        &["p: all / all isolated"],
        &["comes after a Deny of all networks of a family", "decides nothing any more", ISOLATED],
    );
}

#[test]
fn policies_are_read_by_priority() {
    let accept = policy("later", 20, ALL, &["action: Accept, to: [{domainNames: [b.example]}]"]);
    let deny = policy("first", 10, ALL, &["action: Accept, to: [{domainNames: [a.example]}]", DENY_ALL]);
    becomes(
        &format!("{accept}{deny}"),
        &["first: all / all isolated", "+ a.example -> Any"],
        &[
            ISOLATED,
            "later: spec.egress[0]: not carried over: it does not reach all of its destinations, as ClusterNetworkPolicy first denies all networks",
            "nothing is left of it",
        ],
    );
    // Of other workloads it decides nothing.
    let team = |name: &str| format!("namespaces: {{matchLabels: {{team: {name}}}}}");
    let accept = policy("later", 20, &team("b"), &["action: Accept, to: [{domainNames: [b.example]}]"]);
    let deny = policy("first", 10, &team("a"), &[DENY_ALL]);
    becomes(
        &format!("{accept}{deny}"),
        &["first: team=a / all isolated", "later: team=b / all", "+ b.example -> Any"],
        &[ISOLATED],
    );
    // One that is refused may have denied what others accept.
    let broken = policy("first", 10, ALL, &["action: Deny, to: [{domainNames: [b.example]}]"]);
    let accept = policy("later", 20, ALL, &["action: Accept, to: [{domainNames: [b.example]}]", DENY_ALL]);
    becomes(
        &format!("{broken}{accept}"),
        &["later: all / all isolated"],
        &[
            "domainNames are for Accept only",
            "refused",
            "as ClusterNetworkPolicy first was refused",
            ISOLATED,
        ],
    );
    let unknown = policy("first", 10, "hosts: {}", &[DENY_ALL]);
    becomes(
        &format!("{unknown}{accept}"),
        &["later: all / all isolated"],
        &[
            "subject.hosts: & not known",
            "refused: its tier, whom it is about",
            "as ClusterNetworkPolicy first was refused",
            ISOLATED,
        ],
    );
    let accepted = policy("first", 1, ALL, &["action: Accept, to: [{networks: [198.51.100.0/24]}]"]);
    let denied = policy("later", 2, ALL, &["action: Deny, to: [{networks: [198.51.100.7/32]}]"]);
    becomes(
        &format!("{denied}{accepted}"),
        &["first: all / all", "+ 198.51.100.0/24 -> Any", "later: all / all", "- 198.51.100.7/32 -> all"],
        &["later: spec.egress[0]: not carried over: a rule before it may accept"],
    );
}

#[test]
fn what_is_not_understood_is_said() {
    for (rule, says) in [
        ("action: Allow, to: [{domainNames: [a.example]}]", &["action `Allow` is not known", "refused"][..]),
        (
            "action: Deny, to: [{pods: {podSelector: {matchLabels: {a: b}}}}]",
            &["pods and nodes by label", "refused"],
        ),
        (
            "action: Deny, to: [{networks: [198.51.100.0/24]}], protocols: [{destinationNamedPort: web}]",
            &["ports by name", "refused"],
        ),
        ("action: Deny, to: [{services: {}}]", &["not known", "exactly one kind", "refused"]),
    ] {
        let found = imported(&policy("p", 1, ALL, &[rule]), None, &Options::default());
        assert!(found.objects.is_empty() && found.refusals == 1, "{rule}: {:?}", found.notes);
        assert!(found.notes.iter().any(|note| note.contains(says[0])), "{rule}: {:?}", found.notes);
    }
    for (rule, says) in [
        ("action: Accept, to: [{domainNames: ['**.a.example']}]", "domainNames[0]: not carried over"),
        ("action: Accept, to: [{networks: [a.example]}]", "is no block of addresses"),
        ("action: Accept, to: [{namespaces: {matchLabels: {a: b}}}]", "pods and nodes by label"),
        (
            "action: Accept, to: [{domainNames: [a.example], networks: [198.51.100.0/24]}]",
            "exactly one kind of destination",
        ),
        (
            "action: Accept, to: [{domainNames: [a.example]}], protocols: [{tcp: {destinationPort: {number: 0}}}]",
            "from 1 to 65535",
        ),
        (
            "action: Accept, to: [{domainNames: [a.example]}], protocols: [{tcp: {}, udp: {}}]",
            "exactly one of tcp, udp and sctp",
        ),
        (
            "action: Accept, to: [{domainNames: [a.example]}], weight: 5",
            "weight: not carried over: what this field means is not known",
        ),
    ] {
        let found = imported(&policy("p", 1, ALL, &[rule, DENY_ALL]), None, &Options::default());
        found.is(&["p: all / all isolated"], &[says, ISOLATED]);
    }
    let baseline = policy("p", 1, ALL, &[DENY_ALL]).replace("Admin", "Baseline");
    becomes(&baseline, &[], &["spec.tier: refused: a Baseline"]);
    becomes(&policy("p", 1, ALL, &[]).replace("egress:\n", "egress: []\n"), &[], &["says nothing"]);
    let old = policy("p", 1, ALL, &[DENY_ALL]).replace("v1alpha2", "v1alpha1");
    becomes(&old, &[], &["ClusterNetworkPolicy of policy.networking.k8s.io/v1alpha1 is not imported"]);
}
