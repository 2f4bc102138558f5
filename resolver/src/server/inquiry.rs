//! The part of a question's way that waits for nobody: read it, who asks, may it, was it answered before.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Instant,
};

use nameward_policy::{Name, Reason};
use tokio::sync::OwnedSemaphorePermit;

use super::{Answer, Meaning, OnItsWay, Server};
use crate::{
    decide::{Verdict, decide},
    endpoints::Endpoint,
    fast_path::{Accept, Key},
    grants::Scope,
    limits::Place,
    wire::{
        codes, ede,
        query::{Query, Unanswerable},
        reply::{self, ExtendedError},
        types,
    },
};

/// What becomes of a message.
pub(super) enum Inquiry {
    /// The answer was written.
    Answered,
    /// Nothing is sent.
    Silence,
    /// Somebody has to be waited for.
    Waiting(Box<Waiting>),
}

/// A question that may be asked.
pub(super) struct Waiting {
    pub(super) message: Vec<u8>,
    pub(super) endpoint: Arc<Endpoint>,
    /// Of whom is told that it asked.
    pub(super) client: Arc<Endpoint>,
    pub(super) name: Name,
    pub(super) text: Arc<str>,
    pub(super) verdict: Verdict,
    pub(super) meaning: Meaning,
    pub(super) forwarded: bool,
    _place: Place,
    _permit: OwnedSemaphorePermit,
    _on_its_way: OnItsWay,
}

/// One query and what is known of it.
struct Asker<'a> {
    server: &'a Server,
    query: Query<'a>,
    endpoint: Arc<Endpoint>,
    /// Whose limits the question counts against.
    client: Arc<Endpoint>,
    meaning: Meaning,
    forwarded: bool,
    /// Nobody guards who asks, and such clients are not filtered.
    unguarded: Option<Arc<Endpoint>>,
    now: Instant,
}

/// Who asks.
struct Who {
    /// Whose rules count.
    endpoint: Arc<Endpoint>,
    /// Whose limits.
    client: Arc<Endpoint>,
    /// By way of a forwarder.
    forwarded: bool,
    /// Whose rules count where those of `endpoint` filter: a client's that nobody guards.
    unguarded: Option<Arc<Endpoint>>,
}

impl Server {
    /// Takes a message that came at about `now`, and writes the answer behind what `into` holds, if it can be given at once.
    pub(super) fn inquire(
        &self,
        message: &[u8],
        peer: IpAddr,
        meaning: Meaning,
        now: Instant,
        into: &mut Vec<u8>,
    ) -> Inquiry {
        let counters = &self.0.counters;
        counters.received.count();
        let query = match Query::read(message) {
            Ok(query) => query,
            Err(Unanswerable::Silent) => {
                counters.malformed.count();
                return Inquiry::Silence;
            }
            Err(Unanswerable::Code { code, question, edns }) => {
                counters.malformed.count();
                into.extend(reply::unanswerable(message, code, question, edns));
                return Inquiry::Answered;
            }
        };
        let Some(Who { endpoint, client, forwarded, unguarded }) = self.who(&query, peer, meaning.local)
        else {
            counters.unknown_endpoint.count();
            let error = ExtendedError::new(ede::PROHIBITED, "nameward: no workload is known by this address");
            into.extend(reply::negative(&query, codes::REFUSED, false, Some(&error)));
            return Inquiry::Answered;
        };
        let asker = Asker { server: self, query, endpoint, client, meaning, forwarded, unguarded, now };
        asker.answer(message, into)
    }

    /// Q1: the kernel's word, or a trusted forwarder's.
    fn who(&self, query: &Query<'_>, peer: IpAddr, local: SocketAddr) -> Option<Who> {
        let endpoints = &self.0.endpoints;
        if self.forwards(peer) {
            let client = query.edns.and_then(|edns| edns.client);
            // A forwarder that does not say whom it asks for is none of those whom nobody guards.
            let may_pass = client.is_some();
            let client = client.and_then(|client| endpoints.who(local, peer, Some(client)));
            let unguarded = self.0.unguarded.clone().filter(|_| may_pass && client.is_none());
            let endpoint = match endpoints.scope() {
                Scope::Endpoint => client.clone(),
                // Q9: the forwarder will give the answer to others, whoever asks now.
                Scope::Name => endpoints.everyone(),
            };
            let endpoint = endpoint.or_else(|| unguarded.clone())?;
            let client = client.or_else(|| unguarded.clone()).unwrap_or_else(|| Arc::clone(&endpoint));
            return Some(Who { endpoint, client, forwarded: true, unguarded });
        }
        let endpoint = match self.0.believe_sources {
            true => endpoints.who(local, peer, None),
            false => endpoints.vouched(local, peer),
        }?;
        Some(Who { client: Arc::clone(&endpoint), endpoint, forwarded: false, unguarded: None })
    }
}

