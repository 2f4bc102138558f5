//! A source of known contents, served on a socket.

use std::{
    ops::{Bound, Deref, Range, RangeBounds},
    path::PathBuf,
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
};

use jiff::Timestamp;
use nameward_api::{
    Changes, Flush, Followed, Site, Source, SourceError,
    filter::BindingFilter,
    router,
    serve::{ApiListener, ApiPlace, Bounds, serve, serve_within},
    types::{
        BindingStatus, Decision, Direction, EndpointStatus, Explained, FlushedBinding, LeaseStatus, Mode,
        PolicyStatus, RuleName, RuleStatus, SubjectStatus, TrafficStatus, Verdict,
    },
};
use nameward_policy::{Destination, Name};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
    sync::broadcast,
};

pub(crate) const ESCAPE: &str = "\u{1b}]0;owned\u{7}<script>alert(1)</script>";

/// As time goes by, an answer that is otherwise the same has less left.
static SECONDS: AtomicU64 = AtomicU64::new(0);

/// What the source knows. Endpoints `ci/0` to `ci/2`, unless said otherwise, each with names `n0.example` to `n9.example`.
pub(crate) struct Fixture {
    pub(crate) endpoints: Mutex<Range<usize>>,
    /// How often somebody wanted an explanation.
    pub(crate) explained: AtomicU64,
    pub(crate) decisions: Mutex<Vec<Arc<Followed>>>,
    pub(crate) coming: broadcast::Sender<Arc<Followed>>,
    pub(crate) pending: Mutex<Vec<String>>,
    /// What was taken back.
    pub(crate) flushed: Mutex<Vec<String>>,
    told: AtomicU64,
}

impl Fixture {
    pub(crate) fn new() -> Arc<Self> {
        Self::with(0..3)
    }

    pub(crate) fn with(endpoints: Range<usize>) -> Arc<Self> {
        Arc::new(Self {
            endpoints: Mutex::new(endpoints),
            explained: AtomicU64::new(0),
            decisions: Mutex::default(),
            coming: broadcast::Sender::new(64),
            pending: Mutex::default(),
            flushed: Mutex::default(),
            told: AtomicU64::new(0),
        })
    }

    /// A denial, told and kept.
    pub(crate) fn deny(&self, endpoint: &str, name: Option<&str>) {
        let sequence = self.told.fetch_add(1, Ordering::Relaxed) + 1;
        let one = Arc::new(Followed::from(denial(sequence, endpoint, name)));
        self.decisions.lock().unwrap().push(Arc::clone(&one));
        let _nobody_follows = self.coming.send(one);
    }
}

impl Fixture {
    fn all(&self) -> impl Iterator<Item = EndpointStatus> {
        self.endpoints.lock().unwrap().clone().map(endpoint)
    }

    /// A name that was not answered, told and kept.
    pub(crate) fn refuse(&self, endpoint: &str, name: &str) {
        let sequence = self.told.fetch_add(1, Ordering::Relaxed) + 1;
        let question = Decision {
            reason: "filtered".into(),
            remote: "0.0.0.0".parse().unwrap(),
            remote_port: 53,
            query_type: Some("AAAA".into()),
            response_code: Some("NXDOMAIN".into()),
            ..denial(sequence, endpoint, Some(name))
        };
        let one = Arc::new(Followed::from(question));
        self.decisions.lock().unwrap().push(Arc::clone(&one));
        let _nobody_follows = self.coming.send(one);
    }
}

fn denial(sequence: u64, endpoint: &str, name: Option<&str>) -> Decision {
    Decision {
        sequence,
        at: Timestamp::from_second(1_800_000_000 + i64::try_from(sequence).unwrap()).unwrap(),
        endpoint: endpoint.into(),
        workload: None,
        verdict: Verdict::Deny,
        reason: "no-match".into(),
        direction: Direction::Egress,
        protocol: 6,
        local: "10.0.0.2".parse().unwrap(),
        local_port: 40_000,
        remote: "203.0.113.9".parse().unwrap(),
        remote_port: 443,
        name: name.map(Into::into),
        query_type: None,
        response_code: None,
        policy: None,
        packets: 1,
        bytes: 60,
        generation: 1,
        staged: None,
    }
}

fn endpoint(number: usize) -> EndpointStatus {
    EndpointStatus {
        uid: format!("ci/{number}").into(),
        name: format!("ci/{number}"),
        attachment: "interface veth0".into(),
        addresses: vec!["10.0.0.2".parse().unwrap()],
        generation: 1,
        mode: Some(Mode::Enforce),
        live_names: 10,
        live_addresses: 10,
        problem: (number == 2).then(|| ESCAPE.into()),
        counters: [("no-match".into(), nameward_api::types::Counts { packets: 3, bytes: 180 })].into(),
        not_covered: vec![],
        adopted: vec![],
        lost_events: 0,
        lost_questions: 0,
        drift_repairs: 0,
    }
}

