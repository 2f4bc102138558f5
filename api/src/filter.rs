//! Filters as people write them in a query string, and what passes them. Pure.

use std::net::IpAddr;

use ipnet::IpNet;
use jiff::Timestamp;
use nameward_policy::{Destination, Name, Pattern, Reason};

use crate::{
    Problem,
    types::{
        BindingStatus, Decision, Direction, EndpointStatus, PolicyStatus, RuleName, Verdict, namespace_of,
    },
};

/// Which endpoints are meant. Empty means all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EndpointFilter {
    /// An identifier or a name.
    pub endpoint: Option<String>,
    /// The part of the name before the slash.
    pub namespace: Option<String>,
    /// The part of the name behind the slash.
    pub pod: Option<String>,
}

impl EndpointFilter {
    /// Whether an endpoint is meant.
    pub fn passes(&self, uid: &str, name: &str) -> bool {
        let own = name.split_once('/').map_or(name, |(_, own)| own);
        self.endpoint.as_deref().is_none_or(|wanted| wanted == uid || wanted == name)
            && self.namespace.as_deref().is_none_or(|wanted| namespace_of(name) == Some(wanted))
            && self.pod.as_deref().is_none_or(|wanted| wanted == own)
    }

    /// The same for a whole status.
    pub fn passes_status(&self, status: &EndpointStatus) -> bool {
        self.passes(&status.uid, &status.name)
    }
}

/// Which bindings of an endpoint are meant.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BindingFilter {
    /// Names.
    pub name: Option<Pattern>,
    /// Addresses; the binding needs one of them.
    pub address: Option<IpNet>,
    /// A policy that allows the name.
    pub policy: Option<String>,
    /// Only those that new connections may use, or only lapsed ones.
    pub live: Option<bool>,
}

impl BindingFilter {
    /// Whether a name is meant.
    pub fn passes_name(&self, name: &Name) -> bool {
        self.name.as_ref().is_none_or(|pattern| pattern.matches(name))
    }

    /// Whether an address is meant.
    pub fn passes_address(&self, address: IpAddr) -> bool {
        self.address.is_none_or(|net| net.contains(&address.to_canonical()))
    }

    /// The only address that is meant, where it is one.
    pub fn single_address(&self) -> Option<IpAddr> {
        self.address.filter(|net| net.prefix_len() == net.max_prefix_len()).map(|net| net.addr())
    }

    /// Whether [`passes_rest`](Self::passes_rest) may say no.
    pub fn asks_for_more(&self) -> bool {
        self.live.is_some() || self.policy.is_some()
    }

    /// Whether what is only known of a whole binding passes.
    pub fn passes_rest(&self, binding: &BindingStatus) -> bool {
        self.live.is_none_or(|live| live == binding.is_live())
            && self
                .policy
                .as_deref()
                .is_none_or(|wanted| binding.rules.iter().any(|rule| names(rule, wanted)))
    }
}

/// Which verdicts are meant. Where own and staged ones are named, a decision needs one of each.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verdicts {
    /// What became of it; none = all.
    pub own: Vec<Verdict>,
    /// What would have become of it if Audit policies were enforced, too (R6); none = all.
    pub staged: Vec<Verdict>,
}

impl Verdicts {
    fn passes(&self, decision: &Decision) -> bool {
        let staged = decision.staged.as_ref().map(|staged| staged.verdict);
        (self.own.is_empty() || self.own.contains(&decision.verdict))
            && (self.staged.is_empty() || staged.is_some_and(|verdict| self.staged.contains(&verdict)))
    }
}

/// Which decisions are meant.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DecisionFilter {
    /// Of whom.
    pub endpoint: EndpointFilter,
    /// Names.
    pub name: Option<Pattern>,
    /// Addresses of the peer.
    pub address: Option<IpNet>,
    /// A policy that took part.
    pub policy: Option<String>,
    /// Verdicts, own and staged.
    pub verdicts: Verdicts,
    /// Reasons; none = all.
    pub reasons: Vec<String>,
    /// Which way.
    pub direction: Option<Direction>,
    /// Not before.
    pub since: Option<Timestamp>,
    /// Before.
    pub until: Option<Timestamp>,
}

