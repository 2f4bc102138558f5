//! Answers of upstreams, shared by all endpoints: bounded by bytes, kept for their TTL (RFC 2308 for negative
//! ones), asked once for identical questions at the same time.
//!
//! Nothing here depends on who asks: what an endpoint may see of an answer is decided afterwards. Who asks, and who is
//! told, is not known here.

use std::collections::hash_map::Entry as Place;
use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::{RData, Record};
use hickory_proto::serialize::binary::BinEncodable;
use lru::LruCache;
use nameward_policy::Name;

use crate::upstream::{Question, Reply};

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

/// An answer of an upstream and when it came.
#[derive(Debug)]
pub(crate) struct CachedAnswer {
    pub(crate) reply: Reply,
    pub(crate) received_at: Instant,
}

/// The shared cache, and who waits (`W`) for what is not in it.
pub(crate) struct Cache<W>(Mutex<Inner<W>>);

struct Inner<W> {
    answers: Answers,
    asking: HashMap<CacheKey, Asking<W>, foldhash::fast::RandomState>,
    /// Who waits for answers that were forgotten before they came.
    forgotten: HashMap<u64, Vec<W>>,
    /// Questions that were asked so far.
    asked: u64,
}

struct Asking<W> {
    number: u64,
    waiting: Vec<W>,
}

/// A question that has to be asked.
#[derive(Debug)]
pub(crate) struct Ticket {
    key: CacheKey,
    /// Tells it from an older one of the same question.
    number: u64,
}

/// What is known of a question.
pub(crate) enum Known<W> {
    /// The answer. Nobody has to wait.
    Answer(Arc<CachedAnswer>, W),
    /// It is asked already; who waits is told with the others.
    Asked,
    /// Nothing: who called this has to ask, and to call [`Cache::end`].
    Nothing(Ticket),
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
    /// As it came now.
    pub(crate) fn new(mut reply: Reply) -> Arc<Self> {
        if let Reply::Message(message) = &mut reply {
            // Nobody looks at them (A1).
            message.additionals = Vec::new();
        }
        Arc::new(Self { reply, received_at: Instant::now() })
    }

    /// Whole seconds since it came.
    pub(crate) fn age(&self, now: Instant) -> u32 {
        u32::try_from(now.saturating_duration_since(self.received_at).as_secs()).unwrap_or(u32::MAX)
    }
}

impl<W> Cache<W> {
    pub(crate) fn new(most_octets: usize) -> Self {
        let by_question = LruCache::unbounded_with_hasher(foldhash::fast::RandomState::default());
        let answers = Answers { by_question, octets: 0, most_octets };
        Self(Mutex::new(Inner { answers, asking: HashMap::default(), forgotten: HashMap::new(), asked: 0 }))
    }

    /// The answer, when it is fresh; else `waits` waits for it.
    pub(crate) fn look(&self, key: CacheKey, waits: W, now: Instant) -> Known<W> {
        let inner = &mut *self.lock();
        if let Some(answer) = inner.answers.get(&key, now) {
            return Known::Answer(answer, waits);
        }
        match inner.asking.entry(key) {
            Place::Occupied(mut asking) => {
                asking.get_mut().waiting.push(waits);
                Known::Asked
            }
            Place::Vacant(vacant) => {
                inner.asked += 1;
                let ticket = Ticket { key: vacant.key().clone(), number: inner.asked };
                vacant.insert(Asking { number: inner.asked, waiting: vec![waits] });
                Known::Nothing(ticket)
            }
        }
    }

    /// The question has been asked; returns who waits. An answer is kept, unless its name was forgotten meanwhile.
    pub(crate) fn end(&self, ticket: Ticket, answer: Option<&Arc<CachedAnswer>>) -> Vec<W> {
        let mut inner = self.lock();
        if let Some(waiting) = inner.forgotten.remove(&ticket.number) {
            return waiting;
        }
        let waiting = inner.asking.remove(&ticket.key).map(|asking| asking.waiting).unwrap_or_default();
        if let Some(answer) = answer {
            inner.answers.insert(ticket.key, Arc::clone(answer));
        }
        waiting
    }

