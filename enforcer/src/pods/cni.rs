//! The CNI plugin's socket: sandboxes are guarded before their containers start (SEMANTICS, promise 5).
//!
//! A sandbox is attached as soon as it is named, and denies everything; its rules follow from what is decided about
//! its pod. Whether an interface is the pod's, the kernel says, not the plugin. Each question is answered on its own.

use std::{
    fs::{self, File},
    io,
    net::IpAddr,
    os::{
        fd::AsRawFd,
        unix::fs::{FileTypeExt, PermissionsExt},
    },
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use nameward_feed::cni::{Answer, Command, MAX_LINE, Request, VERSION};
use socket2::{Domain, SockAddr, Socket, Type};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{UnixListener, UnixStream},
    sync::Semaphore,
    time::timeout,
};

use super::{
    Origin, Sandbox, Sandboxes, Verdicts, endpoints_of,
    inside::{self, Inside, Way},
};
use crate::{EndpointConfig, Enforcer, endpoints::chain_text, kernel::Attachment};

/// Only root may open the socket.
const MODE: u32 = 0o600;
/// Connections that wait to be accepted.
const BACKLOG: i32 = 128;
/// A question has to be asked within this time.
const QUESTION: Duration = Duration::from_secs(5);
/// How long a sandbox waits for its rules. Without them it starts, too, and denies until they come.
const RULES: Duration = Duration::from_secs(2);

/// Answers the plugin.
#[derive(Clone, Debug)]
pub struct CniServer {
    /// Attaches.
    enforcer: Enforcer,
    /// What is known of sandboxes.
    sandboxes: Arc<Sandboxes>,
    /// What is decided about pods.
    verdicts: Arc<Verdicts>,
    /// Who attaches: one at a time, in the order in which they asked.
    turns: Arc<Semaphore>,
}

/// Opens the socket; one that an earlier process left is replaced, nothing else at its path is. Must be called within a
/// runtime, by the only enforcer of its instance.
///
/// # Errors
/// When the socket cannot be made, or the path is of another kind of file.
pub fn listen(path: &Path) -> io::Result<UnixListener> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Ok(found) if found.file_type().is_socket() => fs::remove_file(path)?,
        Ok(_) => {
            let text = "there is a file of another kind at this path: remove it, or name another path";
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, text));
        }
        Err(error) => return Err(error),
    }
    let socket = Socket::new(Domain::UNIX, Type::STREAM.nonblocking().cloexec(), None)?;
    // The file gets the mode that the socket has before it is bound (unix(7)): never more than this.
    let mode = fs::Permissions::from_mode(MODE);
    fs::set_permissions(format!("/proc/self/fd/{}", socket.as_raw_fd()), mode)?;
    socket.bind(&SockAddr::unix(path)?)?;
    socket.listen(BACKLOG)?;
    UnixListener::from_std(socket.into())
}

impl CniServer {
    /// A server of what these know.
    #[must_use]
    pub fn new(enforcer: Enforcer, sandboxes: Arc<Sandboxes>, verdicts: Arc<Verdicts>) -> Self {
        Self { enforcer, sandboxes, verdicts, turns: Arc::new(Semaphore::new(1)) }
    }

    /// Answers until the listener fails.
    ///
    /// # Errors
    /// When no more connections can be accepted.
    pub async fn serve(self, listener: UnixListener) -> io::Result<()> {
        loop {
            let (stream, _) = listener.accept().await?;
            let server = self.clone();
            tokio::spawn(async move {
                if let Err(error) = server.converse(stream).await {
                    tracing::warn!(%error, "a question of the CNI plugin was not answered");
                }
            });
        }
    }

    async fn converse(&self, stream: UnixStream) -> io::Result<()> {
        let (reading, mut writing) = stream.into_split();
        let mut line = String::new();
        let mut reading = BufReader::new(reading.take(MAX_LINE));
        timeout(QUESTION, reading.read_line(&mut line)).await??;
        let answer = match serde_json::from_str::<Request>(&line) {
            Ok(request) => {
                // Nothing follows the question but the end.
                let hung_up = async { drop(reading.fill_buf().await) };
                self.answer(request, hung_up).await
            }
            Err(error) => Answer::refused(format!(
                "the question is not understood: {error}; are nameward-cni and nameward-enforcer of the same release?"
            )),
        };
        let mut text = serde_json::to_vec(&answer)?;
        text.push(b'\n');
        writing.write_all(&text).await
    }

