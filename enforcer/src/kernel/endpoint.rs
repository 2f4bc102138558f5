//! One endpoint in the kernel: an instance of the programs, its maps, its configuration.
//!
//! Made by [`Host::attach`](super::Host::attach). Dropping it changes nothing in the kernel; [`remove`] does.
//!
//! [`remove`]: super::Host::remove

use std::{
    fmt,
    net::IpAddr,
    path::{Path, PathBuf},
};

use aya::{
    Ebpf,
    maps::{
        Array, HashMap, Map, MapData, MapError, PerCpuArray,
        lpm_trie::{Key, LpmTrie},
    },
};
use nameward_abi::{
    Address, Admitted, Allow, CidrRule, Config, Counter, DnsRedirect, EventBudget, Flow, FlowKey, Fold,
    FoldKey, OWN_ADDRESSES, PortKey, PortRule, Reason, Switch, maps,
};

use super::{
    KernelError, KernelStore, MapWrite, Observed, batch,
    bpffs::Folder,
    cgroup, instance,
    interface::{self, Hooks, Links, Order},
    links,
    object::Object,
};

/// What an endpoint is attached to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Attachment {
    /// The host side of a workload's interface, by name, in the network namespace of the caller.
    Interface {
        /// Its name.
        name: String,
    },
    /// A cgroup v2 folder.
    Cgroup {
        /// Its path.
        path: PathBuf,
        /// Cookie of the network namespace that its sockets must have; 0 = any.
        netns_cookie: u64,
    },
}

/// Sizes of an endpoint's maps, in entries. Fixed when the endpoint is first attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MapSizes {
    /// Addresses that names may give.
    pub addresses: u32,
    /// Prefixes of rules with CIDRs, both rule sets together.
    pub cidrs: u32,
    /// Prefixes of ports, both rule sets together.
    pub ports: u32,
    /// Established flows.
    pub flows: u32,
}

impl MapSizes {
    pub(super) const SMALLEST: Self = Self { addresses: 1, cidrs: 1, ports: 1, flows: 1 };

    pub(super) fn by_map(&self) -> [(&'static str, u32); 5] {
        [
            (maps::ALLOW, self.addresses),
            // While a grant moves an address to another set of names, the old id is still there.
            (maps::ADMITTED, self.addresses.saturating_mul(2)),
            (maps::CIDRS, self.cidrs),
            (maps::PORTS, self.ports),
            (maps::FLOWS, self.flows),
        ]
    }
}

impl Default for MapSizes {
    fn default() -> Self {
        Self { addresses: 4_096, cidrs: 8_192, ports: 4_096, flows: 4_096 }
    }
}

/// What to attach, and where.
#[derive(Clone, Debug)]
pub struct EndpointSpec {
    /// Stable identifier; the name of its folder.
    pub uid: String,
    /// Where.
    pub attachment: Attachment,
    /// The workload's own addresses. Interfaces: other sources are spoofed. Cgroups: what sockets that ask the
    /// resolver show as their own; without any, those that this network namespace sends from.
    pub addresses: Vec<IpAddr>,
    /// Where its DNS goes.
    pub dns: DnsRedirect,
    /// Sizes of its maps.
    pub sizes: MapSizes,
    /// Events a second; the burst is ten times as many.
    pub events_per_second: u32,
    /// Rejections a second.
    pub rejects_per_second: u32,
    /// Take an interface of a default route or the root cgroup nevertheless.
    pub allow_host: bool,
    /// Interfaces: what reaches the workload is judged on its own side of the pair, because the CNI delivers past the
    /// host's side.
    pub arrivals: bool,
}

impl EndpointSpec {
    /// A specification with default sizes and rates.
    pub fn new(uid: impl Into<String>, attachment: Attachment) -> Self {
        Self {
            uid: uid.into(),
            attachment,
            addresses: Vec::new(),
            dns: DnsRedirect::default(),
            sizes: MapSizes::default(),
            events_per_second: 100,
            rejects_per_second: 1_000,
            allow_host: false,
            arrivals: false,
        }
    }

