//! Decisions as records of the audit log: OCSF 1.8 Network Activity (class 4001). The envelope is the log's.

use std::{net::IpAddr, sync::Arc};

use nameward_api::{
    Followed,
    types::{Decision, Direction, Verdict},
};
use nameward_daemon::audit::{AuditLog, AuditOptions};
use serde_json::{Value, json};

/// A decision, and the node it was made on.
#[derive(Clone, Debug)]
pub struct Audited {
    node: Arc<str>,
    decision: Arc<Followed>,
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
        let audited = Audited { node: Arc::clone(&self.node), decision: Arc::clone(decision) };
        self.log.record(decision.at, audited);
    }
}

fn encode(audited: &Audited) -> Value {
    let decision: &Decision = &audited.decision;
    let meaning = Meaning::of(decision.verdict);
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
    let mut record = json!({
        "category_uid": 4,
        "class_uid": 4001,
        "activity_id": meaning.activity,
        "type_uid": 400_100 + meaning.activity,
        "severity_id": meaning.severity,
        "action_id": meaning.action,
        "disposition_id": meaning.disposition,
        "status_id": if decision.verdict == Verdict::Deny { 2 } else { 1 },
        "status_code": decision.reason,
        "count": decision.packets,
        "src_endpoint": source,
        "dst_endpoint": destination,
        "connection_info": {
            "direction_id": if out { 2 } else { 1 },
            "protocol_num": decision.protocol,
            "protocol_ver_id": if matches!(decision.remote, IpAddr::V4(_)) { 4 } else { 6 },
        },
        "traffic": if out {
            json!({"packets_out": decision.packets, "bytes_out": decision.bytes})
        } else {
            json!({"packets_in": decision.packets, "bytes_in": decision.bytes})
        },
        "device": {"hostname": audited.node, "type_id": 1},
        "unmapped": {"decision": decision.sequence, "generation": decision.generation},
    });
    if let Some((policy, rule)) =
        decision.policy.as_deref().map(|text| text.split_once(" rule ").unwrap_or((text, "")))
    {
        record["policy"] = json!({"name": policy, "is_applied": decision.verdict != Verdict::WouldDeny});
        record["firewall_rule"] = json!({"name": rule});
    }
    record
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
        encode(&Audited {
            node: "node-1".into(),
            decision: Arc::new(Followed::from(Decision {
                sequence: 9,
                at: jiff::Timestamp::UNIX_EPOCH,
                endpoint: "ci/runner".into(),
                verdict,
                reason: "no-match".into(),
                direction,
                protocol: 6,
                local: "10.0.0.2".parse().unwrap(),
                local_port: 40_000,
                remote: "203.0.113.9".parse().unwrap(),
                remote_port: 443,
                name: Some("files.example.net".into()),
                policy: Some("EgressPolicy ci/runners rule web".into()),
                packets: 3,
                bytes: 180,
                generation: 2,
            })),
        })
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
