//! What policy files say, and every kind of mistake in them with its place (SEMANTICS R4, R5, N3-N5, X5).

#![allow(clippy::unwrap_used, reason = "tests")]

use std::path::Path;

use nameward_crds::{
    Policy,
    file::{self, PolicyFile},
};

fn read(text: &str) -> Result<PolicyFile, Vec<String>> {
    file::read(text, Path::new("f")).map_err(|mistakes| lines(&mistakes.0))
}

fn lines(notes: &[nameward_crds::Mistake]) -> Vec<String> {
    notes.iter().map(|note| note.to_string().strip_prefix("f:").unwrap().to_owned()).collect()
}

/// Each text with all of its mistakes.
#[track_caller]
fn refused(cases: &[(String, &[&str])]) {
    for (text, expected) in cases {
        assert_eq!(read(text).unwrap_err(), *expected, "{text}");
    }
}

/// A policy whose rules begin in line 7.
fn with_rules(rules: &str) -> String {
    format!(
        "apiVersion: nameward.io/v1alpha1\nkind: EgressPolicy\nmetadata: {{name: p, namespace: ci}}\nspec:\n  \
         podSelector: {{}}\n  egress:\n{rules}"
    )
}

/// A rule with one member of `to`, in line 8.
fn to(peer: &str) -> String {
    with_rules(&format!("  - name: r\n    to: [{peer}]\n    ports: [{{protocol: TCP, port: 443}}]\n"))
}

/// A rule with one member of `ports`, in line 9.
fn ports(port: &str) -> String {
    with_rules(&format!("  - name: r\n    to: [{{domainNames: [example.com]}}]\n    ports: [{port}]\n"))
}

/// A rule with one more field, in line 10.
fn rule_field(field: &str) -> String {
    with_rules(&format!(
        "  - name: r\n    to: [{{domainNames: [example.com]}}]\n    ports: [{{protocol: Any}}]\n    {field}\n"
    ))
}

const ONE_MEMBER: &str =
    "write exactly one of `domainNames`, `ipBlock` and `cluster`; other destinations are items of their own";

#[test]
fn names_that_are_none() {
    // N3, N4
    refused(&[
        (
            to("{domainNames: [\"foo*.example.com\"]}"),
            &[
                "8:25: spec.egress[0].to[0].domainNames[0]: `foo*.example.com`: a star stands for whole labels only; write `*.example.com`, or the full names",
            ],
        ),
        (
            to("{domainNames: [a.example, \"a.*.example.com\", \"^.*$\", \"**.a.example\"]}"),
            &[
                "8:36: spec.egress[0].to[0].domainNames[1]: `a.*.example.com`: a star is allowed only as the first label; write `*.example.com`, or the full names",
                "8:55: spec.egress[0].to[0].domainNames[2]: `^.*$` looks like a regular expression; write the full name, or `*.example.com` for all names below one",
                "8:63: spec.egress[0].to[0].domainNames[3]: `**.a.example`: write `*.a.example`, which here matches one or more labels",
            ],
        ),
        (
            to("{domainNames: [https://a.example/]}"),
            &[
                "8:25: spec.egress[0].to[0].domainNames[0]: `https://a.example/` contains `:`; a name has letters, digits, `-` and `_` (other scripts as A-labels, `xn--...`)",
            ],
        ),
        (
            to("{domainNames: [no, 123, 0123, ~, true]}"),
            &[
                "8:25: spec.egress[0].to[0].domainNames[0]: `no` without quotes is a boolean; write \"no\"",
                "8:29: spec.egress[0].to[0].domainNames[1]: `123` without quotes is a number; write \"123\"",
                "8:34: spec.egress[0].to[0].domainNames[2]: `0123` without quotes is a number; write \"0123\"",
                "8:40: spec.egress[0].to[0].domainNames[3]: has no value; write a text, or remove the field",
                "8:43: spec.egress[0].to[0].domainNames[4]: `true` without quotes is a boolean; write \"true\"",
            ],
        ),
        (
            to("{domainNames: [*.a.example, *]}, {domainNames: [\"b*\", *.b.example]}"),
            &[
                "8:25: `*.a.example` must stand in quotes: \"*.a.example\"; without them a star begins an alias",
                "8:38: `*` must stand in quotes: \"*\"; without them a star begins an alias",
                "8:58: spec.egress[0].to[1].domainNames[0]: `b*`: a star stands for whole labels only; write `*.example.com`, or the full names",
                "8:64: `*.b.example` must stand in quotes: \"*.b.example\"; without them a star begins an alias",
            ],
        ),
    ]);
}

