//! Answers of upstreams, shared by all endpoints: bounded by bytes, kept for their TTL (RFC 2308 for negative
//! ones), asked once for identical questions at the same time.
//!
//! Nothing here depends on who asks: what an endpoint may see of an answer is decided afterwards.

use std::collections::HashMap;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures::FutureExt;
use futures::future::{BoxFuture, Shared};
use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::{RData, Record};
use hickory_proto::serialize::binary::BinEncodable;
use lru::LruCache;

use crate::upstream::{Question, UpstreamError};

/// The longest that an answer is kept, whatever its TTL.
const LONGEST: Duration = Duration::from_secs(86_400);
/// The longest that a negative answer is kept (RFC 2308, section 5).
const LONGEST_NEGATIVE: Duration = Duration::from_secs(3_600);
/// Memory of an entry beside its records, and of one record beside its data, roughly.
const ENTRY_OCTETS: usize = 512;
const RECORD_OCTETS: usize = 320;

/// One answer takes at most this part of the memory.
const LARGEST_SHARE: usize = 8;

/// Question and number of the upstream group it is for.
pub(crate) type CacheKey = (usize, Question);
type Asking = Shared<BoxFuture<'static, Result<Arc<CachedAnswer>, UpstreamError>>>;

/// An answer of an upstream and when it came.
#[derive(Debug)]
pub(crate) struct CachedAnswer {
    pub(crate) message: Message,
    pub(crate) received_at: Instant,
}

/// The shared cache.
pub(crate) struct Cache {
    answers: Mutex<Answers>,
    asking: Mutex<HashMap<CacheKey, Asking>>,
}

struct Answers {
    by_question: LruCache<CacheKey, Entry, foldhash::fast::RandomState>,
    octets: usize,
    most_octets: usize,
}

struct Entry {
    answer: Arc<CachedAnswer>,
    ends_at: Instant,
    octets: usize,
}

impl CachedAnswer {
    /// Whole seconds since it came.
    pub(crate) fn age(&self, now: Instant) -> u32 {
        u32::try_from(now.saturating_duration_since(self.received_at).as_secs()).unwrap_or(u32::MAX)
    }
}

impl Cache {
    pub(crate) fn new(most_octets: usize) -> Self {
        let by_question = LruCache::unbounded_with_hasher(foldhash::fast::RandomState::default());
        Self {
            answers: Mutex::new(Answers { by_question, octets: 0, most_octets }),
            asking: Mutex::default(),
        }
    }

    /// The answer, when it is fresh.
    pub(crate) fn get(&self, key: &CacheKey, now: Instant) -> Option<Arc<CachedAnswer>> {
        let mut answers = lock(&self.answers);
        let entry = answers.by_question.get(key)?;
        (now < entry.ends_at).then(|| entry.answer.clone())
    }

    /// Asks, or waits for the one that is asking the same already. The question goes on when the waiting stop.
    pub(crate) async fn ask(
        self: &Arc<Self>,
        key: CacheKey,
        question: impl Future<Output = Result<Message, UpstreamError>> + Send + 'static,
    ) -> Result<Arc<CachedAnswer>, UpstreamError> {
        let asking =
            lock(&self.asking).entry(key.clone()).or_insert_with(|| self.start(key, question)).clone();
        asking.await
    }

    fn start(
        self: &Arc<Self>,
        key: CacheKey,
        question: impl Future<Output = Result<Message, UpstreamError>> + Send + 'static,
    ) -> Asking {
        let cache = self.clone();
        let asking = tokio::spawn(async move {
            let result = question.await.map(|mut message| {
                // Nobody looks at them (A1).
                message.additionals = Vec::new();
                let answer = Arc::new(CachedAnswer { message, received_at: Instant::now() });
                lock(&cache.answers).insert(key.clone(), answer.clone());
                answer
            });
            lock(&cache.asking).remove(&key);
            result
        });
        let joined = asking.map(|result| result.unwrap_or(Err(UpstreamError::Nobody)));
        joined.boxed().shared()
    }
}

impl Answers {
    fn insert(&mut self, key: CacheKey, answer: Arc<CachedAnswer>) {
        let Some(ttl) = lifetime(&answer.message) else { return };
        let octets = ENTRY_OCTETS + key.1.name.len() + memory(&answer.message);
        if octets > self.most_octets / LARGEST_SHARE {
            return;
        }
        let ends_at = answer.received_at + ttl;
        self.octets += octets;
        if let Some((_, old)) = self.by_question.push(key, Entry { answer, ends_at, octets }) {
            self.octets -= old.octets;
        }
        while self.octets > self.most_octets {
            let Some((_, old)) = self.by_question.pop_lru() else { break };
            self.octets -= old.octets;
        }
    }
}

