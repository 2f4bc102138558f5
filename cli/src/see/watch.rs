//! `nameward watch`: decisions as they happen. A connection that breaks is taken up where it ended.

use std::{process::ExitCode, time::Duration};

use anyhow::{Context, Result, bail};
use jiff::Timestamp;
use nameward_api::{
    client::{Client, ClientError, Event},
    table,
    types::Decision,
};

use super::{
    args::Watch,
    asking,
    output::{self, Colours, Format},
};

/// Wait before the first new try; doubled up to the last.
const FIRST_WAIT: Duration = Duration::from_millis(250);
/// See [`FIRST_WAIT`].
const LAST_WAIT: Duration = Duration::from_secs(5);
/// The most that is shown of what is remembered.
const REMEMBERED: usize = 10_000;

/// `nameward watch`.
pub(crate) fn watch(arguments: &Watch) -> Result<ExitCode> {
    if matches!(arguments.output, Format::Yaml) {
        bail!("`watch` shows `-o table` or `-o json`, one object a line");
    }
    let since = arguments.since.as_deref().map(|text| since(text, Timestamp::now())).transpose()?;
    let client = arguments.reach.client()?;
    asking(async {
        let mut screen = Screen::new(arguments);
        let query = arguments.query();
        // From here on first, so that nothing falls between.
        let mut events = client.follow(&query, None).await?;
        if let Some(since) = since {
            let mut query = query.clone();
            query.push(("since", since.to_string()));
            let kept: Vec<Decision> = client.list("/v1/decisions", &query, REMEMBERED).await?;
            for decision in kept.iter().rev() {
                if !screen.show(decision)? {
                    return Ok(());
                }
            }
        }
        let mut last = None;
        loop {
            match events.next().await {
                Ok(Some(Event::Decision(decision, id))) => {
                    last = Some(id);
                    if !screen.show(&decision)? {
                        return Ok(());
                    }
                }
                Ok(Some(Event::Lost(count))) => {
                    eprintln!("nameward: {count} decisions came too fast and are not shown")
                }
                Ok(None) | Err(_) => {
                    eprintln!("nameward: the API has gone; waiting for it");
                    events = again(&client, &query, last.as_deref()).await?;
                }
            }
        }
    })?;
    Ok(ExitCode::SUCCESS)
}

async fn again(
    client: &Client,
    query: &[(&str, String)],
    last: Option<&str>,
) -> Result<nameward_api::client::Events> {
    let mut wait = FIRST_WAIT;
    loop {
        tokio::time::sleep(wait).await;
        match client.follow(query, last).await {
            Ok(events) => return Ok(events),
            Err(error @ (ClientError::Refused(_) | ClientError::Token(_))) => return Err(error.into()),
            Err(_) => wait = (wait * 2).min(LAST_WAIT),
        }
    }
}

/// A time, or how long ago.
pub(crate) fn since(text: &str, now: Timestamp) -> Result<Timestamp> {
    if let Ok(time) = text.parse() {
        return Ok(time);
    }
    let ago: jiff::SignedDuration = text
        .parse()
        .with_context(|| format!("--since {text}: write 90s, 10m, 2h or a time like 2027-01-31T00:00:00Z"))?;
    Ok(now.checked_sub(ago)?)
}

struct Screen {
    format: Format,
    colours: Colours,
    left: Option<u64>,
    /// The latest that was shown: what is remembered comes again.
    seen: u64,
}

impl Screen {
    fn new(arguments: &Watch) -> Self {
        let colours = Colours::of_stdout();
        Self { format: arguments.output, colours, left: arguments.count, seen: 0 }
    }

    /// Whether more is wanted.
    fn show(&mut self, decision: &Decision) -> Result<bool> {
        if decision.sequence <= self.seen && self.seen - decision.sequence < REMEMBERED as u64 {
            return Ok(true);
        }
        self.seen = decision.sequence;
        let text = match self.format {
            Format::Json => output::inert(&serde_json::to_string(decision)?),
            Format::Table | Format::Wide | Format::Yaml => self.line(decision),
        };
        if !output::write(&(text + "\n"))? {
            return Ok(false);
        }
        if let Some(left) = &mut self.left {
            *left = left.saturating_sub(1);
        }
        Ok(self.left != Some(0))
    }

    fn line(&self, decision: &Decision) -> String {
        let shown = |text: &str| table::printable(text);
        let arrow = if decision.direction == nameward_api::types::Direction::Egress { "->" } else { "<-" };
        let verdict = self.colours.paint(decision.verdict, &format!("{:<10}", decision.verdict));
        let times = if decision.packets > 1 { format!(" x{}", decision.packets) } else { String::new() };
        let policy =
            decision.policy.as_deref().map(|policy| format!("  {}", shown(policy))).unwrap_or_default();
        let staged = decision.staged.as_ref().map(|staged| {
            let words = self.colours.paint(staged.verdict, &shown(&decision.staged_words()));
            let policy =
                staged.policy.as_deref().map(|policy| format!(", {}", shown(policy))).unwrap_or_default();
            format!("  [staged: {words}{policy}]")
        });
        let staged = staged.unwrap_or_default();
        format!(
            "{} {verdict} {:<16} {} {arrow} {} ({}){times}{policy}{staged}",
            decision.at.strftime("%H:%M:%S%.3f"),
            shown(&decision.reason),
            shown(&decision.endpoint),
            shown(&decision.peer()),
            shown(decision.name_or_unknown()),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // Issue 8: names are data
    #[test]
    fn nothing_in_a_line_steers_the_terminal() {
        let hostile = "a\u{1b}]0;owned\u{7}\u{202e}b";
        let decision = serde_json::json!({
            "sequence": 1, "at": "2027-01-31T12:00:00Z", "endpoint": hostile, "verdict": "deny", "reason": hostile,
            "direction": "egress", "protocol": 17, "local": "0.0.0.0", "localPort": 0, "remote": "0.0.0.0",
            "remotePort": 53, "name": hostile, "queryType": hostile, "responseCode": "NXDOMAIN", "policy": hostile,
            "packets": 2, "bytes": 0, "generation": 1,
            "staged": {"verdict": "pass", "reason": hostile, "policy": hostile},
        });
        let decision: Decision = serde_json::from_value(decision).unwrap();
        let screen = Screen { format: Format::Table, colours: Colours::of_stdout(), left: None, seen: 0 };
        let line = screen.line(&decision);
        assert!(
            line.contains("question a") && line.contains("owned") && line.contains("[staged: pass a"),
            "{line}"
        );
        assert!(!line.contains(['\u{7}', '\u{202e}']) && !line.contains("\u{1b}]"), "{line:?}");
        assert!(!output::inert(&serde_json::to_string(&decision).unwrap()).contains(['\u{1b}', '\u{202e}']));
    }

    #[test]
    fn since_is_a_time_or_how_long_ago() {
        let now: Timestamp = "2027-01-31T12:00:00Z".parse().unwrap();
        assert_eq!(since("10m", now).unwrap().to_string(), "2027-01-31T11:50:00Z");
        assert_eq!(since("2h30m", now).unwrap().to_string(), "2027-01-31T09:30:00Z");
        assert_eq!(since("2027-01-01T00:00:00Z", now).unwrap().to_string(), "2027-01-01T00:00:00Z");
        assert!(since("yesterday", now).unwrap_err().to_string().contains("10m"));
    }
}
