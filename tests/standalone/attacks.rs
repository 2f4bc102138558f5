//! What happens to a host that enforces when places go and come, processes die, and somebody else takes a hand.

use std::{
    fs,
    process::{Command, Output},
    thread,
    time::{Duration, Instant},
};

use nameward_test_support::{Daemon, privileged, wait_until};
use nix::sys::signal::Signal;

use crate::{
    api::{get, json, metric},
    pair_lab::{Held, Host, Part, Place, ask, fresh, reaches},
};

const SOON: Duration = Duration::from_secs(20);
/// What drift may last (10 s), and a loaded machine.
const DRIFT: Duration = Duration::from_secs(20);
const ALLOWED: &str = "198.51.100.10";
const DENIED: &str = "203.0.113.10";

fn is_fenced(workload: &dyn Place) -> bool {
    !reaches(workload, DENIED) && reaches(workload, "allowed.example")
}

#[track_caller]
fn assert_refused(output: &Output, says: &str) {
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains(says), "{said}");
}

fn remove(host: &Host, instance: &str) -> Output {
    host.inside("nameward-enforcer").args(["--remove", "--instance", instance]).output().unwrap()
}

// DESIGN 4: severed links
#[test]
fn places_that_go_and_come_back_are_fenced_again() {
    if !privileged() {
        return;
    }
    let host = Host::running("other.example");
    for (workload, problem) in host.workloads.iter().zip(["no interface", "not a cgroup"]) {
        assert!(is_fenced(&**workload), "{}", workload.name());
        workload.take_away(host.internet.host());
        let told = wait_until("its absence is told", SOON, || {
            let (status, why) = get(&host.api(), "/readyz");
            (status == 503).then_some(why)
        });
        assert!(told.contains(problem), "{told}");
        workload.bring_back(host.internet.host());
        wait_until("it is fenced again", SOON, || is_fenced(&**workload).then_some(()));
        wait_until("all is well", SOON, || (get(&host.api(), "/readyz").0 == 200).then_some(()));
        assert_eq!(ask(&**workload, "denied.example", 3).status, "NXDOMAIN", "{}", workload.name());
    }
}

// R9, promise 4: the process may be killed at any moment
#[test]
fn killed_at_any_moment_it_goes_on() {
    if !privileged() {
        return;
    }
    let mut host = Host::running("other.example");
    let mut held: Vec<_> = host.workloads.iter().map(|workload| Held::open(&**workload, ALLOWED)).collect();
    host.kill(Part::Enforcer);
    for step in 0..8_u64 {
        let log = host.folder.path().join(format!("brief{}.log", fresh()));
        let brief = Daemon::start("nameward-enforcer", &mut host.enforcer_command(), &log).unwrap();
        // Not for luck: each step is another moment of its start.
        thread::sleep(Duration::from_millis(step * 40));
        brief.signal(if step % 2 == 0 { Signal::SIGKILL } else { Signal::SIGTERM }).unwrap();
        drop(brief);
        for (workload, held) in host.workloads.iter().zip(&mut held) {
            assert!(held.works(), "{} after {step}", workload.name());
            assert!(reaches(&**workload, ALLOWED), "{} after {step}", workload.name());
            assert!(!reaches(&**workload, DENIED), "{} after {step}", workload.name());
        }
    }
    host.start(Part::Enforcer);
    host.wait_until_served();
    let (_, bindings) = json(&host.api(), "/v1/bindings");
    for uid in ["ci/veth", "ci/box"] {
        let known = bindings["items"].as_array().unwrap().iter();
        assert!(known.filter(|one| one["endpoint"] == uid).any(|one| one["name"] == "allowed.example"));
    }
    assert!(held.iter_mut().all(Held::works));
    assert!(host.workloads.iter().all(|workload| is_fenced(&**workload)));
}

// S4
#[test]
fn one_process_enforces_and_only_removal_takes_the_fence_away() {
    if !privileged() {
        return;
    }
    let mut host = Host::running("other.example");
    let second = host.enforcer_command().output().unwrap();
    assert_refused(&second, "another process already enforces");
    assert_refused(&remove(&host, &host.instance), "stop that process first");
    let other = format!("{}z", &host.instance);
    assert!(remove(&host, &other).status.success());
    assert!(host.workloads.iter().all(|workload| is_fenced(&**workload)));
    host.kill(Part::Enforcer);
    for times in 1..=2 {
        let removed = remove(&host, &host.instance);
        assert!(removed.status.success(), "{times}: {}", String::from_utf8_lossy(&removed.stderr));
        assert!(!fs::exists(format!("/sys/fs/bpf/nameward/{}", host.instance)).unwrap());
        assert!(!fs::exists(format!("/run/nameward/{}", host.instance)).unwrap());
    }
    for workload in &host.workloads {
        wait_until("nothing is denied any more", SOON, || reaches(&**workload, DENIED).then_some(()));
    }
    host.start(Part::Enforcer);
    host.wait_until_served();
    assert!(host.workloads.iter().all(|workload| is_fenced(&**workload)));
}

