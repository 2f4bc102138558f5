//! CiliumNetworkPolicy and CiliumClusterwideNetworkPolicy.

use super::*;

fn namespaced(spec: &str) -> String {
    format!(
        "apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {{name: p, namespace: ci}}\nspec:\n{spec}"
    )
}

fn clusterwide(spec: &str) -> String {
    format!(
        "apiVersion: cilium.io/v2\nkind: CiliumClusterwideNetworkPolicy\nmetadata: {{name: p}}\nspec:\n{spec}"
    )
}

#[track_caller]
fn becomes(text: &str, options: &Options, expected: &[&str], notes: &[&str]) {
    imported(text, None, options).is(expected, notes);
}

/// One rule of a policy for `app=a`.
#[track_caller]
fn rule(egress: &str, options: &Options, expected: &[&str], notes: &[&str]) {
    let spec = format!("  endpointSelector: {{matchLabels: {{app: a}}}}\n  egress:\n  - {egress}\n");
    let expected: Vec<&str> = ["ci/p: app=a"].iter().chain(expected).copied().collect();
    becomes(&namespaced(&spec), options, &expected, notes);
}

fn widening(what: Widen) -> Options {
    Options { widen: vec![what], ..Options::default() }
}

fn in_cluster(ranges: &[&str]) -> Options {
    Options { cluster: ranges.iter().map(|text| text.parse().unwrap()).collect(), ..Options::default() }
}

#[test]
fn names_and_patterns() {
    // N2, N4, N6
    let none = &Options::default();
    rule(
        "toFQDNs: [{matchName: Example.COM.}]\n    toPorts: [{ports: [{port: '443', protocol: TCP}]}]",
        none,
        &["+ example.com -> TCP/443"],
        &[],
    );
    rule(
        "toFQDNs: [{matchPattern: '**.example.com'}, {matchPattern: a.example.com}]",
        none,
        &["+ *.example.com a.example.com -> Any"],
        &[],
    );
    rule("toFQDNs: [{matchPattern: '*'}]", none, &["+ * -> Any"], &[]);
    rule(
        "toFQDNs: [{matchName: a.example}, {matchPattern: '*.example.com'}]",
        none,
        &["+ a.example -> Any"],
        &[
            "7:54: CiliumNetworkPolicy ci/p: spec.egress[0].toFQDNs[1].matchPattern: not carried over: `*.example.com` stands for one label & --widen one-label",
        ],
    );
    rule(
        "toFQDNs: [{matchPattern: '*.example.com'}]",
        &widening(Widen::OneLabel),
        &["+ *.example.com -> Any"],
        &["note: widened, as you said: `*.example.com` stood for one label"],
    );
    rule(
        "toFQDNs: [{matchPattern: 'sub*.example.com'}]",
        none,
        &[],
        &["not carried over: `sub*.example.com`"],
    );
    rule(
        "toFQDNs: [{matchName: a.example, matchPattern: b.example}]",
        none,
        &[],
        &["exactly one of matchName and matchPattern"],
    );
    rule(
        "toFQDNs: [{matchRegex: a}]",
        none,
        &[],
        &["spec.egress[0].toFQDNs[0].matchRegex: not carried over: what this field means is not known"],
    );
    rule("toFQDNs: []", none, &[], &[]);
}

