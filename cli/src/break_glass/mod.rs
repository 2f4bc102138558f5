//! `nameward break-glass`: enforcement suspended for a while (R13), by an entry of `EgressConfig/default`.
//!
//! Changes that list and nothing else of the object, and only the version that it has read. What an entry does is the
//! enforcers' business, and who may write it the API server's.

pub(crate) mod args;

use std::process::ExitCode;

use anyhow::{Context, Result, anyhow, bail, ensure};
use jiff::{SignedDuration, Timestamp};
use kube::{
    Api, Client, Config, Resource,
    api::PostParams,
    config::{KubeConfigOptions, Kubeconfig},
    core::{ApiResource, DynamicObject},
};
use nameward_api::{table::printable, types::Item};
use nameward_crds::{BreakGlass as Entry, EgressConfig};
use serde::Serialize;
use serde_json::{Value, json};

use self::args::{BreakGlass, scope_text};
use crate::see::{asking, output};

/// The only object that counts.
const OBJECT: &str = "default";
/// Where somebody else writes at the same time, it is tried so often.
const TRIES: usize = 5;

/// What is suspended, as it is shown.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "camelCase")]
struct Row {
    name: String,
    scope: String,
    until: String,
    reason: String,
}

impl Item for Row {
    const FIELDS: &'static [&'static str] = &["name", "scope", "until", "reason"];
    const COLUMNS: &'static [&'static str] = &["NAME", "SCOPE", "UNTIL", "REASON"];

    fn row(&self) -> Vec<String> {
        vec![self.name.clone(), self.scope.clone(), self.until.clone(), self.reason.clone()]
    }
}

/// Does it.
pub(crate) fn break_glass(arguments: &BreakGlass) -> Result<ExitCode> {
    let now = Timestamp::now();
    let wish = Wish::of(arguments, now)?;
    asking(async {
        let api = connect(arguments).await?;
        match wish {
            Wish::Show => show(&read(&api).await?, arguments, now),
            Wish::Begin(entry) => {
                change(&api, |entries| begin(entries, &entry, now)).await?;
                let scope = scope_text(&entry.scope);
                let said = format!(
                    "nothing is denied in {scope} until {}; end it before with: nameward break-glass --end {}",
                    entry.until, entry.name
                );
                output::print(&(printable(&said) + "\n"))
            }
            Wish::End(name) => {
                let ended = change(&api, |entries| end(entries, &name, now)).await?;
                output::print(&format!("{} has ended: everything is enforced again\n", printable(&ended)))
            }
        }
    })
}

/// What is wanted.
enum Wish {
    Show,
    Begin(Entry),
    End(String),
}

impl Wish {
    fn of(arguments: &BreakGlass, now: Timestamp) -> Result<Self> {
        if let Some(name) = &arguments.end {
            return Ok(Self::End(name.clone()));
        }
        let BreakGlass { scope: Some(scope), duration: Some(duration), reason: Some(reason), .. } = arguments
        else {
            return Ok(Self::Show);
        };
        let reason = reason.trim();
        ensure!(!reason.is_empty(), "--reason: say why; it stands in events and logs");
        let until = end_of(now, *duration).context("--for: no clock goes so far")?;
        let unnamed = || format!("break-glass-{}", now.strftime("%Y%m%d-%H%M%S"));
        Ok(Self::Begin(Entry {
            name: arguments.name.clone().unwrap_or_else(unnamed),
            scope: scope.clone(),
            until,
            reason: reason.into(),
        }))
    }
}

/// To the second, as objects have it.
fn end_of(now: Timestamp, duration: SignedDuration) -> Result<String> {
    Ok(now.checked_add(duration)?.strftime("%Y-%m-%dT%H:%M:%SZ").to_string())
}

