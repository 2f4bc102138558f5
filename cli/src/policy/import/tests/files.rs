//! Files as such: lists, documents, anchors, mistakes, objects of other kinds.

use super::*;

const POLICY: &str = "apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {name: p, namespace: ci}\nspec: {endpointSelector: {}, egress: [{toFQDNs: [{matchName: a.example}]}]}\n";

/// Why a text is not read at all.
fn refused(text: &str, from: Option<SourceKind>) -> String {
    let mut notes = Notes::default();
    let sources = [(PathBuf::from("in.yaml"), text.to_owned())];
    policies(&sources, from, &Options::default(), &mut notes).unwrap_err().to_string()
}

#[test]
fn documents_lists_and_anchors() {
    let two = format!("{POLICY}---\n{POLICY}---\n");
    let expected = ["ci/p: all", "+ a.example -> Any", "ci/p-2: all", "+ a.example -> Any"];
    imported(&two, None, &Options::default()).is(&expected, &[]);
    let item = POLICY.trim_end().replace('\n', "\n  ");
    let list = format!("apiVersion: v1\nkind: List\nitems:\n- {item}\n- {item}\n");
    imported(&list, None, &Options::default()).is(&expected, &[]);
    let json = nameward_crds::from_yaml(POLICY).unwrap().to_string();
    imported(&json, None, &Options::default()).is(&expected[..2], &[]);
    let anchored =
        POLICY.replace("{toFQDNs: [{matchName: a.example}]}", "&web {toFQDNs: [{matchName: '*.'}]}, *web");
    // What is wrong is said where the anchor stands, which is where it can be mended.
    let found = imported(&anchored, None, &Options::default());
    assert_eq!(found.notes.len(), 2, "{:?}", found.notes);
    assert!(found.notes.iter().all(|note| note.starts_with("4:67: ")), "{:?}", found.notes);
}

#[test]
fn texts_that_cannot_be_read_are_errors_with_a_place() {
    for (text, says) in [
        ("a: [\n", "in.yaml:"),
        ("a: 1\na: 2\n", "in.yaml:2:1: `a` stands here twice"),
        ("a: *b\n", "in.yaml:1:4: "),
        ("toFQDNs: [{matchPattern: *.example.com}]\n", "must stand in quotes"),
        ("a: {<<: {b: c}}\n", "in.yaml:1:5: merge keys are not read"),
        ("", "in.yaml: the file holds nothing; a list of names is imported with --from list"),
        ("# nothing\n", "the file holds nothing"),
    ] {
        let error = refused(text, None);
        assert!(error.contains(says), "{text}: {error}");
    }
    let deep = "[".repeat(100);
    assert!(refused(&deep, None).contains("nested more than"));
}

#[test]
fn objects_of_other_kinds_are_listed() {
    for (text, says) in [
        (
            "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: x}\n",
            "1:1: NetworkPolicy x: not carried over: NetworkPolicies are not imported",
        ),
        (
            "apiVersion: nameward.io/v1alpha1\nkind: EgressPolicy\nmetadata: {name: x}\n",
            "a policy of Nameward already",
        ),
        (
            "apiVersion: cilium.io/v2\nkind: CiliumCIDRGroup\nmetadata: {name: x}\n",
            "CiliumCIDRGroups are not read",
        ),
        (
            "apiVersion: cilium.io/v9\nkind: CiliumNetworkPolicy\nmetadata: {name: x}\n",
            "CiliumNetworkPolicy of cilium.io/v9 is not imported",
        ),
        (
            "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: x}\ndata: {a: b}\n",
            "ConfigMap of v1 is not imported",
        ),
        ("a.example\nb.example\n", "this is no object; a list of names is imported with --from list"),
        ("- a.example\n", "1:1: document 1: not carried over: this is no object"),
    ] {
        imported(text, None, &Options::default()).is(&[], &[says]);
    }
    imported(POLICY, Some(SourceKind::Istio), &Options::default())
        .is(&[], &["--from says that something else is imported"]);
}

#[test]
fn a_namespace_that_is_no_text_is_not_taken_for_none() {
    // To YAML 1.1 `no` is a boolean.
    let text = POLICY.replace("namespace: ci", "namespace: no");
    imported(&text, None, &Options::default())
        .is(&[], &["3:32: CiliumNetworkPolicy p: metadata.namespace: refused: a text is expected here"]);
}

#[test]
fn values_that_are_no_texts_are_not_guessed() {
    for (value, says) in [
        ("matchName: 5", "a text is expected here"),
        ("matchName: yes", "a text is expected here"),
        ("matchName: [a]", "a text is expected here"),
        ("matchName: a.example, matchPattern: null", ""),
    ] {
        let text = POLICY.replace("matchName: a.example", value);
        let found = imported(&text, None, &Options::default());
        assert_eq!(found.notes.is_empty(), says.is_empty(), "{value}: {:?}", found.notes);
        assert!(found.notes.iter().all(|note| note.contains(says)), "{value}: {:?}", found.notes);
    }
}

#[test]
fn notes_do_not_steer_a_terminal() {
    let text = POLICY
        .replace("matchName: a.example", "matchName: \"a\\e[2Jb\"")
        .replace("name: p", "name: \"p\\e[1m\"");
    let mut notes = Notes::default();
    let sources = [(PathBuf::from("in.yaml"), text)];
    policies(&sources, None, &Options::default(), &mut notes).unwrap();
    for note in notes.list() {
        assert!(!note.to_string().contains('\u{1b}'), "{note:?}");
    }
}
