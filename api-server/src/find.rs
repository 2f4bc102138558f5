//! Questions about one endpoint: they go to the node that has it. Which one that is is asked of all of them the first
//! time, and remembered as long as that node says so.

use std::{
    num::NonZeroUsize,
    sync::{Arc, Mutex, PoisonError},
};

use axum::http::StatusCode;
use lru::LruCache;
use nameward_api::Problem;
use serde_json::Value;

use crate::{
    Node,
    ask::{self, Answers},
    node::Trouble,
};

/// Endpoints whose node is remembered.
const REMEMBERED: NonZeroUsize = NonZeroUsize::new(16_384).unwrap();

/// Who has which endpoint.
#[derive(Debug)]
pub(crate) struct Holders(Mutex<LruCache<String, Arc<str>>>);

impl Default for Holders {
    fn default() -> Self {
        Self(Mutex::new(LruCache::new(REMEMBERED)))
    }
}

impl Holders {
    /// Asks the node of these that has the endpoint for `address`; gives its answer, with the node's name in it.
    pub(crate) async fn ask(
        &self,
        nodes: &[Arc<Node>],
        endpoint: &str,
        address: &str,
    ) -> Result<Value, Problem> {
        let known = self.known(endpoint);
        if let Some(node) = nodes.iter().find(|node| Some(node.name()) == known.as_ref()) {
            match ask::one(node, address).await {
                Ok(value) => return Ok(with_node(value, node.name())),
                Err(Trouble::Refused(problem)) if problem.status != 404 => return Err(problem),
                // It has gone elsewhere, or the node has: the others are asked.
                Err(_) => self.forget(endpoint),
            }
        }
        let answers = ask::all::<Value>(nodes, |_| address.to_owned()).await?;
        let (node, value) = only(endpoint, answers)?;
        // One that was sought among some nodes may be on others, too.
        self.remember(endpoint, &node);
        Ok(with_node(value, &node))
    }

    fn known(&self, endpoint: &str) -> Option<Arc<str>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(endpoint).cloned()
    }

    fn remember(&self, endpoint: &str, node: &Arc<str>) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).put(endpoint.into(), Arc::clone(node));
    }

    fn forget(&self, endpoint: &str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).pop(endpoint);
    }
}

/// The one answer, or why there is none.
fn only(endpoint: &str, mut answers: Answers<Value>) -> Result<(Arc<str>, Value), Problem> {
    match answers.good.len() {
        1 => Ok(answers.good.remove(0)),
        0 if answers.unanswered.is_empty() => {
            let detail = format!("there is no endpoint {endpoint} on any node; GET /v1/endpoints lists them");
            Err(Problem::new(StatusCode::NOT_FOUND, detail))
        }
        0 => {
            let silent: Vec<&str> = answers.unanswered.iter().map(|one| one.node.as_str()).collect();
            let detail = format!(
                "there is no endpoint {endpoint} on the nodes that answered; these did not: {}",
                silent.join(", ")
            );
            Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, detail))
        }
        _ => {
            let nodes: Vec<&str> = answers.good.iter().map(|(node, _)| &**node).collect();
            let detail = format!(
                "several nodes have an endpoint {endpoint}: ask for one of them with node=: {}",
                nodes.join(", ")
            );
            Err(Problem::new(StatusCode::CONFLICT, detail))
        }
    }
}

fn with_node(mut value: Value, node: &str) -> Value {
    if let Some(fields) = value.as_object_mut() {
        fields.insert("node".into(), node.into());
    }
    value
}
