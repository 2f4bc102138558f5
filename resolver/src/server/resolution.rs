//! The part of a question's way that waits: for an upstream, and for the grant.
//!
//! The one place where an answer to an allowed name is let go, after its addresses are usable (G1, promise 1).

use std::{
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use hickory_proto::rr::{Name as DnsName, RData, Record, RecordType};
use nameward_policy::{NameRule, PolicyRef, Reason};
use tokio::time::timeout_at;

use super::{Answer, Server, inquiry::Waiting};
use crate::{
    answer::{self, TtlBounds},
    cache::CachedAnswer,
    check::{Asked, Checked, Terms, check},
    decide::{RuleTerms, Verdict, decide},
    decisions::Outcome,
    endpoints::Endpoint,
    fast_path::{Accept, Key},
    grants::{GrantRequest, Granted, Refused},
    upstream::{Question, UpstreamError},
    wire::{
        codes, ede,
        query::Query,
        reply::{self, ExtendedError},
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
    asked: Asked,
    waiting: &'a Waiting,
}

/// An answer and how long it is good for.
struct Ready {
    bytes: Vec<u8>,
    endpoint: Arc<Endpoint>,
    usable_until: Option<Instant>,
}

impl Server {
    /// Answers a question that had to wait. Always gives an answer.
    pub(super) async fn resolve(&self, waiting: &Waiting) -> Vec<u8> {
        // It was read before from the same octets.
        let Ok(query) = Query::read(&waiting.message) else { return Vec::new() };
        let Some(name) = answer::name_of(&query) else {
            return reply::negative(&query, codes::FORMERR, false, None);
        };
        let record_type = RecordType::from(query.record_type);
        let asked = Asked { name, record_type, dnssec_ok: query.dnssec_ok() };
        let resolution = Resolution { server: self, query, asked, waiting };
        match resolution.run().await {
            Ok(ready) => {
                resolution.remember(&ready);
                ready.bytes
            }
            Err(failure) => resolution.fail(failure),
        }
    }
}

impl Resolution<'_> {
    async fn run(&self) -> Result<Ready, Failure> {
        let cached = self.ask().await.map_err(Failure::Upstream)?;
        let mut endpoint = self.waiting.endpoint.clone();
        let mut verdict = self.waiting.verdict.clone();
        let deadline = tokio::time::Instant::now() + self.server.0.grant_wait;
        for _ in 0..MOST_CHANGES {
            let rule = match verdict {
                Verdict::Grant(rule) => rule,
                Verdict::Pass { would_filter } => {
                    return self.pass(&cached, endpoint, would_filter, deadline).await;
                }
                Verdict::Here { code, soa, error, policy } => {
                    return Err(Failure::Here { code, soa, error, policy });
                }
            };
            match self.grant(&cached, &endpoint, rule, deadline).await {
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

    async fn ask(&self) -> Result<Arc<CachedAnswer>, UpstreamError> {
        let shared = &self.server.0;
        let group = shared.routes.group(&self.waiting.name, self.waiting.meaning.server);
        let question = Question::of(&self.query);
        let key = (group.number(), question.clone());
        if let Some(cached) = shared.cache.get(&key, Instant::now()) {
            shared.counters.cached.count();
            return Ok(cached);
        }
        let (outstanding, counters) = (shared.outstanding.clone(), shared.counters.clone());
        let asking = async move { group.ask(&question, &outstanding, &counters).await };
        shared.cache.ask(key, asking).await
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
        let mut checked = self.check(cached, None);
        if would_filter || endpoint.view.rules.observes() {
            let addresses = answer::addresses_of(&checked);
            if !addresses.is_empty()
                && let Err(refused) =
                    self.request(&checked, &endpoint, Duration::ZERO, &addresses, deadline).await
            {
                tracing::debug!(
                    name = &*self.waiting.text,
                    ?refused,
                    "packets will not be told with this name"
                );
            }
        }
        let bounds = TtlBounds { least: 0, most: LONGEST_PASSED };
        answer::clamp(&mut checked, bounds, cached.age(Instant::now()));
        let code = code_of(&checked);
        let bytes = self.build(checked, cached)?;
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
        let mut checked = self.check(cached, Some(&terms));
        if self.waiting.forwarded {
            checked.hide_from_caches();
        }
        let bounds = endpoint.view.rules.ttl();
        let bounds =
            TtlBounds { least: bounds.min_seconds.min(bounds.max_seconds), most: bounds.max_seconds };
        answer::clamp(&mut checked, bounds, cached.age(Instant::now()));
        let usable_until = match self.make_usable(&mut checked, endpoint, rule, deadline).await? {
            Ok(usable_until) => usable_until,
            Err(failure) => return Some(Err(failure)),
        };
        let addresses = checked.addresses.iter().map(|(address, _)| *address).collect();
        let (code, private) = (code_of(&checked), checked.removed.private.clone());
        let built = self.build(checked, cached);
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
        let now = Instant::now();
        let until = match endpoint.granted.covers(&self.waiting.text, &addresses, now) {
            Some(until) => until,
            None => match self.request(checked, endpoint, rule.grace, &addresses, deadline).await {
                Ok(granted) => {
                    let now = Instant::now();
                    endpoint.granted.record(&self.waiting.text, &addresses, now, granted.usable_for);
                    now + granted.usable_for
                }
                Err(Some(Refused::StaleGeneration)) => return None,
                Err(Some(Refused::Absent)) => return Some(self.only_usable(checked, endpoint)),
                Err(refused) => return Some(Err(self.not_usable(refused))),
            },
        };
        answer::bound_by_grant(checked, whole_seconds(until));
        Some(Ok(Some(until)))
    }

    /// None: there was no word in time.
    async fn request(
        &self,
        checked: &Checked,
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
            chain: checked.chain.iter().map(text_of).collect(),
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

    fn check(&self, cached: &CachedAnswer, terms: Option<&dyn Terms>) -> Checked {
        let checked = check(&cached.message, &self.asked, terms);
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

    fn build(&self, checked: Checked, cached: &CachedAnswer) -> Result<Vec<u8>, Failure> {
        let authentic = cached.message.metadata.authentic_data;
        let mut bytes = answer::build(&self.query, &self.asked.name, checked, authentic)
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
