//! Writes the node's report to its `EgressNode`: when it changes, at most once in 10 s, and every minute.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::{api::core::v1::Node, apimachinery::pkg::apis::meta::v1::OwnerReference};
use kube::{
    Api, Client,
    api::{Patch, PatchParams},
};
use nameward_crds::{EgressNode, EgressNodeSpec};
use tokio::{
    sync::watch,
    time::{Instant, sleep_until, timeout_at},
};

use super::{WRITE_EVERY, remedy};

/// A report is written this often although nothing has changed: it says that the node lives.
const SAY_EVERY: Duration = Duration::from_secs(60);
/// Field manager of the report.
const MANAGER: &str = "nameward-enforcer";

/// `api`: where the enforcer can be asked from elsewhere. Never ends while reports come. What cannot be written is told in the log, and tried again.
pub async fn run(
    client: Client,
    node: String,
    api: Option<String>,
    mut reports: watch::Receiver<Option<EgressNodeSpec>>,
) {
    let mut owner = None;
    let mut told = None;
    loop {
        let due = Instant::now() + SAY_EVERY;
        // Either way it is written: because it is new, or because a minute has passed.
        if let Ok(Err(_)) = timeout_at(due, reports.changed()).await {
            return;
        }
        let Some(report) = reports.borrow_and_update().clone() else { continue };
        let report = EgressNodeSpec { api: api.clone(), ..report };
        if owner.is_none() {
            owner = owner_of(&client, &node).await;
        }
        let next = Instant::now() + WRITE_EVERY;
        match write(&client, &node, owner.clone(), report).await {
            Ok(()) => told = None,
            Err(error) => {
                let text = remedy(&error);
                if told.as_ref() != Some(&text) {
                    tracing::warn!(error = text, "the report of this node is not written; it is tried again");
                }
                told = Some(text);
            }
        }
        sleep_until(next).await;
    }
}

async fn write(
    client: &Client,
    node: &str,
    owner: Option<OwnerReference>,
    report: EgressNodeSpec,
) -> kube::Result<()> {
    let reported_at = Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    let mut object = EgressNode::new(node, EgressNodeSpec { reported_at, ..report });
    // Goes with the node.
    object.metadata.owner_references = owner.map(|owner| vec![owner]);
    let api: Api<EgressNode> = Api::all(client.clone());
    api.patch(node, &PatchParams::apply(MANAGER).force(), &Patch::Apply(&object)).await?;
    Ok(())
}

async fn owner_of(client: &Client, node: &str) -> Option<OwnerReference> {
    let api: Api<Node> = Api::all(client.clone());
    let found = api.get_metadata_opt(node).await.ok()??;
    Some(OwnerReference {
        api_version: "v1".into(),
        kind: "Node".into(),
        name: node.into(),
        uid: found.metadata.uid?,
        ..OwnerReference::default()
    })
}