#[test]
fn ports_and_protocols() {
    let none = &Options::default();
    let names = |ports: &str| format!("toFQDNs: [{{matchName: a.example}}]\n    {ports}");
    for (ports, expected) in [
        ("toPorts: [{ports: [{port: '53'}]}]", "TCP/53 UDP/53 SCTP/53"),
        ("toPorts: [{ports: [{port: '1000', endPort: 1010, protocol: UDP}]}]", "UDP/1000-1010"),
        ("toPorts: [{ports: [{port: '0', protocol: TCP}]}]", "TCP"),
        (
            "toPorts: [{ports: [{port: '1', protocol: TCP}]}, {ports: [{port: '2', protocol: SCTP}]}]",
            "TCP/1 SCTP/2",
        ),
        ("toPorts: []", "Any"),
        ("icmps: [{fields: [{type: 8}, {type: EchoRequest, family: IPv6}]}]", "ICMPEcho"),
    ] {
        rule(&names(ports), none, &[&format!("+ a.example -> {expected}")], &[]);
    }
    for (ports, says) in [
        ("toPorts: [{ports: [{port: web, protocol: TCP}]}]", "8:31: & ports by name (`web`)"),
        ("toPorts: [{ports: [{port: '99999', protocol: TCP}]}]", "numbers from 1 to 65535"),
        ("toPorts: [{ports: [{port: '443', protocol: 6}]}]", "a text is expected here"),
        ("toPorts: [{ports: [{port: '443', protocol: ICMP}]}]", "protocol `ICMP` is not carried over"),
        (
            "toPorts: [{ports: [{port: '443'}], rules: {http: [{path: /}]}}]",
            "toPorts[0].rules: & look into connections",
        ),
        ("toPorts: [{ports: [{port: '443'}], serverNames: [a.example]}]", "TLS server names"),
        ("toPorts: [{ports: [{port: '9', endPort: 8, protocol: TCP}]}]", "ends before it begins"),
        ("toPorts: [{rules: {dns: [{matchPattern: '*'}]}}]", "look into connections"),
        ("toPorts: {ports: [{port: '443'}]}", "a list is expected here"),
        ("icmps: [{fields: [{type: 8}]}]", "for IPv4 and IPv6 together"),
        ("icmps: [{fields: [{type: 13}, {type: 8}, {type: 128, family: IPv6}]}]", "only echo requests"),
        ("toRequires: [{matchLabels: {a: b}}]", "this narrows the rule"),
        ("authentication: {mode: required}", "authentication narrows"),
        ("toCIDR: [198.51.100.0/24]", "toCIDR, toFQDNs stand together"),
    ] {
        rule(&names(ports), none, &[], &[says]);
    }
}

#[test]
fn blocks_are_about_what_is_outside_of_the_cluster() {
    let none = &Options::default();
    rule("toCIDR: [198.51.100.7, '2001:db8::1/32']", none, &["+ 198.51.100.7/32 2001:db8::/32 -> Any"], &[]);
    rule(
        "toCIDRSet: [{cidr: 198.51.100.0/24, except: [198.51.100.7/32, 203.0.113.0/24]}]",
        none,
        &["+ 198.51.100.0/24!198.51.100.7/32 -> Any"],
        &[],
    );
    rule("toCIDRSet: [{cidr: 198.51.100.0/24, except: [198.51.100.0/24]}]", none, &[], &[]);
    rule(
        "toCIDRSet: [{cidr: 198.51.100.0/24, except: [300.1.1.1/8]}]",
        none,
        &[],
        &["except[0]: not carried over: `300.1.1.1/8` is no block"],
    );
    rule("toCIDR: [0.0.0.0/0]", none, &[], &["may hold the cluster's own addresses"]);
    rule(
        "toCIDR: [0.0.0.0/0, 10.42.7.0/24]",
        &in_cluster(&["10.42.0.0/16", "10.43.0.0/16"]),
        &["+ 0.0.0.0/0!10.42.0.0/16!10.43.0.0/16 -> Any"],
        &["10.42.7.0/24 is within the cluster"],
    );
    rule(
        "toCIDR: [10.0.0.0/8]",
        &widening(Widen::Cluster),
        &["+ 10.0.0.0/8 -> Any"],
        &["widened, as you said"],
    );
    rule("toCIDR: ['::ffff:198.51.100.0/120']", none, &[], &["is no block of addresses"]);
    rule("toCIDRSet: [{cidrGroupRef: g}]", none, &[], &["CiliumCIDRGroups are not read"]);
}

