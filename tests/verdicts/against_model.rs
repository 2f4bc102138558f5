//! The whole way from rules to verdicts against the naive reading of the same rules: compiled, planned, written to the
//! kernel's maps, judged by the program. After every single write the verdicts are those of the old or the new rules.

use std::{net::IpAddr, os::fd::AsFd, time::Duration};

use aya::programs::{ProgramFd, links::FdLink, links::PinnedLink, loaded_programs};
use nameward_abi::{Address, Admitted, Allow, Counter, Flow, FlowKey, Reason, programs};
use nameward_enforcer::{
    GrantRequest,
    endpoints::Endpoint,
    kernel::{
        Attachment, BootNanos, EndpointSpec, Host, HostOptions, KernelEndpoint, KernelError, KernelStore,
        MapWrite, Observed,
    },
};
use nameward_policy::{Bindings, BootTime, Isolation, Limits, Rule, RuleSet, Settings};
use nameward_test_support::Netns;
use proptest::{collection::vec, prelude::*, test_runner::TestRunner};

use crate::{
    assembly,
    lab::{self, OWN4, OWN6, PASS, TCP, UDP},
    naive::{Bound, World},
    packets::{Flag, echo, raw, tcp, udp},
    worlds::{Packet, address, cluster, isolation, name, packet, rule},
};

/// Worlds; each has three rule sets that follow one another, and twelve packets.
const WORLDS: u32 = 120;
const UID: &str = "model";

/// The policies of a workload at one time.
type Policies = (Isolation, Vec<Rule>);
/// An answer: which name, which address, for how many seconds before now or from now on.
type Answer = (nameward_policy::Name, IpAddr, i64);

// R1, R2, R4, R6, R8, R9, G2, G3, G5, G10, B23
#[test]
fn the_kernel_judges_as_the_rules_read_at_every_write() {
    if !nameward_test_support::privileged() {
        return;
    }
    let node = Netns::new("model").unwrap();
    node.ip("link add e0 type veth peer name p0").unwrap();
    node.run(|| {
        let instance = Some(node.name().to_owned());
        let host = Host::open(&HostOptions { instance, ..HostOptions::default() }).unwrap();
        let attachment = Attachment::Interface { name: "e0".into() };
        let addresses = [OWN4, OWN6].map(|text| text.parse().unwrap()).to_vec();
        let spec = EndpointSpec { addresses, ..EndpointSpec::new(UID, attachment) };
        host.attach(&spec).unwrap();
        let program = judge(node.name());
        let config = proptest::prelude::ProptestConfig {
            cases: WORLDS,
            failure_persistence: None,
            ..proptest::prelude::ProptestConfig::default()
        };
        let policies = (isolation(), vec(rule(), 0..6));
        let answers = vec((name(), address(), -50..50i64), 0..8);
        let worlds = (vec(policies, 3), answers, vec(packet(), 12));
        let checked = TestRunner::new(config).run(&worlds, |(policies, answers, packets)| {
            let kernel = host.attach(&spec).unwrap();
            host.beat(BootNanos::now()).unwrap();
            follow(kernel, &program, &policies, &answers, &packets)
        });
        host.remove_all().unwrap();
        checked.unwrap();
    })
    .unwrap();
}

/// The program that judges what the workload sends.
fn judge(instance: &str) -> ProgramFd {
    let pin = format!("/sys/fs/bpf/nameward/{instance}/v1/endpoints/{UID}/link_{}", programs::POD_EGRESS);
    let id = FdLink::from(PinnedLink::from_pin(pin).unwrap()).info().unwrap().program_id();
    loaded_programs().flatten().find(|info| info.id() == id).unwrap().fd().unwrap()
}

/// One policy after the other, with the answers between the first two.
fn follow(
    mut kernel: KernelEndpoint,
    program: &ProgramFd,
    policies: &[Policies],
    answers: &[Answer],
    packets: &[Packet],
) -> Result<(), TestCaseError> {
    clear(&mut kernel);
    let now = BootTime(BootNanos::now().0);
    let probe = Probe { program, packets, port: 1_024 };
    let watched = Watched { kernel, probe, rows: Vec::new() };
    let mut endpoint = Endpoint::open(watched, Limits::default()).unwrap();
    let mut bindings = Bindings::new(Limits::default());
    for (number, (isolation, rules)) in policies.iter().enumerate() {
        let before = endpoint.store_mut().verdicts();
        let compiled = RuleSet::compile(
            *isolation,
            rules,
            &Settings::default(),
            &cluster(),
            jiff::Timestamp::UNIX_EPOCH,
        );
        endpoint.store_mut().rows.clear();
        endpoint.apply(compiled.unwrap().into(), now).unwrap();
        let rows = std::mem::take(&mut endpoint.store_mut().rows);
        let after = endpoint.store_mut().verdicts();
        prop_assert!(
            rows.iter().all(|row| *row == before || *row == after),
            "a mixture of old and new rules"
        );
        if number == 0 {
            for answer in answers {
                record(&mut endpoint, &mut bindings, answer, now);
            }
            // Time has passed since: what has lapsed is told to the kernel.
            endpoint.upkeep(now).unwrap();
        }
        let cluster = cluster();
        let world = World { isolation: *isolation, rules, cluster: &cluster };
        for packet in packets.iter().filter(|packet| !is_dns(packet)) {
            let names: Vec<Bound> = bindings
                .names_of(packet.remote)
                .map(|(binding, lease)| Bound { name: binding.name.clone(), live: lease.is_live(now) })
                .collect();
            let expected = world.judge(packet, &names).word();
            let judged = endpoint.store_mut().reason(packet);
            prop_assert_eq!(judged.word(), expected, "{:?}", packet);
        }
    }
    Ok(())
}

