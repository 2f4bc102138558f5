//! Answers remembered for one endpoint and one generation of its rules, found without waiting for anybody.
//!
//! Each endpoint has some memory of its own, and more as long as all endpoints together do not take too much: what one
//! remembers never drives out what another does.
//!
//! An entry is fresh for its TTL and usable as long as the grants behind it. Stale use is for failures only
//! (A8). Closing it is the revocation: an answer that was on its way when rules changed is not remembered.

use std::hash::BuildHasher;
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use lru::LruCache;

use crate::wire::query::Query;
use crate::wire::stored::StoredAnswer;

/// Most octets that the answers of one endpoint take.
const MOST_OCTETS: usize = 4 << 20;
/// Octets that an endpoint may always have.
const OWN_OCTETS: usize = 64 << 10;
/// Octets that all endpoints may have together, beside their own.
const SHARED_OCTETS: usize = 256 << 20;
/// Answers for each name that may be remembered: A, AAAA, HTTPS, with and without EDNS.
const ANSWERS_PER_NAME: usize = 4;
/// Memory of an entry beside its answer, roughly: itself, and its places in the list and in the table.
const ENTRY_OCTETS: usize = size_of::<Entry>() + 56;
/// An answer that is given moves to the front of those that stay, at most once in this time: moving costs as much as
/// finding.
const MOVED_EVERY: Duration = Duration::from_secs(10);

/// What all endpoints have taken beside their own.
#[derive(Debug)]
pub(crate) struct SharedMemory {
    taken: AtomicUsize,
    most: usize,
}

impl Default for SharedMemory {
    fn default() -> Self {
        Self { taken: AtomicUsize::new(0), most: SHARED_OCTETS }
    }
}

impl SharedMemory {
    /// Changes what somebody holds, if that much is left.
    fn change(&self, held: &mut usize, wanted: usize) -> bool {
        let changed = self.taken.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |taken| {
            let taken = taken - *held + wanted;
            (wanted <= *held || taken <= self.most).then_some(taken)
        });
        if changed.is_ok() {
            *held = wanted;
        }
        changed.is_ok()
    }
}

/// The memory of one endpoint.
#[derive(Debug)]
pub(crate) struct FastPath {
    answers: Mutex<Answers>,
    shared: Arc<SharedMemory>,
}

#[derive(Debug)]
struct Answers {
    /// By the hash of the question, which nobody can foresee. Of two with the same hash the later one stays.
    by_question: LruCache<u64, Entry, foldhash::fast::RandomState>,
    hashing: foldhash::fast::RandomState,
    octets: usize,
    /// Of the shared memory.
    held: usize,
    closed: bool,
}

#[derive(Debug)]
struct Entry {
    answer: StoredAnswer,
    stored_at: Instant,
    usable_until: Option<Instant>,
    moved_at: Instant,
}

impl Entry {
    fn octets(&self) -> usize {
        ENTRY_OCTETS + self.answer.memory()
    }

    /// The least TTL to give, if the answer may be given.
    fn accepted(&self, accept: Accept, now: Instant) -> Option<u32> {
        let fresh = || now < self.stored_at + Duration::from_secs(self.answer.ttl().into());
        let usable = || self.usable_until.is_some_and(|until| now < until);
        match accept {
            Accept::Fresh => fresh().then_some(0),
            Accept::Stale(ttl) => usable().then_some(ttl),
        }
    }
}

/// How old an answer may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Accept {
    /// Within its TTL.
    Fresh,
    /// As long as its grants live, with this TTL in seconds.
    Stale(u32),
}

/// The question of a query as a key: name in lower case, type, and everything that changes an answer.
pub(crate) struct Key {
    octets: [u8; 260],
    length: usize,
}

impl Key {
    /// `meant` is the number of the server that the workload meant: others may answer otherwise.
    pub(crate) fn of(query: &Query<'_>, meant: u16) -> Self {
        let mut octets = [0; 260];
        let flags = u8::from(query.edns.is_some())
            | u8::from(query.dnssec_ok()) << 1
            | u8::from(query.checking_disabled) << 2
            | u8::from(query.wants_authentic) << 3;
        octets[0] = flags;
        octets[1..3].copy_from_slice(&query.record_type.to_be_bytes());
        octets[3..5].copy_from_slice(&meant.to_be_bytes());
        let length = 5 + query.name.len().min(255);
        for (to, from) in octets[5..length].iter_mut().zip(query.name) {
            *to = from.to_ascii_lowercase();
        }
        Self { octets, length }
    }

    fn octets(&self) -> &[u8] {
        &self.octets[..self.length]
    }
}

impl FastPath {
    pub(crate) fn new(names: usize, shared: Arc<SharedMemory>) -> Self {
        let most = NonZeroUsize::new(names.saturating_mul(ANSWERS_PER_NAME)).unwrap_or(NonZeroUsize::MIN);
        let by_question = LruCache::unbounded_with_hasher(foldhash::fast::RandomState::default());
        let hashing = foldhash::fast::RandomState::default();
        let mut answers = Answers { by_question, hashing, octets: 0, held: 0, closed: false };
        answers.by_question.resize(most);
        Self { answers: Mutex::new(answers), shared }
    }

