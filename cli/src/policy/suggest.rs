//! `nameward policy suggest`: from what was denied, or would have been, to a policy file.

use std::process::ExitCode;

use anyhow::Result;
use nameward_api::{
    suggest::{read_port, wildcards},
    table::printable,
    types::{List, Suggestion},
};

use super::args::Suggest;
use crate::{
    report::{Learned, Subject},
    see::{asking, output, since},
};

/// Suggests policies, one for each endpoint.
pub(super) fn suggest(arguments: &Suggest) -> Result<ExitCode> {
    let client = arguments.reach.client()?;
    let mut query: Vec<(&str, String)> = Vec::new();
    query.extend(arguments.endpoint.clone().map(|uid| ("endpoint", uid)));
    query.extend(arguments.namespace.clone().map(|name| ("namespace", name)));
    if let Some(text) = &arguments.since {
        query.push(("since", since(text, jiff::Timestamp::now())?.to_string()));
    }
    let list: List<Suggestion> = asking(async { Ok(client.get("/v1/suggestions", &query).await?) })?;
    if list.items.is_empty() {
        eprintln!("nothing was denied that a rule would allow");
        return Ok(ExitCode::SUCCESS);
    }
    let files: Vec<String> = list.items.iter().map(policy_of).collect();
    output::print(&files.join("---\n"))
}

/// A policy that allows what one endpoint tried, and what patterns would shorten it.
fn policy_of(suggestion: &Suggestion) -> String {
    let mut learned = Learned::default();
    for one in &suggestion.destinations {
        let address = one.destination.parse().ok();
        let name = address.is_none().then(|| one.destination.clone());
        if let Some(name) = &name {
            learned.add(&Subject::Question { name: name.clone() });
        }
        // What a name gave is not said; only whether it was private.
        let stand_in = if one.private { "10.0.0.1" } else { "203.0.113.1" };
        let Some(address) = address.or_else(|| stand_in.parse().ok()) else { continue };
        for (protocol, port) in one.ports.iter().filter_map(|text| read_port(text)) {
            learned.add(&Subject::Packet { protocol, address, port, name: name.clone(), inbound: false });
        }
    }
    let (namespace, name) = suggestion.endpoint.split_once('/').unwrap_or(("default", &suggestion.endpoint));
    let title = format!("{} tried and no rule allows", printable(&suggestion.endpoint));
    let left_out = (learned.left_out() > 0).then_some("More was tried than fits into one file.");
    let title: Vec<&str> = std::iter::once(&*title).chain(left_out).collect();
    let mut text = learned.to_policy(&title, (namespace, &label(name)));
    let names = suggestion.destinations.iter().map(|one| one.destination.as_str());
    for (pattern, names) in wildcards(names) {
        text += &format!(
            "# {pattern} would stand for {}, and allow every other name below it, too\n",
            names.join(", ")
        );
    }
    text
}

/// A name that an object may have.
fn label(text: &str) -> String {
    let plain = |character: char| {
        if character.is_ascii_alphanumeric() { character.to_ascii_lowercase() } else { '-' }
    };
    let label: String = text.chars().map(plain).take(63).collect();
    let label = label.trim_matches('-');
    if label.is_empty() { "suggested".into() } else { label.into() }
}

#[cfg(test)]
mod tests {
    use nameward_api::types::Suggested;

    use super::*;

    fn suggested(destination: &str, ports: &[&str], private: bool) -> Suggested {
        Suggested {
            destination: destination.into(),
            ports: ports.iter().map(ToString::to_string).collect(),
            packets: 1,
            last_at: jiff::Timestamp::UNIX_EPOCH,
            private,
        }
    }

    #[test]
    fn what_is_suggested_is_a_policy_that_is_read() {
        let suggestion = Suggestion {
            endpoint: "ci/Runner_1\n".into(),
            destinations: vec![
                suggested("203.0.113.9", &["TCP 22", "ICMPEcho"], false),
                suggested("a.cdn.example.com", &["TCP 443"], false),
                suggested("b.cdn.example.com", &["TCP 443"], false),
                suggested("c.cdn.example.com", &["TCP 443"], false),
                suggested("db.example.com", &["TCP 5432"], true),
            ],
        };
        let text = policy_of(&suggestion);
        let file = nameward_crds::file::read(&text, std::path::Path::new("s.yaml"));
        let file = file.unwrap_or_else(|error| panic!("{error}\n{text}"));
        assert_eq!(file.policies[0].policy_ref().to_string(), "EgressPolicy ci/runner-1");
        let rules = file.rules();
        assert_eq!(rules.iter().filter(|rule| rule.private_addresses).count(), 1, "{text}");
        assert_eq!(rules.len(), 3, "{text}");
        assert!(text.contains("# *.cdn.example.com would stand for a.cdn.example.com, b.cdn"), "{text}");
    }
}
