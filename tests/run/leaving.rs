//! The adversary inside, as uid 0 (bypass rows B36, B37). What counts is what came of each attempt, and that no
//! packet reached the far side.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, Stdio};

use crate::lab::{Lab, Said, eventually, finish, must, nameward, privileged};
use crate::life::remains;

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/run/programs/leave.py");

fn attempts(said: &Said) -> HashMap<&str, &str> {
    said.out.lines().filter_map(|line| line.split_once('=')).collect()
}

// B36
#[test]
fn no_way_out_for_uid_0() {
    if !privileged() {
        return;
    }
    let lab = Lab::new();
    let outside = std::process::id().to_string();
    let said = lab.run(&["--", "/usr/bin/python3", SCRIPT, &outside]);
    said.ended(0);
    let found = attempts(&said);
    let expected = [
        ("write-cgroup-procs", "ENOENT"),
        ("write-cgroup-procs-v2", "EROFS"),
        ("cgroup-files", "0"),
        ("pins", "0"),
        ("unlink-pins", "EROFS"),
        ("own-sockets", "0"),
        ("mount-cgroup2", "EPERM"),
        ("mount-bpf", "EPERM"),
        ("umount", "EPERM"),
        ("bpf", "EPERM"),
        ("unshare-user", "EPERM"),
        ("unshare-net", "EPERM"),
        ("unshare-cgroup", "EPERM"),
        ("unshare-mount", "EPERM"),
        ("unshare-time", "EPERM"),
        ("unshare-user-high-bits", "EPERM"),
        ("clone-user", "EPERM"),
        ("clone3", "ENOSYS"),
        ("setns", "EPERM"),
        ("socket-packet", "EAFNOSUPPORT"),
        ("socket-vsock", "EAFNOSUPPORT"),
        ("socket-xdp", "EAFNOSUPPORT"),
        ("socket-alg", "EAFNOSUPPORT"),
        ("socket-bluetooth", "EAFNOSUPPORT"),
        ("socket-can", "EAFNOSUPPORT"),
        ("socket-smc", "EAFNOSUPPORT"),
        ("socket-raw", "EPERM"),
        ("socket-obsolete-packet", "EPROTONOSUPPORT"),
        ("socket-mptcp", "EPROTONOSUPPORT"),
        ("socket-unix", "ok"),
        ("socket-inet", "ok"),
        ("socket-inet6", "ok"),
        ("socket-netlink", "ok"),
        ("socket-x32", "ENOSYS"),
        ("join-group4", "EPERM"),
        ("join-source4", "EPERM"),
        ("join-any-family", "EPERM"),
        ("join-group6", "EPERM"),
        ("join-anycast6", "EPERM"),
        ("reuseport-cbpf", "EPERM"),
        ("reuseport-ebpf", "EPERM"),
        ("broadcast", "ok"),
        ("broadcast-is-on", "0"),
        ("device", "EPERM"),
        ("device-index", "EPERM"),
        ("link4", "EPERM"),
        ("link6", "EPERM"),
        ("packet-info6", "EPERM"),
        ("old-packet-info6", "ok"),
        ("any-source4", "EPERM"),
        ("any-source6", "EPERM"),
        ("transparent4", "EPERM"),
        ("transparent6", "EPERM"),
        ("route4", "EPERM"),
        ("route6", "EPERM"),
        ("old-route6", "EPERM"),
        ("old-options6", "EPERM"),
        ("upper-layer", "EPERM"),
        ("io_uring", "ENOSYS"),
        ("add_key", "EPERM"),
        ("request_key", "EPERM"),
        ("keyctl", "EPERM"),
        ("pidfd-outside", "ESRCH"),
        ("ptrace-outside", "ESRCH"),
        ("ptrace-init", "EPERM"),
        ("kill-outside", "ESRCH"),
        ("processes", "0"),
        ("core_pattern", "EROFS"),
        ("uevent_helper", "EROFS"),
        ("sysrq", "ENOENT"),
        ("tiocsti", "EPERM"),
        ("tunsetiff", "EPERM"),
    ];
    let wrong: Vec<_> = expected
        .iter()
        .filter(|(what, result)| found.get(what) != Some(result))
        .map(|(what, result)| format!("{what}: {:?}, not {result}", found.get(what)))
        .collect();
    assert!(wrong.is_empty(), "{wrong:#?}\n{said:#?}");
    assert_eq!(found.len(), expected.len(), "an attempt is not checked: {said:#?}");
}

