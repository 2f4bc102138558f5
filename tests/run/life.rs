//! A run from its start to its end: statuses, descendants, signals, the terminal, and what is left (X2, X3).

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::lab::{DNS, Lab, eventually, finish, nameward, privileged};

fn signal(child: &Child, signal: Signal) {
    kill(Pid::from_raw(child.id() as i32), signal).unwrap();
}

/// Starts a shell script behind the fence and waits for its first line, `ready`.
fn started(lab: &Lab, script: &str) -> (Child, BufReader<std::process::ChildStdout>) {
    let mut child = lab
        .command(&["--", "sh", "-c", script])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut out = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    out.read_line(&mut line).unwrap();
    assert_eq!(line, "ready\n");
    (child, out)
}

/// Records, cgroups and pins of the run of this process.
pub(crate) fn remains(process: u32) -> Vec<String> {
    let folders = ["/run/nameward/runs", "/sys/fs/bpf/nameward", "/sys/fs/cgroup", "/sys/fs/cgroup/unified"];
    let mark = format!("run-{process}-");
    let entries = folders.iter().filter_map(|folder| fs::read_dir(folder).ok()).flatten().flatten();
    entries.map(|entry| entry.path().display().to_string()).filter(|path| path.contains(&mark)).collect()
}

// X3
#[test]
fn the_status_is_the_command_s() {
    if !privileged() {
        return;
    }
    let lab = Lab::new();
    for (script, status) in [("exit 0", 0), ("exit 3", 3), ("kill -TERM $$", 143), ("kill -KILL $$", 137)] {
        lab.run(&["--", "sh", "-c", script]).ended(status);
    }
    lab.run(&["--", "no-such-command"]).ended(127).told("cannot run no-such-command");
    lab.run(&["--", "/no/such/command"]).ended(127);
    lab.run(&["--", ""]).ended(127).told("write a command after --");
    lab.run(&["--", "/etc/passwd"]).ended(126).told("Permission denied");
    lab.run(&["--", "/etc"]).ended(126);
}

// X2
#[test]
fn the_last_descendant_ends_the_run() {
    if !privileged() {
        return;
    }
    let lab = Lab::new();
    let script = "(sleep 0.3; curl -s --max-time 5 http://allowed.example/; echo late) & exit 3";
    let said = lab.run(&["--allow", "allowed.example", "--", "sh", "-c", script]);
    said.ended(3);
    assert!(said.out.contains("hello from 198.51.100.10") && said.out.contains("late"), "{said:#?}");
}

// X2
#[test]
fn a_first_signal_is_passed_on_a_second_kills() {
    if !privileged() {
        return;
    }
    let lab = Lab::new();
    let script = "trap 'echo got' TERM; echo ready; while :; do sleep 0.02; done";
    let (mut child, mut out) = started(&lab, script);
    signal(&child, Signal::SIGTERM);
    let mut line = String::new();
    out.read_line(&mut line).unwrap();
    assert_eq!(line, "got\n");
    // Until then a second one is taken for the first, which often comes twice.
    eventually("killed", || {
        signal(&child, Signal::SIGTERM);
        child.try_wait().unwrap().is_some()
    });
    assert_eq!(child.wait().unwrap().code(), Some(137));
    let mut rest = String::new();
    out.read_to_string(&mut rest).unwrap();
    assert_eq!(remains(child.id()), [""; 0]);
}

// X2
#[test]
fn nothing_survives_when_nameward_is_killed_and_the_next_run_clears_up() {
    if !privileged() {
        return;
    }
    let lab = Lab::new();
    let (mut child, mut out) = started(&lab, "setsid sleep 1000 & echo ready; wait");
    let process = child.id();
    let cgroup = remains(process).into_iter().find(|path| path.contains("cgroup")).unwrap();
    let inside = fs::read_to_string(Path::new(&cgroup).join("cgroup.procs")).unwrap();
    assert!(inside.lines().count() >= 3, "{inside}");
    signal(&child, Signal::SIGKILL);
    child.wait().unwrap();
    // The pipe ends when nobody inside holds it any more.
    let mut rest = String::new();
    out.read_to_string(&mut rest).unwrap();
    eventually("everything inside has ended", || {
        fs::read_to_string(Path::new(&cgroup).join("cgroup.procs")).is_ok_and(|text| text.is_empty())
            || !Path::new(&cgroup).exists()
    });
    lab.run(&["--", "true"]).ended(0);
    assert_eq!(remains(process), [""; 0]);
}

