//! The part of a question's way that waits: for an upstream (by [`asking`](super::asking)), and for the grant.
//!
//! The one place where an answer to an allowed name is let go, after its addresses are usable (G1, promise 1).

use std::{
    borrow::Cow,
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use hickory_proto::op::Message;
use hickory_proto::rr::{Name as DnsName, RData, Record, RecordType};
use nameward_policy::{Admission, NameRule, PolicyRef, Reason};
use tokio::time::timeout_at;

use super::{Answer, Server, asking::Heard, inquiry::Waiting};
use crate::{
    answer::{self, TtlBounds},
    cache::CachedAnswer,
    check::{Asked, Checked, Terms, check},
    decide::{RuleTerms, Verdict, decide},
    decisions::Outcome,
    endpoints::Endpoint,
    fast_path::{Accept, Key},
    grants::{GrantRequest, Granted, Refused},
    upstream::{Reply, UpstreamError},
    wire::{
        codes, ede,
        query::Query,
        reply::{self, ExtendedError},
        verbatim::Verbatim,
    },
};

/// TTL of an answer that is given after its own has ended (RFC 8767 recommends at most 30 s), in seconds.
const STALE_TTL: u32 = 5;
/// TTL of an answer that grants nothing at most, in seconds: nothing is remembered for ever.
const LONGEST_PASSED: u32 = 86_400;
/// Rules that change while one question waits, at most.
const MOST_CHANGES: usize = 4;

/// Why there is no answer.
enum Failure {
    Upstream(UpstreamError),
    /// Not acknowledged in time, or the kernel refused.
    NotUsable(String),
    Limit(String),
    /// Rules changed, and do not allow the name any more.
    Here {
        code: u16,
        soa: bool,
        error: Option<ExtendedError>,
        policy: Option<PolicyRef>,
    },
    Gone,
}

/// A question while it waits.
struct Resolution<'a> {
    server: &'a Server,
    query: Query<'a>,
    waiting: &'a Waiting,
}

/// An answer and how long it is good for.
struct Ready {
    bytes: Vec<u8>,
    endpoint: Arc<Endpoint>,
    usable_until: Option<Instant>,
}

impl Server {
    /// Answers a question that has to wait. Always gives an answer.
    pub(super) async fn resolve(&self, waiting: &Waiting) -> Vec<u8> {
        // It was read before from the same octets.
        let Ok(query) = Query::read(&waiting.message) else { return Vec::new() };
        let heard = self.hear(&query, waiting).await;
        self.conclude(waiting, heard).await
    }

    /// Answers a question when an upstream has been heard. Always gives an answer.
    pub(super) async fn conclude(&self, waiting: &Waiting, heard: Heard) -> Vec<u8> {
        let Ok(query) = Query::read(&waiting.message) else { return Vec::new() };
        let resolution = Resolution { server: self, query, waiting };
        let concluded = match heard {
            Ok(cached) => resolution.run(&cached).await,
            Err(error) => Err(Failure::Upstream(error)),
        };
        match concluded {
            Ok(ready) => {
                resolution.remember(&ready);
                ready.bytes
            }
            Err(failure) => resolution.fail(failure),
        }
    }
}