impl DecisionFilter {
    /// Whether a decision is meant. Its endpoint may be gone: then its identifier stands for its name.
    pub fn passes(&self, decision: &Decision) -> bool {
        let named = || decision.name.as_deref().and_then(|name| Name::parse(name).ok());
        self.endpoint.passes(&decision.endpoint, decision.workload_name())
            && self.verdicts.passes(decision)
            && (self.reasons.is_empty() || self.reasons.iter().any(|reason| *reason == decision.reason))
            && self.direction.is_none_or(|wanted| wanted == decision.direction)
            && self.since.is_none_or(|since| decision.at >= since)
            && self.until.is_none_or(|until| decision.at < until)
            && self.address.is_none_or(|net| decision.query_type.is_none() && net.contains(&decision.remote))
            && self.policy.as_deref().is_none_or(|wanted| {
                decision.policy.as_deref().is_some_and(|policy| {
                    policy
                        .split_once(" rule ")
                        .map_or(policy, |(policy, _)| policy)
                        .split(' ')
                        .any(|word| is_policy(word, wanted))
                })
            })
            && self.name.as_ref().is_none_or(|pattern| named().is_some_and(|name| pattern.matches(&name)))
    }
}

/// Whether a policy is meant by what somebody wrote: `NAMESPACE/NAME`, or the name alone.
pub fn is_policy_named(policy: &PolicyStatus, wanted: &str) -> bool {
    policy.full_name() == wanted || policy.name == wanted
}

fn names(rule: &RuleName, wanted: &str) -> bool {
    rule.policy.split(' ').any(|word| is_policy(word, wanted))
}

fn is_policy(word: &str, wanted: &str) -> bool {
    word == wanted || word.split_once('/').is_some_and(|(_, name)| name == wanted)
}

/// `name=`: a name, `*.NAME` or `*`.
///
/// # Errors
/// What is wrong with it.
pub fn pattern(text: Option<&str>) -> Result<Option<Pattern>, Problem> {
    let read = |text| Pattern::from_input(text).map_err(|error| Problem::bad(format!("name: {error}")));
    given(text).map(read).transpose()
}

/// `address=`: an address or a range.
///
/// # Errors
/// What is wrong with it.
pub fn addresses(text: Option<&str>) -> Result<Option<IpNet>, Problem> {
    let read = |text: &str| {
        let net = match text.parse::<IpAddr>() {
            Ok(address) => Ok(IpNet::from(address.to_canonical())),
            Err(_) => text.parse::<IpNet>(),
        };
        net.map_err(|_| {
            Problem::bad(format!("address {text:?}: write an address or a range like 198.51.100.0/24"))
        })
    };
    given(text).map(read).transpose()
}

/// `verdict=`: words with commas.
///
/// # Errors
/// What is wrong with it.
pub fn verdicts(text: Option<&str>) -> Result<Verdicts, Problem> {
    let mut verdicts = Verdicts::default();
    for word in words(text) {
        let (list, all, bare) = match word.strip_prefix("staged-") {
            Some(bare) => (&mut verdicts.staged, &[Verdict::Pass, Verdict::Deny][..], bare),
            None => (&mut verdicts.own, &Verdict::ALL[..], word),
        };
        let found = all.iter().find(|verdict| verdict.word() == bare);
        list.push(*found.ok_or_else(|| {
            Problem::bad(format!(
                "verdict {word:?}: write pass, deny, would-deny, staged-pass or staged-deny, with commas between"
            ))
        })?);
    }
    Ok(verdicts)
}