async fn connect(arguments: &BreakGlass) -> Result<Api<DynamicObject>> {
    let options = KubeConfigOptions { context: arguments.context.clone(), ..KubeConfigOptions::default() };
    let config = match &arguments.kubeconfig {
        Some(file) => {
            let read = Kubeconfig::read_from(file)
                .with_context(|| format!("cannot read the kubeconfig {}", file.display()))?;
            Config::from_custom_kubeconfig(read, &options).await
        }
        None => Config::from_kubeconfig(&options).await,
    };
    let config = config.context(
        "no cluster is known: name a kubeconfig with --kubeconfig. On a host without Kubernetes write `mode: Audit` into its \
         policies, and send SIGHUP to nameward-enforcer",
    )?;
    let client = Client::try_from(config).context("cannot make a client of the API server")?;
    Ok(Api::all_with(client, &ApiResource::erase::<EgressConfig>(&())))
}

/// The object; none where there is none yet.
async fn read(api: &Api<DynamicObject>) -> Result<Option<DynamicObject>> {
    api.get_opt(OBJECT).await.map_err(|error| explained(error, "read"))
}

/// Changes the entries, and gives what the change says. Whoever writes at the same time is not overwritten.
async fn change<T>(
    api: &Api<DynamicObject>,
    mut change: impl FnMut(&mut Vec<Value>) -> Result<T>,
) -> Result<T> {
    for _ in 0..TRIES {
        let known = read(api).await?;
        let is_new = known.is_none();
        let mut object = known.unwrap_or_else(|| {
            DynamicObject::new(OBJECT, &ApiResource::erase::<EgressConfig>(&())).data(json!({"spec": {}}))
        });
        let mut entries = entries(&object);
        let said = change(&mut entries)?;
        object.data["spec"]["breakGlass"] = entries.into();
        let written = match is_new {
            true => api.create(&PostParams::default(), &object).await,
            false => api.replace(OBJECT, &PostParams::default(), &object).await,
        };
        match written {
            Ok(_) => return Ok(said),
            // Changed, or made, by somebody else since it was read.
            Err(kube::Error::Api(status)) if status.code == 409 => {}
            Err(error) => return Err(explained(error, "change")),
        }
    }
    bail!("others change EgressConfig/default all the time: try again")
}

fn entries(object: &DynamicObject) -> Vec<Value> {
    object.data.pointer("/spec/breakGlass").and_then(Value::as_array).cloned().unwrap_or_default()
}

/// Adds an entry, or gives one of the same name and scope another end. Those that have ended make room.
fn begin(entries: &mut Vec<Value>, entry: &Entry, now: Timestamp) -> Result<()> {
    entries.retain(|one| is_live(one, now));
    if let Some(known) = entries.iter_mut().find(|one| one["name"] == entry.name.as_str()) {
        let scope = json!(entry.scope);
        let same =
            serde_json::from_value::<Entry>(known.clone()).is_ok_and(|known| json!(known.scope) == scope);
        ensure!(
            same,
            "there is a break-glass `{0}` of another scope: end it with --end {0}, or name this one otherwise",
            entry.name
        );
        *known = json!(entry);
        return Ok(());
    }
    entries.push(json!(entry));
    Ok(())
}

/// Removes an entry; without a name, the only one that has not ended. Gives its name.
fn end(entries: &mut Vec<Value>, name: &str, now: Timestamp) -> Result<String> {
    let live: Vec<String> =
        entries.iter().filter(|one| is_live(one, now)).map(|one| text(one, "name").to_owned()).collect();
    let list = || live.join(", ");
    let name = match (name, &live[..]) {
        (_, []) => bail!("no break-glass is in force"),
        ("", [only]) => only.clone(),
        ("", _) => bail!("say which one ends, with --end NAME: there are {}", list()),
        (name, live) if live.iter().any(|one| one == name) => name.to_owned(),
        (name, _) => bail!("no break-glass `{name}` is in force; there are {}", list()),
    };
    entries.retain(|one| text(one, "name") != name);
    Ok(name)
}

