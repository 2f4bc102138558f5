//! The enforcer's state as metrics. Reads what the kernel and the endpoints count; counts nothing itself. No domain
//! name is a label.

use std::sync::atomic::Ordering;

use nameward_abi::Reason;
use nameward_api::types::{EndpointStatus, Mode};
use nameward_daemon::metrics::{Family, Scrape, page};

use crate::{Enforcer, EnforcerError};

pub(super) use nameward_daemon::metrics::FORMAT;

static PACKETS: Family = Family::counter(
    "nameward_packets",
    &["endpoint", "reason", "verdict"],
    "Packets by reason; verdict is what enforcing rules say, also where nameward_endpoint_audit is 1",
);
static BYTES: Family = Family::counter(
    "nameward_bytes",
    &["endpoint", "reason", "verdict"],
    "Bytes of the same packets, from the IP header on",
);
static GENERATION: Family = Family::gauge(
    "nameward_endpoint_generation",
    &["endpoint"],
    "Generation of the rules in force; 0 = none yet",
);
static AUDIT: Family =
    Family::gauge("nameward_endpoint_audit", &["endpoint"], "1 while nothing is denied, only told");
static PROBLEM: Family =
    Family::gauge("nameward_endpoint_problem", &["endpoint"], "1 while the endpoint is not as wanted");
static NOT_COVERED: Family = Family::gauge(
    "nameward_endpoint_not_covered",
    &["endpoint"],
    "Ways around the endpoint's fence that are known; `/v1/endpoints` names them",
);
static NAMES: Family = Family::gauge(
    "nameward_bound_names",
    &["endpoint"],
    "Names with an address that new connections may use",
);
static ADDRESSES: Family = Family::gauge(
    "nameward_bound_addresses",
    &["endpoint"],
    "Addresses of names that new connections may use",
);
static ADOPTED: Family = Family::gauge(
    "nameward_adopted_connections",
    &["endpoint"],
    "Connections from before the workload was isolated that go on although no rule allows them",
);
static LOST: Family = Family::counter(
    "nameward_events_lost",
    &["endpoint"],
    "Events that the endpoint's budget kept back; the packets are counted all the same",
);
static REPAIRS: Family = Family::counter(
    "nameward_drift_repairs",
    &["endpoint"],
    "Kernel state that somebody else changed and that was put right",
);
static ENDPOINTS: Family = Family::gauge("nameward_endpoints", &[], "Endpoints that are wanted");
static DECISIONS: Family = Family::counter(
    "nameward_decisions",
    &["verdict"],
    "Decisions told in log, API and stream; verdict is deny or other",
);
static REFUSED: Family = Family::counter(
    "nameward_refused_names",
    &["reason"],
    "Questions for names that were not answered, or would not have been, as resolvers told; each is a decision, too",
);
static UNTOLD: Family = Family::counter(
    "nameward_refused_names_untold",
    &[],
    "Such questions that are not told one by one: a workload asked for more names than are told, or its enforcer was away",
);
static FAILURES: Family = Family::counter(
    "nameward_failures",
    &["kind"],
    "Failures to attach endpoints or to keep them attached, by what went wrong; they are tried again",
);
static ORPHANED: Family =
    Family::counter("nameward_events_orphaned", &[], "Events whose endpoint had been removed");
static AUDIT_RECORDS: Family =
    Family::counter("nameward_audit_records", &[], "Records written to the audit log (--audit-log)");
static AUDIT_LOST: Family = Family::counter(
    "nameward_audit_records_lost",
    &[],
    "Records that the audit log could not write: its queue or its disk was full",
);
static HEARTBEAT: Family =
    Family::gauge("nameward_heartbeat_age_seconds", &[], "Since the kernel last heard of us");
static WHOLE: Family = Family::gauge(
    "nameward_answer_path_whole",
    &[],
    "1 while a resolver is connected; else expiry is frozen and new names fail",
);
static READY: Family =
    Family::gauge("nameward_ready", &[], "1 while every endpoint is as wanted and names are answered");
static BUILD: Family = Family::gauge("nameward_build_info", &["version"], "Always 1");

static UNWATCHED: Family = Family::gauge(
    "nameward_unwatched",
    &[],
    "Kinds of Kubernetes objects that are not watched: the API server is away, or refuses",
);
static UNREADABLE: Family = Family::gauge(
    "nameward_unreadable_policies",
    &[],
    "Policies of which a newer version cannot be read; the one before counts",
);
static SUSPENDED: Family = Family::gauge(
    "nameward_break_glass_pods",
    &[],
    "Pods of this node of which nothing is enforced for the time being",
);