/// `reason=`: words with commas.
///
/// # Errors
/// What is wrong with it.
pub fn reasons(text: Option<&str>) -> Result<Vec<String>, Problem> {
    let all = || Reason::ALL.iter().map(|reason| reason.word()).collect::<Vec<_>>().join(", ");
    let read = |word: &str| match Reason::from_word(word) {
        Some(_) => Ok(word.to_owned()),
        None => Err(Problem::bad(format!("reason {word:?}: there are {}", all()))),
    };
    words(text).map(read).collect()
}

/// `direction=`.
///
/// # Errors
/// What is wrong with it.
pub fn direction(text: Option<&str>) -> Result<Option<Direction>, Problem> {
    let read = |text| match text {
        "egress" => Ok(Direction::Egress),
        "ingress" => Ok(Direction::Ingress),
        other => Err(Problem::bad(format!("direction {other:?}: write egress or ingress"))),
    };
    given(text).map(read).transpose()
}

/// `since=` and `until=`: RFC 3339.
///
/// # Errors
/// What is wrong with it.
pub fn time(what: &str, text: Option<&str>) -> Result<Option<Timestamp>, Problem> {
    let read = |text: &str| {
        text.parse()
            .map_err(|_| Problem::bad(format!("{what} {text:?}: write a time like 2027-01-31T00:00:00Z")))
    };
    given(text).map(read).transpose()
}

/// `destination=`: a name or an address.
///
/// # Errors
/// What is wrong with it.
pub fn destination(text: &str) -> Result<Destination, Problem> {
    if let Ok(address) = text.parse::<IpAddr>() {
        return Ok(Destination::Address(address));
    }
    let name = Name::from_input(text).map(Destination::Name);
    name.map_err(|error| Problem::bad(format!("destination {text:?}: {error}")))
}

/// `protocol=`: a word or a number.
///
/// # Errors
/// What is wrong with it.
pub fn protocol(text: &str) -> Result<u8, Problem> {
    match text.to_ascii_lowercase().as_str() {
        "tcp" => Ok(6),
        "udp" => Ok(17),
        "sctp" => Ok(132),
        "icmp" => Ok(1),
        number => number
            .parse()
            .map_err(|_| Problem::bad(format!("protocol {text:?}: write tcp, udp, sctp, icmp or a number"))),
    }
}

/// What is left empty is as if it were left out.
fn given(text: Option<&str>) -> Option<&str> {
    text.filter(|text| !text.is_empty())
}