// B36
#[test]
fn privileges_are_gone_for_root_and_for_others() {
    if !privileged() {
        return;
    }
    let lab = Lab::new();
    for (user, uid) in [("root", "0"), ("nobody", "65534")] {
        let said = lab.run(&["--user", user, "--", "cat", "/proc/self/status"]);
        said.ended(0);
        let has = |line: String| assert!(said.out.contains(&line), "{line}: {said:#?}");
        for set in ["Inh", "Prm", "Eff", "Bnd", "Amb"] {
            has(format!("Cap{set}:\t0000000000000000"));
        }
        has("NoNewPrivs:\t1".into());
        has("Seccomp:\t2".into());
        has(format!("Uid:\t{uid}\t{uid}\t{uid}\t{uid}"));
    }
}

// B36: fork, setsid and the end of all parents change nothing.
#[test]
fn a_daemon_stays_inside() {
    if !privileged() {
        return;
    }
    let lab = Lab::new();
    let daemon =
        "setsid sh -c '(curl -sS --max-time 5 http://203.0.113.99/ || echo refused) & exit 0'; exit 0";
    let said = lab.run(&["--allow", "allowed.example", "--", "sh", "-c", daemon]);
    said.ended(0).told("203.0.113.99:80 (never resolved): no-match");
    assert!(said.out.contains("refused"), "{said:#?}");
    assert!(!lab.was_reached("203.0.113.99"));
}

// B37
#[test]
fn a_network_socket_as_standard_input_is_refused() {
    if !privileged() {
        return;
    }
    let lab = Lab::new();
    let host = lab.host();
    let socket = lab.in_namespace(&host, || std::net::UdpSocket::bind("192.0.2.2:0").unwrap());
    let mut command = lab.command(&["--", "true"]);
    command.stdin(std::os::fd::OwnedFd::from(socket));
    finish(command).ended(125).told("standard input is a network socket");
}

// B37: also one of a family that gives sockets no address.
#[test]
fn a_socket_without_an_address_is_refused() {
    if !privileged() {
        return;
    }
    let lab = Lab::new();
    let script = "import os, socket, sys\n\
                  AF_XDP = 44\n\
                  s = socket.socket(AF_XDP, socket.SOCK_RAW)\n\
                  os.dup2(s.fileno(), 1)\n\
                  os.execv(sys.argv[1], sys.argv[1:])";
    let mut command = Command::new("nsenter");
    command.arg(format!("--net=/run/netns/{}", lab.host())).args(["/usr/bin/python3", "-c", script]);
    command.arg(nameward()).args(["run", "--dns", crate::lab::DNS, "--", "true"]);
    command.stdin(Stdio::null()).env_remove("SUDO_UID");
    finish(command).ended(125).told("standard output is a network socket");
}

// B37
#[test]
fn other_descriptors_do_not_come_along() {
    if !privileged() {
        return;
    }
    let lab = Lab::new();
    let script = "import os, socket, subprocess, sys\n\
                  s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n\
                  d = os.open('/sys/fs/cgroup', os.O_RDONLY)\n\
                  sys.exit(subprocess.run(sys.argv[1:], pass_fds=[s.fileno(), d]).returncode)";
    let mut command = Command::new("nsenter");
    command.arg(format!("--net=/run/netns/{}", lab.host())).args(["/usr/bin/python3", "-c", script]);
    command.arg(nameward()).args(["run", "--dns", crate::lab::DNS, "--", "ls", "-l", "/proc/self/fd"]);
    command.stdin(std::process::Stdio::null()).env_remove("SUDO_UID");
    let said = finish(command);
    said.ended(0);
    assert!(!said.out.contains("socket:") && !said.out.contains("cgroup"), "{said:#?}");
}