/// All of them, in the order of the page.
pub static FAMILIES: &[&Family] = &[
    &PACKETS,
    &BYTES,
    &GENERATION,
    &AUDIT,
    &PROBLEM,
    &NOT_COVERED,
    &NAMES,
    &ADDRESSES,
    &ADOPTED,
    &LOST,
    &REPAIRS,
    &ENDPOINTS,
    &DECISIONS,
    &REFUSED,
    &UNTOLD,
    &FAILURES,
    &ORPHANED,
    &AUDIT_RECORDS,
    &AUDIT_LOST,
    &HEARTBEAT,
    &WHOLE,
    &READY,
    &BUILD,
    &UNWATCHED,
    &UNREADABLE,
    &SUSPENDED,
];

/// All metrics, as they are now.
///
/// # Errors
/// [`EnforcerError::Kernel`] when counters cannot be read.
pub(super) fn scrape(enforcer: &Enforcer) -> Result<String, EnforcerError> {
    let endpoints = enforcer.endpoints()?;
    Ok(page(FAMILIES, |scrape| {
        endpoints.iter().for_each(|one| endpoint(scrape, one));
        node(scrape, enforcer, endpoints.len());
    }))
}

fn endpoint(scrape: &mut Scrape, one: &EndpointStatus) {
    for (reason, counts) in &one.counters {
        let labels = [&*one.uid, reason, verdict(reason)];
        scrape.add(&PACKETS, &labels, counts.packets);
        scrape.add(&BYTES, &labels, counts.bytes);
    }
    let label = [&*one.uid];
    scrape.add(&GENERATION, &label, u64::from(one.generation));
    scrape.add(&AUDIT, &label, one.mode == Some(Mode::Audit));
    scrape.add(&PROBLEM, &label, one.problem.is_some());
    scrape.add(&NOT_COVERED, &label, one.not_covered.len());
    scrape.add(&NAMES, &label, one.live_names);
    scrape.add(&ADDRESSES, &label, one.live_addresses);
    scrape.add(&ADOPTED, &label, one.adopted.len());
    scrape.add(&LOST, &label, one.lost_events);
    scrape.add(&REPAIRS, &label, one.drift_repairs);
}

/// What an older version does not know is told as the worse.
fn verdict(reason: &str) -> &'static str {
    let allows = Reason::ALL.iter().any(|known| known.word() == reason && known.allows());
    if allows { "pass" } else { "deny" }
}

fn node(scrape: &mut Scrape, enforcer: &Enforcer, endpoints: usize) {
    let counts = enforcer.decision_counts();
    scrape.add(&ENDPOINTS, &[], endpoints);
    scrape.add(&DECISIONS, &["deny"], counts.denied);
    scrape.add(&DECISIONS, &["other"], counts.told.saturating_sub(counts.denied));
    let (refused, untold) = enforcer.refused_counts();
    for (reason, count) in refused {
        scrape.add(&REFUSED, &[reason.word()], count);
    }
    scrape.add(&UNTOLD, &[], untold);
    for (kind, count) in enforcer.failures() {
        scrape.add(&FAILURES, &[kind], count);
    }
    scrape.add(&ORPHANED, &[], counts.orphaned);
    if let Some(audit) = enforcer.audit_counts() {
        scrape.add(&AUDIT_RECORDS, &[], audit.written);
        scrape.add(&AUDIT_LOST, &[], audit.lost);
    }
    if let Some(age) = enforcer.heartbeat_age() {
        scrape.add(&HEARTBEAT, &[], age.as_secs_f64());
    }
    scrape.add(&WHOLE, &[], enforcer.is_path_whole());
    scrape.add(&READY, &[], enforcer.not_ready().is_empty());
    scrape.add(&BUILD, &[env!("CARGO_PKG_VERSION")], 1_u64);
    if let Some(health) = enforcer.cluster() {
        scrape.add(&UNWATCHED, &[], health.problems().len());
        scrape.add(&UNREADABLE, &[], health.unreadable_policies.load(Ordering::Relaxed));
        scrape.add(&SUSPENDED, &[], health.suspended_pods.load(Ordering::Relaxed));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // G5
    #[test]
    fn the_verdict_is_that_of_the_reason() {
        for reason in Reason::ALL {
            assert_eq!(verdict(reason.word()) == "pass", reason.allows(), "{}", reason.word());
        }
        assert_eq!(verdict("what an older version does not know"), "deny");
    }
}