fn binding(uid: &str, number: u8) -> BindingStatus {
    let expires_at = Timestamp::from_second(1_800_000_000).unwrap();
    let address = std::net::Ipv4Addr::new(198, 51, 100, number).into();
    BindingStatus {
        endpoint: uid.into(),
        workload: None,
        name: format!("n{number}.example"),
        chain: vec![],
        asked_at: expires_at,
        addresses: vec![LeaseStatus {
            address,
            ttl_ends_at: expires_at,
            expires_at,
            seconds_left: 1_000_000 - SECONDS.fetch_add(1, Ordering::Relaxed),
        }],
        rules: vec![RuleName { policy: "EgressPolicy ci/web".into(), rule: "all".into() }],
    }
}

impl Source for Fixture {
    fn endpoints(&self) -> Result<Vec<EndpointStatus>, SourceError> {
        Ok(self.all().collect())
    }

    fn endpoint(&self, uid: &str) -> Result<EndpointStatus, SourceError> {
        let found = self.all().find(|one| &*one.uid == uid);
        found.ok_or_else(|| SourceError::NoSuchEndpoint(uid.into()))
    }

    fn endpoint_names(&self) -> Vec<(Arc<str>, String)> {
        self.all().map(|one| (one.uid, one.name)).collect()
    }

    fn bindings(
        &self,
        uid: &str,
        filter: &BindingFilter,
        first: Bound<&str>,
        limit: usize,
    ) -> Result<Vec<BindingStatus>, SourceError> {
        let all = (0..10).map(|number| binding(uid, number));
        let wanted = all.filter(|one| {
            RangeBounds::<str>::contains(&(first, Bound::Unbounded), one.name.as_str())
                && filter.passes_name(&Name::parse(&one.name).unwrap())
                && filter.passes_address(one.addresses[0].address)
                && filter.passes_rest(one)
        });
        Ok(wanted.take(limit).collect())
    }

    fn traffic(&self, uid: &str) -> Result<Vec<TrafficStatus>, SourceError> {
        let one = |number: u64| TrafficStatus {
            endpoint: uid.into(),
            workload: None,
            destination: format!("n{number}.example"),
            reason: "name".into(),
            rules: vec![],
            flows: 1,
            ports: vec!["TCP 443".into()],
            packets: number,
            bytes: number * 60,
        };
        Ok((0..3).map(one).collect())
    }

    fn subjects(&self) -> Vec<SubjectStatus> {
        let subject = |one: EndpointStatus| SubjectStatus {
            endpoint: one.uid,
            namespace: "ci".into(),
            labels: [("app".into(), ESCAPE.into())].into(),
            namespace_labels: [("kubernetes.io/metadata.name".into(), "ci".into())].into(),
            exempt: false,
            suspended: false,
            policies: vec![
                serde_json::json!({"kind": "EgressPolicy", "metadata": {"namespace": "ci", "name": "web"}}),
            ],
            cluster: [].into(),
        };
        self.all().map(subject).collect()
    }

    fn policies(&self) -> Vec<PolicyStatus> {
        let rule = RuleStatus {
            name: "all".into(),
            effect: "allow".into(),
            to: vec!["*.example".into()],
            ports: vec!["TCP 443".into()],
            expires_at: None,
            last_asked_at: None,
        };
        let policy = |name: &str| PolicyStatus {
            kind: "EgressPolicy".into(),
            namespace: "ci".into(),
            name: name.into(),
            endpoints: vec!["ci/0".into()],
            rules: vec![rule.clone()],
        };
        vec![policy("mail"), policy("web")]
    }

    fn explain(&self, uid: &str, _: &Destination, _: u8, port: u16) -> Result<Explained, SourceError> {
        self.explained.fetch_add(1, Ordering::Relaxed);
        self.endpoint(uid)?;
        if uid == "ci/1" {
            return Err(SourceError::NoRules(uid.into()));
        }
        Ok(Explained {
            text: format!("denied: port {port}"),
            verdict: "denied".into(),
            reason: "port".into(),
            address: None,
            rules: vec![],
            bindings: vec![],
            missing: Some("port".into()),
            suggestion: None,
            staged: None,
        })
    }

    fn forbids(&self, _: &str, name: &Name) -> bool {
        name.as_str() == "forbidden.example"
    }

    fn recent_decisions(&self) -> Vec<Arc<Followed>> {
        self.decisions.lock().unwrap().clone()
    }

    fn follow(&self) -> broadcast::Receiver<Arc<Followed>> {
        self.coming.subscribe()
    }

    fn epoch(&self) -> u64 {
        0xabc
    }

    fn not_ready(&self) -> Vec<String> {
        self.pending.lock().unwrap().clone()
    }

    fn metrics(&self) -> Result<(String, &'static str), SourceError> {
        Ok(("# EOF\n".into(), "application/openmetrics-text"))
    }
}

impl Changes for Fixture {
    fn flush(
        &self,
        uid: &str,
        names: Vec<Name>,
    ) -> Pin<Box<dyn Future<Output = Result<Flush, SourceError>> + Send>> {
        let one = |name: &Name| FlushedBinding {
            endpoint: uid.into(),
            name: name.to_string(),
            revoked: vec!["198.51.100.1".parse().unwrap()],
            renewed: vec![],
        };
        self.flushed.lock().unwrap().extend(names.iter().map(|name| format!("{uid} {name}")));
        let bindings = names.iter().map(one).collect();
        let warnings = vec!["a resolver did not confirm".into()];
        Box::pin(std::future::ready(Ok(Flush { bindings, warnings })))
    }
}