    fn arrivals(&self) -> bool {
        self.arrivals && matches!(self.attachment, Attachment::Interface { .. })
    }
}

/// What frames must look like that leave the subnet of a workload behind a bridge.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Gateway {
    /// The MAC that they go to; zero = not known, nothing is checked.
    pub(crate) mac: [u8; 6],
    /// Lengths of the IPv4 and of the IPv6 prefix around own addresses that is on the link; 0 = none.
    pub(crate) on_link: [u8; 2],
}

impl Gateway {
    pub(crate) fn is_known(&self) -> bool {
        self.mac != [0; 6]
    }
}

/// The v4-mapped form that maps use.
pub(crate) fn address_bytes(address: IpAddr) -> Address {
    match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    }
}

/// An attached endpoint.
pub struct KernelEndpoint {
    uid: String,
    number: u64,
    maps: Maps,
}

struct Maps {
    config: Array<MapData, Config>,
    allow: HashMap<MapData, Address, Allow>,
    admitted: HashMap<MapData, u32, Admitted>,
    cidrs: LpmTrie<MapData, Address, CidrRule>,
    ports: LpmTrie<MapData, PortKey, PortRule>,
    flows: HashMap<MapData, FlowKey, Flow>,
    fleeting: HashMap<MapData, FlowKey, Flow>,
    stats: PerCpuArray<MapData, Counter>,
    folds: HashMap<MapData, FoldKey, Fold>,
    budget: Array<MapData, EventBudget>,
}

impl fmt::Debug for KernelEndpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KernelEndpoint")
            .field("uid", &self.uid)
            .field("number", &self.number)
            .finish_non_exhaustive()
    }
}

impl KernelEndpoint {
    /// Attaches to what `spec` names, or adopts what is attached already: maps as they are, programs of another release
    /// replaced in their links, links that were severed made anew. Until rules come, everything is denied
    /// `no-policy-yet`.
    pub(super) fn attach(
        object: Object,
        folder: &Folder,
        spec: &EndpointSpec,
        number: u64,
        links: Links,
        hooks: Hooks,
    ) -> Result<Self, KernelError> {
        let target = Target::resolve(spec)?;
        let pins = folder.endpoint(&spec.uid)?;
        if links == Links::TakeUp
            && let Some(endpoint) = Self::adopt(object, spec, &target, &pins, hooks)?
        {
            return Ok(endpoint);
        }
        let mut ebpf = instance::load(folder, &pins, &spec.sizes, object.bytes)?;
        let mut endpoint = Self { uid: spec.uid.clone(), number, maps: Maps::open(&pins)? };
        let before = endpoint.config()?;
        if before.endpoint_id != 0 {
            endpoint.number = before.endpoint_id;
        }
        if before.endpoint_id != 0 && !target.same_place(&before) {
            remove_links(&pins)?;
            interface::remove_filters(before.ifindex, &pins)?;
        }
        let config = target.configuration(spec, endpoint.number, &before)?;
        // The host's side judges until the workload's side does.
        let config = Config { object: 0, ..config };
        let judged_here = Config { arrivals: 0, ..config };
        let keeps = before.arrivals != 0 && config.arrivals != 0 && target.same_place(&before);
        endpoint.write_config(if keeps { &config } else { &judged_here })?;
        target.attach(&mut ebpf, &pins, links, hooks)?;
        match spec.arrivals() {
            true => target.attach_arrivals(&mut ebpf, &pins, links, hooks)?,
            false => interface::detach_arrivals(target.interface(), &pins)?,
        }
        endpoint.write_config(&Config { object: object.number, ..config })?;
        Ok(endpoint)
    }

