//! The latest decisions, for those who ask afterwards: bounded, and shared so that no workload hides another's.

use std::{
    cmp::Reverse,
    collections::{HashMap, VecDeque},
    sync::Arc,
};

use nameward_api::Followed;

/// Decisions that are kept, of all endpoints. An endpoint whose part is not larger than others' loses nothing.
const MOST: usize = 10_000;

/// The latest decisions, by endpoint.
#[derive(Debug)]
pub(super) struct Kept {
    endpoints: HashMap<Arc<str>, OfOne>,
    number: usize,
    most: usize,
}

impl Default for Kept {
    fn default() -> Self {
        Self::at_most(MOST)
    }
}

/// Of one endpoint, oldest first.
#[derive(Debug, Default)]
struct OfOne {
    decisions: VecDeque<Arc<Followed>>,
    /// It was removed: it shares its part with all others that were.
    is_gone: bool,
}

impl Kept {
    fn at_most(most: usize) -> Self {
        Self { endpoints: HashMap::new(), number: 0, most }
    }

    /// All of them, in the order of their numbers.
    pub(super) fn all(&self) -> Vec<Arc<Followed>> {
        let mut all = Vec::with_capacity(self.number);
        self.endpoints.values().for_each(|own| all.extend(own.decisions.iter().cloned()));
        all.sort_by_key(|one| one.sequence);
        all
    }

    /// Keeps a decision, which is later than all others.
    pub(super) fn keep(&mut self, decision: &Arc<Followed>) {
        let own = self.endpoints.entry(Arc::clone(&decision.endpoint)).or_default();
        own.decisions.push_back(Arc::clone(decision));
        own.is_gone = false;
        self.number += 1;
        while self.number > self.most && self.make_room() {}
    }

    /// An endpoint was removed.
    pub(super) fn remove(&mut self, endpoint: &str) {
        if let Some(own) = self.endpoints.get_mut(endpoint) {
            own.is_gone = true;
        }
    }

    /// Forgets the oldest of the endpoint that has most. Those that are gone count as one together.
    fn make_room(&mut self) -> bool {
        let size =
            |own: &&mut OfOne| (own.decisions.len(), Reverse(own.decisions.front().map(|one| one.sequence)));
        let (gone, live): (Vec<_>, Vec<_>) = self.endpoints.values_mut().partition(|own| own.is_gone);
        let of_gone: usize = gone.iter().map(|own| own.decisions.len()).sum();
        let largest_live = live.into_iter().max_by_key(size);
        let largest = match largest_live {
            Some(live) if live.decisions.len() >= of_gone => Some(live),
            _ => gone.into_iter().max_by_key(size),
        };
        let Some(largest) = largest else { return false };
        self.number -= usize::from(largest.decisions.pop_front().is_some());
        if largest.decisions.is_empty() {
            self.endpoints.retain(|_, own| !own.decisions.is_empty());
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decisions::tests::numbered;

    fn of(kept: &Kept, endpoint: &str) -> Vec<u64> {
        kept.all().iter().filter(|one| &*one.endpoint == endpoint).map(|one| one.sequence).collect()
    }

    // Promises 6 and 8
    #[test]
    fn a_flood_of_one_hides_nothing_of_another() {
        let mut kept = Kept::at_most(100);
        let quiet: Vec<u64> = (1..=10).collect();
        quiet.iter().for_each(|sequence| kept.keep(&numbered(*sequence, "quiet")));
        (11..=1_000).for_each(|sequence| kept.keep(&numbered(sequence, "loud")));
        assert_eq!(of(&kept, "quiet"), quiet);
        assert_eq!(of(&kept, "loud"), (911..=1_000).collect::<Vec<_>>());
        let all = kept.all();
        assert_eq!((all.len(), all.is_sorted_by_key(|one| one.sequence)), (100, true));
    }

    #[test]
    fn what_is_gone_counts_as_one_together() {
        let mut kept = Kept::at_most(100);
        for number in 0..500 {
            let gone = format!("job{number}");
            kept.keep(&numbered(2 * number + 1, &gone));
            kept.remove(&gone);
            kept.keep(&numbered(2 * number + 2, "server"));
        }
        let of_server = of(&kept, "server");
        assert_eq!((kept.all().len(), of_server.len(), of_server.last()), (100, 50, Some(&1_000)));
        assert_eq!(of(&kept, "job499"), [999]);
        assert!(kept.endpoints.len() <= 51, "who has nothing is forgotten");
        kept.keep(&numbered(1_001, "job499"));
        assert!(!kept.endpoints["job499"].is_gone, "it is back");
    }
}
