//! `nameward-enforcer` and `nameward-resolver` together on a host, and each without the other (S4, F1, promise 4).

use std::{
    process::Stdio,
    time::{Duration, Instant},
};

use nameward_test_support::{privileged, wait_until};

use crate::pair_lab::{Held, Host, Part, Place, ask, asking, reaches, understand};

const SOON: Duration = Duration::from_secs(10);
const ALLOWED: &str = "198.51.100.10";
const DENIED: &str = "203.0.113.10";

/// What is always so on a host that both have served.
#[track_caller]
fn assert_fenced(workload: &dyn Place) {
    let name = workload.name();
    assert!(reaches(workload, "allowed.example"), "{name}: an allowed name");
    assert_eq!(ask(workload, "denied.example", 2).status, "NXDOMAIN", "{name}: a name that no rule allows");
    assert!(!reaches(workload, DENIED), "{name}: an address that nobody granted");
}

#[track_caller]
fn assert_starts_in_order(first: Part, second: Part) {
    let mut host = Host::new("other.example");
    host.start(first);
    if first == Part::Enforcer {
        assert_denied_until_answered(&mut host, second);
    } else {
        host.start(second);
    }
    host.wait_until_served();
    for workload in &host.workloads {
        assert_fenced(&**workload);
    }
}

/// Questions wait in the sockets until somebody reads them.
fn assert_denied_until_answered(host: &mut Host, second: Part) {
    let waiting: Vec<_> = host
        .workloads
        .iter()
        .map(|workload| {
            assert!(!reaches(&**workload, ALLOWED), "{}: nothing is granted yet", workload.name());
            asking(&**workload, "allowed.example", 20).stdout(Stdio::piped()).spawn().unwrap()
        })
        .collect();
    host.start(second);
    for child in waiting {
        let said = understand(&child.wait_with_output().unwrap().stdout);
        assert_eq!((said.status.as_str(), said.addresses), ("NOERROR", vec![ALLOWED.to_owned()]));
    }
}

// S4: in either order
#[test]
fn the_resolver_may_start_first() {
    if privileged() {
        assert_starts_in_order(Part::Resolver, Part::Enforcer);
    }
}

// S4, promise 5
#[test]
fn the_enforcer_may_start_first() {
    if privileged() {
        assert_starts_in_order(Part::Enforcer, Part::Resolver);
    }
}

// Promise 4: connections go on, questions wait in the sockets
#[test]
fn a_killed_resolver_costs_no_connection_and_no_question() {
    if !privileged() {
        return;
    }
    let mut host = Host::running("other.example");
    let mut held: Vec<_> = host.workloads.iter().map(|workload| Held::open(&**workload, ALLOWED)).collect();
    host.kill(Part::Resolver);
    assert!(held.iter_mut().all(Held::works));
    for workload in &host.workloads {
        assert!(reaches(&**workload, ALLOWED), "{}: granted is granted", workload.name());
        assert!(!reaches(&**workload, DENIED), "{}: denied is denied", workload.name());
    }
    let waiting: Vec<_> = host
        .workloads
        .iter()
        .map(|workload| asking(&**workload, "other.example", 20).stdout(Stdio::piped()).spawn().unwrap())
        .collect();
    host.start(Part::Resolver);
    for child in waiting {
        let said = understand(&child.wait_with_output().unwrap().stdout);
        assert_eq!((said.status.as_str(), said.addresses), ("NOERROR", vec!["198.51.100.11".to_owned()]));
    }
    for workload in &host.workloads {
        assert!(reaches(&**workload, "other.example"), "{}", workload.name());
        assert_fenced(&**workload);
    }
    assert!(held.iter_mut().all(Held::works));
}

