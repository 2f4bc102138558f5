//! The enforcer's API, as curl sees it.

use std::{os::unix::fs::PermissionsExt, path::Path, process::Command};

use nameward_test_support::{privileged, wait_until};
use serde_json::Value;

use crate::pair_lab::{Host, Part, ask, reaches};

const SOON: std::time::Duration = std::time::Duration::from_secs(20);

/// Status and body of an answer.
pub(crate) fn get(socket: &Path, path: &str) -> (u16, String) {
    let mut curl = Command::new("curl");
    curl.args(["-sS", "--max-time", "5", "-w", "\n%{http_code}", "--unix-socket"]).arg(socket);
    let output = curl.arg(format!("http://localhost{path}")).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let (body, status) = text.rsplit_once('\n').unwrap_or((&text, "0"));
    (status.parse().unwrap_or(0), body.to_owned())
}

/// An answer that has to be JSON.
pub(crate) fn json(socket: &Path, path: &str) -> (u16, Value) {
    let (status, body) = get(socket, path);
    (status, serde_json::from_str(&body).unwrap_or_else(|error| panic!("{path}: {error}: {body:?}")))
}

/// The value of a metric, by its whole name with labels.
pub(crate) fn metric(socket: &Path, sample: &str) -> Option<f64> {
    let (_, page) = get(socket, "/metrics");
    page.lines().find_map(|line| line.strip_prefix(sample)?.strip_prefix(' ')?.parse().ok())
}

#[track_caller]
fn assert_refused(socket: &Path, path: &str, status: u16, says: &str) {
    let (found, body) = json(socket, path);
    let error = body["detail"].as_str().unwrap_or_default();
    assert_eq!(found, status, "{path}: {body}");
    assert!(error.contains(says), "{path}: {error:?}");
}

#[test]
fn curl_reads_endpoints_bindings_decisions_and_explanations() {
    if !privileged() {
        return;
    }
    let host = Host::running("other.example");
    let api = host.api();
    assert_eq!(std::fs::metadata(&api).unwrap().permissions().mode() & 0o777, 0o660);
    let veth = &*host.workloads[0];
    assert!(reaches(veth, "allowed.example"));
    assert!(!reaches(veth, "203.0.113.10"));
    let (status, endpoint) = json(&api, "/v1/endpoints/ci/veth");
    assert_eq!((status, &endpoint["mode"]), (200, &Value::from("enforce")), "{endpoint}");
    assert!(endpoint["counters"]["no-match"]["packets"].as_u64() > Some(0), "{endpoint}");
    let (_, bindings) = json(&api, "/v1/bindings?endpoint=ci/veth");
    let binding = &bindings["items"][0];
    assert_eq!((&binding["endpoint"], &binding["name"]), (&"ci/veth".into(), &"allowed.example".into()));
    let lease = &binding["addresses"][0];
    assert_eq!(binding["rules"][0], serde_json::json!({"policy": "EgressPolicy ci/ci", "rule": "web"}));
    assert_eq!(lease["address"], "198.51.100.10");
    assert!(lease["secondsLeft"].as_u64() > Some(0), "{lease}");
    let ends: jiff::Timestamp = lease["expiresAt"].as_str().unwrap().parse().unwrap();
    assert!(ends > jiff::Timestamp::now(), "{lease}");
    let denied = wait_until("the denial is told", SOON, || {
        let (_, decisions) = json(&api, "/v1/decisions?endpoint=ci/veth");
        let all = decisions["items"].as_array().unwrap().clone();
        all.into_iter().find(|decision| decision["remote"] == "203.0.113.10")
    });
    assert_eq!((&denied["verdict"], &denied["reason"]), (&"deny".into(), &"no-match".into()));
    let (_, explained) = json(&api, "/v1/explain?endpoint=ci/veth&destination=198.51.100.10&port=80");
    assert!(explained["text"].as_str().unwrap().contains("allowed.example"), "{explained}");
}

#[test]
fn refusals_are_sentences() {
    if !privileged() {
        return;
    }
    let host = Host::running("other.example");
    let api = host.api();
    assert_refused(&api, "/v1/nothing", 404, "ask for one of /v1/endpoints");
    assert_refused(&api, "/v1/endpoints/absent", 404, "there is no endpoint absent");
    assert_refused(&api, "/v1/bindings?endpoint=absent", 404, "there is no endpoint absent");
    assert_refused(&api, "/v1/bindings?endpont=ci/veth", 400, "unknown field `endpont`");
    assert_refused(&api, "/v1/explain", 400, "missing field `endpoint`");
    assert_refused(&api, "/v1/explain?endpoint=ci/veth&destination=a%20b", 400, "destination");
    assert_refused(&api, "/v1/explain?endpoint=ci/veth&destination=a.b&protocol=tpc", 400, "write tcp");
    let mut post = Command::new("curl");
    post.args(["-sS", "-X", "POST", "--unix-socket"]).arg(&api).arg("http://localhost/v1/endpoints");
    let said = String::from_utf8(post.output().unwrap().stdout).unwrap();
    assert!(said.contains("use GET"), "{said}");
}