#[test]
fn destinations_that_mean_nothing() {
    // R5
    refused(&[
        (to(""), &["8:9: spec.egress[0].to: an empty list means nothing; write destinations, or remove it"]),
        (to("{}"), &[&format!("8:10: spec.egress[0].to[0]: {ONE_MEMBER}")]),
        (
            to("{domainNames: [a.example], ipBlock: {cidr: 10.0.0.0/8}}"),
            &[&format!("8:10: spec.egress[0].to[0]: {ONE_MEMBER}")],
        ),
        (
            to("{domainNames: []}"),
            &[
                "8:24: spec.egress[0].to[0].domainNames: an empty list means nothing; write destinations, or remove it",
            ],
        ),
        (
            to("{domainName: [a.example]}"),
            &["8:11: spec.egress[0].to[0].domainName: unknown field; did you mean `domainNames`?"],
        ),
        (
            to("{fqdn: [a.example]}"),
            &["8:11: spec.egress[0].to[0].fqdn: unknown field; here stand cluster, domainNames, ipBlock"],
        ),
        (
            to("a.example"),
            &["8:10: spec.egress[0].to[0]: `a.example` cannot stand here; write fields (`key: value`)"],
        ),
        (
            to("{domainNames: a.example}"),
            &[
                "8:24: spec.egress[0].to[0].domainNames: `a.example` cannot stand here; write a list (`- item`)",
            ],
        ),
        (
            to("{cluster: [Pods, Pod]}"),
            &[
                "8:27: spec.egress[0].to[0].cluster[1]: `Pod` cannot stand here; did you mean Pods? Possible: Pods, Services, Nodes, APIServer",
            ],
        ),
        (
            to("{cluster: [Pods, Pods]}"),
            &[
                "8:27: spec.egress[0].to[0].cluster[1]: `Pods` stands here twice, first in line 8; remove or rename one",
            ],
        ),
    ]);
}

#[test]
fn blocks_of_addresses() {
    // R5
    refused(&[
        (
            to("{ipBlock: {cidr: 10.1.2.3/8}}"),
            &[
                "8:27: spec.egress[0].to[0].ipBlock.cidr: `10.1.2.3/8` has bits set beyond its prefix; write `10.0.0.0/8`",
            ],
        ),
        (
            to("{ipBlock: {cidr: 8.8.8.8}}"),
            &[
                "8:27: spec.egress[0].to[0].ipBlock.cidr: `8.8.8.8` is an address; write the block `8.8.8.8/32`",
            ],
        ),
        (
            to("{ipBlock: {cidr: 10.0.0.0/8, except: [10.1.0.0/16, 11.0.0.0/16]}}"),
            &[
                "8:47: spec.egress[0].to[0].ipBlock.except: each `except` must be a block of addresses inside `cidr`, with no bit set beyond its prefix",
            ],
        ),
        (
            to("{ipBlock: {cidr: \"2001:db8::/32\", except: [10.1.0.0/16]}}"),
            &[
                "8:52: spec.egress[0].to[0].ipBlock.except: each `except` must be a block of addresses inside `cidr`, with no bit set beyond its prefix",
            ],
        ),
        (
            to("{ipBlock: {}}"),
            &[
                "8:20: spec.egress[0].to[0].ipBlock: `cidr` is missing; write a block of addresses like `198.51.100.0/24`",
            ],
        ),
    ]);
}