    /// Writes the remembered answer. Stale ones are given only while the grants behind them live (A8).
    pub(crate) fn answer(
        &self,
        key: &Key,
        query: &Query<'_>,
        now: Instant,
        accept: Accept,
        into: &mut Vec<u8>,
    ) -> bool {
        let mut answers = self.answers();
        let hash = answers.hashing.hash_one(key.octets());
        let entry = answers.by_question.peek_mut(&hash).filter(|entry| entry.answer.key() == key.octets());
        let Some(entry) = entry else { return false };
        let Some(least) = entry.accepted(accept, now) else { return false };
        let age = now.saturating_duration_since(entry.stored_at).as_secs();
        entry.answer.write(query, u32::try_from(age).unwrap_or(u32::MAX), least, into);
        if now.saturating_duration_since(entry.moved_at) >= MOVED_EVERY {
            entry.moved_at = now;
            answers.by_question.promote(&hash);
        }
        true
    }

    /// Remembers a message until its TTL ends, and for failures until `usable_until`.
    pub(crate) fn remember(&self, key: &Key, message: &[u8], now: Instant, usable_until: Option<Instant>) {
        let Some(answer) = StoredAnswer::new(key.octets(), message) else { return };
        let mut answers = self.answers();
        if answers.closed || answer.ttl() == 0 || answer.ttl() == u32::MAX {
            return;
        }
        let hash = answers.hashing.hash_one(key.octets());
        let entry = Entry { answer, stored_at: now, usable_until, moved_at: now };
        answers.octets += entry.octets();
        if let Some((_, old)) = answers.by_question.push(hash, entry) {
            answers.octets -= old.octets();
        }
        while !self.fits(&mut answers) {
            let Some((_, old)) = answers.by_question.pop_lru() else { break };
            answers.octets -= old.octets();
        }
    }

    /// Whether what is remembered may stay; takes of the shared memory, or gives back.
    fn fits(&self, answers: &mut Answers) -> bool {
        let beside = answers.octets.saturating_sub(OWN_OCTETS);
        answers.octets <= MOST_OCTETS && self.shared.change(&mut answers.held, beside)
    }

    fn answers(&self) -> MutexGuard<'_, Answers> {
        self.answers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Forgets everything, and remembers nothing more.
    pub(crate) fn close(&self) {
        self.answers().closed = true;
        self.forget();
    }

    /// Forgets everything.
    pub(crate) fn forget(&self) {
        let mut answers = self.answers();
        answers.by_question.clear();
        answers.octets = 0;
        self.fits(&mut answers);
    }
}

impl Drop for FastPath {
    fn drop(&mut self) {
        self.close();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{codes, reply};

    const SHARED: usize = 1 << 20;

    fn shared() -> Arc<SharedMemory> {
        Arc::new(SharedMemory { taken: AtomicUsize::new(0), most: SHARED })
    }

    fn question(number: u32) -> Vec<u8> {
        let mut message = vec![0, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 10];
        message.extend(format!("{number:010}").bytes());
        message.extend([0, 0, 1, 0, 1]);
        message
    }

    /// Remembers so many answers, and returns how many octets that took.
    fn fill(fast: &FastPath, answers: u32) -> usize {
        for number in 0..answers {
            let message = question(number);
            let query = Query::read(&message).unwrap();
            let answer = reply::negative(&query, codes::NXDOMAIN, true, None);
            fast.remember(&Key::of(&query, 0), &answer, Instant::now(), None);
        }
        fast.answers().octets
    }

    fn knows(fast: &FastPath, number: u32) -> bool {
        let message = question(number);
        let query = Query::read(&message).unwrap();
        fast.answer(&Key::of(&query, 0), &query, Instant::now(), Accept::Fresh, &mut Vec::new())
    }

    // Promises 6 and 8
    #[test]
    fn all_endpoints_together_are_bounded_and_each_has_its_own() {
        const MANY: u32 = 100_000;
        let shared = shared();
        let new = || FastPath::new(MANY as usize, Arc::clone(&shared));
        let (greedy, late) = (new(), new());
        let taken = fill(&greedy, MANY);
        assert!((SHARED..=SHARED + OWN_OCTETS).contains(&taken), "{taken}");
        assert!(knows(&greedy, MANY - 1) && !knows(&greedy, 0), "the newest stay");
        // Nothing is left, and the other has its own all the same.
        let own = fill(&late, MANY);
        assert!((OWN_OCTETS / 2..=OWN_OCTETS + 1_024).contains(&own), "{own}");
        assert!(knows(&late, MANY - 1) && knows(&greedy, MANY - 1));
        drop(greedy);
        assert!(fill(&late, MANY) > SHARED, "what was given back can be taken");
        late.close();
        assert_eq!(shared.taken.load(Ordering::Relaxed), 0);
    }
}
