//! The pure core against reference models: simple code that says the same as SEMANTICS, and nothing faster.
//!
//! `PROPTEST_CASES=100000 cargo test -p nameward-tests --test model --release` runs more cases than the default.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod bindings;
mod grants;
mod naive;
mod rules;
mod worlds;

/// `default` cases, unless `PROPTEST_CASES` says otherwise. A failure prints its smallest input.
fn config(default: u32) -> proptest::prelude::ProptestConfig {
    let asked = std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok());
    proptest::prelude::ProptestConfig {
        cases: asked.unwrap_or(default),
        failure_persistence: None,
        ..proptest::prelude::ProptestConfig::default()
    }
}
