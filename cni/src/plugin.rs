//! The commands of the CNI specification.
//!
//! `ADD` fails unless the enforcer guards the sandbox. `DEL` and `GC` always succeed: a pod must be able to go without an
//! enforcer, and with a configuration that nobody can read any more. `STATUS` never depends on the enforcer: containerd
//! asks it every few seconds, and the node would turn NotReady, its pods be evicted, while an enforcer restarts.

use std::{
    collections::HashMap,
    io::{Read, Write},
    process::ExitCode,
    thread,
    time::{Duration, Instant},
};

use nameward_feed::cni::{Answer, AskError, Command, Request, VERSION, ask};
use serde_json::{Value, json};

use crate::{
    call::{Configuration, OnAgentDown, Sandbox, VERSIONS},
    failure::Failure,
    sandbox,
};

/// How long a sandbox that goes may wait for the enforcer to hear of it.
const FAREWELL: Duration = Duration::from_secs(2);
/// Between two questions to an enforcer that is not there yet.
const PAUSE: Duration = Duration::from_millis(100);

/// Carries out one command; what the runtime reads goes to `output`.
pub(crate) fn run(
    command: &str,
    variables: &HashMap<String, String>,
    mut input: impl Read,
    mut output: impl Write,
) -> ExitCode {
    let mut text = String::new();
    let read = input.read_to_string(&mut text);
    let sandbox = Sandbox::read(variables);
    if matches!(command, "DEL" | "GC") {
        if command == "DEL" {
            say_farewell(&text, sandbox);
        }
        return ExitCode::SUCCESS;
    }
    let version = declared_version(&text);
    let result = read.map_err(Failure::from).and_then(|_| perform(command, &text, &version, sandbox));
    let (said, code) = match result {
        Ok(None) => return ExitCode::SUCCESS,
        Ok(Some(said)) => (said, ExitCode::SUCCESS),
        Err(failure) => (failure.to_json(&version), ExitCode::FAILURE),
    };
    if writeln!(output, "{said}").is_ok() { code } else { ExitCode::FAILURE }
}

/// The version to answer in, also when the rest of a configuration makes no sense.
fn declared_version(text: &str) -> String {
    let parsed: Value = serde_json::from_str(text).unwrap_or_default();
    let newest = VERSIONS[VERSIONS.len() - 1];
    parsed["cniVersion"].as_str().unwrap_or(newest).to_owned()
}

fn perform(command: &str, text: &str, version: &str, sandbox: Sandbox) -> Result<Option<Value>, Failure> {
    if command == "VERSION" {
        return Ok(Some(json!({"cniVersion": version, "supportedVersions": VERSIONS})));
    }
    let configuration = Configuration::parse(text)?;
    configuration.check_version()?;
    match command {
        "ADD" => add(&configuration, sandbox).map(Some),
        "CHECK" if configuration.is_since("0.4.0") => check(&configuration, sandbox).map(|()| None),
        "STATUS" if configuration.is_since("1.1.0") => Ok(None),
        _ => Err(Failure::Command { command: command.to_owned(), version: version.to_owned() }),
    }
}

fn add(configuration: &Configuration, sandbox: Sandbox) -> Result<Value, Failure> {
    sandbox.check()?;
    let Some(made) = &configuration.prev_result else {
        return Err(Failure::Configuration(
            "this plugin makes no interfaces: it stands behind another in the plugins of a conflist \
             (`nameward-cni install` writes one)"
                .into(),
        ));
    };
    let exempt = configuration.on_agent_down == OnAgentDown::AllowExempt
        && configuration.exempt_namespaces.contains(&sandbox.namespace);
    let request = request(Command::Add, sandbox, Some(made));
    match ask_until(configuration, &request) {
        Ok(answer) if answer.ok => {}
        Ok(answer) => return Err(refusal(answer)),
        Err(error) if exempt => {
            // On standard error, which runtimes log: standard output is the result.
            eprintln!("nameward: {error}; namespace {} is exempt", request.pod_namespace);
        }
        Err(error) => {
            return Err(Failure::TryLater(format!("the pod would be unguarded: {}", chain(&error))));
        }
    }
    Ok(with_version(made, configuration.version()))
}

fn check(configuration: &Configuration, sandbox: Sandbox) -> Result<(), Failure> {
    sandbox.check()?;
    let request = request(Command::Check, sandbox, configuration.prev_result.as_ref());
    match ask_until(configuration, &request) {
        Ok(answer) if answer.ok => Ok(()),
        Ok(answer) => Err(refusal(answer)),
        Err(error) => Err(Failure::TryLater(chain(&error))),
    }
}

/// One word to the enforcer, where there is one. Without it the enforcer sees by itself that the interface is gone.
fn say_farewell(text: &str, sandbox: Sandbox) {
    let socket =
        Configuration::parse(text).map_or_else(|_| nameward_feed::cni::SOCKET.into(), |read| read.socket);
    let request = request(Command::Remove, sandbox, None);
    match ask(&socket, &request, FAREWELL) {
        Ok(Answer { ok: true, .. }) => {}
        Ok(answer) => eprintln!("nameward: {}", answer.error.unwrap_or_default()),
        Err(error) => eprintln!("nameward: {}", chain(&error)),
    }
}

fn request(command: Command, sandbox: Sandbox, result: Option<&Value>) -> Request {
    Request {
        version: VERSION,
        command,
        host_interface: result.and_then(sandbox::host_interface),
        addresses: result.map(|result| sandbox::addresses(result, &sandbox.interface)).unwrap_or_default(),
        container_id: sandbox.container,
        ifname: sandbox.interface,
        netns: sandbox.netns,
        pod_namespace: sandbox.namespace,
        pod_name: sandbox.pod,
        pod_uid: sandbox.uid,
    }
}

/// Asks again while the enforcer is not there or says that it is too early, until the time is up.
fn ask_until(configuration: &Configuration, request: &Request) -> Result<Answer, AskError> {
    let end = Instant::now() + configuration.timeout();
    loop {
        let left = end.saturating_duration_since(Instant::now()).max(PAUSE);
        let answer = ask(&configuration.socket, request, left);
        let is_final = matches!(&answer, Ok(answer) if answer.ok || !answer.retriable)
            || matches!(&answer, Err(AskError::Malformed { .. }));
        if is_final || Instant::now() + PAUSE >= end {
            return answer;
        }
        thread::sleep(PAUSE);
    }
}

fn refusal(answer: Answer) -> Failure {
    let why = answer.error.unwrap_or_else(|| "the enforcer refuses and does not say why".into());
    if answer.retriable { Failure::TryLater(why) } else { Failure::Refused(why) }
}

fn chain(error: &AskError) -> String {
    std::error::Error::source(error).map_or_else(|| error.to_string(), |cause| format!("{error}: {cause}"))
}

/// A result must name its version; the rest stays as the plugins before us wrote it.
fn with_version(result: &Value, version: &str) -> Value {
    let mut result = result.clone();
    if let Some(fields) = result.as_object_mut() {
        fields.entry("cniVersion").or_insert_with(|| version.into());
    }
    result
}

#[cfg(test)]
#[path = "plugin_tests.rs"]
mod tests;