#[test]
fn ports_that_are_none() {
    // R4, R5
    refused(&[
        (
            ports(""),
            &[
                "9:12: spec.egress[0].ports: an empty list means no port; write `[{protocol: Any}]` to mean every port",
            ],
        ),
        (
            ports("443"),
            &["9:13: spec.egress[0].ports[0]: `443` cannot stand here; write fields (`key: value`)"],
        ),
        (
            ports("{port: 80}"),
            &[
                "9:13: spec.egress[0].ports[0]: `protocol` is missing; write TCP, UDP, SCTP, ICMPEcho, a protocol number or Any",
            ],
        ),
        (
            ports("{protocol: tcp, port: 443}, {protocol: 256}"),
            &[
                "9:24: spec.egress[0].ports[0].protocol: `protocol` must be TCP, UDP, SCTP, ICMPEcho, Any, or a protocol number from 0 to 255",
                "9:52: spec.egress[0].ports[1].protocol: `protocol` must be TCP, UDP, SCTP, ICMPEcho, Any, or a protocol number from 0 to 255",
            ],
        ),
        (
            ports("{protocol: TCP, port: 70000}, {protocol: TCP, port: 0}"),
            &[
                "9:35: spec.egress[0].ports[0].port: 70000 cannot stand here; write a number from 1 to 65535",
                "9:65: spec.egress[0].ports[1].port: 0 cannot stand here; write a number from 1 to 65535",
            ],
        ),
        (
            ports("{protocol: TCP, port: \"443\"}, {protocol: TCP, port: https}"),
            &[
                "9:35: spec.egress[0].ports[0].port: `443` must stand without quotes",
                "9:65: spec.egress[0].ports[1].port: `https` cannot stand here; write a whole number",
            ],
        ),
        (
            ports("{protocol: TCP, port: 443, endPort: 80}, {protocol: TCP, endPort: 80}"),
            &[
                "9:49: spec.egress[0].ports[0].endPort: `endPort` needs a `port`, and must not be below it",
                "9:79: spec.egress[0].ports[1].endPort: `endPort` needs a `port`, and must not be below it",
            ],
        ),
        (
            ports("{protocol: ICMPEcho, port: 80}, {protocol: 47, port: 80}, {protocol: Any, port: 80}"),
            &[
                "9:40: spec.egress[0].ports[0].port: only TCP, UDP and SCTP have ports; remove `port`, or write one of them as `protocol`",
                "9:66: spec.egress[0].ports[1].port: only TCP, UDP and SCTP have ports; remove `port`, or write one of them as `protocol`",
                "9:93: spec.egress[0].ports[2].port: only TCP, UDP and SCTP have ports; remove `port`, or write one of them as `protocol`",
            ],
        ),
        (
            with_rules("  - to: [{domainNames: [a.example]}]\n"),
            &[
                "7:5: spec.egress[0]: `name` is missing; name it with lower-case letters, digits and dashes",
                "7:5: spec.egress[0]: `ports` is missing; write them, or `ports: [{protocol: Any}]` to mean every port of every protocol",
            ],
        ),
    ]);
}

