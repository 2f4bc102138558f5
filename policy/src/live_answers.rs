//! Answers that a cache in front of the resolver may still give to anybody: kept for workloads and enforcers that come
//! after them, until their TTLs end, and a little longer, in which the resolver may repeat them while something is away.
//!
//! Bounded in names and addresses; what is live is never dropped, one too many is refused. Whom an answer opens what is
//! not known here.

use std::{collections::HashMap, net::IpAddr, time::Duration};

use crate::{BootTime, Name};

/// Names at most.
const NAMES: usize = 65_536;
/// Addresses of all names at most.
const ADDRESSES: usize = 262_144;
/// How long answers are kept after their TTLs, at most repeated then.
pub const KEPT_AFTER_TTL: Duration = Duration::from_secs(60);
/// Between two looks for answers that have ended.
const SWEEP_EVERY: Duration = Duration::from_secs(5);

/// As many answers are live as may be; nothing of the new one was kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{names} names and {addresses} addresses are answered to all workloads, no more are possible")]
pub struct TooManyAnswers {
    names: usize,
    addresses: usize,
}

/// An answer, as far as it is live.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LiveAnswer<'a> {
    /// The name of the question.
    pub name: &'a Name,
    /// The aliases that its latest answer went through, as they were written.
    pub chain: &'a [Box<str>],
    /// Addresses, with what is left of their TTLs; zero in the time after.
    pub addresses: Vec<(IpAddr, Duration)>,
}

/// Answers by name.
#[derive(Debug)]
pub struct LiveAnswers {
    names: HashMap<Name, Answer>,
    addresses: usize,
    most: (usize, usize),
    swept_at: BootTime,
}

#[derive(Debug)]
struct Answer {
    chain: Box<[Box<str>]>,
    /// Each with the end of its TTL.
    addresses: Vec<(IpAddr, BootTime)>,
}

impl Default for LiveAnswers {
    fn default() -> Self {
        Self::bounded(NAMES, ADDRESSES)
    }
}

impl LiveAnswers {
    fn bounded(names: usize, addresses: usize) -> Self {
        Self { names: HashMap::new(), addresses: 0, most: (names, addresses), swept_at: BootTime(0) }
    }

    /// Keeps an answer: all of it, or, at a limit, nothing. An address that is known lasts until the later end (A6).
    ///
    /// # Errors
    /// [`TooManyAnswers`].
    pub fn record(
        &mut self,
        name: &Name,
        chain: impl IntoIterator<Item = Box<str>>,
        addresses: &[(IpAddr, Duration)],
        now: BootTime,
    ) -> Result<(), TooManyAnswers> {
        if addresses.is_empty() {
            return Ok(());
        }
        self.make_room(name, addresses, now)?;
        let known = self.names.entry(name.clone());
        let answer = known.or_insert_with(|| Answer { chain: Box::default(), addresses: Vec::new() });
        answer.chain = chain.into_iter().collect();
        for (address, ttl) in addresses {
            let end = now.saturating_add(*ttl);
            match answer.addresses.iter_mut().find(|(known, _)| known == address) {
                Some((_, known)) => *known = end.max(*known),
                None => {
                    answer.addresses.push((*address, end));
                    self.addresses += 1;
                }
            }
        }
        Ok(())
    }

    /// Drops what is kept of a name.
    pub fn forget(&mut self, name: &Name) {
        if let Some(answer) = self.names.remove(name) {
            self.addresses -= answer.addresses.len();
        }
    }