// B36: file systems of the kernel that are mounted a second time, and devices that send without a socket.
#[test]
fn what_is_writable_only_elsewhere_is_not_seen() {
    if !privileged() {
        return;
    }
    let lab = Lab::new();
    let (folder, host) = (lab.folder.display(), lab.host());
    let script = format!(
        "mkdir {folder}/sys {folder}/dev && mount -t sysfs none {folder}/sys && mount -t tmpfs none {folder}/dev && \
         mknod -m 666 {folder}/dev/null c 1 3 && mkdir {folder}/dev/infiniband {folder}/dev/vfio && \
         for name in tap7 uio0 nvme-fabrics infiniband/uverbs0 vfio/1; do mknod -m 666 {folder}/dev/$name c 1 5; done && \
         mount --move {folder}/dev /dev && exec nsenter --net=/run/netns/{host} {} run --dns {} -- \
         sh -c 'ls {folder}/sys /dev/infiniband /dev/vfio | grep -v :; cat /dev/tap7 /dev/uio0 /dev/nvme-fabrics | \
         head -c 1 | wc -c'",
        nameward().display(),
        crate::lab::DNS
    );
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c", &script]);
    command.stdin(std::process::Stdio::null()).env_remove("SUDO_UID");
    let said = finish(command);
    said.ended(0);
    assert_eq!(said.out.split_whitespace().collect::<Vec<_>>(), ["0"], "{said:#?}");
}

// X2, X4: the command cannot have root write elsewhere for it.
#[test]
fn what_is_learned_goes_through_no_link() {
    if !privileged() {
        return;
    }
    let lab = Lab::new();
    let folder = lab.folder.join("mine");
    std::fs::create_dir(&folder).unwrap();
    std::os::unix::fs::chown(&folder, Some(65534), Some(65534)).unwrap();
    let precious = lab.file("precious", "precious");
    let swap = format!("rm learned.yaml; ln -s {precious} learned.yaml");
    let learn = |command: &str| {
        let mut run = lab.command(&["--audit", "--learn", "learned.yaml", "--", "sh", "-c", command]);
        run.current_dir(&folder).env("SUDO_UID", "65534").env("SUDO_GID", "65534");
        finish(run)
    };
    learn("true").ended(0);
    let owner = std::os::unix::fs::MetadataExt::uid(&std::fs::metadata(folder.join("learned.yaml")).unwrap());
    assert_eq!(owner, 65534, "the file belongs to who asked for it");
    learn(&swap).ended(125).told("removed or replaced");
    learn("true").ended(125).told("symbolic link");
    assert_eq!(std::fs::read_to_string(precious).unwrap(), "precious");
}

/// Connects to port 8080 of two addresses; when it reads a line it writes to both, and ends by the signal of that number.
const LAST_WORDS: &str = "import os, socket, sys\n\
                          all = []\n\
                          for family, address in [(2, '198.51.100.10'), (10, '2001:db8:1::10')]:\n\
                          \tall.append(socket.socket(family))\n\
                          \tall[-1].connect((address, 8080))\n\
                          print('ready', flush=True)\n\
                          end = int(sys.stdin.readline())\n\
                          for one in all: one.send(b'secret')\n\
                          print('sent', flush=True)\n\
                          if end: os.kill(os.getpid(), end)";

/// A command that has written to connections whose other end is out of reach: the kernel tries again and again.
fn with_last_words(lab: &Lab, end: u8) -> Child {
    let allowed = ["--allow-cidr", "198.51.100.10:8080", "--allow-cidr", "[2001:db8:1::10]:8080"];
    let mut command = lab.command(&[&allowed[..], &["--", "/usr/bin/python3", "-c", LAST_WORDS]].concat());
    let command = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.as_mut().unwrap()).lines();
    assert_eq!(lines.next().unwrap().unwrap(), "ready");
    must(&format!("ip -n {} link set down0 down", lab.internet()));
    writeln!(child.stdin.as_mut().unwrap(), "{end}").unwrap();
    assert_eq!(lines.next().unwrap().unwrap(), "sent");
    child
}