    async fn answer(&self, request: Request, hung_up: impl Future<Output = ()>) -> Answer {
        if request.version != VERSION {
            return Answer::refused(format!(
                "version {} of the question is not understood, {VERSION} is; install nameward-cni of the enforcer's release",
                request.version
            ));
        }
        let command = request.command;
        let (namespace, name) = (request.pod_namespace.clone(), request.pod_name.clone());
        let answer = match command {
            Command::Status => Answer::done(),
            Command::Remove => self.remove(&request),
            Command::Check => self.check(request).await,
            Command::Add => self.add(request, hung_up).await,
        };
        match &answer.error {
            None => tracing::debug!(?command, pod.namespace = namespace, pod.name = name, "answered"),
            Some(error) => {
                tracing::warn!(?command, pod.namespace = namespace, pod.name = name, error, "refused");
            }
        }
        answer
    }

    fn remove(&self, request: &Request) -> Answer {
        if self.sandboxes.remove(&request.container_id, &request.ifname).is_some() {
            self.verdicts.ask();
        }
        Answer::done()
    }

    async fn check(&self, request: Request) -> Answer {
        let (sandbox, _) = match self.sandbox(&request).await {
            Ok(found) => found,
            Err(answer) => return answer,
        };
        let Some(sandbox) = sandbox else { return Answer::done() };
        match self.verdicts.of(&sandbox.pod_uid) {
            Some(decided) if !decided.needs_guard() => Answer::done(),
            _ if self.is_attached(&sandbox.endpoint) => Answer::done(),
            _ => Answer::not_yet("the sandbox is not guarded; the enforcer's log says why"),
        }
    }

    async fn add(&self, request: Request, hung_up: impl Future<Output = ()>) -> Answer {
        let (sandbox, inside) = match self.sandbox(&request).await {
            Ok(found) => found,
            Err(answer) => return answer,
        };
        let uid = match self.pod_uid(&request) {
            Ok(uid) => uid,
            Err(answer) => return answer,
        };
        self.sandboxes.note_inside(&uid, &inside);
        let Some(sandbox) = sandbox else {
            tracing::warn!(
                pod.namespace = request.pod_namespace,
                pod.name = request.pod_name,
                interface = request.ifname,
                "an interface cannot be guarded: shown as not covered"
            );
            return Answer::done();
        };
        let endpoint = Arc::clone(&sandbox.endpoint);
        let attaching = self.sandboxes.attaching(&endpoint);
        // Before the decision is asked for: one that comes later finds the sandbox.
        self.sandboxes.add(sandbox.clone());
        let decided = self.verdicts.of(&sandbox.pod_uid);
        if decided.is_some_and(|decided| !decided.needs_guard()) {
            return Answer::done();
        }
        let asked_at = Instant::now();
        let attached = tokio::select! {
            turn = self.turns.acquire() => {
                let waited = asked_at.elapsed();
                let attached = self.attach(&sandbox, &request.pod_namespace).await;
                drop(turn);
                let took = asked_at.elapsed() - waited;
                tracing::debug!(endpoint = &*endpoint, ?waited, ?took, "attached for the plugin, or not");
                attached
            }
            // Of many that start at once some may not be able to wait so long. Their sandboxes go; those that still wait do
            // not wait for them.
            () = hung_up => Err("nobody waits for it any more".to_owned()),
        };
        if let Err(error) = attached {
            self.sandboxes.forget(&endpoint);
            return Answer::not_yet(format!("the sandbox cannot be guarded: {error}"));
        }
        drop(attaching);
        self.verdicts.ask();
        let is_done = || match self.verdicts.of(&sandbox.pod_uid) {
            Some(decided) if !decided.needs_guard() => true,
            _ => self.has_rules(&endpoint),
        };
        self.verdicts.wait(RULES, is_done).await;
        Answer::done()
    }

