//! Decisions as records of the audit log: OCSF 1.8 Network Activity (class 4001), for names that were not answered
//! DNS Activity (4003). The envelope is the log's.

use std::{net::IpAddr, sync::Arc};

use jiff::Timestamp;
use nameward_api::{
    Followed,
    types::{Decision, Direction, Verdict},
};
use nameward_daemon::audit::{AuditLog, AuditOptions};
use serde_json::{Value, json};

use crate::decisions::RESPONSE_CODES;

/// Class of packets.
const NETWORK_ACTIVITY: u32 = 4_001;
/// Class of questions.
const DNS_ACTIVITY: u32 = 4_003;
/// Activity of a record that has question and answer.
const TRAFFIC: u32 = 6;

/// What is recorded, and the node it is of.
#[derive(Clone, Debug)]
pub struct Audited {
    node: Arc<str>,
    what: What,
}

#[derive(Clone, Debug)]
enum What {
    Decision(Arc<Followed>),
    /// Questions that are no decisions; of several endpoints when none is named.
    Untold {
        endpoint: Option<Arc<str>>,
        count: u64,
    },
}

/// The log of an enforcer.
#[derive(Debug)]
pub struct Audit {
    node: Arc<str>,
    pub(crate) log: AuditLog<Audited>,
}

impl Audit {
    /// Opens the log.
    ///
    /// # Errors
    /// When its place cannot be opened.
    pub fn start(options: &AuditOptions, node: &str) -> std::io::Result<Self> {
        Ok(Self { node: node.into(), log: AuditLog::start(options, "nameward-enforcer", encode)? })
    }

    /// Records a decision. Never waits.
    pub(crate) fn record(&self, decision: &Arc<Followed>) {
        let what = What::Decision(Arc::clone(decision));
        self.log.record(decision.at, Audited { node: Arc::clone(&self.node), what });
    }

    /// Records that questions are not told one by one. Never waits.
    pub(crate) fn record_untold(&self, endpoint: Option<&Arc<str>>, count: u64) {
        let what = What::Untold { endpoint: endpoint.cloned(), count };
        self.log.record(Timestamp::now(), Audited { node: Arc::clone(&self.node), what });
    }
}

fn encode(audited: &Audited) -> Value {
    let node = &*audited.node;
    match &audited.what {
        What::Decision(decision) => match &decision.query_type {
            Some(query_type) => question(node, decision, query_type),
            None => packets(node, decision),
        },
        What::Untold { endpoint, count } => untold(node, endpoint.as_deref(), *count),
    }
}

fn packets(node: &str, decision: &Decision) -> Value {
    let workload = json!({
        "ip": decision.local, "port": decision.local_port, "uid": decision.endpoint, "name": decision.endpoint,
    });
    let mut peer = json!({"ip": decision.remote, "port": decision.remote_port});
    if let Some(name) = &decision.name {
        peer["hostname"] = name.as_str().into();
    }
    let (out, source, destination) = match decision.direction {
        Direction::Egress => (true, workload, peer),
        Direction::Ingress => (false, peer, workload),
    };
    let activity = Meaning::of(decision.verdict).activity;
    let mut record = decided(node, decision, NETWORK_ACTIVITY, activity);
    record["src_endpoint"] = source;
    record["dst_endpoint"] = destination;
    record["connection_info"] = json!({
        "direction_id": if out { 2 } else { 1 },
        "protocol_num": decision.protocol,
        "protocol_ver_id": if matches!(decision.remote, IpAddr::V4(_)) { 4 } else { 6 },
    });
    record["traffic"] = if out {
        json!({"packets_out": decision.packets, "bytes_out": decision.bytes})
    } else {
        json!({"packets_in": decision.packets, "bytes_in": decision.bytes})
    };
    policy(&mut record, decision);
    record
}

/// What records of all decisions say.
fn decided(node: &str, decision: &Decision, class: u32, activity: u32) -> Value {
    let meaning = Meaning::of(decision.verdict);
    let mut record = json!({
        "category_uid": 4,
        "class_uid": class,
        "activity_id": activity,
        "type_uid": 100 * class + activity,
        "severity_id": meaning.severity,
        "action_id": meaning.action,
        "disposition_id": meaning.disposition,
        "status_id": if decision.verdict == Verdict::Deny { 2 } else { 1 },
        "status_code": decision.reason,
        "count": decision.packets,
        "device": {"hostname": node, "type_id": 1},
        "unmapped": {"decision": decision.sequence, "generation": decision.generation},
    });
    if let Some(staged) = &decision.staged {
        // OCSF has one verdict a record.
        record["unmapped"]["staged"] = json!(staged);
    }
    record
}

