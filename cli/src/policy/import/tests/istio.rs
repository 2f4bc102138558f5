//! ServiceEntry, with whatever says REGISTRY_ONLY.

use super::*;

fn entry(name: &str, namespace: &str, spec: &str) -> String {
    format!(
        "---\napiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{name: {name}, namespace: {namespace}}}\nspec: {{{spec}}}\n"
    )
}

fn sidecar(namespace: &str, spec: &str) -> String {
    format!(
        "---\napiVersion: networking.istio.io/v1\nkind: Sidecar\nmetadata: {{name: s, namespace: {namespace}}}\nspec: {{{spec}}}\n"
    )
}

const HTTPS: &str = "hosts: ['*.example.com', a.example], ports: [{number: 443, name: tls, protocol: TLS}], location: MESH_EXTERNAL, resolution: NONE";
const ONLY: &str = "outboundTrafficPolicy: {mode: REGISTRY_ONLY}";
const SERVICES: &str = "not carried over: services of the cluster are registered, too";
const MESH: &str = "note: the mesh becomes the namespaces with the label istio-injection=enabled";
const NAMES: &str = "+ *.example.com a.example -> TCP/443";

fn registry_only() -> Options {
    Options { registry_only: true, ..Options::default() }
}

#[test]
fn entries_restrict_nobody_by_themselves() {
    let text = entry("e", "ci", HTTPS);
    imported(&text, None, &Options::default()).is(&[], &["refused: a ServiceEntry alone restricts nobody"]);
    let lax = format!("{text}{}", sidecar("ci", "outboundTrafficPolicy: {mode: ALLOW_ANY}"));
    imported(&lax, None, &Options::default()).is(&[], &["it does not say REGISTRY_ONLY", "refused"]);
    let whole = ["istio-registry: istio-injection=enabled / all isolated", NAMES];
    imported(&text, None, &registry_only()).is(&whole, &[MESH, SERVICES]);
    for mesh in [
        "apiVersion: install.istio.io/v1alpha1\nkind: IstioOperator\nspec: {meshConfig: {outboundTrafficPolicy: {mode: REGISTRY_ONLY}}}\n",
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: istio}\ndata:\n  mesh: |\n    outboundTrafficPolicy: {mode: REGISTRY_ONLY}\n",
        "apiVersion: networking.istio.io/v1\nkind: Sidecar\nmetadata: {name: s, namespace: istio-system}\nspec: {outboundTrafficPolicy: {mode: REGISTRY_ONLY}}\n",
    ] {
        imported(&format!("{mesh}{text}"), None, &Options::default()).is(&whole, &[MESH, SERVICES]);
    }
    let one = Options { namespace: Some("ci".into()), ..registry_only() };
    imported(&text, None, &one).is(&["ci/istio-registry: all", NAMES], &[SERVICES]);
}

#[test]
fn who_sees_an_entry() {
    let text = [
        entry("all", "a", "hosts: [all.example], ports: [{number: 80, protocol: HTTP}]"),
        entry("own", "a", "hosts: [own.example], ports: [{number: 80, protocol: HTTP}], exportTo: ['.']"),
        entry("none", "a", "hosts: [none.example], ports: [{number: 80, protocol: HTTP}], exportTo: ['~']"),
    ]
    .concat();
    let found = imported(&text, None, &registry_only());
    found.is(
        &[
            "istio-registry: istio-injection=enabled / all isolated",
            "+ all.example -> TCP/80",
            "a/istio-registry: all",
            "+ all.example -> TCP/80",
            "+ own.example -> TCP/80",
        ],
        &[MESH, SERVICES],
    );
}