    /// The sandbox that is meant, and what its namespace holds; no sandbox where the interface cannot be guarded.
    async fn sandbox(&self, request: &Request) -> Result<(Option<Sandbox>, Inside), Answer> {
        for (what, value) in [
            ("CNI_CONTAINERID", &request.container_id),
            ("CNI_IFNAME", &request.ifname),
            ("CNI_NETNS", &request.netns),
        ] {
            if value.is_empty() {
                return Err(Answer::refused(format!("{what} is empty; the runtime has to set it")));
            }
        }
        let pod_uid = self.pod_uid(request)?;
        let path = PathBuf::from(&request.netns);
        let looked = blocking(move || inside::look(&File::open(path)?)).await;
        let inside = looked.map_err(|error| {
            Answer::not_yet(format!("the network namespace {} cannot be looked into: {error}", request.netns))
        })?;
        let interface = inside.interfaces.iter().find(|one| one.name == request.ifname);
        let host_index = match interface.map(|one| &one.way) {
            Some(Way::Host { index }) => *index,
            Some(Way::Unguardable(_)) => return Ok((None, inside)),
            Some(Way::Nowhere) | None => {
                return Err(Answer::refused(format!(
                    "there is no interface {} in {} that leads to this host; nameward-cni has to come after the plugin that makes it",
                    request.ifname, request.netns
                )));
            }
        };
        let endpoints = endpoints_of(&pod_uid, &inside);
        let endpoint =
            endpoints.into_iter().find(|(_, index, _)| *index == host_index).map(|(_, _, uid)| uid);
        let (Some(endpoint), Some(host_interface)) = (endpoint, inside::name_of(host_index)) else {
            return Err(Answer::not_yet(format!("the host's interface {host_index} is gone")));
        };
        if request.host_interface.as_ref().is_some_and(|said| *said != host_interface) {
            tracing::debug!(said = request.host_interface, host_interface, "the kernel's word counts");
        }
        let mut addresses: Vec<IpAddr> = request.addresses.iter().map(IpAddr::to_canonical).collect();
        addresses.sort_unstable();
        addresses.dedup();
        let sandbox = Sandbox {
            endpoint,
            pod_uid,
            pod_name: format!("{}/{}", request.pod_namespace, request.pod_name),
            host_index,
            host_interface,
            addresses,
            origin: Origin::Cni {
                container_id: request.container_id.clone(),
                ifname: request.ifname.clone(),
            },
        };
        Ok((Some(sandbox), inside))
    }

    fn pod_uid(&self, request: &Request) -> Result<Arc<str>, Answer> {
        if !request.pod_uid.is_empty() {
            return Ok(request.pod_uid.as_str().into());
        }
        self.verdicts.uid_of(&request.pod_namespace, &request.pod_name).ok_or_else(|| {
            Answer::not_yet(
                "the runtime does not say the pod's UID (K8S_POD_UID), and the pod is not known by its name yet",
            )
        })
    }

    async fn attach(&self, sandbox: &Sandbox, namespace: &str) -> Result<(), String> {
        let config = EndpointConfig {
            uid: Arc::clone(&sandbox.endpoint),
            name: sandbox.pod_name.clone(),
            attachment: Attachment::Interface { name: sandbox.host_interface.clone() },
            addresses: sandbox.addresses.clone(),
            settings: self.verdicts.settings_of(namespace),
            allow_host: false,
        };
        let enforcer = self.enforcer.clone();
        blocking(move || {
            enforcer.apply_endpoint(config).map_err(|error| io::Error::other(chain_text(&error)))
        })
        .await
        .map_err(|error| error.to_string())
    }

    fn is_attached(&self, endpoint: &str) -> bool {
        self.enforcer.next_generation(endpoint).is_ok()
    }

    fn has_rules(&self, endpoint: &str) -> bool {
        self.enforcer.view(endpoint).is_ok_and(|view| view.is_some())
    }
}

/// Does what asks the kernel beside the tasks that must not wait.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(io::Error::other)?
}