    /// Forgets all answers to questions for these names. What is being asked is answered to those who wait, is not kept, and
    /// is asked anew for those who come next.
    pub(crate) fn forget(&self, names: &[Name]) {
        let wanted: HashSet<Vec<u8>> = names.iter().map(|name| on_the_wire(name.as_str())).collect();
        let is_meant = |(_, question): &CacheKey| wanted.contains(&*question.name);
        let inner = &mut *self.lock();
        let asking = inner.asking.extract_if(|key, _| is_meant(key));
        inner.forgotten.extend(asking.map(|(_, asking)| (asking.number, asking.waiting)));
        let known = inner.answers.by_question.iter().map(|(key, _)| key);
        let gone: Vec<CacheKey> = known.filter(|key| is_meant(key)).cloned().collect();
        gone.iter().for_each(|key| inner.answers.remove(key));
    }

    fn lock(&self) -> MutexGuard<'_, Inner<W>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Answers {
    fn get(&mut self, key: &CacheKey, now: Instant) -> Option<Arc<CachedAnswer>> {
        let entry = self.by_question.get(key)?;
        (now < entry.ends_at).then(|| Arc::clone(&entry.answer))
    }

    fn insert(&mut self, key: CacheKey, answer: Arc<CachedAnswer>) {
        let Some(ttl) = lifetime(&answer.reply) else { return };
        let octets = ENTRY_OCTETS + key.1.name.len() + memory(&answer.reply);
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

    fn remove(&mut self, key: &CacheKey) {
        if let Some(old) = self.by_question.pop(key) {
            self.octets -= old.octets;
        }
    }
}

/// A name as questions have it.
fn on_the_wire(name: &str) -> Vec<u8> {
    let mut octets = Vec::with_capacity(name.len() + 2);
    for label in name.split('.') {
        // Labels of names are at most 63 octets long.
        octets.push(u8::try_from(label.len()).unwrap_or(u8::MAX));
        octets.extend_from_slice(label.as_bytes());
    }
    octets.push(0);
    octets
}

/// Octets that the records of an answer take, roughly.
fn memory(reply: &Reply) -> usize {
    let message = match reply {
        Reply::Verbatim(verbatim) => return verbatim.memory(),
        Reply::Message(message) => message,
    };
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
fn lifetime(reply: &Reply) -> Option<Duration> {
    match reply {
        Reply::Verbatim(verbatim) => {
            (verbatim.ttl() > 0).then(|| Duration::from_secs(verbatim.ttl().into()).min(LONGEST))
        }
        Reply::Message(message) => lifetime_of(message),
    }
}

fn lifetime_of(message: &Message) -> Option<Duration> {
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

#[cfg(test)]
mod tests {
    use super::*;
    use hickory_proto::op::{MessageType, OpCode};
    use hickory_proto::rr::Name as DnsName;
    use hickory_proto::rr::rdata::{A, SOA, TXT};

    fn key(number: u16) -> CacheKey {
        let name = b"\x01a\x00"[..].into();
        (0, Question { name, record_type: number, dnssec_ok: false, checking_disabled: false })
    }

    fn message(ttl: u32) -> Message {
        let mut message = Message::new(1, MessageType::Response, OpCode::Query);
        message.add_answer(Record::from_rdata(
            DnsName::from_ascii("a.").unwrap(),
            ttl,
            RData::A(A::new(198, 51, 100, 1)),
        ));
        message
    }

    fn negative(ttl: u32, minimum: u32) -> Message {
        let name = DnsName::from_ascii("a.").unwrap();
        let mut message = Message::new(1, MessageType::Response, OpCode::Query);
        let soa = SOA::new(name.clone(), name.clone(), 1, 1, 1, 1, minimum);
        message.add_authority(Record::from_rdata(name, ttl, RData::SOA(soa)));
        message
    }

    /// Begins to ask.
    fn ask<W>(cache: &Cache<W>, key: CacheKey, waits: W, now: Instant) -> Ticket {
        let Known::Nothing(ticket) = cache.look(key, waits, now) else { panic!("it is known") };
        ticket
    }

    fn answer(message: Message) -> Arc<CachedAnswer> {
        CachedAnswer::new(Reply::Message(Box::new(message)))
    }

    fn keep(cache: &Cache<()>, key: CacheKey, message: Message) {
        let ticket = ask(cache, key, (), Instant::now());
        assert_eq!(cache.end(ticket, Some(&answer(message))).len(), 1);
    }

    fn knows<W>(cache: &Cache<W>, key: &CacheKey) -> bool {
        cache.lock().answers.get(key, Instant::now()).is_some()
    }

    /// Of questions from 0 on, how many have an answer.
    fn kept(cache: &Cache<()>, questions: u16) -> usize {
        (0..questions).filter(|number| knows(cache, &key(*number))).count()
    }

    #[test]
    fn lifetimes_are_those_of_rfc_2308() {
        assert_eq!(lifetime_of(&message(60)), Some(Duration::from_secs(60)));
        assert_eq!(lifetime_of(&message(0)), None);
        assert_eq!(lifetime_of(&negative(300, 60)), Some(Duration::from_secs(60)));
        assert_eq!(lifetime_of(&negative(u32::MAX, u32::MAX)), Some(LONGEST_NEGATIVE));
        assert_eq!(lifetime_of(&Message::new(1, MessageType::Response, OpCode::Query)), None);
    }

    #[test]
    fn identical_questions_are_asked_once() {
        let (cache, now) = (Cache::new(1 << 20), Instant::now());
        let one = ask(&cache, key(1), "first", now);
        assert!(matches!(cache.look(key(1), "second", now), Known::Asked));
        let two = ask(&cache, key(2), "other", now);
        assert_eq!(cache.end(one, Some(&answer(message(60)))), ["first", "second"]);
        assert!(matches!(cache.look(key(1), "third", Instant::now()), Known::Answer(_, "third")));
        let later = Instant::now() + Duration::from_secs(61);
        assert!(matches!(cache.look(key(1), "fourth", later), Known::Nothing(_)));
        assert_eq!(cache.end(two, None), ["other"], "who asked for something else waits for that");
    }

    #[test]
    fn a_name_is_forgotten_with_all_its_types() {
        let cache = Cache::new(1 << 20);
        let other = {
            let name = b"\x01b\x07example\x00"[..].into();
            (0, Question { name, record_type: 1, dnssec_ok: false, checking_disabled: false })
        };
        for key in [key(1), key(28), other.clone()] {
            keep(&cache, key, message(60));
        }
        cache.forget(&[Name::parse("a").unwrap()]);
        assert_eq!([&key(1), &key(28), &other].map(|key| knows(&cache, key)), [false, false, true]);
        cache.forget(&[Name::parse("b.example").unwrap()]);
        assert!(!knows(&cache, &other));
        assert_eq!(cache.lock().answers.octets, 0);
    }

    #[test]
    fn what_is_forgotten_while_it_is_asked_is_not_kept() {
        let (cache, now) = (Cache::new(1 << 20), Instant::now());
        let (before, other) = (ask(&cache, key(1), "before", now), ask(&cache, key(2), "failed", now));
        cache.forget(&[Name::parse("a").unwrap()]);
        let after = ask(&cache, key(1), "after", now);
        assert!(matches!(cache.look(key(1), "with it", now), Known::Asked));
        assert_eq!(cache.end(before, Some(&answer(message(60)))), ["before"]);
        assert_eq!(cache.end(other, None), ["failed"]);
        assert!(!knows(&cache, &key(1)), "the answer of a server that was asked before");
        assert_eq!(cache.end(after, Some(&answer(message(60)))), ["after", "with it"]);
        assert!(knows(&cache, &key(1)));
        assert!(cache.lock().forgotten.is_empty());
    }

    // Promise 8: bounded by bytes
    #[test]
    fn memory_is_bounded() {
        let cache = Cache::new(10 * (ENTRY_OCTETS + RECORD_OCTETS + 3));
        for number in 0..100 {
            keep(&cache, key(number), message(60));
        }
        assert_eq!(kept(&cache, 100), 10);
    }

    // Promise 8: text counts with its length
    #[test]
    fn large_records_are_not_taken_for_small_ones() {
        let cache = Cache::new(1 << 20);
        for number in 0..100 {
            let mut large = message(60);
            let text = TXT::new(vec!["x".repeat(255); 100]);
            large.add_answer(Record::from_rdata(DnsName::from_ascii("a.").unwrap(), 60, RData::TXT(text)));
            keep(&cache, key(number), large);
        }
        let kept = kept(&cache, 100);
        assert!((10..=40).contains(&kept), "{kept} answers of 26 thousand octets in a million");
    }
}
