//! Namespaces, a small internet and scripted DNS for tests and the demo.
//!
//! Everything here is made with a name of the form `nwt<process>x<number>...`, is removed when its guard is
//! dropped, and, where a run was killed, by the next run ([`privileged()`] and [`remove_leftovers`] do it).
//! Nothing touches the root network namespace, its firewall, its routes or a cgroup of others.
//!
//! ```no_run
//! # fn main() -> anyhow::Result<()> {
//! use nameward_test_support::{SmallInternet, privileged};
//!
//! if !privileged() {
//!     return Ok(()); // not root; fails instead where NAMEWARD_MUST_RUN is set
//! }
//! let mut internet = SmallInternet::new()?; // nsd at 198.51.100.53, web servers, a host that forwards
//! let workload = internet.add_workload(internet.dns())?; // a namespace behind the host's veth `w1`
//! let output = workload.output("curl", &["-sS", "http://allowed.example/"])?;
//! assert!(output.contains("198.51.100.10"));
//! assert_eq!(internet.web().hits().len(), 1); // the far side's view: who really arrived
//! # Ok(()) }
//! ```
//!
//! [`FakeDns`] is a scripted upstream, [`CgroupGuard`] a cgroup of one's own, [`wait_until`] waits for an event
//! with a deadline, [`output_within`] runs a command with one, [`Daemon`] is a process that serves until it is dropped, [`cluster`] a whole Kubernetes, [`images`] makes images of programs, [`program`] finds the product's programs, [`unpacked`]
//! what `cargo xtask setup` keeps unpacked.
//! It contains nothing of the product, so that no test of it can agree with itself.

mod authority;
mod bounded;
mod cache;
mod cgroup;
pub mod cluster;
mod daemon;
mod fake_dns;
mod foreign;
mod http;
pub mod images;
mod internet;
mod leftovers;
mod name_server;
mod netns;
mod old_kernel;
mod privileged;
mod programs;
mod scenarios;
mod wait;
mod workload;

pub use authority::{Authority, Signed};
pub use bounded::{finish, output_within, start};
pub use cache::unpacked;
pub use cgroup::CgroupGuard;
pub use daemon::Daemon;
pub use fake_dns::{Asked, FakeDns, Reply, Transport, address_record};
pub use foreign::{ForeignProgram, translate_in_sockets};
pub use http::{Hit, WebServers};
pub use internet::{DEFAULT_ZONE, SmallInternet};
pub use leftovers::{Scratch, remove_leftovers};
pub use name_server::NameServer;
pub use netns::Netns;
pub use old_kernel::{Booted, OldKernel};
pub use privileged::{must_run, privileged};
pub use programs::program;
pub use scenarios::{Scenario, run_scenarios};
pub use wait::{patient, wait_until, wait_until_async, wait_until_ok};
pub use workload::Workload;
