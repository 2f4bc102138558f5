//! Each rule for plugins, with an enforcer that does as it is told.

use std::{
    fs,
    io::{BufRead, BufReader},
    os::unix::net::UnixListener,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

use super::*;

/// A socket on which each question is answered with the next of the given lines; the last one stays.
struct Enforcer {
    folder: PathBuf,
    asked: Arc<Mutex<Vec<Request>>>,
}

impl Enforcer {
    fn new(test: &str, answers: &'static [&'static str]) -> Self {
        let folder = std::env::temp_dir().join(format!("nwt{}-cni-{test}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let enforcer = Self { folder, asked: Arc::default() };
        if !answers.is_empty() {
            enforcer.listen(answers);
        }
        enforcer
    }

    fn listen(&self, answers: &'static [&'static str]) {
        let (listener, asked) = (UnixListener::bind(self.socket()).unwrap(), Arc::clone(&self.asked));
        thread::spawn(move || {
            for (number, stream) in listener.incoming().enumerate() {
                let Ok(mut stream) = stream else { return };
                let mut line = String::new();
                BufReader::new(&stream).read_line(&mut line).unwrap();
                asked.lock().unwrap().push(serde_json::from_str(&line).unwrap());
                let answer = answers.get(number).or(answers.last()).unwrap();
                writeln!(stream, "{answer}").ok();
            }
        });
    }

    fn socket(&self) -> PathBuf {
        self.folder.join("cni.sock")
    }

    fn asked(&self) -> Vec<Request> {
        self.asked.lock().unwrap().clone()
    }
}

impl Drop for Enforcer {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.folder).ok();
    }
}

const OK: &str = r#"{"ok":true,"retriable":false}"#;
const EARLY: &str = r#"{"ok":false,"error":"rules are not read yet","retriable":true}"#;
const NEVER: &str = r#"{"ok":false,"error":"the interface is not a veth","retriable":false}"#;

fn made(version: &str) -> Value {
    json!({
        "cniVersion": version,
        "interfaces": [{"name": "veth1", "mac": "02:00:00:00:00:01"}, {"name": "eth0", "sandbox": "/run/netns/x"}],
        "ips": [{"version": "4", "address": "10.0.0.2/24", "gateway": "10.0.0.1", "interface": 1}],
        "routes": [{"dst": "0.0.0.0/0"}],
        "dns": {"nameservers": ["10.0.0.1"]},
        "of another version": {"kept": [1, 2.5, null]},
    })
}

fn configuration(version: &str, socket: &Path) -> Value {
    json!({
        "cniVersion": version, "name": "net", "type": "nameward-cni", "socket": socket, "timeoutSeconds": 1,
        "prevResult": made(version),
    })
}

/// Runs a command; returns whether it succeeded and what it said.
fn call(command: &str, configuration: &str) -> (bool, Value) {
    call_in("ci", command, configuration)
}

fn call_in(namespace: &str, command: &str, configuration: &str) -> (bool, Value) {
    let variables = [
        ("CNI_CONTAINERID", "c1".to_owned()),
        ("CNI_IFNAME", "eth0".to_owned()),
        ("CNI_NETNS", "/run/netns/x".to_owned()),
        ("CNI_ARGS", format!("K8S_POD_NAMESPACE={namespace};K8S_POD_NAME=runner;K8S_POD_UID=u1")),
    ];
    let variables = variables.map(|(name, value)| (name.to_owned(), value)).into();
    let mut output = Vec::new();
    let code = run(command, &variables, configuration.as_bytes(), &mut output);
    let said = if output.is_empty() { Value::Null } else { serde_json::from_slice(&output).unwrap() };
    (code == ExitCode::SUCCESS, said)
}

#[test]
fn a_result_is_passed_on_unchanged_in_every_version() {
    let enforcer = Enforcer::new("versions", &[OK]);
    for version in VERSIONS {
        let (succeeded, said) = call("ADD", &configuration(version, &enforcer.socket()).to_string());
        assert!(succeeded, "{version}: {said}");
        assert_eq!(said, made(version), "{version}");
    }
    let asked = enforcer.asked();
    assert_eq!(asked.len(), VERSIONS.len());
    let expected = json!({
        "version": 1, "command": "Add", "containerId": "c1", "ifname": "eth0", "netns": "/run/netns/x",
        "podNamespace": "ci", "podName": "runner", "podUid": "u1", "hostInterface": "veth1", "addresses": ["10.0.0.2"],
    });
    assert_eq!(serde_json::to_value(&asked[0]).unwrap(), expected);
}

#[test]
fn other_versions_and_unknown_commands_are_refused() {
    let enforcer = Enforcer::new("foreign", &[OK]);
    for version in ["0.2.0", "2.0.0"] {
        let (succeeded, said) = call("ADD", &configuration(version, &enforcer.socket()).to_string());
        assert!(!succeeded && said["code"] == 1, "{said}");
    }
    for (command, version) in [("CHECK", "0.3.1"), ("STATUS", "1.0.0"), ("MOVE", "1.1.0")] {
        let (succeeded, said) = call(command, &configuration(version, &enforcer.socket()).to_string());
        assert!(!succeeded && said["code"] == 4, "{command}: {said}");
    }
    assert!(enforcer.asked().is_empty());
}

