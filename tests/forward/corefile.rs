//! `nameward check corefile` as a program, on the Corefiles that these tests run.

use std::{
    io::Write,
    process::{Command, Output, Stdio},
};

use nameward_test_support::{Scratch, program};
use serde_json::Value;

use crate::{
    cached::CACHE,
    coredns::{OPTION, corefile},
};

const RESOLVER: &str = "10.96.0.53";

fn check(text: &str, more: &[&str]) -> (Option<i32>, String) {
    let folder = Scratch::new("corefile").unwrap();
    let file = folder.file("Corefile", text).unwrap();
    let mut command = Command::new(program("nameward").unwrap());
    let output = command.args(["check", "corefile"]).arg(file).args(more).output().unwrap();
    read(&output)
}

fn read(output: &Output) -> (Option<i32>, String) {
    let text = [&output.stdout[..], &output.stderr].concat();
    (output.status.code(), String::from_utf8(text).unwrap())
}

fn block(more: &str) -> String {
    format!(".:53 {{\n    {OPTION}\n    forward . {RESOLVER}\n{more}}}\n")
}

// DESIGN 5
#[test]
fn the_exit_status_says_whether_something_has_to_be_changed() {
    let (status, said) = check(&block(""), &["--resolver", RESOLVER]);
    assert_eq!(status, Some(0), "{said}");
    assert!(said.contains("nothing has to be changed"), "{said}");
    let cached = block("    cache {\n        serve_stale\n        servfail 0\n    }\n");
    let (status, said) = check(&cached, &[]);
    assert_eq!(status, Some(1), "{said}");
    assert!(said.contains("Corefile:4: error: ") && said.contains("[cache]"), "{said}");
    assert!(
        said.contains("Corefile:5: error: ") && said.contains("write: nothing: remove serve_stale"),
        "{said}"
    );
    let (status, said) = check(&cached, &["--scope", "name"]);
    assert!(status == Some(1) && !said.contains("[cache]"), "{said}");
    let (status, said) = check(&block("    cache\n"), &["--scope", "name"]);
    assert!(status == Some(0) && said.contains("warning: ") && said.contains("servfail 0"), "{said}");
}

// The Corefiles with which these tests show that promises are kept
#[test]
fn what_real_tests_run_passes() {
    let resolver = "10.96.0.53:53".parse().unwrap();
    let with = |lines: &[&str], scope: &str| {
        check(&corefile(53, resolver, lines), &["--resolver", RESOLVER, "--scope", scope])
    };
    for (lines, scope, status) in [
        (&[OPTION][..], "endpoint", 0),
        (&[OPTION, CACHE], "name", 0),
        (&[OPTION, CACHE], "endpoint", 1),
        (&[CACHE], "endpoint", 1),
    ] {
        let (ended, said) = with(lines, scope);
        assert_eq!(ended, Some(status), "{lines:?} {scope}: {said}");
        assert!(status == 1 || said.contains("nothing has to be changed"), "{said}");
    }
}

#[test]
fn programs_read_findings_as_json() {
    let (status, said) =
        check(".:53 {\n    forward . 10.0.0.1\n}\n", &["-o", "json", "--resolver", RESOLVER]);
    let report: Value = serde_json::from_str(&said).unwrap();
    assert_eq!((status, report["errors"].as_u64()), (Some(1), Some(1)), "{said}");
    let finding = &report["findings"][0];
    assert_eq!((finding["code"].as_str(), finding["severity"].as_str()), (Some("no-forward"), Some("error")));
    assert_eq!(finding["write"], format!("forward . {RESOLVER}"));
}

#[test]
fn standard_input_is_read_and_mistakes_are_said() {
    let mut command = Command::new(program("nameward").unwrap());
    command
        .args(["check", "corefile", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut process = command.spawn().unwrap();
    process.stdin.take().unwrap().write_all(block("").as_bytes()).unwrap();
    let (status, said) = read(&process.wait_with_output().unwrap());
    assert_eq!(status, Some(0), "{said}");
    let (status, said) = check(". {\n log\n", &[]);
    assert_eq!(status, Some(125), "{said}");
    assert!(said.contains("line 1") && said.contains("no `}`"), "{said}");
    let absent = Command::new(program("nameward").unwrap()).args(["check", "corefile", "/absent"]).output();
    assert_eq!(read(&absent.unwrap()).0, Some(125));
    let help = Command::new(program("nameward").unwrap()).args(["check", "corefile", "--help"]).output();
    assert!(read(&help.unwrap()).1.contains("kubectl -n kube-system get configmap coredns"));
}
