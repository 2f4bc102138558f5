//! Asks many nodes at once. Who has not answered within the deadline is named, and nobody waits for them longer.

use std::{sync::Arc, time::Duration};

use nameward_api::{Problem, types::Unanswered};
use serde::de::DeserializeOwned;
use tokio::{task::JoinSet, time::timeout};

use crate::{Node, node::Trouble};

/// How long nodes have: an answer of the whole cluster is there within 1.5 s.
pub(crate) const WITHIN: Duration = Duration::from_millis(1_000);

/// The same for what waits for resolvers, endpoint by endpoint.
const DELETE_WITHIN: Duration = Duration::from_secs(15);

/// What nodes said.
#[derive(Debug)]
pub(crate) struct Answers<T> {
    /// By name of the node.
    pub(crate) good: Vec<(Arc<str>, T)>,
    /// Nodes that know nothing of what was asked for.
    pub(crate) absent: Vec<(Arc<str>, Problem)>,
    /// By name, too.
    pub(crate) unanswered: Vec<Unanswered>,
}

/// Asks each node for what `address` says.
///
/// # Errors
/// When a node refuses the question itself: they all would.
pub(crate) async fn all<T: DeserializeOwned + Send + 'static>(
    nodes: &[Arc<Node>],
    address: impl Fn(&Node) -> String,
) -> Result<Answers<T>, Problem> {
    // Ended with the question, when nobody waits for the answer any more.
    let mut asking = JoinSet::new();
    for node in nodes {
        let (node, address) = (Arc::clone(node), address(node));
        asking.spawn(async move { (Arc::clone(node.name()), one(&node, &address).await) });
    }
    gather(asking).await
}

/// Tells each node to take back what is at this address. They go on when nobody waits any more.
///
/// # Errors
/// The same.
pub(crate) async fn delete<T: DeserializeOwned + Send + 'static>(
    nodes: &[Arc<Node>],
    address: &str,
) -> Result<Answers<T>, Problem> {
    let mut asking = JoinSet::new();
    for node in nodes {
        let (node, address) = (Arc::clone(node), address.to_owned());
        let late = || Trouble::Silent(format!("no answer within {} s", DELETE_WITHIN.as_secs()));
        asking.spawn(async move {
            let deleted = timeout(DELETE_WITHIN, node.delete(&address)).await;
            (Arc::clone(node.name()), deleted.unwrap_or_else(|_| Err(late())))
        });
    }
    gather(asking).await
}

async fn gather<T: 'static>(
    mut asking: JoinSet<(Arc<str>, Result<T, Trouble>)>,
) -> Result<Answers<T>, Problem> {
    let mut answers = Answers { good: Vec::new(), absent: Vec::new(), unanswered: Vec::new() };
    let mut wrong: Option<(Arc<str>, Problem)> = None;
    while let Some(answered) = asking.join_next().await {
        let Ok((node, answer)) = answered else { continue };
        match answer {
            Ok(good) => answers.good.push((node, good)),
            Err(Trouble::Refused(problem)) if problem.status == 404 => answers.absent.push((node, problem)),
            Err(Trouble::Refused(problem)) => {
                if wrong.as_ref().is_none_or(|(first, _)| *first > node) {
                    wrong = Some((node, problem));
                }
            }
            Err(Trouble::Silent(problem)) => {
                answers.unanswered.push(Unanswered { node: node.to_string(), problem });
            }
        }
    }
    if let Some((_, problem)) = wrong {
        return Err(problem);
    }
    answers.good.sort_by(|(one, _), (other, _)| one.cmp(other));
    answers.absent.sort_by(|(one, _), (other, _)| one.cmp(other));
    answers.unanswered.sort_by(|one, other| one.node.cmp(&other.node));
    Ok(answers)
}

/// Asks one node.
pub(crate) async fn one<T: DeserializeOwned>(node: &Node, address: &str) -> Result<T, Trouble> {
    let late = || Trouble::Silent(format!("no answer within {} ms", WITHIN.as_millis()));
    timeout(WITHIN, node.get(address)).await.unwrap_or_else(|_| Err(late()))
}
