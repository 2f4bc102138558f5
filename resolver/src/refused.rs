//! Names that are not answered, on their way to the log and to the enforcers: folded, bounded for each endpoint and for
//! all, with what did not fit counted. Time is an argument; who takes the batches and where they go is not known here.
//!
//! The bounds are those that the kernel has for events of packets: an endpoint tells [`PER_SECOND`] names a second, and
//! the same one at most once a second.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use nameward_feed::proto::{RefusedName, RefusedNames as Message, UntoldNames};
use nameward_policy::{PolicyRef, Reason};

use crate::decisions::{Decision, DecisionSink, Outcome};

/// How often batches are taken: what comes within this time is folded.
pub const GATHER: Duration = Duration::from_millis(150);
/// Names that one endpoint tells in a second.
const PER_SECOND: f64 = 100.0;
/// Names that it may save up.
const BURST: f64 = 200.0;
/// The same name is told this often at most, and so is the number of those that are not told.
const REPEAT: Duration = Duration::from_secs(1);
/// Different questions of one endpoint that are folded at one time.
const MOST_OF_ONE: usize = 256;
/// Different questions of all endpoints that are folded at one time; beyond that each has [`SHARE`].
const MOST: usize = 8_192;
/// What each endpoint may always tell, whatever the others do (promise 6).
const SHARE: usize = 4;

/// What is folded: the same of these is the same question.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Question {
    /// The name asked for.
    pub name: Arc<str>,
    /// The type asked for.
    pub record_type: u16,
    /// Why there is no answer.
    pub reason: Reason,
    /// Response code of the answer.
    pub code: u16,
    /// The policy that decided, where one did.
    pub policy: Option<PolicyRef>,
    /// It was answered all the same: enforcement would have refused it (R6).
    pub answered: bool,
}

/// Equal questions, told together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    /// Who asked.
    pub endpoint: Arc<str>,
    /// What.
    pub question: Question,
    /// How often since it was told last.
    pub count: u64,
    /// When last.
    pub last: Instant,
}

/// What is due to be told.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Batch {
    /// Questions, by endpoint, the longest waiting first.
    pub names: Vec<Told>,
    /// Questions that are not told one by one.
    pub losses: Vec<Loss>,
}

/// Questions of an endpoint that are not told one by one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loss {
    /// Who asked.
    pub endpoint: Arc<str>,
    /// Those that there was no room for.
    pub dropped: u64,
    /// Those that are in this process's log, but did not get to the enforcer.
    pub unsent: u64,
}

/// Of one question: what was not told yet.
#[derive(Clone, Copy, Debug)]
struct Folded {
    count: u64,
    first: Instant,
    last: Instant,
    told_at: Option<Instant>,
}

/// Of one endpoint.
#[derive(Debug)]
struct OfOne {
    questions: HashMap<Question, Folded>,
    dropped: u64,
    unsent: u64,
    losses_told_at: Option<Instant>,
    tokens: f64,
    filled_at: Instant,
}

/// Of all endpoints.
#[derive(Debug, Default)]
struct All {
    endpoints: HashMap<Arc<str>, OfOne>,
    questions: usize,
}

/// Takes refused names from the server's way, and gives them in batches.
#[derive(Debug, Default)]
pub struct RefusedNames {
    all: Mutex<All>,
}

impl RefusedNames {
    /// Gives `tell` each batch as it is due, and the time. Never ends by itself.
    pub async fn follow(&self, mut tell: impl FnMut(Batch, Instant)) {
        let mut tick = tokio::time::interval(GATHER);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tick.tick().await;
            let now = Instant::now();
            tell(self.take(now), now);
        }
    }

    /// What is due now.
    pub fn take(&self, now: Instant) -> Batch {
        let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        let All { endpoints, questions } = &mut *all;
        let mut batch = Batch::default();
        endpoints.retain(|endpoint, own| {
            own.take(endpoint, now, &mut batch);
            !own.is_idle()
        });
        *questions = endpoints.values().map(|own| own.questions.len()).sum();
        batch
    }

    /// Takes back what did not get to the enforcer: its number is said with a later batch.
    pub fn unsent(&self, batch: &Batch, now: Instant) {
        let names = batch.names.iter().map(|told| (&told.endpoint, told.count));
        let losses = batch.losses.iter().map(|loss| (&loss.endpoint, loss.count()));
        let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        for (endpoint, count) in names.chain(losses) {
            let own = all.endpoints.entry(Arc::clone(endpoint)).or_insert_with(|| OfOne::new(now));
            own.unsent += count;
        }
    }

    fn add(&self, endpoint: Arc<str>, question: Question, now: Instant) {
        let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        let All { endpoints, questions } = &mut *all;
        let own = endpoints.entry(endpoint).or_insert_with(|| OfOne::new(now));
        if let Some(folded) = own.questions.get_mut(&question) {
            if folded.count == 0 {
                folded.first = now;
            }
            (folded.count, folded.last) = (folded.count + 1, now);
            return;
        }
        let room = if *questions < MOST { MOST_OF_ONE } else { SHARE };
        if own.questions.len() >= room {
            own.dropped += 1;
            return;
        }
        own.questions.insert(question, Folded { count: 1, first: now, last: now, told_at: None });
        *questions += 1;
    }
}