#[test]
fn a_sidecar_restricts_its_workloads() {
    let with = |spec: &str| format!("{}{}", entry("e", "a", HTTPS), sidecar("ci", spec));
    let selecting =
        with(&format!("workloadSelector: {{labels: {{app: x}}}}, {ONLY}, egress: [{{hosts: ['*/*']}}]"));
    imported(&selecting, None, &Options::default()).is(&["ci/istio-registry: app=x", NAMES], &[SERVICES]);
    for narrower in
        ["egress: [{hosts: ['./*']}]", "egress: [{port: {number: 443}, hosts: ['*/*']}]", "unheard: of"]
    {
        let found = imported(&with(&format!("{ONLY}, {narrower}")), None, &Options::default());
        assert!(found.objects.is_empty() && found.refusals == 1, "{narrower}: {:?}", found.notes);
        assert!(found.notes.last().unwrap().contains("nothing is written for ci"), "{:?}", found.notes);
        // Nor does the mesh's policy let it reach more, with or without a mode of its own.
        for own in [format!("{ONLY}, {narrower}"), narrower.to_owned()] {
            let found = imported(&with(&own), None, &registry_only());
            let whose = "istio-registry: istio-injection=enabled,kubernetes.io/metadata.name NotIn (ci) / all isolated";
            assert_eq!(found.lines(), [whose, NAMES], "{own}");
        }
    }
    let root = format!(
        "{}{}",
        entry("e", "a", HTTPS),
        sidecar("istio-system", &format!("{ONLY}, egress: [{{hosts: ['./*']}}]"))
    );
    imported(&root, None, &registry_only())
        .is(&[], &["refused: its hosts narrow", "refused: whom it is for is not known"]);
    // Another Sidecar of the namespace may be about the same workloads.
    let both = format!("{}{}", with(&format!("{ONLY}, egress: [{{hosts: ['./*']}}]")), sidecar("ci", ONLY));
    assert!(imported(&both, None, &Options::default()).objects.is_empty());
    imported(&with("outboundTrafficPolicy: {mode: ALLOW_ANY}"), None, &registry_only()).is(
        &["istio-registry: istio-injection=enabled / all isolated", NAMES],
        &["not carried over: it lifts for its workloads", MESH, SERVICES],
    );
}

#[test]
fn what_an_entry_becomes() {
    for (spec, expected) in [
        (
            "hosts: [db.mesh], addresses: [198.51.100.0/24, 203.0.113.7], ports: [{number: 5432, protocol: TCP}]",
            "+ 198.51.100.0/24 203.0.113.7/32 -> TCP/5432",
        ),
        // Of what is looked into, the name is reached, and the address is known within the mesh alone.
        (
            "hosts: [a.example], addresses: [198.51.100.7], ports: [{number: 443, protocol: TLS}]",
            "+ a.example -> TCP/443",
        ),
        (
            "hosts: [a.example], ports: [{number: 80}, {number: 81, protocol: grpc}], resolution: DNS",
            "+ a.example -> TCP/80 TCP/81",
        ),
    ] {
        let found = imported(&entry("e", "a", spec), None, &registry_only());
        found.is(&["istio-registry: istio-injection=enabled / all isolated", expected], &[MESH, SERVICES]);
    }
    let endpoints = "hosts: [x.mesh], ports: [{number: 80, protocol: HTTP}], resolution: STATIC, endpoints: [{address: 198.51.100.7}, {address: b.example}, {address: 'unix:///s'}, {address: c.example, ports: {http: 8080}}]";
    imported(&entry("e", "a", endpoints), None, &registry_only()).is(
        &["istio-registry: istio-injection=enabled / all isolated", "+ b.example 198.51.100.7/32 -> TCP/80"],
        &[
            "endpoints[2].address: not carried over",
            "endpoints[3].ports: not carried over",
            "its hosts are names within the mesh",
            MESH,
            SERVICES,
        ],
    );
    for (spec, says) in [
        ("hosts: [a.example], ports: [{number: 443, targetPort: 8443}]", "targetPort: not carried over"),
        ("hosts: [a.example], ports: [{number: 443, protocol: UDP}]", "protocol `UDP` is not known"),
        ("hosts: [a.example], ports: [{name: x}]", "`number` is missing"),
        ("hosts: [a.example]", "names no port"),
        ("hosts: [a.example], location: MESH_INTERNAL, ports: [{number: 1}]", "workloads of the mesh itself"),
        ("hosts: ['a*.example'], ports: [{number: 1}]", "hosts[0]: not carried over"),
        (
            "hosts: [a.example], ports: [{number: 1}], subjectAltNames: [b]",
            "refused: a part of it narrows it",
        ),
    ] {
        let found = imported(&entry("e", "a", spec), None, &registry_only());
        assert!(found.notes.iter().any(|note| note.contains(says)), "{spec}: {:?}", found.notes);
        assert!(found.lines().iter().all(|line| !line.starts_with('+')), "{spec}: {:?}", found.lines());
    }
}