fn words(text: Option<&str>) -> impl Iterator<Item = &str> {
    text.into_iter().flat_map(|text| text.split(',')).map(str::trim).filter(|word| !word.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::Staged;

    fn decision() -> Decision {
        Decision {
            sequence: 1,
            at: "2027-01-01T00:00:10Z".parse().unwrap(),
            endpoint: "ci/runner".into(),
            workload: None,
            verdict: Verdict::Deny,
            reason: "no-match".into(),
            direction: Direction::Egress,
            protocol: 6,
            local: "10.0.0.2".parse().unwrap(),
            local_port: 40_000,
            remote: "203.0.113.9".parse().unwrap(),
            remote_port: 443,
            name: Some("files.example.net".into()),
            query_type: None,
            response_code: None,
            policy: Some("EgressPolicy ci/runners rule web".into()),
            packets: 1,
            bytes: 60,
            generation: 1,
            staged: None,
        }
    }

    #[test]
    fn each_filter_of_decisions_takes_and_leaves() {
        let one = decision();
        let passes = |filter: DecisionFilter| filter.passes(&one);
        let endpoint =
            |endpoint: EndpointFilter| passes(DecisionFilter { endpoint, ..DecisionFilter::default() });
        let of = |text: &str| {
            endpoint(EndpointFilter { endpoint: Some(text.into()), ..EndpointFilter::default() })
        };
        assert!(of("ci/runner") && !of("runner"));
        let of = |text: &str| {
            endpoint(EndpointFilter { namespace: Some(text.into()), ..EndpointFilter::default() })
        };
        assert!(of("ci") && !of("c"));
        let of =
            |text: &str| endpoint(EndpointFilter { pod: Some(text.into()), ..EndpointFilter::default() });
        assert!(of("runner") && !of("ci/runner"));
        let of =
            |text| passes(DecisionFilter { name: pattern(Some(text)).unwrap(), ..DecisionFilter::default() });
        assert!(of("FILES.example.net.") && of("*.example.net") && of("*") && !of("*.files.example.net"));
        let of = |text| {
            passes(DecisionFilter { address: addresses(Some(text)).unwrap(), ..DecisionFilter::default() })
        };
        assert!(of("203.0.113.9") && of("203.0.113.0/24") && of("::ffff:203.0.113.9") && !of("203.0.113.10"));
        let of =
            |text: &str| passes(DecisionFilter { policy: Some(text.into()), ..DecisionFilter::default() });
        assert!(of("ci/runners") && of("runners") && !of("web") && !of("runner"));
        let of = |text| {
            passes(DecisionFilter { verdicts: verdicts(Some(text)).unwrap(), ..DecisionFilter::default() })
        };
        assert!(of("deny,pass") && of("") && !of("would-deny") && !of("staged-deny"));
        let of = |text| {
            passes(DecisionFilter { reasons: reasons(Some(text)).unwrap(), ..DecisionFilter::default() })
        };
        assert!(of("port, no-match") && !of("port"));
        let of = |text| {
            passes(DecisionFilter { direction: direction(Some(text)).unwrap(), ..DecisionFilter::default() })
        };
        assert!(of("egress") && !of("ingress"));
        let at = |text| time("since", Some(text)).unwrap();
        assert!(passes(DecisionFilter { since: at("2027-01-01T00:00:10Z"), ..DecisionFilter::default() }));
        assert!(!passes(DecisionFilter { until: at("2027-01-01T00:00:10Z"), ..DecisionFilter::default() }));
        assert!(!passes(DecisionFilter { since: at("2027-01-01T00:00:11Z"), ..DecisionFilter::default() }));
    }

    // R6
    #[test]
    fn staged_verdicts_are_asked_for_beside_the_others() {
        let staged = Staged { verdict: Verdict::Pass, reason: "cidr".into(), policy: None };
        let one = Decision { staged: Some(staged), ..decision() };
        let of = |text| {
            let verdicts = verdicts(Some(text)).unwrap();
            DecisionFilter { verdicts, ..DecisionFilter::default() }.passes(&one)
        };
        assert!(of("staged-pass") && of("staged-pass,staged-deny") && of("deny,staged-pass") && of("deny"));
        assert!(!of("staged-deny") && !of("pass,staged-pass") && !of("deny,staged-deny"));
        assert!(verdicts(Some("staged-would-deny")).unwrap_err().detail.contains("staged-pass"));
    }

    #[test]
    fn mistakes_say_what_to_write() {
        let said = |problem: Problem| (problem.status, problem.detail);
        assert!(said(pattern(Some("a*.example")).unwrap_err()).1.contains("name:"));
        assert!(said(addresses(Some("10.0.0")).unwrap_err()).1.contains("198.51.100.0/24"));
        assert!(said(verdicts(Some("denied")).unwrap_err()).1.contains("would-deny"));
        assert!(said(reasons(Some("because")).unwrap_err()).1.contains("no-match"));
        assert!(said(direction(Some("out")).unwrap_err()).1.contains("egress"));
        assert!(said(time("since", Some("yesterday")).unwrap_err()).1.contains("2027-01-31"));
        assert_eq!(said(destination("no name").unwrap_err()).0, 400);
        assert!(said(protocol("tpc").unwrap_err()).1.contains("write tcp"));
        assert_eq!((protocol("TCP"), protocol("47")), (Ok(6), Ok(47)));
        assert_eq!(destination("2001:db8::1"), Ok(Destination::Address("2001:db8::1".parse().unwrap())));
        assert_eq!(destination("Example.COM."), Ok(Destination::Name(Name::parse("example.com").unwrap())));
    }
}