    /// Takes up an endpoint whose programs are of this very object and still attached: nothing has to be loaded, which
    /// is nearly all that a restart with many endpoints would cost. `None` when that is not so.
    fn adopt(
        object: Object,
        spec: &EndpointSpec,
        target: &Target<'_>,
        pins: &Path,
        hooks: Hooks,
    ) -> Result<Option<Self>, KernelError> {
        let Ok(maps) = Maps::open(pins) else { return Ok(None) };
        let mut endpoint = Self { uid: spec.uid.clone(), number: 0, maps };
        let before = endpoint.config()?;
        let ours = before.object == object.number && target.same_place(&before);
        let as_wanted = before.arrivals == u8::from(spec.arrivals());
        if !ours || !as_wanted || !target.is_attached(pins, hooks, spec.arrivals()) {
            return Ok(None);
        }
        endpoint.number = before.endpoint_id;
        let config = target.configuration(spec, endpoint.number, &before)?;
        if config != before {
            endpoint.write_config(&config)?;
        }
        Ok(Some(endpoint))
    }

    /// Opens the maps of an endpoint that is attached, and nothing else.
    pub(super) fn open(folder: &Folder, uid: &str) -> Result<Self, KernelError> {
        let maps = Maps::open(&folder.endpoint(uid)?)?;
        let mut endpoint = Self { uid: uid.into(), number: 0, maps };
        endpoint.number = endpoint.config()?.endpoint_id;
        Ok(endpoint)
    }

    /// The identifier it was attached with.
    pub fn uid(&self) -> &str {
        &self.uid
    }

    /// Its number in events.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// Its configuration.
    ///
    /// # Errors
    /// [`KernelError::Map`].
    pub fn config(&self) -> Result<Config, KernelError> {
        self.maps.config.get(&0, 0).map_err(KernelError::map("read", maps::CONFIG))
    }

    /// Writes the whole configuration.
    ///
    /// # Errors
    /// [`KernelError::Map`].
    pub fn write_config(&mut self, config: &Config) -> Result<(), KernelError> {
        self.maps.config.set(0, config, 0).map_err(KernelError::map("write to", maps::CONFIG))
    }

    /// Writes the configuration again where it is not what `spec` says, rules aside. Returns whether it was not.
    ///
    /// # Errors
    /// [`KernelError::Map`]; [`KernelError::NoInterface`], [`KernelError::NotCgroup`] when its place is gone.
    pub fn restore_config(&mut self, spec: &EndpointSpec) -> Result<bool, KernelError> {
        let found = self.config()?;
        let mut right = Target::resolve(spec)?.configuration(spec, self.number, &found)?;
        if matches!(spec.attachment, Attachment::Cgroup { .. }) && spec.addresses.is_empty() {
            // The host's own addresses, which it may change itself.
            right.own = found.own;
        }
        if right == found {
            return Ok(false);
        }
        self.write_config(&right)?;
        Ok(true)
    }

    /// The gateway that frames are held against.
    ///
    /// # Errors
    /// [`KernelError::Map`].
    pub(crate) fn gateway(&self) -> Result<Gateway, KernelError> {
        let config = self.config()?;
        Ok(Gateway { mac: config.gateway_mac, on_link: config.on_link })
    }

    /// Holds frames against a gateway from now on. Returns whether it was another one before.
    ///
    /// # Errors
    /// [`KernelError::Map`].
    pub(crate) fn keep_gateway(&mut self, gateway: Gateway) -> Result<bool, KernelError> {
        let before = self.config()?;
        let config = Config { gateway_mac: gateway.mac, on_link: gateway.on_link, ..before };
        if config == before {
            return Ok(false);
        }
        self.write_config(&config)?;
        Ok(true)
    }

    /// Packets and bytes by reason, since the endpoint was first attached.
    ///
    /// # Errors
    /// [`KernelError::Map`].
    pub fn stats(&self) -> Result<Vec<(Reason, Counter)>, KernelError> {
        let mut totals = Vec::with_capacity(Reason::ALL.len());
        for reason in Reason::ALL {
            let each = self
                .maps
                .stats
                .get(&u32::from(*reason as u8), 0)
                .map_err(KernelError::map("read", maps::STATS))?;
            let total = each.iter().fold(Counter::default(), |sum, one| Counter {
                packets: sum.packets + one.packets,
                bytes: sum.bytes + one.bytes,
            });
            totals.push((*reason, total));
        }
        Ok(totals)
    }

