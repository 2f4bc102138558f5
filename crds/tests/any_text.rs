//! No text makes a reader panic, hang or fill the memory (F3).

#![allow(clippy::unwrap_used, reason = "tests")]

use std::{path::Path, time::Instant};

use nameward_crds::file;
use proptest::prelude::*;

fn read(text: &str) -> Vec<String> {
    match file::read(text, Path::new("f")) {
        Ok(_) => Vec::new(),
        Err(mistakes) => mistakes.0.iter().map(ToString::to_string).collect(),
    }
}

#[test]
fn aliases_do_not_unfold_without_end() {
    let mut bomb = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
    for level in 1..40 {
        let below = format!("*a{}", level - 1);
        bomb += &format!("a{level}: &a{level} [{}]\n", vec![below; 10].join(", "));
    }
    let began = Instant::now();
    assert_eq!(read(&bomb), ["f:6:20: the file holds more than 400000 values, aliases unfolded; split it"]);
    assert!(began.elapsed().as_secs() < 5, "{:?}", began.elapsed());
}

#[test]
fn nesting_has_an_end() {
    for (open, close) in [("[", "]"), ("{a: ", "}")] {
        let deep = open.repeat(100_000) + &close.repeat(100_000);
        let mistakes = read(&deep);
        assert_eq!(mistakes.len(), 1);
        assert!(mistakes[0].contains("48 levels deep") || mistakes[0].contains("not YAML"), "{mistakes:?}");
    }
    let deep: String = (0..60).map(|level| format!("{}a:\n", " ".repeat(level))).collect();
    assert_eq!(read(&deep), ["f:49:49: this is nested more than 48 levels deep; no policy is"]);
}

#[test]
fn files_have_a_largest_size() {
    let huge = "# ".repeat((4 << 20) / 2) + "#";
    assert_eq!(read(&huge), ["f:1:1: the file has more than 4 MiB; split it"]);
    let long = format!("a: [{}]", "x,".repeat(2_000_000));
    assert_eq!(read(&long).len(), 1);
}

#[test]
fn many_mistakes_are_all_told() {
    let rule = "  - name: r\n    to: [{domainNames: [\"a*\"]}]\n    ports: [{protocol: TCP, port: 0}]\n";
    let text = format!(
        "apiVersion: nameward.io/v1alpha1\nkind: EgressPolicy\nmetadata: {{name: p}}\nspec:\n  podSelector: {{}}\n  egress:\n{}",
        rule.repeat(64)
    );
    // A name and a port each, and every name but the first twice.
    assert_eq!(read(&text).len(), 64 * 2 + 63);
}

/// Text that is nearly a policy.
fn nearly() -> impl Strategy<Value = String> {
    let word = prop_oneof![
        Just("apiVersion: nameward.io/v1alpha1"),
        Just("kind: EgressPolicy"),
        Just("metadata:"),
        Just("name: a"),
        Just("spec:"),
        Just("podSelector: {}"),
        Just("egress:"),
        Just("- name: r"),
        Just("to:"),
        Just("- domainNames: [a.example]"),
        Just("ports: [{protocol: TCP, port: 443}]"),
        Just("- {ipBlock: {cidr: 10.0.0.0/8}}"),
        Just("&a"),
        Just("*a"),
        Just("*.b"),
        Just("? x"),
        Just("- - -"),
        Just("---"),
        Just("!!str"),
        Just("|"),
        Just("\"\\u0000\""),
        Just("{"),
        Just("]"),
        Just("é:"),
        Just("\t"),
        Just("%YAML 1.2"),
        Just("..."),
        Just("<<: *a"),
        Just("0x1f"),
        Just("-9223372036854775809"),
        Just(".nan"),
    ];
    proptest::collection::vec((0..6_usize, word, any::<bool>()), 0..24).prop_map(|words| {
        words
            .iter()
            .map(|(indent, word, ends)| {
                format!("{}{word}{}", " ".repeat(*indent), if *ends { "\n" } else { " " })
            })
            .collect()
    })
}

proptest! {
    #[test]
    fn arbitrary_text_is_answered(text in "\\PC{0,200}") {
        read(&text);
    }

    #[test]
    fn arbitrary_characters_are_answered(text in proptest::collection::vec(any::<char>(), 0..200)) {
        read(&text.into_iter().collect::<String>());
    }

    #[test]
    fn nearly_policies_are_answered(text in nearly()) {
        read(&text);
    }
}