impl Resolution<'_> {
    async fn run(&self, cached: &CachedAnswer) -> Result<Ready, Failure> {
        let mut endpoint = self.waiting.endpoint.clone();
        let mut verdict = self.waiting.verdict.clone();
        let deadline = tokio::time::Instant::now() + self.server.0.grant_wait;
        for _ in 0..MOST_CHANGES {
            let rule = match verdict {
                Verdict::Grant(rule) => rule,
                Verdict::Pass { would_filter } => {
                    return self.pass(cached, endpoint, would_filter, deadline).await;
                }
                Verdict::Here { code, soa, error, policy } => {
                    return Err(Failure::Here { code, soa, error, policy });
                }
            };
            match self.grant(cached, &endpoint, rule, deadline).await {
                Some(outcome) => return outcome,
                // Judged by rules that are not in force any more: wait for those that are.
                None => {
                    let newer = self.server.0.endpoints.after(&endpoint.view.uid, endpoint.view.generation);
                    endpoint = match timeout_at(deadline, newer).await {
                        Ok(Some(endpoint)) => endpoint,
                        Ok(None) => return Err(Failure::Gone),
                        Err(_) => {
                            return Err(Failure::NotUsable("the new rules did not arrive in time".into()));
                        }
                    };
                    verdict = decide(&endpoint.view.rules, &self.waiting.name, self.waiting.forwarded);
                }
            }
        }
        Err(Failure::NotUsable("the rules change too fast".into()))
    }

    /// An answer that grants nothing is passed on as it is (A3). Where nothing is denied the enforcer learns the name all
    /// the same, to tell it with packets (R6, G8) and for rules to come (R11); whatever it says, the workload loses nothing.
    async fn pass(
        &self,
        cached: &CachedAnswer,
        endpoint: Arc<Endpoint>,
        would_filter: bool,
        deadline: tokio::time::Instant,
    ) -> Result<Ready, Failure> {
        let told = would_filter || endpoint.view.rules.observes();
        let bounds = TtlBounds { least: 0, most: LONGEST_PASSED };
        if let (false, Reply::Verbatim(verbatim)) = (told, &cached.reply) {
            let age = cached.age(Instant::now());
            let bytes = self.write(verbatim, |ttl| bounds.clamp(ttl, age))?;
            let outcome = Outcome::Answered { addresses: Vec::new(), would_filter };
            self.decided(Answer { code: codes::NOERROR, policy: None, outcome });
            return Ok(Ready { bytes, endpoint, usable_until: None });
        }
        let (message, asked) = self.read(cached)?;
        let mut checked = self.check(&message, &asked, None);
        if told {
            let addresses = answer::addresses_of(&checked);
            let chain = || checked.chain.iter().map(text_of).collect();
            if !addresses.is_empty()
                && let Err(refused) =
                    self.request(chain(), &endpoint, Duration::ZERO, &addresses, deadline).await
            {
                tracing::debug!(
                    name = &*self.waiting.text,
                    ?refused,
                    "packets will not be told with this name"
                );
            }
        }
        answer::clamp(&mut checked, bounds, cached.age(Instant::now()));
        let code = code_of(&checked);
        let bytes = self.build(checked, &message, &asked)?;
        let policy = would_filter.then(|| endpoint.view.rules.refused_by(&self.waiting.name)).flatten();
        let outcome = Outcome::Answered { addresses: Vec::new(), would_filter };
        self.decided(Answer { code, policy: policy.cloned(), outcome });
        Ok(Ready { bytes, endpoint, usable_until: None })
    }

    /// Checks, grants and builds. None: the rules are not those in force.
    async fn grant(
        &self,
        cached: &CachedAnswer,
        endpoint: &Arc<Endpoint>,
        rule: NameRule,
        deadline: tokio::time::Instant,
    ) -> Option<Result<Ready, Failure>> {
        let terms = RuleTerms { rules: &endpoint.view.rules, rule };
        let bounds = endpoint.view.rules.ttl();
        let bounds =
            TtlBounds { least: bounds.min_seconds.min(bounds.max_seconds), most: bounds.max_seconds };
        let mut absent = false;
        if let Reply::Verbatim(verbatim) = &cached.reply
            && passes_whole(verbatim, &terms)
        {
            let age = cached.age(Instant::now());
            match self.grant_whole(verbatim, endpoint, rule, |ttl| bounds.clamp(ttl, age), deadline).await {
                Ok(granted) => return Some(granted),
                Err(Some(Refused::StaleGeneration)) => return None,
                // Some of it may be usable.
                Err(Some(Refused::Absent)) => absent = true,
                Err(refused) => return Some(Err(self.not_usable(refused))),
            }
        }
        let (message, asked) = match self.read(cached) {
            Ok(read) => read,
            Err(failure) => return Some(Err(failure)),
        };
        let mut checked = self.check(&message, &asked, Some(&terms));
        if self.waiting.forwarded {
            checked.hide_from_caches();
        }
        answer::clamp(&mut checked, bounds, cached.age(Instant::now()));
        let usable = match absent {
            // It was waited for already.
            true => self.only_usable(&mut checked, endpoint),
            false => self.make_usable(&mut checked, endpoint, rule, deadline).await?,
        };
        let usable_until = match usable {
            Ok(usable_until) => usable_until,
            Err(failure) => return Some(Err(failure)),
        };
        let addresses = checked.addresses.iter().map(|(address, _)| *address).collect();
        let (code, private) = (code_of(&checked), checked.removed.private.clone());
        let built = self.build(checked, &message, &asked);
        if built.is_ok() {
            self.tell_removed(code, &private);
            let outcome = Outcome::Answered { addresses, would_filter: false };
            self.decided(Answer { code, policy: None, outcome });
        }
        Some(built.map(|bytes| Ready { bytes, endpoint: endpoint.clone(), usable_until }))
    }

    /// G1: when this returns well, every address that is left can be used, at least for its TTL.
    async fn make_usable(
        &self,
        checked: &mut Checked,
        endpoint: &Arc<Endpoint>,
        rule: NameRule,
        deadline: tokio::time::Instant,
    ) -> Option<Result<Option<Instant>, Failure>> {
        if checked.addresses.is_empty() {
            return Some(Ok(None));
        }
        let addresses: Vec<(IpAddr, Duration)> = checked
            .addresses
            .iter()
            .map(|(address, ttl)| (*address, Duration::from_secs(u64::from(*ttl))))
            .collect();
        let chain = || checked.chain.iter().map(text_of).collect();
        let until = match self.usable_until(endpoint, rule, chain, &addresses, deadline).await {
            Ok(until) => until,
            Err(Some(Refused::StaleGeneration)) => return None,
            Err(Some(Refused::Absent)) => return Some(self.only_usable(checked, endpoint)),
            Err(refused) => return Some(Err(self.not_usable(refused))),
        };
        answer::bound_by_grant(checked, whole_seconds(until));
        Some(Ok(Some(until)))
    }

    /// An answer of which nothing is taken away: granted, and passed on as it came.
    async fn grant_whole(
        &self,
        verbatim: &Verbatim,
        endpoint: &Arc<Endpoint>,
        rule: NameRule,
        given: impl Fn(u32) -> u32,
        deadline: tokio::time::Instant,
    ) -> Result<Result<Ready, Failure>, Option<Refused>> {
        let seconds = |ttl| Duration::from_secs(u64::from(given(ttl)));
        let addresses: Vec<_> =
            verbatim.addresses().iter().map(|(address, ttl)| (*address, seconds(*ttl))).collect();
        let chain = || verbatim.chain().to_vec();
        let until = self.usable_until(endpoint, rule, chain, &addresses, deadline).await?;
        let most = whole_seconds(until);
        let written = self.write(verbatim, |ttl| given(ttl).min(most));
        Ok(written.map(|bytes| {
            let addresses = addresses.into_iter().map(|(address, _)| address).collect();
            let outcome = Outcome::Answered { addresses, would_filter: false };
            self.decided(Answer { code: codes::NOERROR, policy: None, outcome });
            Ready { bytes, endpoint: Arc::clone(endpoint), usable_until: Some(until) }
        }))
    }

    /// Until when these addresses are usable, once they are.
    async fn usable_until(
        &self,
        endpoint: &Endpoint,
        rule: NameRule,
        chain: impl FnOnce() -> Vec<Arc<str>>,
        addresses: &[(IpAddr, Duration)],
        deadline: tokio::time::Instant,
    ) -> Result<Instant, Option<Refused>> {
        let (name, granted) = (&self.waiting.text, &endpoint.granted);
        if let Some(until) = granted.covers(name, addresses, Instant::now()) {
            return Ok(until);
        }
        let Granted { usable_for } = self.request(chain(), endpoint, rule.grace, addresses, deadline).await?;
        let now = Instant::now();
        granted.record(name, addresses, now, usable_for);
        Ok(now + usable_for)
    }

    /// None: there was no word in time.
    async fn request(
        &self,
        chain: Vec<Arc<str>>,
        endpoint: &Endpoint,
        grace: Duration,
        addresses: &[(IpAddr, Duration)],
        deadline: tokio::time::Instant,
    ) -> Result<Granted, Option<Refused>> {
        self.server.0.counters.grants.count();
        let request = GrantRequest {
            endpoint: endpoint.view.uid.clone(),
            generation: endpoint.view.generation,
            name: self.waiting.text.clone(),
            chain,
            addresses: addresses.to_vec(),
            grace,
        };
        let granting = self.server.0.grantor.grant(request);
        timeout_at(deadline, granting).await.map_err(|_| None)?.map_err(Some)
    }

    fn not_usable(&self, refused: Option<Refused>) -> Failure {
        match refused {
            Some(Refused::Limit(what)) => Failure::Limit(format!("as many {what} as it may have")),
            Some(Refused::NoSuchEndpoint) => Failure::Gone,
            Some(other) => Failure::NotUsable(other.to_string()),
            None => Failure::NotUsable(format!(
                "an enforcer did not confirm within {} ms",
                self.server.0.grant_wait.as_millis()
            )),
        }
    }

    /// While the enforcer is away: what was granted before, and nothing else (promise 4).
    fn only_usable(&self, checked: &mut Checked, endpoint: &Endpoint) -> Result<Option<Instant>, Failure> {
        let now = Instant::now();
        let usable = |address: &IpAddr| endpoint.granted.usable_until(&self.waiting.text, *address, now);
        checked.addresses.retain(|(address, _)| usable(address).is_some());
        let until = checked.addresses.iter().filter_map(|(address, _)| usable(address)).min();
        let Some(until) = until else {
            return Err(Failure::NotUsable(
                "no enforcer is connected, and nothing was granted before".into(),
            ));
        };
        let kept: Vec<IpAddr> = checked.addresses.iter().map(|(address, _)| *address).collect();
        checked.answers.retain(|record| leads_only_to(record, &kept));
        self.server.0.counters.stale.count();
        answer::bound_by_grant(checked, whole_seconds(until));
        Ok(Some(until))
    }

    /// The answer and the question as records.
    fn read<'c>(&self, cached: &'c CachedAnswer) -> Result<(Cow<'c, Message>, Asked), Failure> {
        let message = match &cached.reply {
            Reply::Message(message) => Ok(Cow::Borrowed(&**message)),
            Reply::Verbatim(_) => cached.reply.clone().into_message().map(Cow::Owned),
        };
        let unreadable = || Failure::NotUsable("the answer cannot be read".into());
        let name = answer::name_of(&self.query).ok_or_else(unreadable)?;
        let record_type = RecordType::from(self.query.record_type);
        let asked = Asked { name, record_type, dnssec_ok: self.query.dnssec_ok() };
        Ok((message.map_err(|_| unreadable())?, asked))
    }

    fn check(&self, message: &Message, asked: &Asked, terms: Option<&dyn Terms>) -> Checked {
        let checked = check(message, asked, terms);
        let counters = &self.server.0.counters;
        counters.foreign_records.add(checked.removed.foreign as u64);
        counters.bad_chains.add(u64::from(checked.removed.bad_chain));
        checked
    }

    fn tell_removed(&self, code: u16, private: &[IpAddr]) {
        if private.is_empty() {
            return;
        }
        self.server.0.counters.private_address.count();
        let addresses: Vec<_> = private.iter().take(4).map(ToString::to_string).collect();
        self.decided(Answer::denied(code, Reason::PrivateAddress, &addresses.join(", ")));
    }

    fn write(&self, verbatim: &Verbatim, ttl: impl Fn(u32) -> u32) -> Result<Vec<u8>, Failure> {
        let written = verbatim.write(&self.query, ttl);
        written.ok_or_else(|| Failure::NotUsable("the answer cannot be written".into()))
    }

    fn build(&self, checked: Checked, message: &Message, asked: &Asked) -> Result<Vec<u8>, Failure> {
        let authentic = message.metadata.authentic_data;
        let mut bytes = answer::build(&self.query, &asked.name, checked, authentic)
            .ok_or_else(|| Failure::NotUsable("the answer cannot be written".into()))?;
        // The question in the letter case of the one who asks.
        let name = &self.query.name;
        if let Some(question) = bytes.get_mut(crate::wire::HEADER..crate::wire::HEADER + name.len()) {
            question.copy_from_slice(name);
        }
        Ok(bytes)
    }

    fn remember(&self, ready: &Ready) {
        let key = Key::of(&self.query, self.waiting.meaning.number);
        ready.endpoint.fast.remember(&key, &ready.bytes, Instant::now(), ready.usable_until);
    }

    fn fail(&self, failure: Failure) -> Vec<u8> {
        let counters = &self.server.0.counters;
        match failure {
            Failure::Here { code, soa, error, policy } => {
                if let Some(error) = &error {
                    counters.filtered.count();
                    self.decided(Answer::denied(code, Reason::Filtered, &error.text).by(policy));
                }
                reply::negative(&self.query, code, soa, error.as_ref())
            }
            Failure::Upstream(error) => {
                counters.upstream.count();
                self.stale().unwrap_or_else(|| {
                    self.unanswered(Reason::Upstream, &error.to_string());
                    let code = match error {
                        UpstreamError::Code { .. } => ede::NETWORK_ERROR,
                        UpstreamError::Silent { .. }
                        | UpstreamError::Unreachable { .. }
                        | UpstreamError::Nobody => ede::NO_REACHABLE_AUTHORITY,
                    };
                    self.servfail(code, &format!("nameward: upstream; {error}"))
                })
            }
            Failure::NotUsable(why) => {
                counters.grant_timeout.count();
                self.unanswered(Reason::GrantTimeout, &why);
                self.servfail(ede::OTHER, &format!("nameward: grant-timeout; {why}"))
            }
            Failure::Limit(what) => {
                counters.limit.count();
                self.unanswered(Reason::Limit, &what);
                self.servfail(ede::OTHER, &format!("nameward: limit; {what}"))
            }
            Failure::Gone => reply::negative(&self.query, codes::REFUSED, false, None),
        }
    }

    /// A8: an answer whose TTL is over, while the grant behind it lives and the rules are the same.
    fn stale(&self) -> Option<Vec<u8>> {
        let endpoint = self.server.0.endpoints.get(&self.waiting.endpoint.view.uid)?;
        let key = Key::of(&self.query, self.waiting.meaning.number);
        let mut bytes = Vec::new();
        let accept = Accept::Stale(STALE_TTL);
        endpoint.fast.answer(&key, &self.query, Instant::now(), accept, &mut bytes).then(|| {
            self.server.0.counters.stale.count();
            bytes
        })
    }

    fn servfail(&self, code: u16, text: &str) -> Vec<u8> {
        let error = ExtendedError::new(code, text);
        reply::negative(&self.query, codes::SERVFAIL, false, Some(&error))
    }

    /// SERVFAIL.
    fn unanswered(&self, reason: Reason, detail: &str) {
        self.decided(Answer::denied(codes::SERVFAIL, reason, detail));
    }

    fn decided(&self, answer: Answer) {
        let Waiting { client, text, .. } = self.waiting;
        self.server.0.decided(client, (text, self.query.record_type), answer);
    }
}