    /// Takes away what was folded behind an event of this moment; none when nothing was, or a later event counted it. A
    /// packet that comes in between may be missing in what is told; `STATS` has it.
    ///
    /// # Errors
    /// [`KernelError::Map`].
    pub fn take_fold(&mut self, key: &FoldKey, told_at: u64) -> Result<Option<Fold>, KernelError> {
        let fold = match self.maps.folds.get(key, 0) {
            Ok(fold) if fold.packets != 0 && fold.last_sent == told_at => fold,
            Ok(_) | Err(MapError::KeyNotFound) => return Ok(None),
            Err(error) => return Err(KernelError::map("read", maps::FOLDS)(error)),
        };
        gone(self.maps.folds.remove(key), maps::FOLDS)?;
        Ok(Some(fold))
    }

    /// Events that the endpoint's budget or a full ring kept back.
    ///
    /// # Errors
    /// [`KernelError::Map`].
    pub fn lost_events(&self) -> Result<u64, KernelError> {
        let budget = self.maps.budget.get(&0, 0).map_err(KernelError::map("read", maps::EVENT_BUDGET))?;
        Ok(budget.lost)
    }
}

impl KernelStore for KernelEndpoint {
    fn observe(&self) -> Result<Observed, KernelError> {
        let trie = |name| KernelError::map("read", name);
        let config = self.config()?;
        Ok(Observed {
            allow: batch::entries(&self.maps.allow).map_err(trie(maps::ALLOW))?.into_iter().collect(),
            admitted: batch::entries(&self.maps.admitted)
                .map_err(trie(maps::ADMITTED))?
                .into_iter()
                .collect(),
            cidrs: self
                .maps
                .cidrs
                .iter()
                .map(|entry| entry.map(|(key, rule)| ((key.prefix_len(), key.data()), rule)))
                .collect::<Result<_, _>>()
                .map_err(trie(maps::CIDRS))?,
            ports: self
                .maps
                .ports
                .iter()
                .map(|entry| entry.map(|(key, rule)| ((key.prefix_len(), key.data()), rule)))
                .collect::<Result<_, _>>()
                .map_err(trie(maps::PORTS))?,
            switch: Switch(config.switch),
            direct_dns: config.direct_dns,
        })
    }

    fn allowed(&self, address: Address) -> Result<Option<Allow>, KernelError> {
        found(self.maps.allow.get(&address, 0), maps::ALLOW)
    }

    fn admitted(&self, id: u32) -> Result<Option<Admitted>, KernelError> {
        found(self.maps.admitted.get(&id, 0), maps::ADMITTED)
    }

    fn flows(&self) -> Result<Vec<(FlowKey, Flow)>, KernelError> {
        let read = |map: &HashMap<MapData, FlowKey, Flow>, name| {
            batch::entries(map).map_err(KernelError::map("read", name))
        };
        let mut flows = read(&self.maps.flows, maps::FLOWS)?;
        flows.extend(read(&self.maps.fleeting, maps::FLEETING)?);
        Ok(flows)
    }

    fn write(&mut self, write: &MapWrite) -> Result<(), KernelError> {
        let own = &mut self.maps;
        match *write {
            MapWrite::Allow(address, mut allow) => {
                if let Ok(before) = own.allow.get(&address, 0) {
                    allow.last_used = allow.last_used.max(before.last_used);
                }
                own.allow.insert(address, allow, 0).map_err(KernelError::map("write to", maps::ALLOW))
            }
            MapWrite::ForgetAllow(address) => gone(own.allow.remove(&address), maps::ALLOW),
            MapWrite::Admitted(id, admitted) => {
                own.admitted.insert(id, admitted, 0).map_err(KernelError::map("write to", maps::ADMITTED))
            }
            MapWrite::ForgetAdmitted(id) => gone(own.admitted.remove(&id), maps::ADMITTED),
            MapWrite::Cidr(length, address, rule) => own
                .cidrs
                .insert(&Key::new(length, address), rule, 0)
                .map_err(KernelError::map("write to", maps::CIDRS)),
            MapWrite::ForgetCidr(length, address) => {
                gone(own.cidrs.remove(&Key::new(length, address)), maps::CIDRS)
            }
            MapWrite::Port(length, key, rule) => own
                .ports
                .insert(&Key::new(length, key), rule, 0)
                .map_err(KernelError::map("write to", maps::PORTS)),
            MapWrite::ForgetPort(length, key) => gone(own.ports.remove(&Key::new(length, key)), maps::PORTS),
            MapWrite::DirectDns(slot, classes) => {
                let mut config = self.config()?;
                config.direct_dns[slot & 1] = classes;
                self.write_config(&config)
            }
            MapWrite::Switch(switch) => {
                let config = Config { switch: switch.0, ..self.config()? };
                self.write_config(&config)
            }
            MapWrite::KeepFlow(key, flow) => {
                own.flows.insert(key, flow, 0).map_err(KernelError::map("write to", maps::FLOWS))?;
                gone(own.fleeting.remove(&key), maps::FLEETING)
            }
            MapWrite::ForgetFlow(key) => {
                gone(own.flows.remove(&key), maps::FLOWS)?;
                gone(own.fleeting.remove(&key), maps::FLEETING)
            }
        }
    }
}