#[test]
fn other_fields_of_rules() {
    // R5, R7, A5
    refused(&[
        (
            rule_field("expiresAt: 2027-01-31"),
            &[
                "10:16: spec.egress[0].expiresAt: `2027-01-31` is not a date and time; write one like `2027-01-31T00:00:00Z`",
            ],
        ),
        (
            rule_field("expiresAt: 2027-02-31T00:00:00Z"),
            &[
                "10:16: spec.egress[0].expiresAt: `2027-02-31T00:00:00Z` is not a date and time; write one like `2027-01-31T00:00:00Z`",
            ],
        ),
        (
            rule_field("graceSeconds: 100000"),
            &["10:19: spec.egress[0].graceSeconds: 100000 cannot stand here; write a number from 0 to 86400"],
        ),
        (
            rule_field("graceSeconds: 10m"),
            &["10:19: spec.egress[0].graceSeconds: `10m` cannot stand here; write a whole number"],
        ),
        (
            rule_field("privateAddresses: yes"),
            &["10:23: spec.egress[0].privateAddresses: `yes` is not a boolean everywhere; write `true`"],
        ),
        (
            rule_field("privateAddresses: \"true\""),
            &["10:23: spec.egress[0].privateAddresses: `true` must stand without quotes"],
        ),
        (
            rule_field("privateAddress: true"),
            &["10:5: spec.egress[0].privateAddress: unknown field; did you mean `privateAddresses`?"],
        ),
        (
            rule_field("schedule: {days: [Monday], start: \"6:00\", end: \"25:00\", timeZone: Europe/Bonn}"),
            &[
                "10:23: spec.egress[0].schedule.days[0]: `Monday` cannot stand here; write one of Mon, Tue, Wed, Thu, Fri, Sat, Sun",
                "10:39: spec.egress[0].schedule.start: `6:00` is not a time of day; write it as `06:00`",
                "10:52: spec.egress[0].schedule.end: `25:00` is not a time of day; write it as `06:00`",
                "10:71: spec.egress[0].schedule.timeZone: `Europe/Bonn` is not a time zone; write an IANA name like `Europe/Berlin` or `UTC`",
            ],
        ),
        (
            rule_field("schedule: {start: 06:00, end: 22:00}"),
            &[
                "10:15: spec.egress[0].schedule: `timeZone` is missing; write an IANA name like `Europe/Berlin` or `UTC`",
            ],
        ),
        (
            rule_field("review: {owner: [a]}"),
            &["10:21: spec.egress[0].review.owner: a list cannot stand here; write a text"],
        ),
    ]);
}

const ANY: &str = "to: [{domainNames: [a.example]}], ports: [{protocol: Any}]";

#[test]
fn rules_of_a_list_have_names_of_their_own() {
    refused(&[
        (
            with_rules(&format!("  - {{name: A, {ANY}}}\n")),
            &[
                "7:12: spec.egress[0].name: `A` cannot stand here; write lower-case letters, digits and dashes, with a letter or digit at both ends",
            ],
        ),
        (
            with_rules(&format!("  - {{name: a, {ANY}}}\n  - {{name: a, {ANY}}}\n")),
            &["8:5: spec.egress[1]: `a` stands here twice, first in line 7; remove or rename one"],
        ),
        (
            with_rules(&format!("  - {{name: a, name: b, {ANY}}}\n")),
            &["7:15: `name` stands here twice, first in line 7; remove one of them"],
        ),
        (
            with_rules(&format!("  - {{name: \"\", {ANY}}}\n  - {{name: {}, {ANY}}}\n", "n".repeat(64))),
            &[
                "7:12: spec.egress[0].name: `` cannot stand here; write lower-case letters, digits and dashes, with a letter or digit at both ends",
                "8:12: spec.egress[1].name: has 64 characters; at most 63 are possible",
            ],
        ),
    ]);
}

#[test]
fn lists_are_bounded() {
    let rules: String = (0..65).map(|number| format!("  - {{name: r{number}, {ANY}}}\n")).collect();
    let many = |one: &str, count: usize| vec![one; count].join(", ");
    refused(&[
        (with_rules(&rules), &["7:5: spec.egress: has 65 items; at most 64 are possible, so split it"]),
        (
            to(&many("{domainNames: [a.example]}", 17)),
            &["8:9: spec.egress[0].to: has 17 items; at most 16 are possible, so split it"],
        ),
        (
            to(&format!("{{domainNames: [{}]}}", many("a.example", 257))),
            &["8:24: spec.egress[0].to[0].domainNames: has 257 items; at most 256 are possible, so split it"],
        ),
        (
            ports(&many("{protocol: TCP}", 33)),
            &["9:12: spec.egress[0].ports: has 33 items; at most 32 are possible, so split it"],
        ),
    ]);
}

#[test]
fn deny_rules() {
    // R4: no ports means all, an empty list is a mistake
    let deny = |rule: &str| with_rules(&format!("    []\n  deny:\n  - {rule}\n"));
    refused(&[(
        deny("{name: d, to: [{ipBlock: {cidr: 10.0.0.0/8}}], ports: [], graceSeconds: 1}"),
        &[
            "9:59: spec.deny[0].ports: an empty list means no port; write `[{protocol: Any}]` to mean every port",
            "9:63: spec.deny[0].graceSeconds: unknown field; here stand expiresAt, name, ports, review, schedule, to",
        ],
    )]);
    let file = read(&deny("{name: d, to: [{ipBlock: {cidr: 10.0.0.0/8}}]}")).unwrap();
    assert!(file.rules()[0].effective_ports().iter().any(|ports| ports.contains(200, 0)));
}

