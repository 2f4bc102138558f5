//! What the endpoints of one instance share: the folder, the ring of events, the heartbeat, the identities.

use std::{
    fmt,
    net::IpAddr,
    path::{Path, PathBuf},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use aya::maps::{Array, HashMap, MapData};
use nameward_abi::{Address, Identity, maps, programs};

use super::{
    BootNanos, EndpointSpec, EventReader, KernelEndpoint, KernelError,
    bpffs::{self, Folder},
    endpoint::{self, address_bytes, open},
    instance,
    interface::{self, Hooks, Links, Order, interface_index},
    object::{OBJECT, Object},
};

/// Where an instance keeps its pins.
#[derive(Clone, Debug)]
pub struct HostOptions {
    /// A mounted BPF file system.
    pub bpffs: PathBuf,
    /// Folder below `nameward/`; `None` for the instance of the host itself.
    pub instance: Option<String>,
    /// Attach to interfaces as kernels before 6.6 do, also on newer ones.
    pub clsact: bool,
    /// The kernel programs; others than those compiled in are for tests.
    pub object: KernelObject,
}

/// An object file with the kernel programs.
#[derive(Clone, Copy)]
pub struct KernelObject(pub &'static [u8]);

impl fmt::Debug for KernelObject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KernelObject({} octets)", self.0.len())
    }
}

impl Default for HostOptions {
    fn default() -> Self {
        Self { bpffs: "/sys/fs/bpf".into(), instance: None, clsact: false, object: KernelObject(OBJECT) }
    }
}

/// A suspension is longer than this, in nanoseconds; a shorter difference is how the clocks were read.
const SUSPENSION: u64 = 1_000_000;

/// One instance on this host. Holds the folder's lock: there is one for each folder.
pub struct Host {
    folder: Folder,
    hooks: Hooks,
    heartbeat: Mutex<Array<MapData, u64>>,
    suspended: Mutex<Array<MapData, u64>>,
    identities: Mutex<HashMap<MapData, Address, Identity>>,
    last_number: AtomicU64,
    object: Object,
}

impl fmt::Debug for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Host").field("folder", &self.folder).finish_non_exhaustive()
    }
}

impl Host {
    /// Opens or creates the instance: folder, lock, shared maps. Attaches nothing.
    ///
    /// # Errors
    /// What is missing on this host, as [`KernelError`].
    pub fn open(options: &HostOptions) -> Result<Self, KernelError> {
        check_privileges()?;
        check_kernel(6, 1, "6.1", "the kernel programs")?;
        let folder = Folder::open(&options.bpffs, options.instance.as_deref())?;
        let shared = instance::load_shared(&folder, options.object.0)?;
        drop(shared); // what matters is pinned now
        let host = Self {
            heartbeat: Mutex::new(open(folder.root(), maps::HEARTBEAT)?),
            suspended: Mutex::new(open(folder.root(), maps::SUSPENDED)?),
            identities: Mutex::new(open(folder.root(), maps::IDENTITIES)?),
            last_number: AtomicU64::new(0),
            hooks: if options.clsact || !kernel_is(6, 6)? { Hooks::Clsact } else { Hooks::Tcx },
            folder,
            object: Object::new(options.object.0),
        };
        host.follow_clock()?;
        for uid in host.endpoints()? {
            if let Ok(endpoint) = KernelEndpoint::open(&host.folder, &uid) {
                host.last_number.fetch_max(endpoint.number(), Ordering::Relaxed);
            }
        }
        Ok(host)
    }

    /// The only reader of this instance's events; must be called inside a tokio runtime.
    ///
    /// # Errors
    /// [`KernelError::Map`], [`KernelError::File`].
    pub fn events(&self) -> Result<EventReader, KernelError> {
        EventReader::open(&self.folder.shared(maps::EVENTS))
    }

