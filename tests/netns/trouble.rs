//! What goes wrong while endpoints are attached and kept: each failure has its kind, is counted and tried again, and
//! costs nobody else anything.

use std::{
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use aya::programs::{LinkOrder, TcAttachType};
use nameward_enforcer::{
    Enforcer, EnforcerOptions,
    guardian::{Guardian, WantedEndpoint},
    kernel::{Host, HostOptions, KernelError, KernelObject, OBJECT, interface_index},
};
use nameward_policy::{PortSpec, Protocol, RuleSet};
use nameward_test_support::{ForeignProgram, wait_until_async};
use tokio::time::Instant as TokioInstant;

use crate::{
    lab::{Lab, Workload, inside, must, privileged},
    traffic::{Guarding, config, connect, hour, is_alive, is_refused, rules, serve},
};

const WEB: PortSpec = PortSpec::one(Protocol::Tcp, 80);
const WAIT: Duration = Duration::from_secs(10);
/// What drift may last (10 s), and a loaded machine.
const DRIFT: Duration = Duration::from_secs(20);

fn app() -> Arc<RuleSet> {
    rules(&[("app.example.com", WEB)])
}

fn wanted(workload: &Workload) -> WantedEndpoint {
    WantedEndpoint { config: config(workload), rules: app(), subject: None }
}

fn enforcer(lab: &Lab, object: &'static [u8]) -> Enforcer {
    let host = HostOptions { object: KernelObject(object), ..lab.options() };
    Enforcer::open(EnforcerOptions { host, state: Some(lab.state()), dns_link: None }).unwrap()
}

fn problem(enforcer: &Enforcer, workload: &Workload) -> Option<String> {
    enforcer.endpoint(&workload.namespace).unwrap().problem
}

/// The kernel programs, but for one whose first instruction reads what it may not.
fn broken_object(program: &str) -> &'static [u8] {
    let mut object = OBJECT.to_vec();
    let at = place_of(&object, program);
    // r0 = *(u64 *)(r10 + 8)
    object[at..at + 8].copy_from_slice(&[0x79, 0xa0, 8, 0, 0, 0, 0, 0]);
    object.leak()
}

/// Where a symbol's code is in an ELF file (elf(5)).
fn place_of(elf: &[u8], symbol: &str) -> usize {
    let number = |at: usize, length: usize| {
        let mut bytes = [0; 8];
        bytes[..length].copy_from_slice(&elf[at..at + length]);
        usize::try_from(u64::from_le_bytes(bytes)).unwrap()
    };
    let (sections, count) = (number(0x28, 8), number(0x3c, 2));
    let section = |index: usize| sections + index * 64;
    let table = (0..count).map(section).find(|at| number(at + 4, 4) == 2).unwrap();
    let names = number(section(number(table + 40, 4)) + 24, 8);
    let (first, size) = (number(table + 24, 8), number(table + 32, 8));
    let entry = (first..first + size)
        .step_by(24)
        .find(|at| {
            let name = &elf[names + number(*at, 4)..];
            name.starts_with(symbol.as_bytes()) && name[symbol.len()] == 0
        })
        .unwrap();
    number(section(number(entry + 6, 2)) + 24, 8) + number(entry + 8, 8)
}

// Bad input: verifier refusal
#[test]
fn a_program_that_the_verifier_refuses_is_told_with_its_log_and_the_kernel() {
    if !privileged() {
        return;
    }
    let mut lab = Lab::new();
    let (one, two) = (lab.workload(), lab.workload());
    serve(&lab.internet());
    inside(&lab.host(), async || {
        let mut guardian = Guardian::new(enforcer(&lab, OBJECT), None);
        guardian.reconcile(vec![wanted(&one)]).await.unwrap();
    });
    inside(&lab.host(), async || {
        let enforcer = enforcer(&lab, broken_object("pod_egress"));
        let mut guardian = Guardian::new(enforcer.clone(), None);
        let failures = guardian.reconcile(vec![wanted(&one), wanted(&two)]).await.unwrap_err();
        assert_eq!(failures.len(), 2);
        assert!(failures.iter().all(|failure| failure.word() == "verifier"), "{failures:?}");
        let release = must("uname -r");
        for workload in [&one, &two] {
            let told = problem(&enforcer, workload).unwrap();
            assert!(told.contains("refuses program pod_egress"), "{told}");
            assert!(told.contains(release.trim()) && told.contains("invalid"), "{told}");
            assert_eq!(told.lines().count(), 1, "{told}");
        }
        assert_eq!(enforcer.failures()["verifier"], 2);
        assert!(guardian.next_retry().is_some());
        guardian.hurry(TokioInstant::now());
        assert_eq!(guardian.retry(TokioInstant::now()).await.unwrap_err().len(), 2);
        // The old programs go on where they are, and where there were none is nothing half made.
        assert!(is_refused(&connect(&one, "203.0.113.10:80")));
        assert!(connect(&two, "203.0.113.10:80").is_ok());
        assert_eq!(enforcer.attached().unwrap(), std::slice::from_ref(&one.namespace));
    });
}

