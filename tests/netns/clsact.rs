//! Interface endpoints on kernels without TCX: filters of the `clsact` qdisc.

use nameward_abi::Switch;
use nameward_enforcer::kernel::{
    Attachment, EndpointSpec, Host, HostOptions, KernelStore, MapWrite, Order, attached_programs,
};

use crate::lab::{Lab, Workload, inside, must, privileged};

const UID: &str = "ci/runner.1";

fn spec(workload: &Workload) -> EndpointSpec {
    let attachment = Attachment::Interface { name: workload.interface.clone() };
    EndpointSpec { addresses: workload.addresses.clone(), ..EndpointSpec::new(UID, attachment) }
}

fn open(lab: &Lab) -> Host {
    Host::open(&HostOptions { clsact: true, ..lab.options() }).unwrap()
}

/// Programs of filters at an interface of the host, as tc(8) shows them.
fn filters(lab: &Lab, interface: &str) -> Vec<String> {
    let show = format!("nsenter --net=/run/netns/{} tc filter show dev {interface}", lab.host());
    let text = must(&format!("{show} ingress; {show} egress"));
    let names =
        text.lines().filter_map(|line| line.split_whitespace().skip_while(|word| *word != "0x6e77").nth(1));
    names.map(str::to_owned).collect()
}

// Promise 4, 5
#[test]
fn filters_outlive_their_process_and_are_adopted() {
    if !privileged() {
        return;
    }
    let mut lab = Lab::new();
    let workload = lab.workload();
    // Nobody listens there: the host's refusal is an answer.
    let knock = format!(
        "ip netns exec {} timeout 1 bash -c '</dev/tcp/10.7.1.1/9' 2>/dev/null; echo $?",
        workload.namespace
    );
    assert_eq!(must(&knock).trim(), "1", "refused");
    let number = inside(&lab.host(), async || {
        let mut endpoint = open(&lab).attach(&spec(&workload)).unwrap();
        endpoint.write(&MapWrite::Switch(Switch(0x7_0000_0000))).unwrap();
        endpoint.number()
    });
    assert_eq!(filters(&lab, &workload.interface), ["pod_egress", "pod_ingress"]);
    assert_eq!(must(&knock).trim(), "124", "no rules yet, no answer");
    inside(&lab.host(), async || {
        let host = open(&lab);
        let endpoint = host.attach(&spec(&workload)).unwrap();
        assert_eq!(endpoint.number(), number);
        assert_eq!(Switch(endpoint.config().unwrap().switch).generation(), 7);
        assert_eq!(filters(&lab, &workload.interface).len(), 2);
        assert_eq!(
            attached_programs(&workload.interface).unwrap(),
            [vec![], vec![]],
            "none of them is at TCX"
        );
        host.remove(UID).unwrap();
        host.remove_all().unwrap();
    });
    assert_eq!(filters(&lab, &workload.interface), Vec::<String>::new());
    assert_eq!(must(&knock).trim(), "1", "refused");
    assert!(!lab.pins().exists());
}

#[test]
fn filters_that_somebody_removed_are_missed_and_made_anew() {
    if !privileged() {
        return;
    }
    let mut lab = Lab::new();
    let workload = lab.workload();
    inside(&lab.host(), async || {
        let host = open(&lab);
        host.attach(&spec(&workload)).unwrap();
        assert_eq!(host.order(UID, &workload.interface).unwrap(), Order::First);
        must(&format!("ip netns exec {} tc qdisc del dev {} clsact", lab.host(), workload.interface));
        assert_eq!(host.order(UID, &workload.interface).unwrap(), Order::Missing);
        host.attach_first(&spec(&workload)).unwrap();
        assert_eq!(host.order(UID, &workload.interface).unwrap(), Order::First);
        // Removing the instance removes what no pin holds.
        host.remove_all().unwrap();
    });
    assert_eq!(filters(&lab, &workload.interface), Vec::<String>::new());
}