#[test]
fn removal_leaves_the_files_of_others() {
    if !privileged() {
        return;
    }
    let mut host = Host::running("other.example");
    let state = host.folder.path().join("state");
    assert!(fs::read_dir(&state).unwrap().count() >= 2);
    fs::write(state.join("precious.names"), "somebody else's").unwrap();
    host.stop(Part::Enforcer);
    let mut command = host.inside("nameward-enforcer");
    command.args(["--remove", "--instance", &host.instance, "--state"]).arg(&state);
    assert!(command.output().unwrap().status.success());
    let left: Vec<_> = fs::read_dir(&state).unwrap().flatten().map(|entry| entry.file_name()).collect();
    assert_eq!(left, ["precious.names"]);
}

#[test]
fn bad_places_are_refused_with_a_sentence() {
    if !privileged() {
        return;
    }
    let host = Host::new("other.example");
    let file = host.folder.file("file", "").unwrap();
    let output = host.enforcer_command().arg("--state").arg(&file).output().unwrap();
    assert_eq!(output.status.code(), Some(2), "given twice");
    let mut command = host.inside("nameward-enforcer");
    command.args(["--instance", &host.instance, "--config"]).arg(&host.config);
    assert_refused(&command.arg("--state").arg(&file).output().unwrap(), "names that a restart needs");
    let text = fs::read_to_string(&host.config).unwrap();
    let routes = host.internet.host().ip("route show default").unwrap();
    let way_out = routes.split_whitespace().skip_while(|word| *word != "dev").nth(1).unwrap();
    fs::write(&host.config, text.replace("interface: w1", &format!("interface: {way_out}"))).unwrap();
    assert_refused(&host.enforcer_command().output().unwrap(), "carries the default route of this host");
    let (before, rest) = text.split_once("cgroup: ").unwrap();
    let (path, after) = rest.split_once('}').unwrap();
    let root = std::path::Path::new(path).parent().unwrap().display();
    fs::write(&host.config, format!("{before}cgroup: {root}}}{after}")).unwrap();
    assert_refused(&host.enforcer_command().output().unwrap(), "is the root cgroup");
    assert!(host.workloads.iter().all(|workload| reaches(&**workload, DENIED)), "nothing was attached");
}

fn bpftool(arguments: &[&str]) {
    let output = Command::new("bpftool").args(arguments).output().unwrap();
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
}

// DESIGN 4: drift is put right within 10 s, and counted
#[test]
fn hands_on_the_maps_are_put_right_and_counted() {
    if !privileged() {
        return;
    }
    let host = Host::running("other.example");
    let repairs = |uid: &str| {
        metric(&host.api(), &format!(r#"nameward_drift_repairs_total{{endpoint="{uid}"}}"#)).unwrap()
    };
    for (workload, uid) in host.workloads.iter().zip(["ci/veth", "ci/box"]) {
        assert!(is_fenced(&**workload), "{uid}");
        let folder =
            format!("/sys/fs/bpf/nameward/{}/v1/endpoints/{}", host.instance, uid.replace('/', "~2f"));
        let before = repairs(uid);
        // The whole configuration: rules that count, addresses, the way of its DNS.
        let pin = format!("{folder}/CONFIG");
        let output = Command::new("bpftool").args(["-j", "map", "dump", "pinned", &pin]).output().unwrap();
        let dump: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        let mut value: Vec<String> =
            dump[0]["value"].as_array().unwrap().iter().map(|byte| byte.as_str().unwrap().into()).collect();
        value.iter_mut().for_each(|byte| *byte = "0x00".into());
        let mut arguments = vec!["map", "update", "pinned", &pin, "key", "0", "0", "0", "0", "value"];
        arguments.extend(value.iter().map(String::as_str));
        bpftool(&arguments);
        let begin = Instant::now();
        wait_until("it is put right", DRIFT, || (repairs(uid) > before).then_some(()));
        assert!(begin.elapsed() < Duration::from_secs(12), "{uid}: {:?}", begin.elapsed());
        wait_until("it is fenced as before", SOON, || is_fenced(&**workload).then_some(()));
    }
}

// S4: each resolver by itself, in every order
#[test]
fn two_resolvers_serve_and_either_may_die() {
    if !privileged() {
        return;
    }
    let mut host = Host::running("other.example, short.example");
    let feed = format!("unix:{}", host.feed().display());
    let start = |host: &Host| {
        let mut command = host.inside("nameward-resolver");
        let log = host.folder.path().join(format!("resolver{}.log", fresh()));
        command.args(["--feed", &feed, "--upstream", crate::pair_lab::DNS]);
        let mut process = Daemon::start("nameward-resolver", &mut command, &log).unwrap();
        process.wait(SOON, || fs::read_to_string(&log).is_ok_and(|text| text.contains("serving"))).unwrap();
        process
    };
    let second = start(&host);
    host.wait_until_served();
    host.kill(Part::Resolver);
    for workload in &host.workloads {
        wait_until("the second answers", SOON, || {
            (ask(&**workload, "other.example", 3).status == "NOERROR").then_some(())
        });
        assert!(reaches(&**workload, "other.example"), "{}", workload.name());
    }
    host.start(Part::Resolver);
    host.kill(Part::Enforcer);
    drop(second);
    host.start(Part::Enforcer);
    let _third = start(&host);
    host.wait_until_served();
    for workload in &host.workloads {
        assert!(reaches(&**workload, "short.example"), "{}", workload.name());
        assert!(is_fenced(&**workload), "{}", workload.name());
    }
}