/// A fixture behind a socket, in a folder of its own.
pub(crate) struct Served {
    pub(crate) fixture: Arc<Fixture>,
    pub(crate) folder: PathBuf,
    socket: Socket,
    serving: tokio::task::JoinHandle<std::io::Result<()>>,
}

impl Served {
    pub(crate) fn new() -> Self {
        Self::at_most(100)
    }

    /// With so many connections at a time.
    pub(crate) fn at_most(connections: usize) -> Self {
        Self::within(Bounds { connections, ..Bounds::default() })
    }

    pub(crate) fn within(bounds: Bounds) -> Self {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let folder = std::env::temp_dir().join(format!("nwt{}-http-{number}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let fixture = Fixture::new();
        let listener = ApiPlace::Unix(folder.join("api")).listen(None).unwrap();
        let serving = tokio::spawn(serve_within(bounds, router(Self::site(&fixture)), listener));
        Self { fixture, socket: Socket(folder.join("api")), folder, serving }
    }

    fn site(fixture: &Arc<Fixture>) -> Site {
        site(fixture, "here")
    }

    /// The same, where things may be changed; on another socket.
    pub(crate) fn changeable(&self) -> PathBuf {
        let path = self.folder.join("changeable");
        let changes = Some(Arc::clone(&self.fixture) as Arc<dyn Changes>);
        let listener = ApiPlace::Unix(path.clone()).listen(None).unwrap();
        tokio::spawn(serve(Site { changes, ..Self::site(&self.fixture) }, listener));
        path
    }

    /// The same on an address; gives the address.
    pub(crate) fn on_address(&self) -> std::net::SocketAddr {
        self.listen(Self::site(&self.fixture))
    }

    /// The same, where things may be changed.
    pub(crate) fn on_changeable_address(&self) -> std::net::SocketAddr {
        let changes = Some(Arc::clone(&self.fixture) as Arc<dyn Changes>);
        self.listen(Site { changes, ..Self::site(&self.fixture) })
    }

    fn listen(&self, site: Site) -> std::net::SocketAddr {
        let place = ApiPlace::Address("127.0.0.1:0".parse().unwrap());
        let listener = place.listen(Some(&self.folder.join("token"))).unwrap();
        let ApiListener::Address(listening, _) = &listener else { panic!("an address") };
        let address = listening.local_addr().unwrap();
        tokio::spawn(serve(site, listener));
        address
    }

    pub(crate) fn place(&self) -> ApiPlace {
        ApiPlace::Unix(self.folder.join("api"))
    }
}

impl Deref for Served {
    type Target = Socket;

    fn deref(&self) -> &Socket {
        &self.socket
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        self.serving.abort();
        drop(std::fs::remove_dir_all(&self.folder));
    }
}

/// A fixture as the routes want it.
pub(crate) fn site(fixture: &Arc<Fixture>, node: &str) -> Site {
    Site { source: Arc::clone(fixture) as Arc<dyn Source>, node: node.into(), changes: None }
}

/// A unix socket that serves an API.
pub(crate) struct Socket(pub(crate) PathBuf);

impl Socket {
    pub(crate) async fn connect(&self) -> UnixStream {
        UnixStream::connect(&self.0).await.unwrap()
    }

    /// Sends bytes, and reads what comes until the server closes.
    pub(crate) async fn raw(&self, request: &[u8]) -> String {
        let mut stream = self.connect().await;
        let mut said = Vec::new();
        // Who says no before the end of a question hangs up on what is still to come.
        let _refused = stream.write_all(request).await;
        let _hung_up = stream.read_to_end(&mut said).await;
        String::from_utf8_lossy(&said).into_owned()
    }

    /// Status, head and body of a GET.
    pub(crate) async fn get(&self, path: &str, headers: &str) -> (u16, String, String) {
        let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{headers}\r\n");
        let said = self.raw(request.as_bytes()).await;
        let (head, body) = said.split_once("\r\n\r\n").unwrap_or((&said, ""));
        let status = head.split(' ').nth(1).and_then(|text| text.parse().ok()).unwrap_or(0);
        (status, head.to_ascii_lowercase(), body.to_owned())
    }

    pub(crate) async fn json(&self, path: &str) -> serde_json::Value {
        let (status, _, body) = self.get(path, "").await;
        assert_eq!(status, 200, "{path}: {body}");
        serde_json::from_str(&body).unwrap()
    }

    /// A refusal has its status, its media type and a sentence.
    pub(crate) async fn assert_refused(&self, path: &str, status: u16, says: &str) {
        let (found, head, body) = self.get(path, "").await;
        assert_eq!(found, status, "{path}: {body}");
        assert!(head.contains("content-type: application/problem+json"), "{path}: {head}");
        let problem: nameward_api::Problem = serde_json::from_str(&body).unwrap();
        assert!(problem.detail.contains(says), "{path}: {}", problem.detail);
        assert_eq!(problem.status, status, "{path}");
    }
}
