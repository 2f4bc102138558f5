//! What `nameward-cni` and the enforcer of its node say to each other: one line of JSON each way on a unix socket.
//!
//! The plugin names a sandbox; the enforcer answers when the sandbox is guarded, or says what to do about it. Only the
//! messages, and how to ask; whom the enforcer believes and what it attaches is decided there.

use std::{
    io::{self, BufRead, BufReader, Read, Write},
    net::IpAddr,
    os::unix::net::UnixStream,
    path::Path,
    time::Duration,
};

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Where the enforcer listens; only root may open it.
pub const SOCKET: &str = "/run/nameward/cni.sock";

/// Name of the plugin's program, and `type` of its entry in a configuration.
pub const PLUGIN: &str = "nameward-cni";

/// The configuration that chains the plugin behind a CNI. Container runtimes take the first by name.
pub const CONFLIST: &str = "00-nameward.conflist";

/// Version of the messages. Another one is answered with an error.
pub const VERSION: u32 = 1;

/// Longest line, in bytes.
pub const MAX_LINE: u64 = 64 * 1024;

/// Whether container runtimes read a file of their folder of configurations, by the end of its name (libcni).
#[must_use]
pub fn is_configuration(path: &Path) -> bool {
    path.extension().is_some_and(|ending| ["conf", "conflist", "json"].iter().any(|one| ending == *one))
}

/// A question of the plugin.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Request {
    /// [`VERSION`].
    pub version: u32,
    /// What to do.
    pub command: Command,
    /// The sandbox, as the runtime calls it (`CNI_CONTAINERID`). With [`ifname`](Self::ifname), the key.
    #[serde(default)]
    pub container_id: String,
    /// The interface inside the sandbox (`CNI_IFNAME`).
    #[serde(default)]
    pub ifname: String,
    /// Path of the sandbox's network namespace (`CNI_NETNS`); may be empty for [`Command::Remove`].
    #[serde(default)]
    pub netns: String,
    /// Namespace of the pod.
    #[serde(default)]
    pub pod_namespace: String,
    /// Name of the pod.
    #[serde(default)]
    pub pod_name: String,
    /// The pod's UID: a pod made anew under the same name has another one.
    #[serde(default)]
    pub pod_uid: String,
    /// The host side of the interface, where the plugins before us named it.
    #[serde(default)]
    pub host_interface: Option<String>,
    /// The sandbox's own addresses.
    #[serde(default)]
    pub addresses: Vec<IpAddr>,
}

/// What the plugin wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Command {
    /// Guard a new sandbox. Answered when it is: from its first packet on, it can do what its rules allow, and nothing
    /// before they are known.
    Add,
    /// Is it still guarded?
    Check,
    /// The sandbox is going. One that is not known is no error, and a late word about an old sandbox changes nothing
    /// about a newer one of the same pod.
    Remove,
    /// Is the enforcer there?
    Status,
}

/// The enforcer's answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// Done.
    pub ok: bool,
    /// If not: why, and what to do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Whether the same question may be answered otherwise later.
    #[serde(default)]
    pub retriable: bool,
}

impl Answer {
    /// It is done.
    #[must_use]
    pub const fn done() -> Self {
        Self { ok: true, error: None, retriable: false }
    }

    /// It is not, for a reason that may pass.
    #[must_use]
    pub fn not_yet(error: impl Into<String>) -> Self {
        Self { ok: false, error: Some(error.into()), retriable: true }
    }

    /// It is not, and asking again does not help.
    #[must_use]
    pub fn refused(error: impl Into<String>) -> Self {
        Self { ok: false, error: Some(error.into()), retriable: false }
    }
}

/// Why there is no answer.
#[derive(Debug, Error)]
pub enum AskError {
    /// Nobody listens.
    #[error("nobody listens at {socket}; is nameward-enforcer running on this node?")]
    Connect {
        /// Where.
        socket: String,
        /// Cause.
        source: io::Error,
    },
    /// Sending or receiving.
    #[error("the enforcer at {socket} did not answer")]
    Exchange {
        /// Where.
        socket: String,
        /// Cause.
        source: io::Error,
    },
    /// It is not an answer.
    #[error("the enforcer at {socket} answered something else than expected")]
    Malformed {
        /// Where.
        socket: String,
        /// Cause.
        source: serde_json::Error,
    },
}