    /// Attaches an endpoint, or adopts it when it is attached already.
    ///
    /// # Errors
    /// Any [`KernelError`]; a new endpoint that could not be attached leaves nothing behind.
    pub fn attach(&self, spec: &EndpointSpec) -> Result<KernelEndpoint, KernelError> {
        let pins = self.folder.endpoint(&spec.uid)?;
        let known = pins.exists();
        let number = self.last_number.fetch_add(1, Ordering::Relaxed) + 1;
        let attached =
            KernelEndpoint::attach(self.object, &self.folder, spec, number, Links::TakeUp, self.hooks);
        if attached.is_err() && !known {
            remove_endpoint(&pins)?;
        }
        attached
    }

    /// Where the programs of an interface endpoint stand among all at its interface.
    ///
    /// # Errors
    /// [`KernelError::NoInterface`], [`KernelError::Program`], [`KernelError::Link`].
    pub fn order(&self, uid: &str, interface: &str) -> Result<Order, KernelError> {
        interface_index(interface)?;
        let arrivals = self.open_endpoint(uid)?.config()?.arrivals != 0;
        interface::order(interface, &self.folder.endpoint(uid)?, self.hooks, arrivals)
    }

    /// Puts the programs of an endpoint in front again. The old ones judge until the new ones do.
    ///
    /// # Errors
    /// Any [`KernelError`].
    pub fn attach_first(&self, spec: &EndpointSpec) -> Result<(), KernelError> {
        KernelEndpoint::attach(self.object, &self.folder, spec, 0, Links::Renew, self.hooks).map(drop)
    }

    /// Identifiers of the endpoints that have pins, also of those that another process left.
    ///
    /// # Errors
    /// [`KernelError::File`].
    pub fn endpoints(&self) -> Result<Vec<String>, KernelError> {
        self.folder.endpoints()
    }

    /// Opens an endpoint's maps without touching what is attached.
    ///
    /// # Errors
    /// [`KernelError::Map`] when it is not there.
    pub fn open_endpoint(&self, uid: &str) -> Result<KernelEndpoint, KernelError> {
        KernelEndpoint::open(&self.folder, uid)
    }

    /// Detaches an endpoint and frees its maps. Removing what is absent is no error.
    ///
    /// # Errors
    /// [`KernelError::File`].
    pub fn remove(&self, uid: &str) -> Result<(), KernelError> {
        remove_endpoint(&self.folder.endpoint(uid)?)
    }

    /// Removes the whole instance: every endpoint, link and map.
    ///
    /// # Errors
    /// [`KernelError::File`].
    pub fn remove_all(&self) -> Result<(), KernelError> {
        remove_instance(&self.folder)
    }

    /// Removes what an earlier process left of an instance, of whatever it consists.
    ///
    /// # Errors
    /// [`KernelError::NotRoot`], [`KernelError::InstanceBusy`] while a process has it, [`KernelError::File`].
    pub fn remove_left(options: &HostOptions) -> Result<(), KernelError> {
        check_privileges()?;
        // Without the file system there are no pins, and nothing to remove.
        if !bpffs::is_bpffs(&options.bpffs) {
            return Ok(());
        }
        remove_instance(&Folder::open(&options.bpffs, options.instance.as_deref())?)
    }

    /// Removes instances whose names start with `prefix` and which no process holds any more.
    ///
    /// # Errors
    /// [`KernelError::File`].
    pub fn remove_abandoned(bpffs: &Path, prefix: &str) -> Result<Vec<String>, KernelError> {
        let names = bpffs::abandoned(bpffs, prefix);
        for name in &names {
            remove_instance(&Folder::open(bpffs, Some(name))?)?;
        }
        Ok(names)
    }

    /// Says to the kernel that the enforcer and its resolver are alive.
    ///
    /// # Errors
    /// [`KernelError::Map`].
    pub fn beat(&self, now: BootNanos) -> Result<(), KernelError> {
        let mut heartbeat = self.heartbeat.lock().unwrap_or_else(PoisonError::into_inner);
        heartbeat.set(0, now.0, 0).map_err(KernelError::map("write to", maps::HEARTBEAT))
    }

