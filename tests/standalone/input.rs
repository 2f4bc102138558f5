//! Bad input: a clear sentence with what to do, and nothing left behind.

use std::{os::unix::fs::PermissionsExt, process::Output};

use nameward_test_support::{Scratch, privileged};

use crate::resolver::{self, command, finish};

fn said(output: &Output, status: i32) -> String {
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(status), "{text}");
    text
}

#[test]
fn mistakes_on_the_command_line_are_usage_errors() {
    for (arguments, says) in [
        (&["--no-such-flag"][..], "--help"),
        (&["--listen", "127.0.0.1:0"], "--endpoints"),
        (&["--upstream", "dns.example"], "write the address of a DNS server"),
        (&["--feed", "/run/x"], "write unix:/run/x"),
        (&["--log", "xml"], "text, json"),
    ] {
        let text = said(&resolver::run(arguments), 2);
        assert!(text.contains(says), "{arguments:?}: {text}");
    }
}

#[test]
fn the_help_has_examples() {
    let output = resolver::run(&["--help"]);
    let text = said(&output, 0);
    for part in ["Examples:", "--listen 127.0.0.1:5300", "SIGHUP", "Exit status"] {
        assert!(text.contains(part), "{part}: {text}");
    }
}

#[test]
fn a_port_that_is_taken_is_said() {
    let folder = Scratch::new("taken").unwrap();
    let file = folder.file("endpoints.yaml", "endpoints: []\npolicies: []\n").unwrap();
    let taken = std::net::UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let holder = std::net::UdpSocket::bind(taken).unwrap();
    let listen = taken.to_string();
    let arguments = ["--listen", &listen, "--upstream", "192.0.2.1", "--endpoints", file.to_str().unwrap()];
    let text = said(&resolver::run(&arguments), 1);
    assert!(text.contains(&listen) && text.contains("another DNS server has this port"), "{text}");
    drop(holder);
}

// F2, S1
#[test]
fn all_mistakes_of_a_file_are_said_at_once() {
    let folder = Scratch::new("mistakes").unwrap();
    let text = "endpoints:\n- {name: one, adresses: [127.0.0.2]}\n- {name: two, addresses: [127.0.0.300]}\n";
    let file = folder.file("endpoints.yaml", text).unwrap();
    let arguments =
        ["--listen", "127.0.0.1:0", "--upstream", "192.0.2.1", "--endpoints", file.to_str().unwrap()];
    let text = said(&resolver::run(&arguments), 1);
    for place in ["endpoints.yaml:2:", "endpoints.yaml:3:"] {
        assert!(text.contains(place), "{place} is not in {text}");
    }
    let absent = ["--listen", "127.0.0.1:0", "--upstream", "192.0.2.1", "--endpoints", "/nonexistent.yaml"];
    assert!(said(&resolver::run(&absent), 1).contains("/nonexistent.yaml"));
}

#[test]
fn it_does_not_ask_itself() {
    let folder = Scratch::new("itself").unwrap();
    let file = folder.file("endpoints.yaml", "endpoints: []\npolicies: []\n").unwrap();
    let file = file.to_str().unwrap();
    let arguments = ["--listen", "127.0.0.1:5399", "--upstream", "127.0.0.1:5399", "--endpoints", file];
    let text = said(&resolver::run(&arguments), 1);
    assert!(text.contains("it would ask itself"), "{text}");
}

#[test]
fn a_folder_that_others_may_write_to_is_refused() {
    let folder = Scratch::new("unsafe").unwrap();
    std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o777)).unwrap();
    let feed = format!("unix:{}", folder.path().display());
    let text = said(&resolver::run(&["--feed", &feed, "--upstream", "192.0.2.1"]), 1);
    assert!(text.contains("chmod o-w"), "{text}");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "nothing is left");
}

#[test]
fn a_system_without_servers_needs_one() {
    if !privileged() {
        return;
    }
    let folder = Scratch::new("none").unwrap();
    let empty = folder.file("resolv.conf", "search corp.example\n").unwrap();
    let mut unshared = std::process::Command::new("unshare");
    let bind = r#"mount --bind "$0" /etc/resolv.conf && exec "$@""#;
    unshared.args(["--mount", "--propagation", "private", "sh", "-c", bind]).arg(empty);
    unshared.arg(command().get_program());
    unshared.args(["--feed", &format!("unix:{}", folder.path().join("feed").display())]);
    let text = said(&finish(unshared), 1);
    assert!(text.contains("name one with --upstream ADDR"), "{text}");
}

#[test]
fn a_user_that_is_not_there_is_said() {
    if !privileged() {
        return;
    }
    let folder = Scratch::new("user").unwrap();
    let feed = format!("unix:{}", folder.path().join("feed").display());
    for (user, says) in [("nwt-nobody-has-this", "there is no user"), ("root", "root itself")] {
        let text = said(&resolver::run(&["--feed", &feed, "--upstream", "192.0.2.1", "--user", user]), 1);
        assert!(text.contains(says), "{text}");
    }
}
