//! Answers remembered for one endpoint and one generation of its rules, found without waiting for anybody.
//!
//! An entry is fresh for its TTL and usable as long as the grants behind it. Stale use is for failures only
//! (A8). Closing it is the revocation: an answer that was on its way when rules changed is not remembered.

use std::num::NonZeroUsize;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use lru::LruCache;

use crate::wire::query::Query;
use crate::wire::stored::StoredAnswer;

/// Most octets that the answers of one endpoint take.
const MOST_OCTETS: usize = 4 << 20;
/// Answers for each name that may be remembered: A, AAAA, HTTPS, with and without EDNS.
const ANSWERS_PER_NAME: usize = 4;

/// The memory of one endpoint.
#[derive(Debug)]
pub(crate) struct FastPath {
    answers: Mutex<Answers>,
}

#[derive(Debug)]
struct Answers {
    by_question: LruCache<Box<[u8]>, Entry, foldhash::fast::RandomState>,
    octets: usize,
    closed: bool,
}

#[derive(Debug)]
struct Entry {
    answer: StoredAnswer,
    stored_at: Instant,
    fresh_until: Instant,
    usable_until: Option<Instant>,
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
    pub(crate) fn new(names: usize) -> Self {
        let most = NonZeroUsize::new(names.saturating_mul(ANSWERS_PER_NAME)).unwrap_or(NonZeroUsize::MIN);
        let by_question = LruCache::unbounded_with_hasher(foldhash::fast::RandomState::default());
        let mut answers = Answers { by_question, octets: 0, closed: false };
        answers.by_question.resize(most);
        Self { answers: Mutex::new(answers) }
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
        let mut answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(entry) = answers.by_question.get(key.octets()) else { return false };
        let least = match accept {
            Accept::Fresh if now < entry.fresh_until => 0,
            Accept::Stale(ttl) if entry.usable_until.is_some_and(|until| now < until) => ttl,
            Accept::Fresh | Accept::Stale(_) => return false,
        };
        let age = now.saturating_duration_since(entry.stored_at).as_secs();
        entry.answer.write(query, u32::try_from(age).unwrap_or(u32::MAX), least, into);
        true
    }

    /// Remembers an answer until its TTL ends, and for failures until `usable_until`.
    pub(crate) fn remember(
        &self,
        key: &Key,
        answer: StoredAnswer,
        now: Instant,
        usable_until: Option<Instant>,
    ) {
        let mut answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        if answers.closed || answer.ttl() == 0 || answer.ttl() == u32::MAX {
            return;
        }
        let fresh_until = now + Duration::from_secs(answer.ttl().into());
        let added = key.length + answer.memory();
        let entry = Entry { answer, stored_at: now, fresh_until, usable_until };
        if let Some((old_key, old)) = answers.by_question.push(key.octets().into(), entry) {
            answers.octets -= old_key.len() + old.answer.memory();
        }
        answers.octets += added;
        while answers.octets > MOST_OCTETS {
            let Some((old_key, old)) = answers.by_question.pop_lru() else { break };
            answers.octets -= old_key.len() + old.answer.memory();
        }
    }

    /// Forgets everything, and remembers nothing more.
    pub(crate) fn close(&self) {
        let mut answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        answers.closed = true;
        answers.by_question.clear();
        answers.octets = 0;
    }
}
