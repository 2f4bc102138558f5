//! Many endpoints on one node: its interfaces, the instance of pins, and rules that are written like the enforcer's.

use std::{
    fs,
    io::Write,
    os::fd::{AsFd, AsRawFd},
    path::{Path, PathBuf},
    process::Stdio,
};

use aya::{
    maps::MapData,
    programs::{ProgramInfo, links::PinnedLink, loaded_programs},
};
use nameward_abi::{Admitted, Allow, Mode, PortKey, PortRule, Switch, flags, programs};
use nameward_enforcer::kernel::{
    Attachment, BootNanos, EndpointSpec, Host, HostOptions, KernelEndpoint, KernelStore, MapSizes, MapWrite,
};
use nameward_test_support::Netns;

use crate::lab::{OWN4, UDP, address};

/// The class that UDP 443 belongs to, and the set of names that has it.
const CLASS: u64 = 1;
const NAMES: u32 = 7;

/// A namespace with interfaces `e0`, `e1`, ... whose other ends are `p0`, `p1`, ... beside them.
pub(crate) struct Estate {
    pub(crate) node: Netns,
    options: HostOptions,
}

impl Estate {
    pub(crate) fn new(interfaces: usize) -> Self {
        let node = Netns::new("estate").unwrap();
        let lines: String = (0..interfaces)
            .map(|i| format!("link add e{i} type veth peer name p{i}\nlink set e{i} up\n"))
            .collect();
        let mut ip = node.command("ip").args(["-batch", "-"]).stdin(Stdio::piped()).spawn().unwrap();
        ip.stdin.take().unwrap().write_all(lines.as_bytes()).unwrap();
        assert!(ip.wait().unwrap().success());
        let options = HostOptions { instance: Some(node.name().to_owned()), ..HostOptions::default() };
        Self { node, options }
    }

    /// Does something with the instance, in the node's namespace.
    pub(crate) fn with<T: Send>(&self, work: impl FnOnce(&Host) -> T + Send) -> T {
        self.node.run(|| work(&Host::open(&self.options).unwrap())).unwrap()
    }

    pub(crate) fn options(&self) -> &HostOptions {
        &self.options
    }

    /// The folder of an endpoint's pins.
    pub(crate) fn pins(&self, index: usize) -> PathBuf {
        Path::new("/sys/fs/bpf/nameward").join(self.node.name()).join("v1/endpoints").join(uid(index))
    }
}

impl Drop for Estate {
    fn drop(&mut self) {
        self.with(|host| host.remove_all().unwrap());
    }
}

pub(crate) fn uid(index: usize) -> String {
    format!("endpoint-{index}")
}

pub(crate) fn spec(index: usize, sizes: MapSizes) -> EndpointSpec {
    let attachment = Attachment::Interface { name: format!("e{index}") };
    let addresses = vec![OWN4.parse().unwrap()];
    EndpointSpec { addresses, sizes, ..EndpointSpec::new(uid(index), attachment) }
}

/// Enforces rules that allow a set of names on UDP 443, with `onDeny` as it is by default.
pub(crate) fn enforce(endpoint: &mut KernelEndpoint) {
    let port = PortKey { protocol: UDP, port: 443u16.to_be_bytes() };
    for write in [
        MapWrite::Port(24, port, PortRule { classes: [CLASS; 2] }),
        MapWrite::Admitted(NAMES, Admitted { classes: [CLASS; 2] }),
        MapWrite::Switch(Switch::new(0, Mode::Enforce, flags::REJECT, 1)),
    ] {
        endpoint.write(&write).unwrap();
    }
}

/// The write that makes an address usable under these rules.
pub(crate) fn grant(remote: nameward_abi::Address) -> MapWrite {
    let expires_at = BootNanos::now().0 * 2;
    MapWrite::Allow(remote, Allow { expires_at, admitted_id: NAMES, ..Allow::default() })
}

pub(crate) fn granted(number: u32) -> nameward_abi::Address {
    let mut remote = address("203.0.113.0");
    remote[12..].copy_from_slice(&(0xcb00_7100 + number).to_be_bytes());
    remote
}

/// The program of an endpoint's pinned link.
pub(crate) fn linked_program(pins: &Path, program: &str) -> ProgramInfo {
    let link = PinnedLink::from_pin(pins.join(format!("link_{program}"))).unwrap();
    let id = aya::programs::links::FdLink::from(link).info().unwrap().program_id();
    loaded_programs().flatten().find(|info| info.id() == id).unwrap()
}

/// What the kernel charges for an endpoint's maps and programs, in octets (`memlock` of fdinfo; programs also by what
/// they were translated to).
pub(crate) fn memory(pins: &Path) -> u64 {
    let maps: u64 = fs::read_dir(pins)
        .unwrap()
        .flatten()
        .filter(|entry| !entry.file_name().as_encoded_bytes().starts_with(b"link_"))
        .map(|entry| locked(MapData::from_pin(entry.path()).unwrap().fd().as_fd().as_raw_fd()))
        .sum();
    let programs: u64 = [programs::POD_EGRESS, programs::POD_INGRESS]
        .into_iter()
        .map(|name| {
            let info = linked_program(pins, name);
            u64::from(info.memory_locked().unwrap()) + u64::from(info.size_jitted())
        })
        .sum();
    maps + programs
}

fn locked(fd: i32) -> u64 {
    let text = fs::read_to_string(format!("/proc/self/fdinfo/{fd}")).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix("memlock:")).unwrap();
    line.trim().parse().unwrap()
}
