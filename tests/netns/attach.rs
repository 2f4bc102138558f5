//! Attaching, adopting and removing interface endpoints.

use std::{path::Path, process::Command, time::Duration};

use nameward_abi::Switch;
use nameward_enforcer::kernel::{
    Attachment, BootNanos, EndpointSpec, Host, KernelError, KernelStore, MapWrite, Order, attached_programs,
};
use nameward_test_support::wait_until;

use crate::lab::{Lab, Workload, inside, must, privileged};

const SOON: Duration = Duration::from_secs(10);

fn spec(workload: &Workload) -> EndpointSpec {
    let attachment = Attachment::Interface { name: workload.interface.clone() };
    EndpointSpec { addresses: workload.addresses.clone(), ..EndpointSpec::new("ci/runner.1", attachment) }
}

/// Names of the programs at an interface; first those that see what the workload sends.
fn attached(interface: &str) -> Vec<String> {
    let programs = attached_programs(interface).unwrap();
    programs.into_iter().flatten().map(|program| program.name).collect()
}

#[test]
fn an_endpoint_outlives_its_process_and_is_adopted() {
    if !privileged() {
        return;
    }
    let mut lab = Lab::new();
    let workload = lab.workload();
    let (number, programs) = inside(&lab.host(), async || {
        let host = Host::open(&lab.options()).unwrap();
        let mut endpoint = host.attach(&spec(&workload)).unwrap();
        endpoint.write(&MapWrite::Switch(Switch(0x7_0000_0002))).unwrap();
        host.beat(BootNanos(42)).unwrap();
        (endpoint.number(), attached_programs(&workload.interface).unwrap())
    });
    // The host is closed: nobody holds anything but the pins. Promise 4.
    inside(&lab.host(), async || {
        let host = Host::open(&lab.options()).unwrap();
        assert_eq!(attached(&workload.interface), ["pod_egress", "pod_ingress"]);
        assert_eq!(host.endpoints().unwrap(), ["ci/runner.1"]);
        assert_eq!(host.last_beat().unwrap(), BootNanos(42));
        let endpoint = host.attach(&spec(&workload)).unwrap();
        assert_eq!(endpoint.number(), number);
        assert_eq!(attached_programs(&workload.interface).unwrap(), programs, "nothing was loaded");
        assert_eq!(Switch(endpoint.config().unwrap().switch).generation(), 7);
        assert_eq!(attached(&workload.interface).len(), 2);
        host.remove("ci/runner.1").unwrap();
        // The kernel lets go of a link some time after its last pin is gone.
        wait_until("nothing is attached", SOON, || attached(&workload.interface).is_empty().then_some(()));
        host.remove_all().unwrap();
    });
    assert!(!lab.pins().exists());
}

/// Numbers that bpftool gives to what is pinned in a folder; programs are those of its links.
fn objects(folder: &Path) -> Vec<(&'static str, u64)> {
    let mut objects = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap().flatten() {
        let path = entry.path();
        let kind = if entry.file_name().as_encoded_bytes().starts_with(b"link_") { "link" } else { "map" };
        let text = must(&format!("bpftool -j {kind} show pinned {}", path.display()));
        let shown: serde_json::Value = serde_json::from_str(&text).unwrap();
        let shown = shown.as_array().map_or(&shown, |all| &all[0]);
        objects.push((kind, shown["id"].as_u64().unwrap()));
        objects.extend(shown["prog_id"].as_u64().map(|program| ("prog", program)));
    }
    objects
}

// Checked by bpftool
#[test]
fn removal_frees_every_object() {
    if !privileged() {
        return;
    }
    let mut lab = Lab::new();
    let workload = lab.workload();
    let host = Host::open(&lab.options()).unwrap();
    let objects = inside(&lab.host(), async || {
        host.attach(&EndpointSpec { arrivals: true, ..spec(&workload) }).unwrap();
        objects(&lab.pins().join("endpoints/ci~2frunner~2e1"))
    });
    let count = |wanted| objects.iter().filter(|(kind, _)| *kind == wanted).count();
    assert_eq!((count("link"), count("prog"), count("map")), (3, 3, 14));
    host.remove("ci/runner.1").unwrap();
    for (kind, id) in &objects {
        wait_until("the kernel frees it", SOON, || {
            let shown = Command::new("bpftool").args([kind, "show", "id", &id.to_string()]).output().unwrap();
            (!shown.status.success()).then_some(())
        });
    }
}