#[test]
fn entities() {
    let none = &Options::default();
    rule("toEntities: [all]", none, &["+ * 0.0.0.0/0 ::/0 -> Any"], &[]);
    rule(
        "toEntities: [cluster]\n    toPorts: [{ports: [{port: '80', protocol: TCP}]}]",
        none,
        &["+ Pods Services Nodes -> TCP/80"],
        &[],
    );
    rule("toEntities: [kube-apiserver, host, remote-node]", none, &["+ APIServer Nodes -> Any"], &[]);
    rule("toEntities: [host]", none, &[], &["some of the nodes"]);
    rule("toEntities: [remote-node]", &widening(Widen::Nodes), &["+ Nodes -> Any"], &["becomes every node"]);
    rule(
        "toEntities: [world]",
        none,
        &[],
        &["everything outside of the cluster; import with --cluster-cidr"],
    );
    rule(
        "toEntities: [world]",
        &in_cluster(&["10.42.0.0/16"]),
        &["+ * 0.0.0.0/0!10.42.0.0/16 ::/0 -> Any"],
        &[],
    );
    rule("toEntities: [ingress, none]", none, &[], &["`ingress` has no counterpart"]);
    // A rule of ports alone is about every destination.
    rule("toPorts: [{ports: [{port: '25', protocol: TCP}]}]", none, &["+ * 0.0.0.0/0 ::/0 -> TCP/25"], &[]);
    rule("{}", none, &[], &[]);
}

#[test]
fn what_is_in_the_cluster_by_label() {
    let none = &Options::default();
    let dns = "toEndpoints: [{matchLabels: {'k8s:k8s-app': kube-dns}}]\n    toPorts: [{ports: [{port: '53', protocol: ANY}], rules: {dns: [{matchPattern: '*'}]}}]";
    rule(dns, none, &[], &["7:5: & note: DNS needs no rule"]);
    rule(
        "toEndpoints: [{matchLabels: {app: b}}]",
        none,
        &[],
        &["toEndpoints: not carried over: pods by label"],
    );
    rule("toServices: [{k8sService: {serviceName: s}}]", none, &[], &["services by name"]);
    rule("toNodes: [{matchLabels: {a: b}}]", none, &[], &["nodes by label"]);
    rule("toGroups: [{aws: {}}]", none, &[], &["groups of a cloud"]);
}

#[test]
fn whom_it_is_about() {
    let allow = "  egress: [{toFQDNs: [{matchName: a.example}]}]\n";
    let none = &Options::default();
    let selector = |text: &str| format!("  endpointSelector: {text}\n{allow}");
    for (text, expected) in [
        ("{}", "all"),
        ("{matchLabels: {'k8s:app': a, 'any:tier': b}}", "app=a,tier=b"),
        ("{matchLabels: {'k8s:io.kubernetes.pod.namespace': ci, app: a}}", "app=a"),
        ("{matchExpressions: [{key: 'k8s:app', operator: NotIn, values: [x, z]}]}", "app NotIn (x z)"),
    ] {
        becomes(
            &namespaced(&selector(text)),
            none,
            &[&format!("ci/p: {expected}"), "+ a.example -> Any"],
            &[],
        );
    }
    for (text, says) in [
        ("{matchLabels: {'reserved:host': ''}}", "the label `reserved:host`"),
        ("{matchLabels: {'k8s:io.kubernetes.pod.namespace': other}}", "is none of a pod"),
        ("{matchLabels: {io.cilium.k8s.policy.serviceaccount: a}}", "is none of a pod"),
        ("{matchLabels: {app: yes}}", "a text is expected here"),
        ("{matchExpressions: [{key: app, operator: Matches}]}", "`Matches` is no operator"),
        ("{matchFields: {}}", "matchFields: & not known"),
    ] {
        let found = imported(&namespaced(&selector(text)), None, none);
        found.is(&[], &[says, "refused: whom it is about cannot be said here"]);
    }
    let found = imported(&namespaced(allow), None, none);
    found.is(&[], &["`endpointSelector` is missing", "refused"]);
    let cluster = selector(
        "{matchLabels: {'k8s:io.kubernetes.pod.namespace': ci, 'k8s:io.cilium.k8s.namespace.labels.team': t, app: a}}",
    );
    becomes(
        &clusterwide(&cluster),
        none,
        &["p: kubernetes.io/metadata.name=ci,team=t / app=a isolated", "+ a.example -> Any"],
        &[],
    );
    becomes(
        &clusterwide(&selector("{}")),
        none,
        &["p: all / all isolated", "+ a.example -> Any"],
        &["note: Nameward's own namespace and exempt ones"],
    );
    becomes(&clusterwide("  nodeSelector: {}\n"), none, &[], &["refused: policies for nodes"]);
    let nowhere = namespaced(&selector("{}")).replace(", namespace: ci", "");
    becomes(
        &nowhere,
        &Options { namespace: Some("dev".into()), ..Options::default() },
        &["dev/p: all", "+ a.example -> Any"],
        &[],
    );
}

