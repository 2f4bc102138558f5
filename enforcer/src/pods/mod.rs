//! Where the pods of this node are: network namespaces, and the host side of each interface in them.
//!
//! The kernel is asked, not the workload: an interface's far end and its namespace cannot be forged from inside.
//! [`namespaces`] finds those of running pods, [`inside`] looks into one, [`Sandboxes`] keeps what is known, [`cni`]
//! hears of new ones before their containers start. What a pod may do is not known here.

pub mod cni;
pub mod inside;
pub mod namespaces;
mod sandboxes;
mod verdicts;

pub use sandboxes::{NotCovered, Origin, Sandbox, Sandboxes, endpoints_of, pod_of};
pub use verdicts::Verdicts;
