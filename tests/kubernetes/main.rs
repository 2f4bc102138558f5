//! `nameward-enforcer --kubernetes` with a real API server: objects come from there, status goes there.
//!
//! Pods are made by hand, as container runtime and kubelet make them: a network namespace behind Debian's ptp plugin and
//! ours, a process in a cgroup that is named as kubelet names it, an object on its node. Two nodes, and the small internet
//! at whose far side it is counted what arrives. All scenarios share them, each in a namespace of its own.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod administrator;
mod asking;
mod guarding;
mod objects;
mod one_place;
mod pod;
mod sandboxes;
mod status;
mod trouble;
mod world;

use std::process::ExitCode;

use nameward_test_support::{Scenario, run_scenarios};

use world::World;

const SCENARIOS: [Scenario<World>; 36] = [
    ("names_wildcards_and_ports", guarding::names_wildcards_and_ports),
    ("a_new_pod_sends_nothing_before_its_rules", guarding::a_new_pod_sends_nothing_before_its_rules),
    ("a_pod_that_nobody_knows_may_do_nothing", guarding::a_pod_that_nobody_knows_may_do_nothing),
    ("policies_change_under_traffic", guarding::policies_change_under_traffic),
    ("labels_decide", guarding::labels_decide),
    ("a_first_policy_keeps_live_connections", guarding::a_first_policy_keeps_live_connections),
    ("pods_come_and_go", guarding::pods_come_and_go),
    ("tenants_cannot_lift_guardrails", administrator::tenants_cannot_lift_guardrails),
    ("break_glass_ends_by_itself", administrator::break_glass_ends_by_itself),
    ("cluster_peers", administrator::cluster_peers),
    ("observation_is_honoured", administrator::observation_is_honoured),
    ("backends_of_the_cluster_dns", administrator::backends_of_the_cluster_dns),
    ("a_sandbox_made_anew", sandboxes::a_sandbox_made_anew),
    ("an_address_of_another_before", sandboxes::an_address_of_another_before),
    ("a_completed_pod", sandboxes::a_completed_pod),
    ("a_result_that_says_nothing", sandboxes::a_result_that_says_nothing),
    ("an_interface_that_cannot_be_guarded", sandboxes::an_interface_that_cannot_be_guarded),
    ("both_families", sandboxes::both_families),
    ("kubectl_warns_at_once", objects::kubectl_warns_at_once),
    ("kubectl_shows_columns", objects::kubectl_shows_columns),
    ("kubectl_explains_every_field", objects::kubectl_explains_every_field),
    ("policies_at_every_limit", objects::policies_at_every_limit),
    ("all_nodes_are_asked_at_one_place", one_place::all_nodes_are_asked_at_one_place),
    ("a_tenant_sees_its_own_namespace", one_place::a_tenant_sees_its_own_namespace),
    ("nobody_new_is_let_in_without_an_api_server", one_place::nobody_new_is_let_in_without_an_api_server),
    ("conditions_and_counts", status::conditions_and_counts),
    ("bad_objects_change_nothing", status::bad_objects_change_nothing),
    ("both_processes_killed", trouble::both_processes_killed),
    ("no_api_server", trouble::no_api_server),
    ("what_was_taken_away_stays_so_over_a_restart", trouble::what_was_taken_away_stays_so_over_a_restart),
    ("a_missing_permission_is_told", trouble::a_missing_permission_is_told),
    ("a_forbidden_write_is_told_and_made_up_for", asking::a_forbidden_write_is_told_and_made_up_for),
    ("answers_write_nothing", asking::answers_write_nothing),
    ("one_writes_a_status_now_and_then", asking::one_writes_a_status_now_and_then),
    ("each_list_is_watched", asking::each_list_is_watched),
    ("a_named_sandbox_is_guarded_over_a_restart", trouble::a_named_sandbox_is_guarded_over_a_restart),
];

fn main() -> ExitCode {
    run_scenarios(&SCENARIOS, World::new, World::tell, World::take_down)
}