impl OfOne {
    fn new(now: Instant) -> Self {
        let questions = HashMap::new();
        Self { questions, dropped: 0, unsent: 0, losses_told_at: None, tokens: BURST, filled_at: now }
    }

    fn take(&mut self, endpoint: &Arc<str>, now: Instant, into: &mut Batch) {
        let since = now.saturating_duration_since(self.filled_at).as_secs_f64();
        self.tokens = (self.tokens + since * PER_SECOND).min(BURST);
        self.filled_at = now;
        let is_over = |at: Option<Instant>| at.is_none_or(|at| now.saturating_duration_since(at) >= REPEAT);
        self.questions.retain(|_, folded| folded.count > 0 || !is_over(folded.told_at));
        let due = self.questions.iter_mut().filter(|(_, folded)| folded.count > 0 && is_over(folded.told_at));
        let mut due: Vec<_> = due.collect();
        due.sort_by(|(one, a), (other, b)| (a.first, &one.name).cmp(&(b.first, &other.name)));
        for (question, folded) in due {
            if self.tokens < 1.0 {
                break;
            }
            self.tokens -= 1.0;
            let (endpoint, question) = (Arc::clone(endpoint), question.clone());
            into.names.push(Told { endpoint, question, count: folded.count, last: folded.last });
            (folded.count, folded.told_at) = (0, Some(now));
        }
        if self.dropped + self.unsent > 0 && is_over(self.losses_told_at) {
            let (dropped, unsent) = (std::mem::take(&mut self.dropped), std::mem::take(&mut self.unsent));
            into.losses.push(Loss { endpoint: Arc::clone(endpoint), dropped, unsent });
            self.losses_told_at = Some(now);
        }
    }

    /// Nothing is known that one that asks for the first time would not begin with.
    fn is_idle(&self) -> bool {
        self.questions.is_empty() && self.dropped + self.unsent == 0 && self.tokens >= BURST
    }
}

impl DecisionSink for RefusedNames {
    /// Keeps what was denied. The lock is held for one insertion, or to take a batch out.
    fn decided(&self, decision: Decision) {
        let Decision { endpoint, name, record_type, code, policy, outcome } = decision;
        let (reason, answered) = match outcome {
            Outcome::Denied { reason, .. } => (reason, false),
            Outcome::Answered { would_filter: true, .. } => (Reason::Filtered, true),
            Outcome::Answered { addresses, would_filter: false } => {
                tracing::debug!(target: "audit", endpoint = &*endpoint, name = &*name, record_type, ?addresses, "answered");
                return;
            }
        };
        let question = Question { name, record_type, reason, code, policy, answered };
        self.add(endpoint, question, Instant::now());
    }
}

impl Batch {
    /// Writes it to the `audit` log target. Names are data: they are written as quoted strings.
    pub fn log(&self) {
        for Told { endpoint, question, count, .. } in &self.names {
            let Question { name, record_type, reason, code, policy, answered } = question;
            let policy = policy.as_ref().map(ToString::to_string);
            tracing::info!(
                target: "audit",
                endpoint = &**endpoint,
                verdict = if *answered { "would-deny" } else { "deny" },
                reason = reason.word(),
                name = &**name,
                record_type,
                code,
                policy,
                count,
                "question",
            );
        }
        for Loss { endpoint, dropped, .. } in self.losses.iter().filter(|loss| loss.dropped > 0) {
            tracing::warn!(target: "audit", endpoint = &**endpoint, count = dropped, "questions are not told one by one");
        }
    }

    /// As it travels.
    pub fn message(&self, now: Instant) -> Message {
        let loss = |loss: &Loss| UntoldNames { endpoint: loss.endpoint.to_string(), count: loss.count() };
        Message {
            names: self.names.iter().map(|told| told.message(now)).collect(),
            untold: self.losses.iter().map(loss).collect(),
            unread: 0,
        }
    }
}

impl Loss {
    /// Of both kinds.
    pub fn count(&self) -> u64 {
        self.dropped + self.unsent
    }
}

