//! The chart: what it renders, and its whole life on a whole cluster, from images of this tree's programs.
//!
//! Scenarios of the cluster follow one another: what one has installed the next upgrades. What only renders makes no cluster.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod forward;
mod life;
#[path = "../cluster/pods.rs"]
#[allow(dead_code, reason = "shared with the tests of a cluster without Helm")]
mod pods;
mod render;

use std::{process::ExitCode, sync::OnceLock};

use anyhow::Result;
use nameward_test_support::{Scenario, cluster::Kind, run_scenarios};

/// A cluster that is made when it is needed.
#[derive(Default)]
struct World {
    made: OnceLock<pods::World>,
}

const SCENARIOS: [Scenario<World>; 13] = [
    ("the_chart_lints", render::the_chart_lints),
    ("the_chart_renders_as_it_is_written_down", render::the_chart_renders_as_it_is_written_down),
    ("values_that_make_no_sense_are_refused", render::values_that_make_no_sense_are_refused),
    ("installs_and_guards", life::installs_and_guards),
    ("refuses_a_second_install", life::refuses_a_second_install),
    ("upgrades_under_a_live_connection", life::upgrades_under_a_live_connection),
    ("forward_by_name", forward::forward_by_name),
    ("forward_with_a_node_cut_off", forward::forward_with_a_node_cut_off),
    ("forward_with_a_resolver_killed", forward::forward_with_a_resolver_killed),
    ("forward_each_pod_for_itself", forward::forward_each_pod_for_itself),
    ("forward_and_back", forward::forward_and_back),
    ("uninstalls_from_all_live_nodes", life::uninstalls_from_all_live_nodes),
    ("cleans_a_node_that_was_down", life::cleans_a_node_that_was_down),
];

fn main() -> ExitCode {
    run_scenarios(&SCENARIOS, || Ok(World::default()), World::tell, World::take_down)
}

impl World {
    fn cluster(&self) -> &pods::World {
        self.made.get_or_init(|| {
            let world = pods::World::of(Kind::Plain).unwrap();
            life::load_images(&world).unwrap();
            world
        })
    }

    fn tell(&self) -> String {
        let Some(world) = self.made.get() else { return String::new() };
        let said =
            |words: &str| world.cluster.kubectl(&words.split(' ').collect::<Vec<_>>()).unwrap_or_default();
        said("-n nameward describe daemonsets,deployments,jobs,pods")
            + &said("-n nameward logs daemonset/nameward --all-pods --prefix --tail=40 -c enforcer")
            + &said(
                "-n nameward logs deployment/nameward-resolver --all-pods --prefix --tail=40 --all-containers",
            )
            + &world.tell()
    }

    fn take_down(self) -> Result<()> {
        self.made.into_inner().map_or(Ok(()), pods::World::take_down)
    }
}