/// An answer that was given so long ago that so much of it is left, if the rules let the name be asked.
fn record(endpoint: &mut Endpoint<Watched<'_>>, bindings: &mut Bindings, answer: &Answer, now: BootTime) {
    let (name, address, left) = answer;
    // A machine that has just started has no long past.
    let age = 60.min(now.0 / 2_000_000_000) as i64;
    let asked_at = BootTime(now.0 - age as u64 * 1_000_000_000);
    let ttl = Duration::from_secs((age + left).max(0) as u64);
    let request = GrantRequest {
        endpoint: UID.into(),
        generation: endpoint.generation(),
        name: name.to_string(),
        chain: vec![],
        addresses: vec![(*address, ttl)],
        grace: Duration::ZERO,
    };
    if endpoint.grant(&request, asked_at).is_ok() {
        bindings.record(name, &[], &[(*address, ttl)], Duration::ZERO, asked_at).unwrap();
    }
}

/// Queries are redirected, not judged.
fn is_dns(packet: &Packet) -> bool {
    packet.port == 53 && matches!(packet.protocol, TCP | UDP)
}

/// Takes everything out of the maps that an earlier world wrote.
fn clear(kernel: &mut KernelEndpoint) {
    let seen = kernel.observe().unwrap();
    let mut writes: Vec<MapWrite> =
        seen.allow.keys().map(|address| MapWrite::ForgetAllow(*address)).collect();
    writes.extend(seen.admitted.keys().map(|id| MapWrite::ForgetAdmitted(*id)));
    writes.extend(seen.cidrs.keys().map(|(length, address)| MapWrite::ForgetCidr(*length, *address)));
    writes.extend(seen.ports.keys().map(|(length, key)| MapWrite::ForgetPort(*length, *key)));
    writes.push(MapWrite::Switch(nameward_abi::Switch(0)));
    writes.extend(kernel.flows().unwrap().into_iter().map(|(key, _)| MapWrite::ForgetFlow(key)));
    for write in &writes {
        kernel.write(write).unwrap();
    }
}

/// Sends packets through the program.
struct Probe<'a> {
    program: &'a ProgramFd,
    packets: &'a [Packet],
    /// Of the workload; each packet begins another flow.
    port: u16,
}

impl Probe<'_> {
    fn run(&mut self, packet: &Packet) -> i32 {
        self.port = self.port.checked_add(1).unwrap_or(1_024);
        let own = if packet.remote.is_ipv4() { OWN4 } else { OWN6 };
        let remote = packet.remote.to_string();
        let (from, to) = ((own, self.port), (&*remote, packet.port));
        let frame = match packet.protocol {
            TCP => tcp(from, to, Flag::Syn),
            UDP => udp(from, to, b"first"),
            1 => echo(own, &remote, self.port, true),
            132 => {
                raw(own, &remote, 132, &[&from.1.to_be_bytes()[..], &to.1.to_be_bytes(), &[0; 8]].concat())
            }
            other => raw(own, &remote, other, &[0; 16]),
        };
        assembly::run(self.program.as_fd(), &frame, 1).0
    }
}

/// The kernel's maps; after each write the packets are sent.
struct Watched<'a> {
    kernel: KernelEndpoint,
    probe: Probe<'a>,
    rows: Vec<Vec<bool>>,
}

impl Watched<'_> {
    /// Which packets pass. Those that do not are dropped or rejected, as the limit of rejections has it.
    fn verdicts(&mut self) -> Vec<bool> {
        let packets = self.probe.packets;
        packets
            .iter()
            .map(|packet| {
                self.forget_flow(packet);
                self.probe.run(packet) == PASS
            })
            .collect()
    }

    /// The reason that the program counts.
    fn reason(&mut self, packet: &Packet) -> Reason {
        self.forget_flow(packet);
        let before = self.kernel.stats().unwrap();
        self.probe.run(packet);
        let after = self.kernel.stats().unwrap();
        let counted = |((_, before), (_, after)): &(&(Reason, Counter), &(Reason, Counter))| before != after;
        let (_, (reason, _)) = before.iter().zip(&after).find(counted).unwrap();
        *reason
    }

    /// Packets without ports are all of one flow.
    fn forget_flow(&mut self, packet: &Packet) {
        if matches!(packet.protocol, TCP | UDP | 1 | 132) {
            return;
        }
        let own = if packet.remote.is_ipv4() { OWN4 } else { OWN6 };
        let (local, remote) = (lab::address(own), lab::address(&packet.remote.to_string()));
        let key = FlowKey { local, remote, protocol: packet.protocol, ..FlowKey::default() };
        self.kernel.write(&MapWrite::ForgetFlow(key)).unwrap();
    }
}

impl KernelStore for Watched<'_> {
    fn observe(&self) -> Result<Observed, KernelError> {
        self.kernel.observe()
    }

    fn allowed(&self, address: Address) -> Result<Option<Allow>, KernelError> {
        self.kernel.allowed(address)
    }

    fn admitted(&self, id: u32) -> Result<Option<Admitted>, KernelError> {
        self.kernel.admitted(id)
    }

    fn flows(&self) -> Result<Vec<(FlowKey, Flow)>, KernelError> {
        self.kernel.flows()
    }

    fn write(&mut self, write: &MapWrite) -> Result<(), KernelError> {
        self.kernel.write(write)?;
        let row = self.verdicts();
        self.rows.push(row);
        Ok(())
    }
}
