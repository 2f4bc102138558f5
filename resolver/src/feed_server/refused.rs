//! Names that are not answered, told to the enforcer of the endpoint that asked. Nobody waits for it, and an enforcer that is
//! away or does not read costs a count, never an answer.

use std::{collections::HashMap, sync::Arc, time::Instant};

use nameward_feed::proto::from_resolver;

use super::{enforcers::Enforcers, link::Link};
use crate::refused::{Batch, RefusedNames};

/// Names of one message at most: some hundred octets each.
const MOST_OF_ONE_MESSAGE: usize = 1_024;

impl Enforcers {
    /// Tells what was refused, batch by batch, here and to the enforcers. Never ends by itself.
    pub async fn tell_refused(&self, names: &RefusedNames) {
        let tell = |batch: Batch, now| {
            batch.log();
            self.tell_batch(batch, names, now);
        };
        names.follow(tell).await;
    }

    fn tell_batch(&self, batch: Batch, names: &RefusedNames, now: Instant) {
        let mut by_link: HashMap<*const Link, (Arc<Link>, Batch)> = HashMap::new();
        let mut away = Batch::default();
        let mut into = |uid: &Arc<str>, put: &dyn Fn(&mut Batch)| match self.present(uid) {
            Some(link) => {
                put(&mut by_link.entry(Arc::as_ptr(&link)).or_insert((link, Batch::default())).1);
            }
            None if self.endpoints.get(uid).is_some() => put(&mut away),
            None => {}
        };
        for told in &batch.names {
            into(&told.endpoint, &|batch| batch.names.push(told.clone()));
        }
        for loss in &batch.losses {
            into(&loss.endpoint, &|batch| batch.losses.push(loss.clone()));
        }
        names.unsent(&away, now);
        by_link.into_values().for_each(|(link, batch)| tell(&link, batch, names, now));
    }
}

fn tell(link: &Link, mut batch: Batch, names: &RefusedNames, now: Instant) {
    while batch.names.len() > MOST_OF_ONE_MESSAGE {
        let rest = batch.names.split_off(MOST_OF_ONE_MESSAGE);
        say(link, &Batch { names: std::mem::replace(&mut batch.names, rest), losses: vec![] }, names, now);
    }
    if batch != Batch::default() {
        say(link, &batch, names, now);
    }
}

/// What does not get onto the stream is counted, and told with a later batch.
fn say(link: &Link, batch: &Batch, names: &RefusedNames, now: Instant) {
    let Err(stuck) = link.say(from_resolver::Message::RefusedNames(batch.message(now))) else { return };
    tracing::debug!(error = %stuck, names = batch.names.len(), "refused names do not reach an enforcer");
    names.unsent(batch, now);
}
