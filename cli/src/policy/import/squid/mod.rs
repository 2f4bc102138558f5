//! Squid's allow lists of domains (`acl NAME dstdomain ...`, `http_access allow NAME`), and plain lists of them.
//!
//! `http_access` lines are read in order, and the first of which every acl matches decides; when none does, the opposite of
//! the last line (squid.conf, `http_access`). `.example.com` is the name and all below it, `example.com` the name alone
//! (`acl`, dstdomain). A proxy knows requests, a fence connections: what looks into requests is not carried over.

mod access;
mod acl;

use std::path::Path;

use nameward_crds::{Place, Port};

use self::{
    access::{Access, Reading},
    acl::{Acls, Ranges, words},
};
use super::{
    Options,
    draft::{self, Draft, RuleDraft, Whose, label, port},
    notes::{Notes, Weight},
};
pub(super) use acl::Lists;

const BEGIN: Place = Place { line: 1, column: 1 };

/// Whether a text is a configuration of Squid.
pub(super) fn is_configuration(text: &str) -> bool {
    let directive =
        |line: &str| matches!(line.split_whitespace().next(), Some("acl" | "http_access" | "http_port"));
    text.lines().any(directive)
}

/// The policy of a configuration. Files that its acls read are looked for among `lists` by their last part.
pub(super) fn import(
    file: &Path,
    text: &str,
    lists: &Lists,
    options: &Options,
    notes: &mut Notes,
) -> Option<Draft> {
    notes.about(file, "", BEGIN);
    let (mut acls, mut accesses, mut reading) = (Acls::built_in(), Vec::new(), Reading::default());
    for (number, line) in whole_lines(text) {
        let found = words(&line);
        let Some((column, _)) = found.first() else { continue };
        let place = Place { line: number, column: *column };
        let words: Vec<&str> = found.iter().map(|(_, word)| *word).collect();
        match words.as_slice() {
            ["acl", name, kind, values @ ..] => acls.add(name, acl::read(kind, values, place, lists, notes)),
            ["http_access", verb @ ("allow" | "deny"), names @ ..] => {
                let acls = names.iter().map(|word| negation(word)).collect();
                accesses.push(Access { place, allow: *verb == "allow", acls });
            }
            ["http_access", ..] => {
                notes.left_at(place, "http_access", "`allow` or `deny` is expected here");
                reading.refused = true;
            }
            ["include" | "if" | "else" | "endif", ..] => {
                let reason = "what it takes in, or leaves out, is not read and may deny; write the lines that count in its place";
                notes.left_at(place, words[0], reason);
                reading.refused = true;
            }
            [other, "deny" | "terminate", ..] if NARROWING.contains(other) => {
                notes.left_at(
                    place,
                    *other,
                    "it denies something after http_access allowed it, and is not read",
                );
                reading.refused = true;
            }
            _ => {}
        }
    }
    policy(file, &acls, &accesses, reading, options, notes)
}

/// Directives beside `http_access` that stop requests.
const NARROWING: &[&str] =
    &["http_access2", "adapted_http_access", "http_reply_access", "miss_access", "ssl_bump", "send_hit"];

/// Lines with their numbers; one that ends with `\` goes on in the next.
fn whole_lines(text: &str) -> Vec<(usize, String)> {
    let mut lines: Vec<(usize, String)> = Vec::new();
    let mut goes_on = false;
    for (index, line) in text.lines().enumerate() {
        let line = line.trim_end();
        let (part, more) = line.strip_suffix('\\').map_or((line, false), |part| (part, true));
        match lines.last_mut().filter(|_| goes_on) {
            Some((_, whole)) => {
                whole.push(' ');
                whole.push_str(part);
            }
            None => lines.push((index + 1, part.to_owned())),
        }
        goes_on = more;
    }
    lines
}

/// An acl's name, and whether it must not match.
fn negation(word: &str) -> (String, bool) {
    word.strip_prefix('!').map_or_else(|| (word.to_owned(), false), |name| (name.to_owned(), true))
}

/// The policy of a plain list, a name a line.
pub(super) fn import_list(file: &Path, text: &str, options: &Options, notes: &mut Notes) -> Option<Draft> {
    notes.about(file, "", BEGIN);
    let names = acl::list(text, notes);
    if names.is_empty() {
        notes.whole(Weight::Left, "it names no domain");
        return None;
    }
    if options.ports.is_empty() {
        notes.whole(Weight::Told, "a list says no ports: TCP 80 and 443 are written; --port says others");
    }
    let ports = if options.ports.is_empty() { vec![80, 443] } else { options.ports.clone() };
    let ports = ports.into_iter().map(|number| port("TCP", Some(number), None)).collect();
    let rule = RuleDraft { name: "names".into(), to: vec![draft::names(names)], ports };
    Some(draft_of(file, vec![rule], Vec::new(), options, notes))
}