/// Whether the rules take nothing of an answer away.
pub(crate) fn passes_whole(verbatim: &Verbatim, terms: &RuleTerms<'_>) -> bool {
    let granted = |address| terms.admission(address) == Admission::Grant;
    let chain_counts = terms.rule.strict_chain && !verbatim.chain().is_empty();
    !chain_counts && verbatim.addresses().iter().all(|(address, _)| granted(*address))
}

/// The response code that the answer will have.
const fn code_of(checked: &Checked) -> u16 {
    if checked.not_found { codes::NXDOMAIN } else { codes::NOERROR }
}

fn whole_seconds(until: Instant) -> u32 {
    let left = until.saturating_duration_since(Instant::now()).as_secs();
    u32::try_from(left).unwrap_or(u32::MAX)
}

/// Whether a record names no address but these. Service records with learned hints are left out whole.
fn leads_only_to(record: &Record, addresses: &[IpAddr]) -> bool {
    match &record.data {
        RData::A(a) => addresses.contains(&IpAddr::from(a.0)),
        RData::AAAA(aaaa) => addresses.contains(&IpAddr::from(aaaa.0)),
        RData::HTTPS(_) | RData::SVCB(_) => false,
        _ => true,
    }
}

fn text_of(name: &DnsName) -> Arc<str> {
    let text = name.to_lowercase().to_ascii();
    text.strip_suffix('.').unwrap_or(&text).into()
}