#[test]
fn versions_are_told() {
    let (succeeded, said) = call("VERSION", r#"{"cniVersion":"0.4.0"}"#);
    assert!(succeeded);
    assert_eq!(said, json!({"cniVersion": "0.4.0", "supportedVersions": VERSIONS}));
}

/// Promise 5: nothing starts unguarded because nobody answered.
#[test]
fn no_sandbox_without_an_enforcer() {
    let enforcer = Enforcer::new("absent", &[]);
    let (succeeded, said) = call("ADD", &configuration("1.1.0", &enforcer.socket()).to_string());
    assert!(!succeeded && said["code"] == 11, "{said}");
    assert!(said["msg"].as_str().unwrap().contains("is nameward-enforcer running"), "{said}");
}

#[test]
fn only_exempt_namespaces_start_without_it_and_only_where_that_is_configured() {
    let enforcer = Enforcer::new("exempt", &[]);
    let mut settings = configuration("1.0.0", &enforcer.socket());
    settings["exemptNamespaces"] = json!(["kube-system"]);
    assert!(!call_in("kube-system", "ADD", &settings.to_string()).0, "a list alone exempts nobody");
    settings["onAgentDown"] = "AllowExempt".into();
    assert!(!call_in("ci", "ADD", &settings.to_string()).0);
    let (succeeded, said) = call_in("kube-system", "ADD", &settings.to_string());
    assert!(succeeded, "{said}");
    assert_eq!(said, made("1.0.0"));
    // An enforcer that is there has the last word, for them as well.
    enforcer.listen(&[NEVER]);
    let (succeeded, said) = call_in("kube-system", "ADD", &settings.to_string());
    assert!(!succeeded && said["msg"].as_str().unwrap().contains("not a veth"), "{said}");
}

#[test]
fn an_enforcer_that_starts_is_waited_for() {
    let enforcer = Enforcer::new("early", &[EARLY, EARLY, OK]);
    let (succeeded, said) = call("ADD", &configuration("1.1.0", &enforcer.socket()).to_string());
    assert!(succeeded, "{said}");
    assert_eq!(enforcer.asked().len(), 3);
}

#[test]
fn what_the_enforcer_says_reaches_the_pods_events() {
    for (test, answer, code) in [("never", &[NEVER], 100), ("always-early", &[EARLY], 11)] {
        let enforcer = Enforcer::new(test, answer);
        let (succeeded, said) = call("ADD", &configuration("1.1.0", &enforcer.socket()).to_string());
        assert!(!succeeded && said["code"] == code, "{said}");
        let expected = serde_json::from_str::<Answer>(answer[0]).unwrap().error.unwrap();
        assert!(said["msg"].as_str().unwrap().contains(&expected), "{said}");
    }
}

#[test]
fn an_answer_that_is_none_guards_nothing() {
    for (test, answer) in [("empty", [""]), ("garbage", ["yes"]), ("null", ["null"])] {
        let enforcer = Enforcer::new(test, Box::leak(Box::new(answer)));
        let (succeeded, said) = call("ADD", &configuration("1.1.0", &enforcer.socket()).to_string());
        assert!(!succeeded, "{test}: {said}");
    }
}

#[test]
fn sandboxes_go_without_enforcer_and_without_a_configuration() {
    let enforcer = Enforcer::new("going", &[]);
    let good = configuration("1.1.0", &enforcer.socket()).to_string();
    for command in ["DEL", "GC"] {
        for text in [good.as_str(), "", "{", r#"{"cniVersion":"9.9.9"}"#, r#"{"onAgentDown":"?"}"#] {
            assert_eq!(call(command, text), (true, Value::Null), "{command} {text}");
        }
    }
}

/// Whom a late word is about is the enforcer's to judge: it gets the sandbox's own key.
#[test]
fn a_farewell_names_the_sandbox_and_its_answer_does_not_matter() {
    let enforcer = Enforcer::new("farewell", &[NEVER]);
    assert_eq!(call("DEL", &configuration("0.3.1", &enforcer.socket()).to_string()), (true, Value::Null));
    let asked = enforcer.asked();
    assert_eq!(
        (asked[0].command, asked[0].container_id.as_str(), asked[0].pod_uid.as_str()),
        (Command::Remove, "c1", "u1")
    );
}

#[test]
fn the_nodes_health_does_not_hang_on_the_enforcer() {
    let enforcer = Enforcer::new("status", &[]);
    let started = Instant::now();
    assert_eq!(call("STATUS", &configuration("1.1.0", &enforcer.socket()).to_string()), (true, Value::Null));
    assert!(started.elapsed() < Duration::from_millis(900), "it was waited for");
    enforcer.listen(&[NEVER]);
    assert_eq!(call("STATUS", &configuration("1.1.0", &enforcer.socket()).to_string()), (true, Value::Null));
    assert!(enforcer.asked().is_empty());
}

#[test]
fn a_check_says_what_the_enforcer_says() {
    let enforcer = Enforcer::new("check", &[OK, NEVER]);
    let text = configuration("0.4.0", &enforcer.socket()).to_string();
    assert_eq!(call("CHECK", &text), (true, Value::Null));
    assert!(!call("CHECK", &text).0);
}

#[test]
fn it_makes_no_interfaces_itself() {
    let enforcer = Enforcer::new("alone", &[OK]);
    let mut settings = configuration("1.0.0", &enforcer.socket());
    settings.as_object_mut().unwrap().remove("prevResult");
    let (succeeded, said) = call("ADD", &settings.to_string());
    assert!(!succeeded && said["code"] == 7 && said["msg"].as_str().unwrap().contains("install"), "{said}");
}
