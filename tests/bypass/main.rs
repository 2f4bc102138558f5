//! The adversary: what a hostile workload, with every capability in its own network namespace, tries against the
//! data plane. Tests are named after the rows of the list of bypasses (`b20_...`). What it got is measured at the far
//! side, never by an error that it saw; each attempt is made without a guard first, to see that it would arrive.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod attempts;
mod flows;
mod frames;
mod link;
mod packets;
mod world;