impl Asker<'_> {
    fn answer(mut self, message: &[u8], into: &mut Vec<u8>) -> Inquiry {
        let counters = &self.server.0.counters;
        let a_second = self.client.view.rules.limits().queries_per_second;
        if !self.client.limits.take(a_second, self.now) {
            return self.over_limit(&format!("more than {a_second} queries a second"), into);
        }
        let key = Key::of(&self.query, self.meaning.number);
        if self.endpoint.fast.answer(&key, &self.query, self.now, Accept::Fresh, into) {
            counters.fast.count();
            return Inquiry::Answered;
        }
        let text = self.query.name_text();
        let Ok(name) = Name::parse(&text) else {
            counters.malformed.count();
            into.extend(reply::negative(&self.query, codes::REFUSED, false, None));
            return Inquiry::Answered;
        };
        if self.server.0.outstanding.is_ours(&self.query) {
            counters.looped.count();
            let detail = "this is our own question: the upstream asks us";
            self.denied(&text, Answer::denied(codes::SERVFAIL, Reason::Loop, detail));
            return self.servfail(ede::OTHER, &format!("nameward: loop; {detail}"), into);
        }
        let mut verdict = decide(&self.endpoint.view.rules, &name, self.forwarded);
        if let Some(unguarded) = self.unguarded.take()
            && matches!(verdict, Verdict::Here { .. })
        {
            self.endpoint = unguarded;
            if self.endpoint.fast.answer(&key, &self.query, self.now, Accept::Fresh, into) {
                counters.fast.count();
                return Inquiry::Answered;
            }
            verdict = decide(&self.endpoint.view.rules, &name, self.forwarded);
        }
        match verdict {
            Verdict::Here { code, soa, error, policy } => {
                if let Some(error) = &error {
                    self.server.0.counters.filtered.count();
                    self.denied(&text, Answer::denied(code, Reason::Filtered, &error.text).by(policy));
                }
                into.extend(reply::negative(&self.query, code, soa, error.as_ref()));
                Inquiry::Answered
            }
            Verdict::Grant(_) | Verdict::Pass { .. } if self.query.record_type == types::ANY => {
                into.extend(reply::any(&self.query));
                Inquiry::Answered
            }
            verdict @ (Verdict::Grant(_) | Verdict::Pass { .. }) => {
                self.wait(message, name, text, verdict, into)
            }
        }
    }

    fn wait(self, message: &[u8], name: Name, text: String, verdict: Verdict, into: &mut Vec<u8>) -> Inquiry {
        let most = self.client.view.rules.limits().pending_queries;
        let place = self.client.limits.enter(usize::try_from(most).unwrap_or(usize::MAX));
        let Some(place) = place else {
            return self.over_limit(&format!("more than {most} questions wait for an answer"), into);
        };
        let Ok(permit) = self.server.0.pending.clone().try_acquire_owned() else {
            return self.over_limit("the resolver is busy with questions of all workloads", into);
        };
        Inquiry::Waiting(Box::new(Waiting {
            message: message.to_vec(),
            endpoint: self.endpoint,
            client: self.client,
            name,
            text: text.into(),
            verdict,
            meaning: self.meaning,
            forwarded: self.forwarded,
            _place: place,
            _permit: permit,
            _on_its_way: OnItsWay::new(self.server),
        }))
    }

    /// Q8
    fn over_limit(&self, what: &str, into: &mut Vec<u8>) -> Inquiry {
        self.server.0.counters.limit.count();
        if self.client.limits.tell(self.now) {
            let answer = Answer::denied(codes::SERVFAIL, Reason::Limit, what);
            self.denied(&self.query.name_text(), answer);
        }
        self.servfail(ede::OTHER, &format!("nameward: limit; {what}"), into)
    }

    fn servfail(&self, code: u16, text: &str, into: &mut Vec<u8>) -> Inquiry {
        let error = ExtendedError::new(code, text);
        into.extend(reply::negative(&self.query, codes::SERVFAIL, false, Some(&error)));
        Inquiry::Answered
    }

    fn denied(&self, text: &str, answer: Answer) {
        self.server.0.decided(&self.client, (&text.into(), self.query.record_type), answer);
    }
}

/// Q7: what does not fit into a client's datagram is cut, so that it asks again over TCP.
pub(super) fn fit(server: &Server, message: &[u8], from: usize, into: &mut Vec<u8>) {
    let Ok(query) = Query::read(message) else { return };
    if into.len() - from > query.udp_limit() {
        server.0.counters.truncated.count();
        let cut = reply::truncated(&into[from..], &query);
        into.truncate(from);
        into.extend(cut);
    }
}
