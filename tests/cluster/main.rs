//! Nameward on a whole Kubernetes: real pods, real container runtime and CNI chain, CoreDNS, Services through kube-proxy.
//!
//! What needs no real pod is in `tests/kubernetes`, with a real API server. All scenarios share one cluster of two nodes,
//! each in a namespace of its own; behind it is the small internet, at whose far side it is counted what arrives.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod boot;
mod by_hand;
mod churn;
mod gate;
mod guarding;
mod life;
mod pods;

use std::process::ExitCode;

use nameward_test_support::{Scenario, run_scenarios};

use pods::World;

const SCENARIOS: [Scenario<World>; 18] = [
    ("names_through_coredns", guarding::names_through_coredns),
    ("an_init_container_sends_nothing", guarding::an_init_container_sends_nothing),
    ("services_and_pods_of_two_nodes", guarding::services_and_pods_of_two_nodes),
    ("tenants_cannot_lift_guardrails", guarding::tenants_cannot_lift_guardrails),
    ("audit_denies_nothing_and_tells", guarding::audit_denies_nothing_and_tells),
    ("coredns_is_selected_and_asks_on", guarding::coredns_is_selected_and_asks_on),
    ("a_first_policy_keeps_live_connections", life::a_first_policy_keeps_live_connections),
    ("both_processes_killed", life::both_processes_killed),
    ("no_api_server", life::no_api_server),
    ("policies_change_under_traffic", life::policies_change_under_traffic),
    ("bad_objects_change_nothing", guarding::bad_objects_change_nothing),
    ("who_may_write_policies", guarding::who_may_write_policies),
    ("pods_that_start_before_the_enforcer_wait", boot::pods_that_start_before_the_enforcer_wait),
    ("an_enforcer_that_crashes_again_and_again", boot::an_enforcer_that_crashes_again_and_again),
    ("ports_lead_inside", by_hand::ports_lead_inside),
    ("an_image_is_loaded_on_every_node", by_hand::an_image_is_loaded_on_every_node),
    ("many_pods_start_at_once", life::many_pods_start_at_once),
    ("many_pods_come_and_go", churn::many_pods_come_and_go),
];

fn main() -> ExitCode {
    run_scenarios(&SCENARIOS, World::new, World::tell, World::take_down)
}