    /// Says to the kernel how long the machine was suspended so far: its programs read a clock that stood still
    /// meanwhile. While nobody says so, what is told after a suspension seems to be earlier than it is.
    ///
    /// # Errors
    /// [`KernelError::Map`].
    pub fn follow_clock(&self) -> Result<(), KernelError> {
        let mut known = self.suspended.lock().unwrap_or_else(PoisonError::into_inner);
        let before = known.get(&0, 0).map_err(KernelError::map("read", maps::SUSPENDED))?;
        let suspended = BootNanos::suspended();
        if before.abs_diff(suspended) < SUSPENSION {
            return Ok(());
        }
        known.set(0, suspended, 0).map_err(KernelError::map("write to", maps::SUSPENDED))
    }

    /// When somebody last said so; zero when nobody ever has.
    ///
    /// # Errors
    /// [`KernelError::Map`].
    pub fn last_beat(&self) -> Result<BootNanos, KernelError> {
        let heartbeat = self.heartbeat.lock().unwrap_or_else(PoisonError::into_inner);
        heartbeat.get(&0, 0).map(BootNanos).map_err(KernelError::map("read", maps::HEARTBEAT))
    }

    /// Says which interface the answers to an identity address go to.
    ///
    /// # Errors
    /// [`KernelError::Map`].
    pub fn set_identity(&self, address: IpAddr, identity: Identity) -> Result<(), KernelError> {
        let mut identities = self.identities.lock().unwrap_or_else(PoisonError::into_inner);
        identities
            .insert(address_bytes(address), identity, 0)
            .map_err(KernelError::map("write to", maps::IDENTITIES))
    }

    /// Forgets an identity address; it may be absent.
    pub fn forget_identity(&self, address: IpAddr) {
        let mut identities = self.identities.lock().unwrap_or_else(PoisonError::into_inner);
        if identities.remove(&address_bytes(address)).is_err() {
            tracing::debug!(%address, "identity address was not known");
        }
    }

    /// Attaches the program that sends answers back, where they come out of our own link.
    ///
    /// # Errors
    /// [`KernelError::Program`], [`KernelError::Link`].
    pub fn attach_dns_return(&self, interface_name: &str) -> Result<(), KernelError> {
        let mut ebpf = instance::load_shared(&self.folder, self.object.bytes)?;
        let hook = aya::programs::TcAttachType::Ingress;
        let pins = self.folder.root();
        let program = programs::DNS_RETURN;
        interface::attach_one(&mut ebpf, program, interface_name, hook, pins, Links::TakeUp, self.hooks)
    }
}

/// Detaches an endpoint and removes its pins.
fn remove_endpoint(pins: &Path) -> Result<(), KernelError> {
    endpoint::detach(pins)?;
    bpffs::remove_folder(pins)
}

fn remove_instance(folder: &Folder) -> Result<(), KernelError> {
    for uid in folder.endpoints()? {
        remove_endpoint(&folder.endpoint(&uid)?)?;
    }
    folder.remove()
}

fn check_privileges() -> Result<(), KernelError> {
    if nix::unistd::Uid::effective().is_root() { Ok(()) } else { Err(KernelError::NotRoot) }
}

/// Checks for a kernel of at least this version.
fn check_kernel(
    major: u32,
    minor: u32,
    needed: &'static str,
    purpose: &'static str,
) -> Result<(), KernelError> {
    if kernel_is(major, minor)? {
        Ok(())
    } else {
        Err(KernelError::KernelTooOld { found: release()?, needed, purpose })
    }
}

/// Whether the kernel is at least of this version.
fn kernel_is(major: u32, minor: u32) -> Result<bool, KernelError> {
    Ok(parse_release(&release()?).is_some_and(|version| version >= (major, minor)))
}

pub(super) fn release() -> Result<String, KernelError> {
    let name = nix::sys::utsname::uname()
        .map_err(|errno| KernelError::file("ask for the version of", "the kernel", errno.into()))?;
    Ok(name.release().to_string_lossy().into_owned())
}

fn parse_release(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_are_read() {
        assert_eq!(parse_release("6.1.0-18-amd64"), Some((6, 1)));
        assert_eq!(parse_release("5.15-rc3"), Some((5, 15)));
        assert_eq!(parse_release("unknown"), None);
    }
}