// F1, S4
#[test]
fn readiness_and_metrics_follow_the_host() {
    if !privileged() {
        return;
    }
    let mut host = Host::running("other.example");
    let api = host.api();
    assert_eq!(get(&api, "/healthz"), (200, "ok\n".into()));
    let ready = (200, "ready\n".to_owned());
    wait_until("it is ready", SOON, || (get(&api, "/readyz") == ready).then_some(()));
    assert_eq!(ask(&*host.workloads[0], "allowed.example", 3).status, "NOERROR");
    assert!(!reaches(&*host.workloads[0], "203.0.113.10"));
    let denied = r#"nameward_packets_total{endpoint="ci/veth",reason="no-match",verdict="deny"}"#;
    assert!(metric(&api, denied) > Some(0.0));
    assert!(metric(&api, r#"nameward_bound_names{endpoint="ci/veth"}"#) >= Some(1.0));
    assert!(metric(&api, "nameward_heartbeat_age_seconds") < Some(5.0));
    wait_until("its metric says so", SOON, || (metric(&api, "nameward_ready") == Some(1.0)).then_some(()));
    assert_exposition(&get(&api, "/metrics").1);
    host.kill(Part::Resolver);
    let (_, why) = wait_until("it is not ready", SOON, || {
        Some(get(&api, "/readyz")).filter(|(status, _)| *status == 503)
    });
    assert!(why.contains("no resolver is connected"), "{why}");
    assert_eq!(metric(&api, "nameward_answer_path_whole"), Some(0.0));
}

/// Each sample follows HELP and TYPE of its family; those of counters end in `_total`; the page has its end.
pub(crate) fn assert_exposition(page: &str) {
    let mut family = (String::new(), "");
    for line in page.lines() {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').unwrap();
            family = (name.to_owned() + if kind == "counter" { "_total" } else { "" }, kind);
            assert!(page.contains(&format!("# HELP {name} ")), "{line}");
        } else if !line.starts_with('#') {
            let name = line.split(['{', ' ']).next().unwrap();
            assert_eq!(name, family.0, "{line}");
            assert!(line.rsplit_once(' ').unwrap().1.parse::<f64>().is_ok(), "{line}");
        }
    }
    assert!(page.ends_with("# EOF\n"), "{page}");
}

#[test]
fn an_address_is_served_too_and_a_file_in_the_way_stays() {
    if !privileged() {
        return;
    }
    let host = Host::new("other.example");
    let precious = host.folder.file("precious", "text").unwrap();
    let refused = host.enforcer_command().arg(format!("--api=unix:{}", precious.display())).output().unwrap();
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(1));
    assert!(said.contains("there is a file of another kind at this path"), "{said}");
    assert_eq!(std::fs::read_to_string(precious).unwrap(), "text");
    let log = host.folder.path().join("address.log");
    let token = host.folder.path().join("token");
    let mut command = host.enforcer_command();
    command.args(["--api", "127.0.0.1:8053", "--api-token-file"]).arg(&token);
    let mut process = nameward_test_support::Daemon::start("nameward-enforcer", &mut command, &log).unwrap();
    let fetch = |path: &str, header: &str| {
        let mut curl = host.internet.host().command("curl");
        curl.args(["-sS", "--max-time", "2", "-w", "\n%{http_code}", "-H", header]);
        let output = curl.arg(format!("http://127.0.0.1:8053{path}")).output().unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    process.wait(SOON, || fetch("/healthz", "x: y") == "ok\n\n200").unwrap();
    let refused = fetch("/v1/endpoints", "x: y");
    assert!(refused.ends_with("401") && refused.contains("--api-token-file"), "{refused}");
    let shown = std::fs::read_to_string(&token).unwrap();
    assert_eq!(std::fs::metadata(&token).unwrap().permissions().mode() & 0o777, 0o600);
    let header = format!("Authorization: Bearer {}", shown.trim());
    // It serves before its endpoints are attached.
    process.wait(SOON, || fetch("/v1/endpoints", &header).contains("ci/veth")).unwrap();
}