impl Maps {
    fn open(pins: &Path) -> Result<Self, KernelError> {
        Ok(Self {
            config: open(pins, maps::CONFIG)?,
            allow: open(pins, maps::ALLOW)?,
            admitted: open(pins, maps::ADMITTED)?,
            cidrs: open(pins, maps::CIDRS)?,
            ports: open(pins, maps::PORTS)?,
            flows: open(pins, maps::FLOWS)?,
            fleeting: open(pins, maps::FLEETING)?,
            stats: open(pins, maps::STATS)?,
            folds: open(pins, maps::FOLDS)?,
            budget: open(pins, maps::EVENT_BUDGET)?,
        })
    }
}

/// Opens a pinned map with its type; sizes of keys and values are compared.
pub(super) fn open<M: TryFrom<Map, Error = MapError>>(
    folder: &Path,
    name: &'static str,
) -> Result<M, KernelError> {
    let data = MapData::from_pin(folder.join(name)).map_err(KernelError::map("open", name))?;
    Map::from_map_data(data).and_then(M::try_from).map_err(KernelError::map("open", name))
}

/// The result of a look; what is not there is no error.
fn found<V>(result: Result<V, MapError>, map: &'static str) -> Result<Option<V>, KernelError> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(MapError::KeyNotFound) => Ok(None),
        Err(error) => Err(KernelError::map("read", map)(error)),
    }
}

/// The result of a removal; what was not there is gone as well.
fn gone(result: Result<(), MapError>, map: &'static str) -> Result<(), KernelError> {
    match result {
        Err(MapError::KeyNotFound) => Ok(()),
        Err(MapError::SyscallError(error)) if error.io_error.raw_os_error() == Some(libc::ENOENT) => Ok(()),
        other => other.map_err(KernelError::map("remove from", map)),
    }
}

/// Detaches what no pinned link holds, before the pins go.
pub(super) fn detach(pins: &Path) -> Result<(), KernelError> {
    let Ok(config) = open::<Array<MapData, Config>>(pins, maps::CONFIG) else { return Ok(()) };
    let config = config.get(&0, 0).map_err(KernelError::map("read", maps::CONFIG))?;
    interface::remove_filters(config.ifindex, pins)
}

fn remove_links(pins: &Path) -> Result<(), KernelError> {
    let entries = std::fs::read_dir(pins).map_err(|error| KernelError::file("read", pins, error))?;
    for entry in entries.flatten() {
        if entry.file_name().as_encoded_bytes().starts_with(b"link_") {
            links::unpin(&entry.path())?;
        }
    }
    Ok(())
}

/// Refuses places where an endpoint would fence the host itself.
///
/// # Errors
/// [`KernelError::DefaultRoute`], [`KernelError::RootCgroup`]; [`KernelError::NotCgroup`] for a cgroup that is not
/// there.
pub fn refuse_host(attachment: &Attachment) -> Result<(), KernelError> {
    match attachment {
        Attachment::Interface { name } => interface::refuse_default_route(name),
        Attachment::Cgroup { path, .. } if cgroup::place(path)?.level == 0 => {
            Err(KernelError::RootCgroup { path: path.clone() })
        }
        Attachment::Cgroup { .. } => Ok(()),
    }
}