#[test]
fn who_is_isolated() {
    // R1
    let none = &Options::default();
    let with = |rest: &str| namespaced(&format!("  endpointSelector: {{}}\n{rest}"));
    becomes(&with("  egress: [{}]\n"), none, &["ci/p: all"], &[]);
    becomes(&with("  egress: []\n"), none, &[], &["note: it says nothing of what may leave"]);
    becomes(&with("  ingress: [{}]\n"), none, &[], &["spec.ingress: not carried over", "says nothing"]);
    becomes(
        &with("  egressDeny: [{toCIDR: [198.51.100.0/24]}]\n"),
        none,
        &["ci/p: all", "- 198.51.100.0/24 -> Any"],
        &[],
    );
    becomes(
        &with("  enableDefaultDeny: {egress: false}\n  egressDeny: [{toCIDR: [198.51.100.0/24]}]\n"),
        none,
        &["p: kubernetes.io/metadata.name=ci / all", "- 198.51.100.0/24 -> Any"],
        &["note: it isolates nobody, so it becomes a ClusterEgressPolicy"],
    );
    becomes(&with("  enableDefaultDeny: {egress: true}\n"), none, &["ci/p: all"], &[]);
    becomes(
        &with("  enableDefaultDeny: {egress: on}\n  egress: [{}]\n"),
        none,
        &[],
        &["refused: `true` or `false`"],
    );
}

#[test]
fn denies_are_carried_over_whole_or_the_policy_is_not() {
    // R2
    let none = &Options::default();
    let with = |deny: &str| {
        namespaced(&format!(
            "  endpointSelector: {{}}\n  egress: [{{toEntities: [all]}}]\n  egressDeny: [{deny}]\n"
        ))
    };
    becomes(
        &with(
            "{toCIDRSet: [{cidr: 10.0.0.0/8, except: [10.1.0.0/16]}], toPorts: [{ports: [{port: '80', protocol: TCP}]}]}",
        ),
        none,
        &["ci/p: all", "+ * 0.0.0.0/0 ::/0 -> Any", "- 10.0.0.0/8!10.1.0.0/16 -> TCP/80"],
        &["denied also where it is the cluster's own"],
    );
    becomes(
        &with("{toPorts: [{ports: [{port: '25', protocol: TCP}]}]}"),
        none,
        &["ci/p: all", "+ * 0.0.0.0/0 ::/0 -> Any", "- 0.0.0.0/0 ::/0 -> TCP/25"],
        &[],
    );
    for (deny, says) in [
        ("{toEndpoints: [{}]}", "pods by label"),
        ("{toFQDNs: [{matchName: a.example}]}", "no toFQDNs in egressDeny"),
        ("{toCIDR: [198.51.100.0/24], toPorts: [{ports: [{port: web}]}]}", "ports by name"),
        ("{toCIDR: [198.51.100.0/24], unheard: of}", "not known"),
    ] {
        let found = imported(&with(deny), None, none);
        assert!(found.notes[0].contains(says), "{:?}", found.notes);
        assert!(found.objects.is_empty() && found.refusals == 1, "{deny}: {:?}", found.lines());
    }
}

#[test]
fn every_spec_is_a_policy() {
    let text = "apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {name: p, namespace: ci}\nspecs:\n\
                - {endpointSelector: {}, egress: [{toFQDNs: [{matchName: a.example}]}]}\n\
                - {endpointSelector: {matchLabels: {app: b}}, egress: [{toFQDNs: [{matchName: b.example}]}]}\n";
    let expected = ["ci/p: all", "+ a.example -> Any", "ci/p-2: app=b", "+ b.example -> Any"];
    becomes(text, &Options::default(), &expected, &[]);
    becomes(
        "apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {name: p}\n",
        &Options::default(),
        &[],
        &["2:1: & neither `spec` nor `specs`".replace("2:1", "1:1").as_str()],
    );
}