// F1, promise 4: known names answer, new ones wait for it
#[test]
fn a_killed_enforcer_is_missed_by_new_names_only() {
    if !privileged() {
        return;
    }
    let mut host = Host::running("other.example, short.example");
    let mut held: Vec<_> = host.workloads.iter().map(|workload| Held::open(&**workload, ALLOWED)).collect();
    host.kill(Part::Enforcer);
    for workload in &host.workloads {
        let name = workload.name();
        let known = ask(&**workload, "allowed.example", 3);
        assert_eq!((known.status.as_str(), known.addresses), ("NOERROR", vec![ALLOWED.to_owned()]), "{name}");
        assert!(reaches(&**workload, "allowed.example"), "{name}: granted is granted");
        let new = ask(&**workload, "other.example", 6);
        assert_eq!((new.status.as_str(), new.addresses.len()), ("SERVFAIL", 0), "{name}: a new name");
        assert!(!reaches(&**workload, "198.51.100.11"), "{name}: an address of a new name");
        assert_eq!(ask(&**workload, "denied.example", 3).status, "NXDOMAIN", "{name}");
    }
    assert!(held.iter_mut().all(Held::works));
    host.start(Part::Enforcer);
    for workload in &host.workloads {
        let name = workload.name();
        wait_until("new names are answered again", SOON, || {
            (ask(&**workload, "other.example", 3).status == "NOERROR").then_some(())
        });
        assert!(reaches(&**workload, "other.example"), "{name}");
        assert_fenced(&**workload);
    }
    assert!(held.iter_mut().all(Held::works));
}

// DESIGN 10: both gone
#[test]
fn without_both_nothing_opens_and_nothing_closes() {
    if !privileged() {
        return;
    }
    let mut host = Host::running("other.example");
    let mut held: Vec<_> = host.workloads.iter().map(|workload| Held::open(&**workload, ALLOWED)).collect();
    host.kill(Part::Resolver);
    host.kill(Part::Enforcer);
    for workload in &host.workloads {
        let name = workload.name();
        assert!(reaches(&**workload, ALLOWED), "{name}: granted is granted");
        assert!(!reaches(&**workload, DENIED), "{name}: denied is denied");
        assert_ne!(ask(&**workload, "other.example", 1).status, "NOERROR", "{name}: new names fail");
        assert!(!reaches(&**workload, "198.51.100.11"), "{name}");
    }
    assert!(held.iter_mut().all(Held::works));
    host.start(Part::Enforcer);
    host.start(Part::Resolver);
    host.wait_until_served();
    for workload in &host.workloads {
        assert!(reaches(&**workload, "other.example"), "{}", workload.name());
        assert_fenced(&**workload);
    }
    assert!(held.iter_mut().all(Held::works));
}

// S4: SIGTERM leaves the fence up
#[test]
fn stopped_processes_leave_the_fence_up() {
    if !privileged() {
        return;
    }
    let mut host = Host::running("other.example");
    host.stop(Part::Resolver);
    assert_eq!(std::fs::read_dir(host.feed()).unwrap().count(), 0, "its sockets go with it");
    host.stop(Part::Enforcer);
    for workload in &host.workloads {
        assert!(reaches(&**workload, ALLOWED) && !reaches(&**workload, DENIED), "{}", workload.name());
    }
}

// R9, S4: a change of the file reaches the resolver within a second
#[test]
fn a_changed_file_counts_for_questions_and_packets() {
    if !privileged() {
        return;
    }
    let host = Host::running("other.example");
    for workload in &host.workloads {
        assert!(reaches(&**workload, "other.example"), "{}", workload.name());
        assert_eq!(ask(&**workload, "short.example", 3).status, "NXDOMAIN");
    }
    let changed = Instant::now();
    host.reload("short.example");
    for workload in &host.workloads {
        wait_until("the new rules", SOON, || {
            (ask(&**workload, "other.example", 3).status == "NXDOMAIN").then_some(())
        });
    }
    assert!(changed.elapsed() < Duration::from_secs(3), "{:?}", changed.elapsed());
    for workload in &host.workloads {
        let name = workload.name();
        assert!(reaches(&**workload, "short.example"), "{name}: a name that is new");
        assert!(!reaches(&**workload, "198.51.100.11"), "{name}: an address whose name is gone");
    }
}