/// Asks the enforcer at `socket`; each step takes at most `timeout`. Blocks: the plugin does nothing else.
///
/// # Errors
/// [`AskError`] when there is no answer; an answer may itself be an error.
pub fn ask(socket: &Path, request: &Request, timeout: Duration) -> Result<Answer, AskError> {
    let name = || socket.display().to_string();
    let stream =
        UnixStream::connect(socket).map_err(|source| AskError::Connect { socket: name(), source })?;
    let line = exchange(&stream, request, timeout)
        .map_err(|source| AskError::Exchange { socket: name(), source })?;
    serde_json::from_str(&line).map_err(|source| AskError::Malformed { socket: name(), source })
}

fn exchange(mut stream: &UnixStream, request: &Request, timeout: Duration) -> io::Result<String> {
    stream.set_read_timeout(Some(timeout))?;
    stream.set_write_timeout(Some(timeout))?;
    let mut line = serde_json::to_vec(request)?;
    line.push(b'\n');
    stream.write_all(&line)?;
    let mut answer = String::new();
    BufReader::new(stream.take(MAX_LINE)).read_line(&mut answer)?;
    if answer.is_empty() {
        return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the connection was closed"));
    }
    Ok(answer)
}

#[cfg(test)]
mod tests {
    use std::{os::unix::net::UnixListener, thread};

    use super::*;

    #[test]
    fn the_words_on_the_wire() {
        let line = r#"{"version":1,"command":"Add","containerId":"c1","ifname":"eth0","netns":"/run/netns/x","podNamespace":"ci","podName":"runner","podUid":"u1","hostInterface":"veth0","addresses":["10.0.0.2","2001:db8::2"]}"#;
        let request: Request = serde_json::from_str(line).unwrap();
        assert_eq!(request.command, Command::Add);
        assert_eq!((request.host_interface.as_deref(), request.addresses.len()), (Some("veth0"), 2));
        assert_eq!(serde_json::to_string(&request).unwrap(), line);
        let bare: Request = serde_json::from_str(r#"{"version":1,"command":"Status"}"#).unwrap();
        assert_eq!((bare.container_id.as_str(), bare.host_interface), ("", None));
        assert_eq!(serde_json::to_string(&Answer::done()).unwrap(), r#"{"ok":true,"retriable":false}"#);
        let answer: Answer = serde_json::from_str(r#"{"ok":false,"error":"wait","retriable":true}"#).unwrap();
        assert_eq!(answer, Answer::not_yet("wait"));
    }

    #[test]
    fn one_line_each_way() {
        let folder = std::env::temp_dir().join(format!("nwt{}-cni", std::process::id()));
        let _made = std::fs::create_dir_all(&folder);
        let socket = folder.join("cni.sock");
        let listener = UnixListener::bind(&socket).unwrap();
        let enforcer = thread::spawn(move || {
            let (stream, _) = listener.accept().unwrap();
            let mut line = String::new();
            BufReader::new(&stream).read_line(&mut line).unwrap();
            let request: Request = serde_json::from_str(&line).unwrap();
            let answer = serde_json::to_string(&Answer::refused(request.container_id)).unwrap();
            (&stream).write_all(answer.as_bytes()).unwrap();
        });
        let request: Request =
            serde_json::from_str(r#"{"version":1,"command":"Check","containerId":"c7"}"#).unwrap();
        let answer = ask(&socket, &request, Duration::from_secs(5));
        enforcer.join().unwrap();
        assert_eq!(answer.unwrap(), Answer::refused("c7"));
        let gone = ask(&socket, &request, Duration::from_secs(5));
        assert!(matches!(gone, Err(AskError::Connect { .. })), "{gone:?}");
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