#[test]
fn a_run_leaves_nothing_behind() {
    if !privileged() {
        return;
    }
    let lab = Lab::new();
    let mounts = fs::read_to_string("/proc/self/mountinfo")
        .unwrap()
        .lines()
        .filter(|line| line.contains("nameward"))
        .count();
    let child = lab.command(&["--allow", "allowed.example", "--", "curl", "-s", "http://allowed.example/"]);
    let child = { child }.stdout(Stdio::null()).spawn().unwrap();
    let process = child.id();
    assert!(child.wait_with_output().unwrap().status.success());
    assert_eq!(remains(process), [""; 0]);
    let after = fs::read_to_string("/proc/self/mountinfo")
        .unwrap()
        .lines()
        .filter(|line| line.contains("nameward"))
        .count();
    assert_eq!(after, mounts);
}

// X2: ctrl-C reaches the command, a shell inside has job control, the terminal comes back.
#[test]
fn the_terminal_works() {
    if !privileged() {
        return;
    }
    let lab = Lab::new();
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/run/programs/terminal.py");
    let mut command = std::process::Command::new("nsenter");
    command.arg(format!("--net=/run/netns/{}", lab.host())).args(["/usr/bin/python3", script]);
    command.arg(nameward()).args(["run", "--dns", DNS, "--"]).stdin(Stdio::null()).env_remove("SUDO_UID");
    let said = finish(command);
    said.ended(0);
    assert_eq!(said.out, "ctrl-c=130\njob-control=ok\nctrl-c-of-a-job=ok\nterminal=back\n", "{said:#?}");
}

// X2: sudo's caller, with the groups that account has.
#[test]
fn under_sudo_the_command_runs_as_its_caller() {
    if !privileged() {
        return;
    }
    let lab = Lab::new();
    let mut command =
        lab.command(&["--allow", "allowed.example", "--", "sh", "-c", "id -u; id -G; echo $USER $KEPT; pwd"]);
    command.envs([("SUDO_UID", "65534"), ("SUDO_GID", "65534"), ("KEPT", "kept")]);
    let said = finish(command);
    said.ended(0);
    let folder = lab.folder.display();
    assert_eq!(said.out, format!("65534\n65534\nnobody kept\n{folder}\n"));
    let mut command =
        lab.command(&["--allow", "allowed.example", "--", "curl", "-sS", "http://allowed.example/"]);
    command.envs([("SUDO_UID", "65534"), ("SUDO_GID", "65534")]);
    assert_eq!(finish(command).ended(0).out, "hello from 198.51.100.10\n");
}

// X2
#[test]
fn homes_and_files_can_be_hidden() {
    if !privileged() {
        return;
    }
    let lab = Lab::new();
    let (secret, hidden) = (lab.file("secret", "secret"), lab.folder.join("hidden"));
    fs::create_dir(&hidden).unwrap();
    fs::write(hidden.join("inner"), "secret").unwrap();
    let script = format!("cat {secret}; ls {}; ls ~; pwd", hidden.display());
    let said = lab.run(&[
        "--private-home",
        "--hide",
        &secret,
        "--hide",
        hidden.to_str().unwrap(),
        "--",
        "sh",
        "-c",
        &script,
    ]);
    said.ended(0);
    assert_eq!(said.out, format!("{}\n", lab.folder.display()), "{said:#?}");
    assert_eq!(fs::read_to_string(secret).unwrap(), "secret");
}

#[test]
fn the_command_does_not_wait_for_who_reads_stderr() {
    if !privileged() {
        return;
    }
    let lab = Lab::new();
    let mut command = lab.command(&["--", "sh", "-c", "curl -s --max-time 5 http://203.0.113.99/; exit 9"]);
    let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stderr.take());
    eventually("ended", || child.try_wait().unwrap().is_some());
    assert_eq!(child.wait().unwrap().code(), Some(9));
}