#[test]
fn ours_is_first_also_when_others_are_there() {
    if !privileged() {
        return;
    }
    let mut lab = Lab::new();
    let workload = lab.workload();
    inside(&lab.host(), async || {
        let host = Host::open(&lab.options()).unwrap();
        host.attach(&EndpointSpec { uid: "earlier".into(), ..spec(&workload) }).unwrap();
        let [before, _] = attached_programs(&workload.interface).unwrap();
        host.attach(&spec(&workload)).unwrap();
        let [after, replies] = attached_programs(&workload.interface).unwrap();
        assert_eq!((after.len(), replies.len()), (2, 2));
        assert_eq!(after[1], before[0]);
    });
}

// DESIGN 4: others may later put themselves in front
#[test]
fn one_who_came_in_front_is_put_behind_again() {
    if !privileged() {
        return;
    }
    let mut lab = Lab::new();
    let workload = lab.workload();
    inside(&lab.host(), async || {
        let host = Host::open(&lab.options()).unwrap();
        host.attach(&spec(&workload)).unwrap();
        assert_eq!(host.order("ci/runner.1", &workload.interface).unwrap(), Order::First);
        host.attach(&EndpointSpec { uid: "stranger".into(), ..spec(&workload) }).unwrap();
        assert_eq!(host.order("ci/runner.1", &workload.interface).unwrap(), Order::Behind);
        host.attach_first(&spec(&workload)).unwrap();
        assert_eq!(host.order("ci/runner.1", &workload.interface).unwrap(), Order::First);
        // The kernel lets go of a link some time after its last pin is gone.
        wait_until("the earlier links are gone", SOON, || {
            (attached(&workload.interface).len() == 4).then_some(())
        });
        std::fs::remove_file(lab.pins().join("endpoints/ci~2frunner~2e1/link_pod_egress")).unwrap();
        wait_until("the link is missed", SOON, || {
            (host.order("ci/runner.1", &workload.interface).unwrap() == Order::Missing).then_some(())
        });
    });
}

#[test]
fn severed_links_are_attached_anew() {
    if !privileged() {
        return;
    }
    let mut lab = Lab::new();
    let workload = lab.workload();
    inside(&lab.host(), async || {
        let host = Host::open(&lab.options()).unwrap();
        host.attach(&spec(&workload)).unwrap();
    });
    // Gone and back with the same name and index: only the pinned link knows.
    let (host, interface) = (lab.host(), &workload.interface);
    let index = must(&format!(
        "nsenter --net=/run/netns/{host} cat /proc/net/dev_mcast | awk '$2==\"{interface}\"{{print $1; exit}}'"
    ));
    must(&format!("ip -n {host} link del {interface}"));
    must(&format!(
        "ip -n {host} link add {interface} index {} type veth peer name {interface}p",
        index.trim()
    ));
    inside(&lab.host(), async || {
        let host = Host::open(&lab.options()).unwrap();
        host.attach(&spec(&workload)).unwrap();
        assert_eq!(attached(interface), ["pod_egress", "pod_ingress"]);
    });
}

#[test]
fn the_way_out_of_the_host_is_refused() {
    if !privileged() {
        return;
    }
    let mut lab = Lab::new();
    let workload = lab.workload();
    must(&format!("ip -n {} route add default via 10.7.1.2", lab.host()));
    inside(&lab.host(), async || {
        let host = Host::open(&lab.options()).unwrap();
        let refused = host.attach(&spec(&workload)).unwrap_err();
        assert!(matches!(refused, KernelError::DefaultRoute { .. }), "{refused}");
        let absent = Attachment::Interface { name: "nwtabsent".into() };
        let refused = host.attach(&EndpointSpec::new("absent", absent)).unwrap_err();
        assert!(matches!(refused, KernelError::NoInterface { .. }), "{refused}");
        assert_eq!(host.endpoints().unwrap(), Vec::<String>::new());
        host.attach(&EndpointSpec { allow_host: true, ..spec(&workload) }).unwrap();
    });
}

#[test]
fn one_process_holds_an_instance() {
    if !privileged() {
        return;
    }
    let lab = Lab::new();
    let host = Host::open(&lab.options()).unwrap();
    let refused = Host::open(&lab.options()).unwrap_err();
    assert!(matches!(refused, KernelError::InstanceBusy { .. }), "{refused}");
    drop(host);
    Host::open(&lab.options()).unwrap();
}