/// Octets that the records of an answer take, roughly.
fn memory(message: &Message) -> usize {
    let data = |record: &Record| match &record.data {
        RData::A(_) | RData::AAAA(_) | RData::CNAME(_) | RData::NS(_) | RData::SOA(_) => 0,
        // Parts of text and the like have an allocation each.
        other => 2 * other.to_bytes().map_or(usize::from(u16::MAX), |octets| octets.len()),
    };
    let records = message.answers.iter().chain(&message.authorities);
    records.map(|record| RECORD_OCTETS + data(record)).sum()
}

/// How long an answer may be kept: the shortest TTL of its records, for negative answers the SOA's (RFC 2308).
/// None: not at all.
fn lifetime(message: &Message) -> Option<Duration> {
    let negative = message.metadata.response_code == ResponseCode::NXDomain || message.answers.is_empty();
    let seconds = if negative {
        let soa = message.authorities.iter().find_map(|record| match &record.data {
            RData::SOA(soa) => Some(record.ttl.min(soa.minimum)),
            _ => None,
        })?;
        message.answers.iter().map(|record| record.ttl).chain([soa]).min()?
    } else {
        message.answers.iter().map(|record| record.ttl).min()?
    };
    let longest = if negative { LONGEST_NEGATIVE } else { LONGEST };
    (seconds > 0).then(|| Duration::from_secs(seconds.into()).min(longest))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use hickory_proto::op::{MessageType, OpCode};
    use hickory_proto::rr::Name;
    use hickory_proto::rr::rdata::{A, SOA, TXT};
    use std::sync::atomic::{AtomicUsize, Ordering};

    fn key(number: u16) -> CacheKey {
        let name = b"\x01a\x00"[..].into();
        (0, Question { name, record_type: number, dnssec_ok: false, checking_disabled: false })
    }

    fn message(ttl: u32) -> Message {
        let mut message = Message::new(1, MessageType::Response, OpCode::Query);
        message.add_answer(Record::from_rdata(
            Name::from_ascii("a.").unwrap(),
            ttl,
            RData::A(A::new(198, 51, 100, 1)),
        ));
        message
    }

    fn negative(ttl: u32, minimum: u32) -> Message {
        let name = Name::from_ascii("a.").unwrap();
        let mut message = Message::new(1, MessageType::Response, OpCode::Query);
        let soa = SOA::new(name.clone(), name.clone(), 1, 1, 1, 1, minimum);
        message.add_authority(Record::from_rdata(name, ttl, RData::SOA(soa)));
        message
    }

    #[test]
    fn lifetimes_are_those_of_rfc_2308() {
        assert_eq!(lifetime(&message(60)), Some(Duration::from_secs(60)));
        assert_eq!(lifetime(&message(0)), None);
        assert_eq!(lifetime(&negative(300, 60)), Some(Duration::from_secs(60)));
        assert_eq!(lifetime(&negative(u32::MAX, u32::MAX)), Some(LONGEST_NEGATIVE));
        assert_eq!(lifetime(&Message::new(1, MessageType::Response, OpCode::Query)), None);
    }

    #[tokio::test]
    async fn identical_questions_are_asked_once() {
        let cache = Arc::new(Cache::new(1 << 20));
        let asked = Arc::new(AtomicUsize::new(0));
        let (release, released) = tokio::sync::watch::channel(false);
        let question = || {
            let (asked, mut released) = (asked.clone(), released.clone());
            async move {
                asked.fetch_add(1, Ordering::Relaxed);
                released.wait_for(|released| *released).await.unwrap();
                Ok(message(60))
            }
        };
        let both = futures::future::join(cache.ask(key(1), question()), cache.ask(key(1), question()));
        let (results, _) = futures::future::join(both, async { release.send(true).unwrap() }).await;
        assert!(results.0.is_ok() && results.1.is_ok());
        assert_eq!(asked.load(Ordering::Relaxed), 1);
        let now = Instant::now();
        assert!(cache.get(&key(1), now).is_some());
        assert!(cache.get(&key(1), now + Duration::from_secs(61)).is_none());
    }

    // Promise 8: bounded by bytes
    #[tokio::test]
    async fn memory_is_bounded() {
        let cache = Arc::new(Cache::new(10 * (ENTRY_OCTETS + RECORD_OCTETS + 3)));
        for number in 0..100 {
            cache.ask(key(number), async { Ok(message(60)) }).await.unwrap();
        }
        let kept = (0..100).filter(|number| cache.get(&key(*number), Instant::now()).is_some()).count();
        assert_eq!(kept, 10);
    }

    // Promise 8: text counts with its length
    #[tokio::test]
    async fn large_records_are_not_taken_for_small_ones() {
        let cache = Arc::new(Cache::new(1 << 20));
        for number in 0..100 {
            let mut large = message(60);
            let text = TXT::new(vec!["x".repeat(255); 100]);
            large.add_answer(Record::from_rdata(Name::from_ascii("a.").unwrap(), 60, RData::TXT(text)));
            cache.ask(key(number), async { Ok(large) }).await.unwrap();
        }
        let kept = (0..100).filter(|number| cache.get(&key(*number), Instant::now()).is_some()).count();
        assert!((10..=40).contains(&kept), "{kept} answers of 26 thousand octets in a million");
    }
}