/// A name that was not answered, and what was: OCSF 1.8 DNS Activity.
fn question(node: &str, decision: &Decision, query_type: &str) -> Value {
    let mut record = decided(node, decision, DNS_ACTIVITY, TRAFFIC);
    record["query"] = json!({"hostname": decision.name, "type": query_type, "class": "IN"});
    record["src_endpoint"] = json!({"uid": decision.endpoint, "name": decision.endpoint});
    if let Some(code) = &decision.response_code {
        record["rcode"] = (**code).into();
        record["rcode_id"] = rcode_id(code).into();
    }
    if !decision.local.is_unspecified() {
        record["src_endpoint"]["ip"] = decision.local.to_string().into();
    }
    policy(&mut record, decision);
    record
}

/// Questions that were not answered, and are not told one by one: their number.
fn untold(node: &str, endpoint: Option<&str>, count: u64) -> Value {
    let mut record = json!({
        "category_uid": 4,
        "class_uid": DNS_ACTIVITY,
        "activity_id": TRAFFIC,
        "type_uid": 100 * DNS_ACTIVITY + TRAFFIC,
        "severity_id": 2,
        "status_code": "untold",
        "status_detail": "questions that were not answered and are not told one by one",
        "count": count,
        "device": {"hostname": node, "type_id": 1},
    });
    if let Some(endpoint) = endpoint {
        record["src_endpoint"] = json!({"uid": endpoint, "name": endpoint});
    }
    record
}

/// The number of a response code; 99 Other.
fn rcode_id(code: &str) -> usize {
    RESPONSE_CODES.iter().position(|known| *known == code).unwrap_or(99)
}

fn policy(record: &mut Value, decision: &Decision) {
    if let Some((policy, rule)) =
        decision.policy.as_deref().map(|text| text.split_once(" rule ").unwrap_or((text, "")))
    {
        record["policy"] = json!({"name": policy, "is_applied": decision.verdict != Verdict::WouldDeny});
        if !rule.is_empty() {
            record["firewall_rule"] = json!({"name": rule});
        }
    }
}

/// The numbers of a verdict.
struct Meaning {
    /// 1 Open, 5 Refuse.
    activity: u32,
    /// 1 Informational, 2 Low.
    severity: u8,
    /// 1 Allowed, 2 Denied, 3 Observed.
    action: u8,
    /// 1 Allowed, 2 Blocked, 17 Logged.
    disposition: u8,
}