    /// What is live, in no order.
    pub fn live(&self, now: BootTime) -> impl Iterator<Item = LiveAnswer<'_>> {
        self.names.iter().filter_map(move |(name, answer)| {
            let live = answer.addresses.iter().filter(|(_, end)| is_kept(*end, now));
            let addresses: Vec<_> = live.map(|(address, end)| (*address, end.since(now))).collect();
            (!addresses.is_empty()).then_some(LiveAnswer { name, chain: &answer.chain, addresses })
        })
    }

    /// Names that are kept, ended ones among them until they are swept.
    #[must_use]
    pub fn len(&self) -> usize {
        self.names.len()
    }

    /// Whether nothing is kept.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.names.is_empty()
    }

    fn make_room(
        &mut self,
        name: &Name,
        addresses: &[(IpAddr, Duration)],
        now: BootTime,
    ) -> Result<(), TooManyAnswers> {
        // At a limit more often, yet not with each of many questions.
        let every = if self.has_room(name, addresses) { SWEEP_EVERY } else { SWEEP_EVERY / 10 };
        if now.since(self.swept_at) >= every {
            self.sweep(now);
        }
        let (names, addresses_at_most) = self.most;
        let full = TooManyAnswers { names, addresses: addresses_at_most };
        self.has_room(name, addresses).then_some(()).ok_or(full)
    }

    fn has_room(&self, name: &Name, addresses: &[(IpAddr, Duration)]) -> bool {
        let (names, all) = self.most;
        let known = self.names.get(name);
        let is_fresh =
            |address| known.is_none_or(|known| known.addresses.iter().all(|(known, _)| known != address));
        let fresh = addresses.iter().filter(|(address, _)| is_fresh(address)).count();
        self.names.len() + usize::from(known.is_none()) <= names && self.addresses + fresh <= all
    }

    fn sweep(&mut self, now: BootTime) {
        self.swept_at = now;
        self.names.retain(|_, answer| {
            answer.addresses.retain(|(_, end)| is_kept(*end, now));
            !answer.addresses.is_empty()
        });
        self.addresses = self.names.values().map(|answer| answer.addresses.len()).sum();
    }
}

fn is_kept(end: BootTime, now: BootTime) -> bool {
    now < end.saturating_add(KEPT_AFTER_TTL)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> Name {
        Name::parse(text).unwrap()
    }

    fn address(last: u8, seconds: u64) -> (IpAddr, Duration) {
        ([198, 51, 100, last].into(), Duration::from_secs(seconds))
    }

    fn at(seconds: u64) -> BootTime {
        BootTime(seconds * 1_000_000_000)
    }

    fn live(answers: &LiveAnswers, now: u64) -> Vec<(String, Vec<(IpAddr, Duration)>)> {
        let mut live: Vec<_> =
            answers.live(at(now)).map(|one| (one.name.as_str().to_owned(), one.addresses)).collect();
        live.sort();
        live
    }

    // A6
    #[test]
    fn answers_last_until_their_ttls_end_and_a_little_longer() {
        let mut answers = LiveAnswers::default();
        answers.record(&name("a.example"), ["cdn.example".into()], &[address(1, 60)], at(0)).unwrap();
        answers.record(&name("a.example"), [], &[address(1, 5), address(2, 90)], at(10)).unwrap();
        let both = vec![address(1, 30), address(2, 70)];
        assert_eq!(live(&answers, 30), [("a.example".to_owned(), both)]);
        let first_is_over = vec![address(1, 0), address(2, 40)];
        assert_eq!(live(&answers, 60), [("a.example".to_owned(), first_is_over)]);
        assert_eq!(live(&answers, 120), [("a.example".to_owned(), vec![address(2, 0)])]);
        assert_eq!(live(&answers, 160), []);
    }

    // Promise 8: nothing live makes room
    #[test]
    fn one_too_many_is_refused_until_others_have_ended() {
        let mut answers = LiveAnswers::bounded(2, 3);
        answers.record(&name("a.example"), [], &[address(1, 10)], at(0)).unwrap();
        answers.record(&name("b.example"), [], &[address(1, 60)], at(0)).unwrap();
        assert!(answers.record(&name("c.example"), [], &[address(1, 60)], at(1)).is_err());
        assert!(answers.record(&name("b.example"), [], &[address(2, 60), address(3, 60)], at(1)).is_err());
        answers.record(&name("b.example"), [], &[address(2, 60)], at(1)).unwrap();
        assert_eq!(live(&answers, 1).len(), 2);
        answers.record(&name("c.example"), [], &[address(1, 60)], at(70)).unwrap();
        assert_eq!(answers.len(), 2, "what has ended is gone");
        answers.forget(&name("c.example"));
        answers.forget(&name("d.example"));
        answers.record(&name("e.example"), [], &[address(1, 60)], at(70)).unwrap();
        assert_eq!((answers.len(), answers.addresses), (2, 3), "what was forgotten makes room");
    }
}