fn draft_of(
    file: &Path,
    allow: Vec<RuleDraft>,
    deny: Vec<RuleDraft>,
    options: &Options,
    notes: &mut Notes,
) -> Draft {
    let stem = file.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
    let whose = Whose::Namespace { namespace: options.namespace.clone(), pods: options.selector.clone() };
    if options.selector.is_empty() {
        notes.whole(
            Weight::Told,
            "the policy is about every workload of its namespace; --namespace and --selector say which are meant",
        );
    }
    Draft { name: label(&stem, "squid"), whose, allow, deny, origin: notes.origin().clone() }
}

fn policy(
    file: &Path,
    acls: &Acls,
    accesses: &[Access],
    mut reading: Reading,
    options: &Options,
    notes: &mut Notes,
) -> Option<Draft> {
    let mut decided = false;
    for access in accesses {
        if decided {
            let place = access.place;
            notes.told_at(place, "http_access", "it comes after a line that decides everything");
            continue;
        }
        decided = reading.line(access, acls, options, notes);
    }
    // Without a match the opposite of the last line counts; without a line everything is denied.
    if !decided && accesses.last().is_some_and(|access| !access.allow) {
        notes.whole(Weight::Refused, "what no line decides is allowed, as the last one denies: this is no list of what is allowed; end it with `http_access deny all`");
        return None;
    }
    if reading.refused {
        notes.whole(
            Weight::Refused,
            "without the lines that could not be carried over more would be allowed than was",
        );
        return None;
    }
    let ports = ports(&reading, options, notes);
    if reading.allow.is_empty() || ports.is_empty() {
        notes.whole(
            Weight::Left,
            "no line allows names on a port that is written, so there is nothing to write",
        );
        return None;
    }
    let rule = |(place, names): &(Place, Vec<String>), ports: Vec<Port>| RuleDraft {
        name: format!("line-{}", place.line),
        to: vec![draft::names(names.clone())],
        ports,
    };
    let allow = reading.allow.iter().map(|found| rule(found, ports.clone())).collect();
    let deny = reading.deny.iter().map(|found| rule(found, Vec::new())).collect();
    Some(draft_of(file, allow, deny, options, notes))
}

/// Ports that connections may go to. A fence cannot tell a request from a tunnel: beside port 80, only ports that tunnels
/// may go to are written.
fn ports(reading: &Reading, options: &Options, notes: &mut Notes) -> Vec<Port> {
    let written = |ranges: &[(u16, u16)]| -> Vec<Port> {
        let one =
            |(first, last): &(u16, u16)| port("TCP", Some(*first), Some(*last).filter(|last| last > first));
        ranges.iter().map(one).collect()
    };
    if !options.ports.is_empty() {
        let chosen: Ranges = options.ports.iter().map(|port| (*port, *port)).collect();
        return written(&chosen);
    }
    let reason = "Squid lets requests through, a fence whole TCP connections; --port says to which ports";
    let any = reading.any.as_deref();
    let tunnels = reading.tunnels.clone().unwrap_or_else(|| vec![(443, 443)]);
    let mut ranges: Ranges = vec![(80, 80)];
    ranges.extend(tunnels.into_iter().filter(|range| *range != (80, 80)));
    let wanted = ranges.len();
    ranges.retain(|(first, last)| {
        any.is_none_or(|any| any.iter().any(|(from, to)| from <= first && last <= to))
    });
    let all = reading.tunnels.is_some()
        && ranges.len() == wanted
        && any.into_iter().flatten().all(|range| ranges.contains(range));
    let listed: Vec<String> = ranges
        .iter()
        .map(|(first, last)| if first == last { first.to_string() } else { format!("{first}-{last}") })
        .collect();
    let listed = if listed.is_empty() { "none".into() } else { listed.join(", ") };
    if all {
        notes.whole(Weight::Told, format!("TCP {listed}: {reason}"));
    } else {
        notes.whole(
            Weight::Left,
            format!("of the ports of requests and tunnels only TCP {listed} are written: {reason}"),
        );
    }
    written(&ranges)
}
