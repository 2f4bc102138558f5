//! The enforcer's state as metrics, in Prometheus' text format. Reads what the kernel and the endpoints count; counts
//! nothing itself. No domain name is a label.

use std::fmt::Display;

use nameward_abi::Reason;

use crate::{EndpointStatus, Enforcer, EnforcerError};

/// The media type of [`page`].
pub(super) const FORMAT: &str = "text/plain; version=0.0.4; charset=utf-8";

/// All metrics, as they are now.
///
/// # Errors
/// [`EnforcerError::Kernel`] when counters cannot be read.
pub(super) fn page(enforcer: &Enforcer) -> Result<String, EnforcerError> {
    let endpoints = enforcer.endpoints()?;
    let mut page = Page::default();
    packets(&mut page, &endpoints);
    of_endpoints(&mut page, &endpoints);
    of_node(&mut page, enforcer, endpoints.len());
    Ok(page.0)
}

fn packets(page: &mut Page, endpoints: &[EndpointStatus]) {
    let all = || endpoints.iter().flat_map(|one| one.counters.iter().map(move |counter| (one, counter)));
    page.family(
        "nameward_packets_total",
        Kind::Counter,
        "Packets by reason; verdict is what enforcing rules say, also where nameward_endpoint_audit is 1",
    );
    for (endpoint, (reason, counts)) in all() {
        page.sample(&packet_labels(&endpoint.uid, reason), counts.packets);
    }
    page.family("nameward_bytes_total", Kind::Counter, "Bytes of the same packets, from the IP header on");
    for (endpoint, (reason, counts)) in all() {
        page.sample(&packet_labels(&endpoint.uid, reason), counts.bytes);
    }
}

fn packet_labels<'a>(uid: &'a str, reason: &'a str) -> [(&'a str, &'a str); 3] {
    let allowed = Reason::ALL.iter().any(|known| known.word() == reason && known.allows());
    [("endpoint", uid), ("reason", reason), ("verdict", if allowed { "pass" } else { "deny" })]
}

type OfEndpoint = fn(&EndpointStatus) -> u64;

fn of_endpoints(page: &mut Page, endpoints: &[EndpointStatus]) {
    let families: [(&str, Kind, &str, OfEndpoint); 9] = [
        (
            "nameward_endpoint_generation",
            Kind::Gauge,
            "Generation of the rules in force; 0 = none yet",
            |one| one.generation.into(),
        ),
        ("nameward_endpoint_audit", Kind::Gauge, "1 while nothing is denied, only told", |one| {
            u64::from(one.mode == Some("audit"))
        }),
        ("nameward_endpoint_problem", Kind::Gauge, "1 while the endpoint is not as wanted", |one| {
            u64::from(one.problem.is_some())
        }),
        (
            "nameward_endpoint_not_covered",
            Kind::Gauge,
            "Ways around the endpoint's fence that are known; `/v1/endpoints` names them",
            |one| one.not_covered.len() as u64,
        ),
        ("nameward_bound_names", Kind::Gauge, "Names with an address that new connections may use", |one| {
            one.live_names as u64
        }),
        ("nameward_bound_addresses", Kind::Gauge, "Addresses of names that new connections may use", |one| {
            one.live_addresses as u64
        }),
        (
            "nameward_adopted_connections",
            Kind::Gauge,
            "Connections from before the workload was isolated that go on although no rule allows them",
            |one| one.adopted.len() as u64,
        ),
        ("nameward_events_lost_total", Kind::Counter, "Events that the endpoint's budget kept back", |one| {
            one.lost_events
        }),
        (
            "nameward_drift_repairs_total",
            Kind::Counter,
            "Kernel state that somebody else changed and that was put right",
            |one| one.drift_repairs,
        ),
    ];
    for (name, kind, help, value) in families {
        page.family(name, kind, help);
        for endpoint in endpoints {
            page.sample(&[("endpoint", &*endpoint.uid)], value(endpoint));
        }
    }
}

fn of_node(page: &mut Page, enforcer: &Enforcer, endpoints: usize) {
    let counts = enforcer.decision_counts();
    page.family("nameward_endpoints", Kind::Gauge, "Endpoints that are wanted");
    page.sample(&[], endpoints);
    page.family("nameward_decisions_total", Kind::Counter, "Decisions told in log, API and stream");
    page.sample(&[("verdict", "deny")], counts.denied);
    page.sample(&[("verdict", "other")], counts.told.saturating_sub(counts.denied));
    page.family(
        "nameward_failures_total",
        Kind::Counter,
        "Failures to attach endpoints or to keep them attached, by what went wrong; they are tried again",
    );
    for (kind, count) in enforcer.failures() {
        page.sample(&[("kind", kind)], count);
    }
    page.family("nameward_events_orphaned_total", Kind::Counter, "Events whose endpoint had been removed");
    page.sample(&[], counts.orphaned);
    if let Some(age) = enforcer.heartbeat_age() {
        page.family("nameward_heartbeat_age_seconds", Kind::Gauge, "Since the kernel last heard of us");
        page.sample(&[], age.as_secs_f64());
    }
    page.family(
        "nameward_answer_path_whole",
        Kind::Gauge,
        "1 while a resolver is connected; else expiry is frozen and new names fail",
    );
    page.sample(&[], u8::from(enforcer.is_path_whole()));
    page.family("nameward_ready", Kind::Gauge, "1 while every endpoint is as wanted and names are answered");
    page.sample(&[], u8::from(enforcer.not_ready().is_empty()));
    page.family("nameward_build_info", Kind::Gauge, "Always 1");
    page.sample(&[("version", env!("CARGO_PKG_VERSION"))], 1);
}

#[derive(Clone, Copy)]
enum Kind {
    Counter,
    Gauge,
}

/// The text so far. Samples belong to the family that was begun last.
#[derive(Default)]
struct Page(String, &'static str);

impl Page {
    fn family(&mut self, name: &'static str, kind: Kind, help: &str) {
        let kind = match kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
        };
        self.1 = name;
        self.0 += &format!("# HELP {name} {help}\n# TYPE {name} {kind}\n");
    }

    fn sample(&mut self, labels: &[(&str, &str)], value: impl Display) {
        let labels: Vec<String> =
            labels.iter().map(|(label, value)| format!("{label}=\"{}\"", escape(value))).collect();
        let labels = if labels.is_empty() { String::new() } else { format!("{{{}}}", labels.join(",")) };
        self.0 += &format!("{}{labels} {value}\n", self.1);
    }
}

fn escape(value: &str) -> String {
    value.replace('\\', r"\\").replace('"', "\\\"").replace('\n', r"\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_follow_their_family_and_labels_are_escaped() {
        let mut page = Page::default();
        page.family("nameward_x_total", Kind::Counter, "What it is");
        page.sample(&[("endpoint", "a\"b\\c\nd"), ("reason", "port")], 3);
        page.sample(&[], 0.5);
        assert_eq!(
            page.0,
            "# HELP nameward_x_total What it is\n# TYPE nameward_x_total counter\n\
             nameward_x_total{endpoint=\"a\\\"b\\\\c\\nd\",reason=\"port\"} 3\nnameward_x_total 0.5\n"
        );
    }

    // G5
    #[test]
    fn the_verdict_is_that_of_the_reason() {
        for reason in Reason::ALL {
            let [_, _, (_, verdict)] = packet_labels("one", reason.word());
            assert_eq!(verdict == "pass", reason.allows(), "{}", reason.word());
        }
        let [_, _, (_, unknown)] = packet_labels("one", "what an older version does not know");
        assert_eq!(unknown, "deny");
    }
}