/// What a specification's attachment means on this host.
enum Target<'a> {
    Interface { name: &'a str, index: u32 },
    Cgroup { path: &'a Path, place: cgroup::Place, netns_cookie: u64 },
}

impl<'a> Target<'a> {
    fn resolve(spec: &'a EndpointSpec) -> Result<Self, KernelError> {
        if !spec.allow_host {
            refuse_host(&spec.attachment)?;
        }
        match &spec.attachment {
            Attachment::Interface { name } => {
                Ok(Self::Interface { name, index: interface::interface_index(name)? })
            }
            Attachment::Cgroup { path, netns_cookie } => {
                Ok(Self::Cgroup { path, place: cgroup::place(path)?, netns_cookie: *netns_cookie })
            }
        }
    }

    fn same_place(&self, config: &Config) -> bool {
        match self {
            Self::Interface { index, .. } => config.ifindex == *index,
            Self::Cgroup { place, .. } => config.cgroup_id == place.id,
        }
    }

    /// Whether programs are attached there by what is pinned. Cgroups do not tell, and are attached again.
    fn is_attached(&self, pins: &Path, hooks: Hooks, arrivals: bool) -> bool {
        match self {
            Self::Interface { name, .. } => {
                interface::order(name, pins, hooks, arrivals).is_ok_and(|order| order != Order::Missing)
            }
            Self::Cgroup { .. } => false,
        }
    }

    fn configuration(
        &self,
        spec: &EndpointSpec,
        number: u64,
        before: &Config,
    ) -> Result<Config, KernelError> {
        if spec.addresses.len() > OWN_ADDRESSES {
            return Err(KernelError::TooManyAddresses { limit: OWN_ADDRESSES, found: spec.addresses.len() });
        }
        let mut config = Config {
            switch: before.switch,
            direct_dns: before.direct_dns,
            object: before.object,
            endpoint_id: number,
            flow_limit: u64::from(spec.sizes.flows),
            events_per_second: spec.events_per_second,
            events_burst: spec.events_per_second.saturating_mul(10),
            rejects_per_second: spec.rejects_per_second,
            dns: spec.dns,
            ..Config::default()
        };
        if self.same_place(before) {
            (config.gateway_mac, config.on_link) = (before.gateway_mac, before.on_link);
        }
        let addresses = match self {
            Self::Cgroup { .. } if spec.addresses.is_empty() => cgroup::default_sources(),
            Self::Cgroup { .. } | Self::Interface { .. } => spec.addresses.clone(),
        };
        for (own, address) in config.own.iter_mut().zip(&addresses) {
            *own = address_bytes(*address);
        }
        match self {
            Self::Interface { index, .. } => {
                config.ifindex = *index;
                config.arrivals = u8::from(spec.arrivals());
            }
            Self::Cgroup { place, netns_cookie, .. } => {
                config.cgroup_id = place.id;
                config.cgroup_level = place.level;
                config.netns_cookie = *netns_cookie;
            }
        }
        Ok(config)
    }

    fn attach(&self, ebpf: &mut Ebpf, pins: &Path, links: Links, hooks: Hooks) -> Result<(), KernelError> {
        match self {
            Self::Interface { name, .. } => interface::attach(ebpf, name, pins, links, hooks),
            Self::Cgroup { path, .. } => cgroup::attach(ebpf, path, pins),
        }
    }

    fn attach_arrivals(
        &self,
        ebpf: &mut Ebpf,
        pins: &Path,
        links: Links,
        hooks: Hooks,
    ) -> Result<(), KernelError> {
        match self {
            Self::Interface { name, .. } => interface::attach_arrivals(ebpf, name, pins, links, hooks),
            Self::Cgroup { .. } => Ok(()),
        }
    }

    fn interface(&self) -> Option<&str> {
        match self {
            Self::Interface { name, .. } => Some(name),
            Self::Cgroup { .. } => None,
        }
    }
}