fn show(object: &Option<DynamicObject>, arguments: &BreakGlass, now: Timestamp) -> Result<ExitCode> {
    let entries = object.as_ref().map(entries).unwrap_or_default();
    let row = |one: &Value| {
        let scope = serde_json::from_value::<Entry>(one.clone());
        Row {
            name: text(one, "name").into(),
            scope: scope.map_or_else(|_| one["scope"].to_string(), |entry| scope_text(&entry.scope)),
            until: text(one, "until").into(),
            reason: text(one, "reason").into(),
        }
    };
    let rows: Vec<Row> = entries.iter().filter(|one| is_live(one, now)).map(row).collect();
    output::list(&rows, arguments.output)
}

/// Whether an entry has not ended. One whose end cannot be read is left alone.
fn is_live(entry: &Value, now: Timestamp) -> bool {
    text(entry, "until").parse::<Timestamp>().map_or(true, |until| until > now)
}

fn text<'a>(entry: &'a Value, field: &str) -> &'a str {
    entry.get(field).and_then(Value::as_str).unwrap_or_default()
}

/// What the API server says, and what to do about it.
fn explained(error: kube::Error, verb: &str) -> anyhow::Error {
    let next = match &error {
        kube::Error::Api(status) if matches!(status.code, 401 | 403) => {
            ": break-glass is for administrators of the cluster, not for tenants"
        }
        kube::Error::Api(status) if status.code == 404 => {
            ": are Nameward's custom resources installed? See `kubectl get crd egressconfigs.nameward.io`"
        }
        kube::Error::Api(_) => "",
        _ => "; is the API server reachable? See `kubectl cluster-info`",
    };
    let kind = EgressConfig::kind(&());
    anyhow!("cannot {verb} {kind}/{OBJECT}: {}{next}", printable(&error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use nameward_crds::BreakGlassScope;

    fn now() -> Timestamp {
        "2027-01-31T12:00:00Z".parse().unwrap()
    }

    fn entry(name: &str, namespace: &str) -> Entry {
        Entry {
            name: name.into(),
            scope: BreakGlassScope { namespace: Some(namespace.into()), ..BreakGlassScope::default() },
            until: end_of(now(), SignedDuration::from_mins(30)).unwrap(),
            reason: "INC-7".into(),
        }
    }

    fn named(entries: &[Value]) -> Vec<&str> {
        entries.iter().map(|one| text(one, "name")).collect()
    }

    // R13
    #[test]
    fn entries_come_are_lengthened_and_end() {
        let over = json!({"name": "over", "scope": {"cluster": true}, "until": "2027-01-31T12:00:00Z", "reason": "x"});
        let theirs = json!({"name": "theirs", "scope": {"node": "n"}, "until": "2027-02-01T00:00:00Z", "reason": "y", "new": 1});
        let mut all = vec![over.clone(), theirs.clone()];
        begin(&mut all, &entry("mine", "ci"), now()).unwrap();
        assert_eq!(named(&all), ["theirs", "mine"]);
        assert_eq!(all[0], theirs, "what others wrote stays as it is");
        assert_eq!(text(&all[1], "until"), "2027-01-31T12:30:00Z");
        let longer = Entry { until: "2027-01-31T14:00:00Z".into(), ..entry("mine", "ci") };
        begin(&mut all, &longer, now()).unwrap();
        assert_eq!((named(&all).len(), text(&all[1], "until")), (2, "2027-01-31T14:00:00Z"));
        let other = begin(&mut all, &entry("mine", "web"), now()).unwrap_err().to_string();
        assert!(other.contains("--end mine"), "{other}");
        let which = end(&mut all, "", now()).unwrap_err().to_string();
        assert!(which.contains("theirs, mine"), "{which}");
        assert!(end(&mut all, "nobody", now()).is_err());
        assert_eq!(end(&mut all, "theirs", now()).unwrap(), "theirs");
        assert_eq!(end(&mut all, "", now()).unwrap(), "mine");
        assert!(all.is_empty());
        let none = end(&mut vec![over], "", now()).unwrap_err().to_string();
        assert!(none.contains("no break-glass is in force"), "{none}");
    }
}
