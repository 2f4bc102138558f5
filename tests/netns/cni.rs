//! `nameward-cni` behind Debian's own CNI plugins, called as a container runtime calls them.

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    os::unix::net::UnixListener,
    process::{Command, Stdio},
    thread::{self, JoinHandle},
    time::Duration,
};

use nameward_feed::cni::{self, Answer, Request};
use nameward_test_support::{Netns, Scratch, finish, privileged, program, start};
use serde_json::{Value, json};

const LIMIT: Duration = Duration::from_secs(60);
const PLUGINS: &str = "/usr/lib/cni";

/// A node and a sandbox on it, and a folder for what plugins keep.
struct Runtime {
    node: Netns,
    sandbox: Netns,
    folder: Scratch,
}

impl Runtime {
    fn new() -> Self {
        let (node, sandbox) = (Netns::new("node").unwrap(), Netns::new("pod").unwrap());
        Self { node, sandbox, folder: Scratch::new("cni").unwrap() }
    }

    /// Calls a plugin; fails with what it said.
    fn call(&self, plugin: &str, command: &str, configuration: &Value) -> Result<Value, String> {
        let mut call: Command = self.node.command(plugin);
        call.env("CNI_COMMAND", command).env("CNI_CONTAINERID", "c1").env("CNI_IFNAME", "eth0");
        call.env("CNI_NETNS", self.sandbox.path()).env("CNI_PATH", PLUGINS).stdin(Stdio::piped());
        call.env("CNI_ARGS", "IgnoreUnknown=1;K8S_POD_NAMESPACE=ci;K8S_POD_NAME=runner;K8S_POD_UID=u1");
        let mut child = start(&mut call).unwrap();
        let mut input = child.stdin.take().unwrap();
        input.write_all(configuration.to_string().as_bytes()).unwrap();
        drop(input);
        let output = finish(child, LIMIT).unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        if !output.status.success() {
            return Err(said);
        }
        Ok(if said.trim().is_empty() { Value::Null } else { serde_json::from_str(&said).unwrap() })
    }

    fn of_cni(&self, version: &str, plugin: &str) -> Value {
        json!({
            "cniVersion": version, "name": "pods", "type": plugin, "isGateway": plugin == "bridge",
            "ipam": {"type": "host-local", "dataDir": self.folder.path(), "subnet": "10.7.9.0/24"},
        })
    }

    fn ours(&self, version: &str, result: &Value) -> Value {
        json!({
            "cniVersion": version, "name": "pods", "type": "nameward-cni", "prevResult": result,
            "socket": self.folder.path().join("cni.sock"), "timeoutSeconds": 1,
        })
    }

    /// Answers one question, and gives it to whoever joins.
    fn enforcer(&self) -> JoinHandle<Request> {
        let listener = UnixListener::bind(self.folder.path().join("cni.sock")).unwrap();
        thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut line = String::new();
            BufReader::new(&stream).read_line(&mut line).unwrap();
            writeln!(stream, "{}", serde_json::to_string(&Answer::done()).unwrap()).unwrap();
            serde_json::from_str(&line).unwrap()
        })
    }

    /// The number of the host's end of the sandbox's interface, as the kernel tells it.
    fn peer(&self) -> String {
        let shown = self.sandbox.ip("-o link show dev eth0").unwrap();
        let (_, rest) = shown.split_once("eth0@if").unwrap();
        rest.split_once(':').unwrap().0.to_owned()
    }
}

#[test]
fn what_real_plugins_made_reaches_the_enforcer_and_the_runtime() {
    if !privileged() {
        return;
    }
    let ours = program("nameward-cni").unwrap().display().to_string();
    for (plugin, version) in [("ptp", "0.3.1"), ("bridge", "0.4.0"), ("ptp", "1.0.0"), ("bridge", "1.0.0")] {
        let runtime = Runtime::new();
        let (theirs, of_cni) = (format!("{PLUGINS}/{plugin}"), runtime.of_cni(version, plugin));
        let result = runtime.call(&theirs, "ADD", &of_cni).unwrap();
        let enforcer = runtime.enforcer();
        let said = runtime.call(&ours, "ADD", &runtime.ours(version, &result)).unwrap();
        assert_eq!(said, result, "{plugin} {version}");
        let asked = enforcer.join().unwrap();
        assert_eq!((asked.command, asked.pod_uid.as_str()), (cni::Command::Add, "u1"));
        assert_eq!(asked.netns, runtime.sandbox.path().display().to_string());
        let link = asked.host_interface.unwrap();
        let shown = runtime.node.ip(&format!("-o link show dev {link}")).unwrap();
        assert!(shown.starts_with(&format!("{}: ", runtime.peer())), "{plugin} {version}: {link} is {shown}");
        let own = runtime.sandbox.ip("-o -4 addr show dev eth0").unwrap();
        assert!(own.contains(&format!("inet {}/", asked.addresses[0])), "{own}");
        // Nobody listens any more: the sandbox can go all the same, and its address is free again.
        assert_eq!(runtime.call(&ours, "DEL", &runtime.ours(version, &result)), Ok(Value::Null));
        runtime.call(&theirs, "DEL", &of_cni).unwrap();
        let kept = fs::read_dir(runtime.folder.path().join("pods")).unwrap().flatten();
        assert!(
            !kept.map(|entry| entry.file_name()).any(|name| name.to_string_lossy().starts_with("10.7.9."))
        );
    }
}

/// Promise 5: a sandbox that the enforcer does not know is none.
#[test]
fn a_sandbox_without_an_enforcer_fails_and_the_next_try_succeeds() {
    if !privileged() {
        return;
    }
    let (runtime, ours) = (Runtime::new(), program("nameward-cni").unwrap().display().to_string());
    let result = runtime.call(&format!("{PLUGINS}/ptp"), "ADD", &runtime.of_cni("1.0.0", "ptp")).unwrap();
    let said = runtime.call(&ours, "ADD", &runtime.ours("1.0.0", &result)).unwrap_err();
    let said: Value = serde_json::from_str(&said).unwrap();
    assert_eq!(said["code"], 11, "{said}");
    assert!(said["msg"].as_str().unwrap().contains("is nameward-enforcer running on this node?"), "{said}");
    let enforcer = runtime.enforcer();
    assert_eq!(runtime.call(&ours, "ADD", &runtime.ours("1.0.0", &result)).unwrap(), result);
    enforcer.join().unwrap();
}