impl Told {
    fn message(&self, now: Instant) -> RefusedName {
        let Question { name, record_type, reason, code, policy, answered } = &self.question;
        let age = now.saturating_duration_since(self.last);
        RefusedName {
            endpoint: self.endpoint.to_string(),
            name: name.to_string(),
            record_type: (*record_type).into(),
            reason: reason.word().into(),
            policy: policy.as_ref().map(ToString::to_string).unwrap_or_default(),
            count: self.count,
            age_millis: u64::try_from(age.as_millis()).unwrap_or(u64::MAX),
            answered: *answered,
            response_code: Some((*code).into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use nameward_policy::PolicyKind;

    use super::*;

    fn question(name: &str) -> Question {
        Question {
            name: name.into(),
            record_type: 1,
            reason: Reason::Filtered,
            code: 3,
            policy: Some(PolicyRef::new(PolicyKind::EgressPolicy, "ci", "a")),
            answered: false,
        }
    }

    fn names(batch: &Batch) -> Vec<(&str, u64)> {
        batch.names.iter().map(|told| (&*told.question.name, told.count)).collect()
    }

    #[test]
    fn equal_questions_are_one_with_a_count_and_repeated_once_a_second() {
        let (refused, start) = (RefusedNames::default(), Instant::now());
        let ask = || refused.add("a".into(), question("x.example"), start);
        (0..3).for_each(|_| ask());
        let first = refused.take(start);
        assert_eq!(names(&first), [("x.example", 3)]);
        let told = &first.message(start).names[0];
        assert_eq!((told.policy.as_str(), told.response_code), ("EgressPolicy ci/a", Some(3)));
        assert_eq!(refused.take(start), Batch::default(), "each is told once");
        (0..5).for_each(|_| ask());
        assert_eq!(refused.take(start + REPEAT / 2), Batch::default());
        ask();
        assert_eq!(names(&refused.take(start + REPEAT)), [("x.example", 6)]);
        assert_eq!(refused.take(start + REPEAT * 2), Batch::default());
        refused.take(start + REPEAT * 4);
        assert!(refused.all.lock().unwrap().endpoints.is_empty(), "nothing is kept for ever");
    }

    // Promises 6 and 8
    #[test]
    fn a_flood_tells_no_more_than_packets_may_and_what_is_not_told_is_counted() {
        let (refused, start) = (RefusedNames::default(), Instant::now());
        let (mut told, mut untold, mut asked) = (0, 0, 0);
        for round in 0..100 {
            let now = start + GATHER * round;
            for number in 0..300 {
                refused.add("flood".into(), question(&format!("n{round}-{number}.example")), now);
                asked += 1;
            }
            let batch = refused.take(now);
            told += batch.names.iter().map(|one| one.count).sum::<u64>();
            untold += batch.losses.iter().map(Loss::count).sum::<u64>();
        }
        // 15 s at 100 a second, and 200 saved up.
        assert!((1_500..=1_700).contains(&told), "{told}");
        let rest = refused.take(start + GATHER * 99 + REPEAT * 10);
        told += rest.names.iter().map(|one| one.count).sum::<u64>();
        untold += rest.losses.iter().map(Loss::count).sum::<u64>();
        let waiting = refused.all.lock().unwrap().endpoints["flood"]
            .questions
            .values()
            .map(|one| one.count)
            .sum::<u64>();
        assert_eq!(told + untold + waiting, asked, "nothing is lost without a word");
    }

    // Promise 6
    #[test]
    fn a_flood_hides_nobody_elses_questions() {
        let (refused, start) = (RefusedNames::default(), Instant::now());
        for endpoint in 0..100 {
            (0..300).for_each(|n| {
                refused.add(format!("many{endpoint}").into(), question(&format!("n{n}.example")), start)
            });
        }
        refused.add("quiet".into(), question("quiet.example"), start);
        let batch = refused.take(start);
        let of_quiet: Vec<_> = batch.names.iter().filter(|told| &*told.endpoint == "quiet").collect();
        assert_eq!((of_quiet.len(), of_quiet[0].count), (1, 1));
        assert!(batch.names.len() <= MOST + 101 * SHARE, "{}", batch.names.len());
        assert!(batch.losses.iter().any(|loss| &*loss.endpoint == "many0" && loss.dropped == 44));
    }

    // R6
    #[test]
    fn what_enforcement_would_refuse_is_told_as_that_and_what_is_allowed_is_not() {
        let refused = RefusedNames::default();
        for would_filter in [true, false] {
            let outcome = Outcome::Answered { addresses: vec![], would_filter };
            let (endpoint, name) = ("a".into(), "x".into());
            refused.decided(Decision { endpoint, name, record_type: 1, code: 0, policy: None, outcome });
        }
        let batch = refused.take(Instant::now());
        let [told] = &batch.names[..] else { panic!("{batch:?}") };
        assert_eq!((told.question.answered, told.question.reason, told.count), (true, Reason::Filtered, 1));
    }
}