fn object(rest: &str) -> String {
    format!("apiVersion: nameward.io/v1alpha1\n{rest}")
}

#[test]
fn objects_that_are_not_read() {
    // R5
    refused(&[
        (
            "apiVersion: v1\nkind: EgressPolicy\nmetadata: {name: P_}\nspec: {}\n".into(),
            &[
                "1:13: apiVersion: `v1` is not read here; write `nameward.io/v1alpha1`",
                "3:18: metadata.name: `P_` cannot stand here; write lower-case letters, digits, dashes and dots, with a letter or digit at both ends",
                "4:7: spec: `egress` is missing; write the rules, or `egress: []` to allow nothing",
                "4:7: spec: `podSelector` is missing; write `podSelector: {}` to mean the whole namespace",
            ],
        ),
        (
            object("kind: EgresPolicy\n"),
            &["2:7: kind: `EgresPolicy` is not read here; did you mean EgressPolicy?"],
        ),
        (
            object("kind: NetworkPolicy\n"),
            &[
                "2:7: kind: `NetworkPolicy` is not read here; only EgressPolicy and ClusterEgressPolicy are; keep other objects in other files",
            ],
        ),
        (
            "just text".into(),
            &["1:1: this is not an object; write `apiVersion`, `kind`, `metadata` and `spec`"],
        ),
        ("---\n# nothing\n".into(), &["1:1: the file holds no policy; write an EgressPolicy"]),
        (
            "apiVersion: v1\nkind: List\nitems:\n- 3\n- kind: Pod\n".into(),
            &[
                "4:3: items[0]: this is not an object; write `apiVersion`, `kind`, `metadata` and `spec`",
                "5:3: items[1]: `apiVersion` is missing; write `apiVersion: nameward.io/v1alpha1`",
                "5:9: items[1].kind: `Pod` is not read here; only EgressPolicy and ClusterEgressPolicy are; keep other objects in other files",
            ],
        ),
        (
            format!("{}---\n{}", with_rules("    []\n"), with_rules("    []\n")),
            &["11:18: metadata.name: EgressPolicy ci/p is there twice, first at f:1; rename one of them"],
        ),
    ]);
}

#[test]
fn selectors_and_metadata() {
    refused(&[
        (
            object(
                "kind: EgressPolicy\nmetadata: {name: p, lables: {a: b}}\nspec:\n  egress: []\n  podSelector:\n    \
                 matchLabels: {app: [a], b: -c}\n    matchExpressions:\n    - {key: app, operator: In}\n    \
                 - {key: -a, operator: Is, values: [b]}\n    - {key: a, operator: Exists, values: [a]}\n",
            ),
            &[
                "3:21: metadata.lables: unknown field; did you mean `labels`?",
                "7:24: spec.podSelector.matchLabels.app: a list cannot stand here; write a text",
                "7:32: spec.podSelector.matchLabels.b: `-c` cannot stand here; a label's value has at most 63 letters, digits, dashes, underscores and dots, with a letter or digit at both ends",
                "9:7: spec.podSelector.matchExpressions[0].values: `values` goes with In and NotIn, which need at least one; Exists and DoesNotExist have none",
                "10:13: spec.podSelector.matchExpressions[1].key: `-a` cannot stand here; write a label like `app` or `example.com/app`",
                "10:27: spec.podSelector.matchExpressions[1].operator: `Is` cannot stand here; write one of In, NotIn, Exists, DoesNotExist",
                "11:42: spec.podSelector.matchExpressions[2].values: `values` goes with In and NotIn, which need at least one; Exists and DoesNotExist have none",
            ],
        ),
        (
            object(
                "kind: ClusterEgressPolicy\nmetadata: {name: p, namespace: ci}\nspec: {subject: {}, deny: []}\n",
            ),
            &[
                "3:32: metadata.namespace: a ClusterEgressPolicy has no namespace; remove it, or write an EgressPolicy",
                "4:7: spec: the policy says nothing; write `deny` or `egress` rules, or `isolate: true`",
                "4:17: spec.subject: `namespaceSelector` is missing; write `namespaceSelector: {}` to mean every namespace",
            ],
        ),
    ]);
}