// Bad input: pins of a newer layout
#[test]
fn pins_of_a_newer_layout_are_left_alone() {
    if !privileged() {
        return;
    }
    let mut lab = Lab::new();
    let workload = lab.workload();
    inside(&lab.host(), async || {
        let mut guardian = Guardian::new(enforcer(&lab, OBJECT), None);
        guardian.reconcile(vec![wanted(&workload)]).await.unwrap();
    });
    let newer = lab.pins().with_file_name("v2");
    std::fs::create_dir_all(newer.join("endpoints")).unwrap();
    let refused = Host::open(&lab.options()).unwrap_err();
    assert!(matches!(&refused, KernelError::NewerLayout { path } if *path == newer), "{refused:?}");
    assert!(refused.to_string().contains("newer version"), "{refused}");
    let refused = Host::remove_left(&lab.options()).unwrap_err();
    assert!(matches!(refused, KernelError::NewerLayout { .. }), "{refused:?}");
    std::fs::remove_dir_all(&newer).unwrap();
    // An instance that happens to be called so is none of its business.
    let neighbour = lab.pins().with_file_name("v3").join("v1/endpoints");
    std::fs::create_dir_all(&neighbour).unwrap();
    assert_eq!(Host::open(&lab.options()).unwrap().endpoints().unwrap(), [workload.namespace]);
    std::fs::remove_dir_all(lab.pins().with_file_name("v3")).unwrap();
}

// Bad input: interfaces that vanish while being attached
#[test]
fn interfaces_that_come_and_go_meanwhile_are_failures_and_nothing_more() {
    if !privileged() {
        return;
    }
    let mut lab = Lab::new();
    let (one, two) = (lab.workload(), lab.workload());
    serve(&lab.internet());
    inside(&lab.host(), async || {
        let guarding = Guarding::start(&lab, &[(&one, app())]);
        guarding.enforcer.grant(&hour(&one, "app.example.com", &["203.0.113.10"])).unwrap();
        let live = connect(&one, "203.0.113.10:80").unwrap();
        let stop = AtomicBool::new(false);
        let flap = || {
            while !stop.load(Ordering::Relaxed) {
                let host = lab.host();
                let again = format!(
                    "ip -n {host} link del w2; ip -n {host} link add w2 type veth peer name eth0 netns {}",
                    two.namespace
                );
                drop(Command::new("sh").args(["-c", &again]).output());
            }
        };
        let kinds = thread::scope(|scope| {
            scope.spawn(flap);
            let mut kinds = std::collections::BTreeSet::new();
            let until = Instant::now() + Duration::from_secs(3);
            while Instant::now() < until {
                match guarding.enforcer.apply_endpoint(config(&two)) {
                    Ok(()) => drop(kinds.insert("none")),
                    Err(error) => drop(kinds.insert(error.word())),
                }
                guarding.enforcer.remove_endpoint(&two.namespace).unwrap();
            }
            stop.store(true, Ordering::Relaxed);
            kinds
        });
        println!("{kinds:?}");
        assert!(kinds.contains("interface"), "{kinds:?}");
        assert!(
            kinds.iter().all(|kind| ["none", "interface", "program", "link"].contains(kind)),
            "{kinds:?}"
        );
        assert!(is_alive(&live));
        must(&format!(
            "ip -n {} link show w2 || ip -n {0} link add w2 type veth peer name eth0 netns {}",
            lab.host(),
            two.namespace
        ));
        guarding.enforcer.apply_endpoint(config(&two)).unwrap();
        assert_eq!(guarding.enforcer.attached().unwrap().len(), 2);
    });
}