impl Meaning {
    const fn of(verdict: Verdict) -> Self {
        match verdict {
            Verdict::Pass => Self { activity: 1, severity: 1, action: 1, disposition: 1 },
            Verdict::Deny => Self { activity: 5, severity: 2, action: 2, disposition: 2 },
            Verdict::WouldDeny => Self { activity: 1, severity: 1, action: 3, disposition: 17 },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn audited(verdict: Verdict, direction: Direction) -> Value {
        recorded(decision(verdict, direction))
    }

    fn recorded(decision: Decision) -> Value {
        encode(&Audited { node: "node-1".into(), what: What::Decision(Arc::new(Followed::from(decision))) })
    }

    fn decision(verdict: Verdict, direction: Direction) -> Decision {
        Decision {
            sequence: 9,
            at: jiff::Timestamp::UNIX_EPOCH,
            endpoint: "ci/runner".into(),
            workload: None,
            verdict,
            reason: "no-match".into(),
            direction,
            protocol: 6,
            local: "10.0.0.2".parse().unwrap(),
            local_port: 40_000,
            remote: "203.0.113.9".parse().unwrap(),
            remote_port: 443,
            name: Some("files.example.net".into()),
            query_type: None,
            response_code: None,
            policy: Some("EgressPolicy ci/runners rule web".into()),
            packets: 3,
            bytes: 180,
            generation: 2,
            staged: None,
        }
    }

    // R6
    #[test]
    fn the_staged_verdict_is_recorded_beside_the_other() {
        let staged = nameward_api::types::Staged {
            verdict: Verdict::Pass,
            reason: "cidr".into(),
            policy: Some("EgressPolicy ci/new rule web".into()),
        };
        let record =
            recorded(Decision { staged: Some(staged), ..decision(Verdict::Deny, Direction::Egress) });
        assert_eq!((&record["action_id"], &record["status_code"]), (&json!(2), &json!("no-match")));
        let expected = json!({"verdict": "pass", "reason": "cidr", "policy": "EgressPolicy ci/new rule web"});
        assert_eq!(record["unmapped"]["staged"], expected);
        assert_eq!(audited(Verdict::Deny, Direction::Egress)["unmapped"]["staged"], Value::Null);
    }

    #[test]
    fn a_denial_is_a_refused_connection() {
        let record = audited(Verdict::Deny, Direction::Egress);
        assert_eq!(
            (&record["class_uid"], &record["type_uid"], &record["action_id"]),
            (&4001.into(), &400_105.into(), &2.into())
        );
        assert_eq!((&record["status_code"], &record["count"]), (&"no-match".into(), &3.into()));
        assert_eq!(record["dst_endpoint"]["hostname"], "files.example.net");
        assert_eq!(record["src_endpoint"]["uid"], "ci/runner");
        assert_eq!(record["traffic"]["bytes_out"], 180);
        assert_eq!(
            (&record["policy"]["name"], &record["firewall_rule"]["name"]),
            (&"EgressPolicy ci/runners".into(), &"web".into())
        );
    }

    // G5
    #[test]
    fn a_name_that_is_not_answered_is_dns_activity() {
        let question = |verdict| {
            let network = decision(verdict, Direction::Egress);
            let decision = Decision {
                reason: "filtered".into(),
                query_type: Some("HTTPS".into()),
                response_code: Some("NXDOMAIN".into()),
                policy: Some("EgressPolicy ci/runners".into()),
                ..network
            };
            recorded(decision)
        };
        let record = question(Verdict::Deny);
        assert_eq!((&record["class_uid"], &record["type_uid"]), (&4003.into(), &400_306.into()));
        assert_eq!((&record["action_id"], &record["status_code"]), (&2.into(), &"filtered".into()));
        let asked = json!({"hostname": "files.example.net", "type": "HTTPS", "class": "IN"});
        assert_eq!((&record["query"], &record["count"]), (&asked, &3.into()));
        assert_eq!(
            record["src_endpoint"],
            json!({"uid": "ci/runner", "name": "ci/runner", "ip": "10.0.0.2"})
        );
        assert_eq!(record["policy"], json!({"name": "EgressPolicy ci/runners", "is_applied": true}));
        assert_eq!((&record["rcode_id"], &record["rcode"]), (&3.into(), &"NXDOMAIN".into()));
        assert!(record.get("dst_endpoint").is_none() && record.get("firewall_rule").is_none());
        assert_eq!(question(Verdict::WouldDeny)["action_id"], 3, "answered all the same");
    }

    // Issue 8: names are data
    #[test]
    fn names_cannot_end_a_record_or_steer_a_terminal() {
        let hostile = "a\u{1b}]0;owned\u{7}\n{\"class_uid\":1}<script>";
        let decision = Decision {
            name: Some(hostile.into()),
            query_type: Some("A".into()),
            ..decision(Verdict::Deny, Direction::Egress)
        };
        let line = recorded(decision).to_string();
        assert!(!line.contains(char::is_control), "{line:?}");
        let read: Value = serde_json::from_str(&line).unwrap();
        assert_eq!(read["query"]["hostname"], hostile);
    }

    // Issue 8: what is not told is counted, and the loss is told
    #[test]
    fn questions_that_are_not_told_one_by_one_leave_their_number() {
        let what = What::Untold { endpoint: Some("ci/runner".into()), count: 12 };
        let record = encode(&Audited { node: "node-1".into(), what });
        assert_eq!((&record["class_uid"], &record["count"]), (&4003.into(), &12.into()));
        assert_eq!(
            (&record["status_code"], &record["src_endpoint"]["uid"]),
            (&"untold".into(), &"ci/runner".into())
        );
    }

    #[test]
    fn what_audit_lets_pass_is_observed_and_what_comes_in_is_turned() {
        let record = audited(Verdict::WouldDeny, Direction::Ingress);
        assert_eq!((&record["action_id"], &record["disposition_id"]), (&3.into(), &17.into()));
        assert_eq!(record["policy"]["is_applied"], false);
        assert_eq!(record["dst_endpoint"]["uid"], "ci/runner");
        assert_eq!(
            (&record["connection_info"]["direction_id"], &record["traffic"]["packets_in"]),
            (&1.into(), &3.into())
        );
        assert_eq!(audited(Verdict::Pass, Direction::Egress)["type_uid"], 400_101);
    }
}
