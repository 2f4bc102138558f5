//! Bad input: a sentence that says what to do, status 125, nothing made (X3).

use std::process::Stdio;

use crate::lab::{DNS, Lab, finish, nameward, privileged};

/// `nameward ARGUMENTS` must fail with 125 and all of these texts.
#[track_caller]
fn refused(lab: &Lab, arguments: &[&str], texts: &[&str]) {
    let said = finish(lab.bare(arguments));
    said.ended(125);
    assert!(said.err.starts_with("nameward: "), "{said:#?}");
    for text in texts {
        said.told(text);
    }
    assert_eq!(said.out, "", "the command ran: {said:#?}");
}

#[test]
fn mistakes_of_the_command_line() {
    if !privileged() {
        return;
    }
    let lab = Lab::new();
    let run = |flags: &[&'static str]| [&["run", "--dns", DNS], flags, &["--", "echo", "ran"]].concat();
    refused(&lab, &[], &["Usage"]);
    refused(&lab, &["run"], &["COMMAND"]);
    refused(&lab, &run(&["--alow", "x"]), &["--alow", "--allow"]);
    refused(&lab, &run(&["--allow", "https://example.com/"]), &["this is a URL", "example.com:443"]);
    refused(&lab, &run(&["--allow", "exa mple.com"]), &["exa mple.com"]);
    refused(&lab, &run(&["--allow", "foo*.example.com"]), &["*.example.com"]);
    refused(&lab, &run(&["--allow", "example.com:99999"]), &["65535"]);
    refused(&lab, &run(&["--allow-cidr", "203.0.113.1/24"]), &["write 203.0.113.0/24"]);
    refused(&lab, &run(&["--allow-private", "example.com"]), &["--allow example.com"]);
    refused(&lab, &run(&["--user", "no-such-user"]), &["no-such-user"]);
    refused(
        &lab,
        &run(&["--hide", "/no/such/path"]),
        &["--hide /no/such/path", "No such file", "a path that is there"],
    );
    refused(&lab, &run(&["--hide", "/"]), &["--hide /:", "hide what is below it"]);
    refused(&lab, &run(&["--hide", "/proc/../proc"]), &["hide what is below it"]);
    refused(&lab, &["run", "--dns", "192.0.2.53:0", "--", "echo", "ran"], &["write 192.0.2.53"]);
    refused(
        &lab,
        &run(&["--learn", "/no/such/folder/file"]),
        &["--learn", "No such file", "make its folder first"],
    );
    for path in ["/tmp", "/etc/resolv.conf/file"] {
        refused(&lab, &run(&["--learn", path]), &["--learn", "name a regular file"]);
    }
    refused(&lab, &run(&["--policy", "/no/such/file"]), &["/no/such/file", "No such file"]);
    refused(&lab, &run(&["--policy", "/tmp"]), &["/tmp", "name the files in it"]);
}

// X5: all mistakes of a file at once, with their places.
#[test]
fn mistakes_of_a_policy_file() {
    if !privileged() {
        return;
    }
    let lab = Lab::new();
    let policy = "apiVersion: nameward.io/v1alpha1\nkind: EgressPolicy\nmetadata: {name: p, namespace: ci}\nspec:\n  \
                  podSelector: {}\n  egress:\n  - name: r\n    to: [{domainNames: [\"foo*.example\"]}]\n    \
                  ports: [{protocol: TCP, port: 90000}]\n    colour: blue\n";
    let file = lab.file("bad.yaml", policy);
    let arguments = ["run", "--dns", DNS, "--policy", &file, "--", "echo", "ran"];
    refused(
        &lab,
        &arguments,
        &["bad.yaml:8:", "bad.yaml:9:", "bad.yaml:10:", "colour", "90000", "foo*.example"],
    );
}

#[test]
fn what_the_machine_must_have() {
    if !privileged() {
        return;
    }
    let lab = Lab::new();
    let program = nameward();
    let program = program.to_str().unwrap();
    // No root.
    let mut command = lab.bare(&["run", "--dns", DNS, "--", "echo", "ran"]);
    command = wrapped(&command, &["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups"]);
    finish(command).ended(125).told("needs root").told("sudo nameward run");
    // No DNS server there; without rules that name names none is needed.
    refused(
        &lab,
        &["run", "--dns", "127.0.0.1:9", "--allow", "a.example", "--", "echo", "ran"],
        &["127.0.0.1:9", "--dns"],
    );
    finish(lab.bare(&["run", "--dns", "127.0.0.1:9", "--", "true"])).ended(0);
    // No BPF file system.
    let script = format!("umount -l /sys/fs/bpf; exec {program} run --dns {DNS} -- echo ran");
    let unshare = ["unshare", "--mount", "--propagation", "private", "sh", "-c", &script];
    let said = finish(wrapped(&lab.bare(&[]), &unshare));
    assert!(said.out.is_empty(), "{said:#?}");
    said.ended(125).told("/sys/fs/bpf").told("mount");
    // No cgroup v2.
    let script = format!("umount -l -t cgroup2 -a; exec {program} run --dns {DNS} -- echo ran");
    let unshare = ["unshare", "--mount", "--propagation", "private", "sh", "-c", &script];
    finish(wrapped(&lab.bare(&[]), &unshare)).ended(125).told("cgroup v2 is not mounted");
}

// An upstream that goes away later is told as it happens.
#[test]
fn an_upstream_that_is_silent_is_told() {
    if !privileged() {
        return;
    }
    let lab = Lab::new();
    let host = lab.host();
    let silent = lab.in_namespace(&host, || std::net::UdpSocket::bind("127.0.0.1:0").unwrap());
    let server = silent.local_addr().unwrap().to_string();
    let arguments =
        ["run", "--dns", &server, "--allow", "a.example", "--", "curl", "-s", "http://a.example/"];
    let said = finish(lab.bare(&arguments));
    said.told("a.example: upstream").told("--dns");
    assert_eq!(said.status, Some(6));
}

#[test]
fn help_completions_and_manual() {
    for (arguments, text) in [
        (vec!["run", "--help"], "sudo nameward run --allow registry.npmjs.org:443 -- npm ci"),
        (vec!["completions", "bash"], "_nameward"),
        (vec!["completions", "zsh"], "#compdef nameward"),
        (vec!["man"], ".SH"),
        (vec!["--version"], "nameward 0."),
    ] {
        let mut command = std::process::Command::new(nameward());
        command.args(&arguments).stdin(Stdio::null());
        let said = finish(command);
        assert!(said.ended(0).out.contains(text), "{arguments:?}: {said:#?}");
    }
}

/// The same command with a wrapper in front, after the network namespace has been entered.
fn wrapped(command: &std::process::Command, wrapper: &[&str]) -> std::process::Command {
    let mut words = command.get_args();
    let mut outer = std::process::Command::new("nsenter");
    outer.arg(words.next().unwrap()).args(wrapper);
    if wrapper[0] != "unshare" {
        outer.args(words);
    }
    outer.stdin(Stdio::null()).env_remove("SUDO_UID");
    outer
}
