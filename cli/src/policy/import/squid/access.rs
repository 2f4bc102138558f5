//! What the lines of `http_access` come to, read in order: the first of which every acl matches decides.

use nameward_crds::Place;
use nameward_policy::Pattern;

use super::acl::{Acl, Acls, Ranges};
use crate::policy::import::{Options, Widen, meet, notes::Notes};

const WHO_ASKS: &str = "who asks is a matter of selectors here; import with --widen clients for a policy that lets everybody it selects";

/// A line of `http_access`.
pub(super) struct Access {
    pub(super) place: Place,
    pub(super) allow: bool,
    /// Names of acls, each with whether it must not match.
    pub(super) acls: Vec<(String, bool)>,
}

/// What the lines say.
#[derive(Default)]
pub(super) struct Reading {
    pub(super) allow: Vec<(Place, Vec<String>)>,
    pub(super) deny: Vec<(Place, Vec<String>)>,
    /// Ports that any request may go to, and those that tunnels may.
    pub(super) any: Option<Ranges>,
    pub(super) tunnels: Option<Ranges>,
    /// A line that could not be carried over denies.
    pub(super) refused: bool,
    /// Names beside which everything is denied from here on (`deny !NAMES`).
    only: Option<Vec<String>>,
}

/// A line, its acls looked up.
#[derive(Default)]
struct Line {
    names: Option<Vec<String>>,
    /// Whether all of the names are there.
    whole: bool,
    clients: bool,
    everything: bool,
    /// What it asks for that is not carried over.
    others: Vec<String>,
}

impl Reading {
    /// Reads one line; true when it decides whatever came so far undecided.
    pub(super) fn line(
        &mut self,
        access: &Access,
        acls: &Acls,
        options: &Options,
        notes: &mut Notes,
    ) -> bool {
        if self.limits(access, acls) {
            return false;
        }
        let Some(line) = looked_up(access, acls) else { return false };
        let lost = |notes: &mut Notes, reason: String| {
            let verb = if access.allow { "http_access allow" } else { "http_access deny" };
            notes.left_at(access.place, verb, reason);
        };
        // An allow that is not understood is not written; a deny that is not would be missed.
        if !line.others.is_empty() {
            lost(notes, format!("not carried over, as it asks for {}", line.others.join(" and ")));
            self.refused |= !access.allow;
            return false;
        }
        if line.clients && !options.widens(Widen::Clients) {
            lost(notes, WHO_ASKS.into());
            self.refused |= !access.allow;
            return false;
        }
        match (line.names, access.allow) {
            (Some(names), true) => self.allow(access.place, names, notes),
            (Some(names), false) => {
                if !line.whole {
                    lost(notes, "some of the names that it denies could not be carried over".into());
                    self.refused = true;
                }
                if self.allow.iter().any(|(_, allowed)| overlap(allowed, &names)) {
                    lost(notes, "a line before it allows some of these names; here what is denied stays denied, whatever the order".into());
                }
                self.deny.push((access.place, names));
            }
            (None, true) => {
                if let Some(names) = self.only.clone() {
                    self.allow.push((access.place, names));
                } else if line.clients {
                    lost(
                        notes,
                        "it lets somebody go everywhere; a policy that isolates others cannot say so".into(),
                    );
                } else {
                    lost(
                        notes,
                        "it allows everything that no line before denies: this is no list of what is allowed"
                            .into(),
                    );
                    self.refused = true;
                }
                return line.everything && !line.clients;
            }
            // What some clients are denied only narrows what others may do, which was agreed to be the same for all.
            (None, false) => return !line.clients,
        }
        false
    }

    /// Takes a line that denies all but some ports or names: each at most once, more of them narrow each other.
    fn limits(&mut self, access: &Access, acls: &Acls) -> bool {
        if access.allow {
            return false;
        }
        let found = |negated: bool, wanted: fn(&Acl) -> bool| {
            access
                .acls
                .iter()
                .find(|(name, is)| *is == negated && acls.get(name).is_some_and(wanted))
                .and_then(|(name, _)| acls.get(name))
        };
        let ports = match found(true, |acl| matches!(acl, Acl::Ports(_))) {
            Some(Acl::Ports(ports)) => Some(ports.clone()),
            _ => None,
        };
        let connect = found(false, |acl| *acl == Acl::Connect).is_some();
        let place = match (access.acls.len(), connect) {
            (1, false) => &mut self.any,
            (2, true) => &mut self.tunnels,
            _ => return false,
        };
        if let Some(ports) = ports {
            let is_first = place.is_none();
            if is_first {
                *place = Some(ports);
            }
            return is_first;
        }
        match found(true, |acl| matches!(acl, Acl::Names { .. })) {
            Some(Acl::Names { names, .. }) if access.acls.len() == 1 && self.only.is_none() => {
                self.only = Some(names.clone());
                true
            }
            _ => false,
        }
    }

    fn allow(&mut self, place: Place, mut names: Vec<String>, notes: &mut Notes) {
        if let Some(only) = &self.only {
            let before = names.len();
            names.retain(|name| covers(only, name));
            if names.len() < before {
                notes.left_at(
                    place,
                    "http_access allow",
                    "a line before it denies some of these names, or may",
                );
            }
        }
        if !names.is_empty() {
            self.allow.push((place, names));
        }
    }
}

/// The acls of a line; `None` when it is about nothing that passes here: Squid's own pages, addresses that names never
/// grant.
fn looked_up(access: &Access, acls: &Acls) -> Option<Line> {
    let mut line = Line { everything: access.acls.is_empty(), whole: true, ..Line::default() };
    for (name, negated) in &access.acls {
        let Some(acl) = acls.get(name) else {
            line.others.push(format!("`{name}`, which no acl defines"));
            continue;
        };
        match (acl, *negated) {
            (Acl::Proxy | Acl::Never, false) => return None,
            (Acl::All, false) => line.everything = true,
            (Acl::Clients, _) => line.clients = true,
            (Acl::Names { names, whole }, false) if line.names.is_none() => {
                line.names = Some(names.clone());
                line.whole = *whole;
            }
            (Acl::Other(what), _) => line.others.push(format!("`{name}`: {what}")),
            (_, true) => line.others.push(format!("`!{name}`")),
            (_, false) => line.others.push(format!("`{name}` beside others")),
        }
    }
    Some(line)
}

fn parsed(texts: &[String]) -> Vec<Pattern> {
    texts.iter().filter_map(|text| Pattern::parse(text).ok()).collect()
}

fn overlap(one: &[String], other: &[String]) -> bool {
    let (one, other) = (parsed(one), parsed(other));
    one.iter().any(|one| other.iter().any(|other| meet::patterns(one, other)))
}

/// Whether one of the patterns has all names of another.
fn covers(all: &[String], one: &str) -> bool {
    let wider = |wide: &Pattern| match (wide, Pattern::parse(one)) {
        (wide, Ok(Pattern::Exact(name))) => wide.matches(&name),
        (Pattern::Below(base), Ok(Pattern::Below(narrow))) => *base == narrow || narrow.is_below(base),
        _ => false,
    };
    parsed(all).iter().any(wider)
}
