//! Objects of the cluster joined in memory: which policies select which pod of this node, and the rules that follow.
//!
//! ```text
//!   EgressPolicy ---podSelector---+                 EgressConfig (settings, exemptions, observation, break-glass)
//!   ClusterEgressPolicy --subject-+--> pod <---+          |
//!   Namespace --------labels------+            +----------+--> Decided: RuleSet, settings, who selected it
//!   EndpointSlice (cluster DNS, default/kubernetes) ------+
//! ```
//!
//! [`Index`] is fed by `apply`, `delete` and `reset` and nothing else; time is an argument. Where the objects come from
//! is in [`watch`], where the pods' interfaces are in [`crate::pods`]. It attaches nothing.

mod configured;
mod facts;
mod index;
pub mod snapshot;
mod subject;
pub mod watch;

pub use configured::{Configured, Suspension};
pub use facts::{Network, PodFacts, PolicyFacts};
pub use index::{Decided, Index, IndexOptions, PolicyState};
pub use subject::Subject;
