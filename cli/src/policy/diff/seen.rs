//! What was seen of an endpoint: names that were asked for, connections that live, decisions. Each thing once.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use jiff::Timestamp;
use nameward_api::{
    suggest::{port_text, read_port},
    types::{Decision, Direction},
};
use nameward_policy::Name;

use super::Known;

/// Where something went.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Target {
    Name(Name),
    Address(IpAddr),
}

/// Something that was seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Seen {
    pub(super) target: Target,
    /// Protocol and port; none for the name alone.
    pub(super) port: Option<(u8, u16)>,
    /// Connections that live.
    pub(super) live: u64,
    pub(super) last_at: Option<Timestamp>,
}

impl Seen {
    pub(super) fn destination(&self) -> String {
        match &self.target {
            Target::Name(name) => name.to_string(),
            Target::Address(address) => address.to_string(),
        }
    }

    pub(super) fn port_text(&self) -> Option<String> {
        self.port.map(|(protocol, port)| port_text(protocol, port))
    }
}

/// All of one endpoint.
#[derive(Debug, Default)]
pub(super) struct Sightings {
    all: BTreeMap<(Target, Option<(u8, u16)>), Seen>,
    /// Addresses that names gave.
    pub(super) addresses: BTreeMap<Name, BTreeSet<IpAddr>>,
}

impl Sightings {
    pub(super) fn of(endpoint: &str, known: &Known) -> Self {
        let mut sightings = Self::default();
        for binding in known.bindings.iter().filter(|one| *one.endpoint == *endpoint) {
            let Ok(name) = Name::parse(&binding.name) else { continue };
            let addresses = binding.addresses.iter().map(|lease| lease.address);
            sightings.addresses.entry(name.clone()).or_default().extend(addresses);
            sightings.note(Target::Name(name), None, 0, Some(binding.asked_at));
        }
        for traffic in known.traffic.iter().filter(|one| *one.endpoint == *endpoint && one.reason != "reply")
        {
            for target in traffic.destination.split(',').filter_map(target) {
                let ports = traffic.ports.iter().filter_map(|text| read_port(text)).map(Some);
                let mut ports: Vec<_> = ports.collect();
                if ports.is_empty() && matches!(target, Target::Name(_)) {
                    // It does not say which: the name alone is asked about.
                    ports.push(None);
                }
                for port in ports {
                    sightings.note(target.clone(), port, traffic.flows, None);
                }
            }
        }
        for decision in known.decisions.iter().filter(|one| *one.endpoint == *endpoint) {
            sightings.decision(decision);
        }
        sightings
    }

    fn decision(&mut self, decision: &Decision) {
        if decision.direction != Direction::Egress {
            return;
        }
        let name = decision.name.as_deref().and_then(|name| Name::parse(name).ok());
        if decision.query_type.is_some() {
            // What failed for another reason says nothing of rules.
            if let Some(name) = name.filter(|_| decision.reason == "filtered") {
                self.note(Target::Name(name), None, 0, Some(decision.at));
            }
            return;
        }
        let is_of_rules = nameward_policy::Reason::from_word(&decision.reason)
            .is_some_and(nameward_policy::Reason::is_of_rules);
        if !is_of_rules || decision.remote.is_unspecified() {
            return;
        }
        if let Some(name) = &name {
            self.addresses.entry(name.clone()).or_default().insert(decision.remote);
        }
        let target = name.map_or(Target::Address(decision.remote), Target::Name);
        self.note(target, Some((decision.protocol, decision.remote_port)), 0, Some(decision.at));
    }

    fn note(&mut self, target: Target, port: Option<(u8, u16)>, live: u64, at: Option<Timestamp>) {
        let anew = || Seen { target: target.clone(), port, live: 0, last_at: None };
        let seen = self.all.entry((target.clone(), port)).or_insert_with(anew);
        seen.live += live;
        seen.last_at = seen.last_at.max(at);
    }

    /// A name alone is left out where it was seen with a port: that says more.
    pub(super) fn all(&self) -> impl Iterator<Item = &Seen> {
        let with_port: BTreeSet<&Target> =
            self.all.values().filter(|seen| seen.port.is_some()).map(|seen| &seen.target).collect();
        self.all.values().filter(move |seen| seen.port.is_some() || !with_port.contains(&seen.target))
    }
}

fn target(text: &str) -> Option<Target> {
    match text.parse() {
        Ok(address) => Some(Target::Address(address)),
        Err(_) => Name::parse(text).ok().map(Target::Name),
    }
}