// Bad input: netns deleted under us
#[test]
fn a_namespace_that_is_deleted_is_told_and_others_go_on() {
    if !privileged() {
        return;
    }
    let mut lab = Lab::new();
    let (one, two) = (lab.workload(), lab.workload());
    serve(&lab.internet());
    inside(&lab.host(), async || {
        let guarding = Guarding::start(&lab, &[(&one, app()), (&two, app())]);
        guarding.enforcer.grant(&hour(&two, "app.example.com", &["203.0.113.10"])).unwrap();
        let live = connect(&two, "203.0.113.10:80").unwrap();
        must(&format!("ip netns del {}", one.namespace));
        wait_until_async("its absence is told", WAIT, async || {
            problem(&guarding.enforcer, &one).filter(|told| told.contains("there is no interface w1"))
        })
        .await;
        assert!(guarding.enforcer.failures()["interface"] >= 1);
        assert!(!guarding.enforcer.not_ready().is_empty());
        assert_eq!(problem(&guarding.enforcer, &two), None);
        assert!(is_alive(&live) && is_refused(&connect(&two, "203.0.113.11:80")));
        must(&format!("ip netns add {}", one.namespace)); // for the lab, which removes it
    });
}

// DESIGN 4, drift: somebody's program in front of ours is put behind within 10 s, and reported
#[test]
fn a_program_in_front_of_ours_is_put_behind() {
    if !privileged() {
        return;
    }
    let mut lab = Lab::new();
    let workload = lab.workload();
    serve(&lab.internet());
    inside(&lab.host(), async || {
        let guarding = Guarding::start(&lab, &[(&workload, app())]);
        // It takes what the workload sends, so that we see nothing of it.
        let mut other = ForeignProgram::sending_to(interface_index("internet").unwrap()).unwrap();
        other.attach(&workload.interface, TcAttachType::Ingress, LinkOrder::first()).unwrap();
        let begin = Instant::now();
        let status = || guarding.enforcer.endpoint(&workload.namespace).unwrap();
        wait_until_async("it is put right", DRIFT, async || (status().drift_repairs > 0).then_some(())).await;
        assert!(begin.elapsed() < Duration::from_secs(12), "{:?}", begin.elapsed());
        let [programs, _] = nameward_enforcer::kernel::attached_programs(&workload.interface).unwrap();
        let names: Vec<_> = programs.iter().map(|program| program.name.as_str()).collect();
        assert_eq!(names[0], "pod_egress", "{names:?}");
        assert!(names.contains(&"somebody_else"), "{names:?}");
        assert!(is_refused(&connect(&workload, "203.0.113.10:80")));
    });
}

// DESIGN 4, drift: a grant that nobody made
#[test]
fn a_grant_written_by_hand_is_taken_back() {
    if !privileged() {
        return;
    }
    let mut lab = Lab::new();
    let workload = lab.workload();
    serve(&lab.internet());
    inside(&lab.host(), async || {
        let guarding = Guarding::start(&lab, &[(&workload, app())]);
        guarding.enforcer.grant(&hour(&workload, "app.example.com", &["203.0.113.10"])).unwrap();
        let pin = lab.pins().join("endpoints").join(&workload.namespace).join("ALLOW");
        let pin = pin.display();
        let key = |last: u8| format!("0 0 0 0 0 0 0 0 0 0 255 255 203 0 113 {last}");
        let text = must(&format!("bpftool -j map lookup pinned {pin} key {}", key(10)));
        let granted: serde_json::Value = serde_json::from_str(&text).unwrap();
        let value: Vec<&str> =
            granted["value"].as_array().unwrap().iter().map(|octet| octet.as_str().unwrap()).collect();
        assert!(is_refused(&connect(&workload, "203.0.113.12:80")));
        must(&format!("bpftool map update pinned {pin} key {} value {}", key(12), value.join(" ")));
        let begin = Instant::now();
        let status = || guarding.enforcer.endpoint(&workload.namespace).unwrap();
        wait_until_async("it is put right", DRIFT, async || (status().drift_repairs > 0).then_some(())).await;
        assert!(begin.elapsed() < Duration::from_secs(12), "{:?}", begin.elapsed());
        assert!(is_refused(&connect(&workload, "203.0.113.12:80")));
        assert!(connect(&workload, "203.0.113.10:80").is_ok());
    });
}