/// Connections to port 8080 that the host has still.
fn left(lab: &Lab) -> Vec<String> {
    let tables = lab.in_namespace(&lab.host(), || {
        ["tcp", "tcp6"]
            .map(|table| std::fs::read_to_string(format!("/proc/thread-self/net/{table}")).unwrap())
    });
    tables
        .iter()
        .flat_map(|table| table.lines())
        .filter(|line| line.contains(":1F90 "))
        .map(Into::into)
        .collect()
}

// X2: what the kernel has to send still is not sent when nobody judges it any more.
#[test]
fn no_connection_outlives_the_fence() {
    if !privileged() {
        return;
    }
    let lab = Lab::new();
    let child = with_last_words(&lab, 0);
    let process = child.id();
    let said = Said::of(&child.wait_with_output().unwrap(), Default::default());
    assert_eq!((said.ended(0).err.as_str(), left(&lab), remains(process)), ("", vec![], vec![]));
}

// X2: nor when nameward is killed.
#[test]
fn connections_of_a_killed_run_stay_fenced_and_the_next_run_ends_them() {
    if !privileged() {
        return;
    }
    let lab = Lab::new();
    let mut child = with_last_words(&lab, 19);
    let process = child.id();
    child.kill().unwrap();
    child.wait().unwrap();
    eventually("its processes have ended", || left(&lab).iter().all(|line| !line.contains(" 01 ")));
    assert_eq!(left(&lab).len(), 2, "the kernel has them");
    assert_eq!(remains(process).iter().filter(|path| path.starts_with("/sys/fs/bpf")).count(), 1, "fenced");
    lab.run(&["--", "true"]).ended(0);
    assert_eq!((left(&lab), remains(process)), (vec![], vec![]));
}

// B36: signals to the process group, which a command that is not at a terminal has for itself.
#[test]
fn signals_to_the_group_stay_inside() {
    if !privileged() {
        return;
    }
    let lab = Lab::new();
    for user in ["0", "65534"] {
        let script = format!(
            "nsenter --net=/run/netns/{} {} run --dns {} -- sh -c 'kill -TERM 0; sleep 9'; echo status $?",
            lab.host(),
            nameward().display(),
            crate::lab::DNS
        );
        let mut command = Command::new("setsid");
        command.args(["--wait", "sh", "-c", &script]).stdin(Stdio::null());
        command.envs([("SUDO_UID", user), ("SUDO_GID", user)]);
        assert_eq!(finish(command).ended(0).out, "status 143\n", "{user}");
    }
}

// B36: what the run tells others is nothing for the command.
#[test]
fn the_api_of_the_run_is_not_to_be_seen() {
    if !privileged() {
        return;
    }
    let lab = Lab::new();
    let (folder, socket) = (lab.folder.join("made"), lab.folder.join("made/by us/api.sock"));
    let api = format!("unix:{}", socket.display());
    let ask =
        "test -e \"$1\" && curl -s --max-time 5 --unix-socket \"$1\" http://localhost/v1/endpoints; echo $?";
    let said = lab.run(&["--api", &api, "--", "sh", "-c", ask, "sh", socket.to_str().unwrap()]);
    assert_eq!(said.ended(0).out, "7\n", "{said:#?}");
    assert!(!folder.exists(), "folders that were made for it");
    let token = lab.folder.join("token");
    let api = ["--api", "127.0.0.1:18181", "--api-token-file", token.to_str().unwrap()];
    let read = ["--", "cat", token.to_str().unwrap()];
    assert_eq!(lab.run(&[&api[..], &read[..]].concat()).ended(0).out, "");
    assert!(token.exists());
}