#[test]
fn text_that_is_not_yaml() {
    refused(&[
        ("a: [b".into(), &["2:1: this is not YAML: while parsing a flow sequence, expected ',' or ']'"]),
        ("a: *b".into(), &["1:4: this alias names nothing that stands whole before it in its document"]),
        ("a: &a [*a]".into(), &["1:8: this alias names nothing that stands whole before it in its document"]),
        (
            "spec:\n\tegress: []\n".into(),
            &["2:2: this is not YAML: tabs disallowed within this context (block indentation)"],
        ),
        (
            to("{<<: {cluster: [Nodes]}, cluster: [Pods]}"),
            &["8:11: merge keys are not read; write the fields, or an alias for a whole value"],
        ),
        ("a: !!binary x".into(), &["1:4: the tag `tag:yaml.org,2002:!binary` is not read; remove it"]),
        (
            with_rules("    []\n").replace("metadata: ", "metadata: &m ") + "---\nmetadata: *m\n",
            &["9:11: this alias names nothing that stands whole before it in its document"],
        ),
    ]);
}

#[test]
fn what_a_cluster_writes_is_read() {
    // X5: `kubectl get -o yaml`
    let list = "apiVersion: v1\nkind: List\nmetadata: {resourceVersion: \"\"}\nitems:\n- apiVersion: nameward.io/v1alpha1\n  \
                kind: EgressPolicy\n  metadata:\n    name: p\n    namespace: ci\n    uid: 0c9c\n    generation: 3\n    \
                resourceVersion: \"12\"\n    creationTimestamp: 2026-01-31T00:00:00Z\n    managedFields: [{manager: kubectl}]\n    \
                annotations: {a: b}\n  spec: {podSelector: {}, mode: Enforce, egress: []}\n  status:\n    observedGeneration: 3\n    \
                endpoints: {selected: 1, programmed: 1, notCovered: 0}\n    conditions:\n    - {type: Accepted, status: \"True\", \
                lastTransitionTime: 2026-01-31T00:00:00Z, reason: Valid, message: \"\"}\n";
    let file = read(list).unwrap();
    let [Policy::Namespaced(policy)] = file.policies.as_slice() else { panic!("{file:?}") };
    assert_eq!(policy.status.as_ref().unwrap().conditions[0].reason, "Valid");
}

#[test]
fn what_authors_should_know() {
    // N1, N3, N5, R8
    let file = read(&with_rules(
        "  - name: r\n    to:\n    - domainNames: [\"*.bücher.example\", \"*.com\", \"*\"]\n    - cluster: [Services]\n    \
         - ipBlock: {cidr: 192.0.2.53/32}\n    ports: [{protocol: UDP, port: 53}]\n",
    ))
    .unwrap();
    let warnings = lines(&file.warnings);
    let expected = [
        "9:21: spec.egress[0].to[0].domainNames[0]: read as `*.xn--bcher-kva.example`; objects in a cluster must say it so",
        "9:41: spec.egress[0].to[0].domainNames[1]: `*.com` stands directly over a public suffix",
        "9:50: spec.egress[0].to[0].domainNames[2]: `*` allows every name",
    ];
    for (warning, expected) in warnings.iter().skip(1).zip(expected) {
        assert!(warning.starts_with(expected), "{warnings:#?}");
    }
    assert!(warnings[0].starts_with("9:7: spec.egress[0].to: who may write Services"), "{warnings:#?}");
    assert!(
        warnings[4].starts_with("12:12: spec.egress[0].ports: port 53 of an ipBlock is direct DNS"),
        "{warnings:#?}"
    );
    assert_eq!(warnings.len(), 5);
}
