//! `nameward endpoints`, `bindings`, `flush`, `explain`, `watch`, `policies`: what an enforcer knows, asked over its API.
//!
//! Owns how it looks. What it means is said by the API's types; everything in it may come from a workload and is
//! shown as data.

pub(crate) mod args;
mod flush;
pub(crate) mod output;
mod watch;

use std::process::ExitCode;

use anyhow::{Context, Result};
use nameward_api::{
    client::Client,
    types::{BindingStatus, EndpointStatus, Explained, Item, PolicyStatus, TrafficStatus},
};
use serde::de::DeserializeOwned;

use self::{
    args::{Bindings, Endpoints, Explain, Policies, Reach, Traffic},
    output::Format,
};
pub(crate) use self::{
    flush::flush,
    watch::{since, watch},
};

/// The answer is no, and `--exit-code` asked for it.
const NO: u8 = 1;

/// Does what waits for an API.
pub(crate) fn asking<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.context("cannot start the runtime")?.block_on(work)
}

impl Reach {
    /// The API that is meant.
    pub(crate) fn client(&self) -> Result<Client> {
        let place = self.api.clone().unwrap_or_else(nameward_api::client::usual_place);
        Ok(Client::new(place, self.api_token_file.as_deref())?)
    }
}

/// `nameward endpoints`.
pub(crate) fn endpoints(arguments: &Endpoints) -> Result<ExitCode> {
    let query = arguments.filter.query();
    list::<EndpointStatus>(&arguments.reach, "/v1/endpoints", &query, arguments.most, arguments.output)
}

/// `nameward bindings`.
pub(crate) fn bindings(arguments: &Bindings) -> Result<ExitCode> {
    let query = arguments.query();
    list::<BindingStatus>(&arguments.reach, "/v1/bindings", &query, arguments.most, arguments.output)
}

/// `nameward policies`.
pub(crate) fn policies(arguments: &Policies) -> Result<ExitCode> {
    let query: Vec<(&str, String)> =
        arguments.policy.iter().map(|policy| ("policy", policy.clone())).collect();
    list::<PolicyStatus>(&arguments.reach, "/v1/policies", &query, usize::MAX, arguments.output)
}

/// `nameward traffic`.
pub(crate) fn traffic(arguments: &Traffic) -> Result<ExitCode> {
    let (client, query) = (arguments.reach.client()?, arguments.filter.query());
    let mut items: Vec<TrafficStatus> =
        asking(async { Ok(client.list("/v1/traffic", &query, usize::MAX).await?) })?;
    items.sort_by_key(|one| std::cmp::Reverse(one.bytes));
    items.truncate(arguments.most);
    output::list(&items, arguments.output)
}

fn list<T: Item + DeserializeOwned>(
    reach: &Reach,
    path: &str,
    query: &[(&str, String)],
    most: usize,
    format: Format,
) -> Result<ExitCode> {
    let client = reach.client()?;
    let items: Vec<T> = asking(async { Ok(client.list(path, query, most).await?) })?;
    output::list(&items, format)
}

/// `nameward explain`.
pub(crate) fn explain(arguments: &Explain) -> Result<ExitCode> {
    let client = arguments.reach.client()?;
    let mut query = vec![
        ("endpoint", arguments.endpoint.clone()),
        ("destination", arguments.target.destination.clone()),
        ("protocol", arguments.protocol.clone()),
    ];
    query.extend(arguments.target.port.map(|port| ("port", port.to_string())));
    let explained: Explained = asking(async { Ok(client.get("/v1/explain", &query).await?) })?;
    let shown = match arguments.output {
        Format::Table | Format::Wide => output::print(&explanation(&explained)),
        Format::Json | Format::Yaml => output::value(&explained, arguments.output),
    }?;
    let denied = arguments.exit_code && explained.verdict != "allowed";
    Ok(if denied { ExitCode::from(NO) } else { shown })
}

/// The line, and what stands behind it.
fn explanation(explained: &Explained) -> String {
    let mut text = format!("{}\n", explained.text);
    for rule in &explained.rules {
        text += &format!("  rule      {rule}\n");
    }
    for binding in &explained.bindings {
        let state = if binding.live { "until" } else { "lapsed at" };
        let via = if binding.chain.is_empty() {
            String::new()
        } else {
            format!(" via {}", binding.chain.join(", "))
        };
        text += &format!(
            "  binding   {}{via}, asked {}, {state} {}\n",
            binding.name, binding.asked_at, binding.expires_at
        );
    }
    if let Some(staged) = &explained.staged {
        let policy = staged.policy.as_deref().unwrap_or("no rule");
        text += &format!("  staged    {}: {}, {policy}\n", staged.verdict, staged.reason);
    }
    if let Some(flag) = explained.suggestion.as_ref().and_then(|suggestion| suggestion.flag.as_ref()) {
        text += &format!("  with `nameward run`: {flag}\n");
    }
    text.lines().map(|line| nameward_api::table::printable(line) + "\n").collect()
}
