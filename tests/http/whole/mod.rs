//! The cluster's API over nodes of known contents.

mod asking;
mod following;
pub(crate) mod scene;
