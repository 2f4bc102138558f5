//! The kernel side seen from user space: programs, maps, pins, links.
//!
//! One [`Host`] holds what all endpoints share; each [`KernelEndpoint`] is one instance of the programs with maps
//! of its own, pinned in a folder of its own. Nothing here knows names or policies.
//!
//! ```text
//! <bpffs>/nameward/<instance>/v1/ EVENTS HEARTBEAT IDENTITIES
//!                                 endpoints/<uid>/ ALLOW ADMITTED CIDRS PORTS ... link_pod_egress link_pod_ingress
//! ```

mod batch;
mod bpffs;
mod cgroup;
mod cgroup_sockets;
mod clock;
mod clsact;
mod endpoint;
mod error;
mod events;
mod far_end;
mod host;
mod instance;
mod interface;
mod links;
mod loading;
mod object;
mod store;

pub use bpffs::{ensure_mounted, is_bpffs};
pub use cgroup::{
    OwnCgroup, cgroup_id, cgroup2_mount, is_fenced_by, is_populated, netns_cookie, remove_empty_cgroups,
};
pub use clock::BootNanos;
pub use endpoint::{Attachment, EndpointSpec, KernelEndpoint, MapSizes, refuse_host};
pub(crate) use endpoint::{Gateway, address_bytes};
pub use error::KernelError;
pub use events::EventReader;
pub(crate) use far_end::FarEnd;
pub use host::{Host, HostOptions, KernelObject};
pub use interface::{
    AttachedProgram, Hooks, Order, attached_programs, interface_index, interface_name, is_layer3,
};
pub use object::OBJECT;
pub use store::{KernelStore, MapWrite, MemoryStore, Observed};
