//! A host namespace, an internet namespace, and `nameward run` started in the first one.
//!
//! Names begin with `nwtr`; what a crashed test left is removed by the next run of these tests.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, UdpSocket};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, Once};
use std::thread;
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, setns};

/// Address of the DNS server.
pub(crate) const DNS: &str = "198.51.100.53";
/// Names and their addresses.
pub(crate) const NAMES: [(&str, &[&str]); 11] = [
    ("allowed.example", &["198.51.100.10"]),
    ("six.example", &["2001:db8:1::10"]),
    ("both.example", &["198.51.100.11", "2001:db8:1::11"]),
    ("other.example", &["203.0.113.10"]),
    ("denied.example", &["203.0.113.11"]),
    ("a.wild.example", &["198.51.100.12"]),
    ("private.example", &["10.66.0.10"]),
    ("metadata.example", &["169.254.169.254"]),
    ("self.example", &["192.0.2.2", "2001:db8::2", "::ffff:192.0.2.2", "64:ff9b::192.0.2.2"]),
    ("around.example", &["192.0.2.255", "203.0.113.200", "2001:db8::"]),
    ("moves.example", &["198.51.100.12", "198.51.100.13"]),
];
/// Every name below this one exists.
const MANY: &str = ".many.example";
/// Addresses without a name.
const NAMELESS: [&str; 3] = ["198.51.100.99", "203.0.113.99", "2001:db8:1::99"];
/// Ports of the HTTP servers.
const HTTP_PORTS: [u16; 2] = [80, 8080];

static NUMBER: AtomicU32 = AtomicU32::new(0);
static CLEAN: Once = Once::new();

/// Whether privileged tests can run here; where they must (`NAMEWARD_MUST_RUN=1`), it fails instead.
pub(crate) fn privileged() -> bool {
    if nix::unistd::Uid::effective().is_root() {
        CLEAN.call_once(remove_leftovers);
        return true;
    }
    assert!(
        std::env::var_os("NAMEWARD_MUST_RUN").is_none(),
        "NAMEWARD_MUST_RUN is set, but this is not root"
    );
    false
}

/// The command under test: beside this test's own executable, unless `NAMEWARD_BIN` names it.
pub(crate) fn nameward() -> PathBuf {
    if let Some(path) = std::env::var_os("NAMEWARD_BIN") {
        return PathBuf::from(path).canonicalize().unwrap();
    }
    let own = std::env::current_exe().unwrap();
    let folder = own.ancestors().skip(1).find(|folder| !folder.ends_with("deps")).unwrap();
    let path = folder.join("nameward");
    assert!(path.is_file(), "{} is missing: build it with `cargo build -p nameward`", path.display());
    path
}

/// Runs a shell command that must succeed.
pub(crate) fn must(command: &str) -> String {
    let output = Command::new("sh").args(["-c", command]).output().unwrap();
    assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// What a run said.
#[derive(Debug)]
pub(crate) struct Said {
    pub(crate) status: Option<i32>,
    pub(crate) out: String,
    pub(crate) err: String,
    pub(crate) took: Duration,
}

impl Said {
    pub(crate) fn of(output: &Output, took: Duration) -> Self {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Self { status: output.status.code(), out: text(&output.stdout), err: text(&output.stderr), took }
    }

    /// Fails unless the status is this one.
    #[track_caller]
    pub(crate) fn ended(&self, status: i32) -> &Self {
        assert_eq!(self.status, Some(status), "{self:#?}");
        self
    }

    /// Fails unless stderr has this.
    #[track_caller]
    pub(crate) fn told(&self, text: &str) -> &Self {
        assert!(self.err.contains(text), "{text:?} is not in: {self:#?}");
        self
    }
}

/// One test's piece of the world.
pub(crate) struct Lab {
    name: String,
    /// Names that were asked upstream, in order.
    pub(crate) asked: Arc<Mutex<Vec<String>>>,
    /// Addresses and ports that a connection reached.
    pub(crate) reached: Arc<Mutex<Vec<SocketAddr>>>,
    /// A folder of its own that anybody may read.
    pub(crate) folder: PathBuf,
}

impl Lab {
    pub(crate) fn new() -> Self {
        let name = format!("nwtr{}x{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        let folder = std::env::temp_dir().join(&name);
        fs::create_dir(&folder).unwrap();
        must(&format!("chmod 755 {}", folder.display()));
        let lab = Self { name, asked: Arc::default(), reached: Arc::default(), folder };
        lab.link();
        lab.serve();
        lab
    }

    /// The host's namespace.
    pub(crate) fn host(&self) -> String {
        format!("{}h", self.name)
    }

    /// The far side of its link.
    pub(crate) fn internet(&self) -> String {
        format!("{}i", self.name)
    }

    fn link(&self) {
        let (host, internet) = (self.host(), self.internet());
        let named = NAMES.iter().filter(|(name, _)| !["self.example", "around.example"].contains(name));
        let addresses = named.flat_map(|(_, addresses)| addresses.iter()).chain(&NAMELESS).chain([&DNS]);
        let addresses: String = addresses
            .map(|address| {
                let bits = if address.contains(':') { "128 nodad" } else { "32" };
                let (address, flags) = (address, bits.split_once(' ').map_or("", |(_, flags)| flags));
                let bits = bits.split(' ').next().unwrap();
                format!("ip -n {internet} addr replace {address}/{bits} dev lo {flags} && ")
            })
            .collect();
        must(&format!(
            "ip netns add {host} && ip netns add {internet} &&
             ip -n {host} link set lo up && ip -n {internet} link set lo up &&
             ip -n {host} link add up0 type veth peer name down0 netns {internet} &&
             ip -n {host} addr add 192.0.2.2/24 dev up0 && ip -n {internet} addr add 192.0.2.1/24 dev down0 &&
             ip -n {host} addr add 2001:db8::2/64 dev up0 nodad &&
             ip -n {internet} addr add 2001:db8::1/64 dev down0 nodad &&
             {addresses}
             ip -n {host} link set up0 up && ip -n {internet} link set down0 up &&
             ip -n {host} route add default via 192.0.2.1 && ip -n {host} route add default via 2001:db8::1"
        ));
    }

    /// Sockets are made in the internet's namespace and go on working outside of it.
    fn serve(&self) {
        let (asked, reached) = (Arc::clone(&self.asked), Arc::clone(&self.reached));
        self.in_namespace(&self.internet(), move || {
            let dns = UdpSocket::bind((DNS, 53)).unwrap();
            thread::spawn(move || answer_forever(&dns, &asked));
            for port in HTTP_PORTS {
                let http = TcpListener::bind(("::", port)).unwrap();
                let reached = Arc::clone(&reached);
                thread::spawn(move || serve_forever(&http, &reached));
            }
        });
    }

    /// Runs something in a thread that is in a namespace.
    pub(crate) fn in_namespace<T: Send + 'static>(
        &self,
        namespace: &str,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> T {
        let file = File::open(Path::new("/run/netns").join(namespace)).unwrap();
        let enter = move || {
            setns(file.as_fd(), CloneFlags::CLONE_NEWNET).unwrap();
            work()
        };
        thread::spawn(enter).join().unwrap()
    }

    /// `nameward run ARGUMENTS` in the host namespace, asking the lab's DNS server; not yet started.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut all = vec!["run", "--dns", DNS];
        all.extend(arguments);
        self.bare(&all)
    }

    /// `nameward ARGUMENTS` in the host namespace; not yet started.
    pub(crate) fn bare(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/run/netns/{}", self.host())).arg(nameward()).args(arguments);
        command.current_dir(&self.folder).stdin(Stdio::null());
        for key in ["SUDO_UID", "SUDO_GID", "SUDO_USER", "NAMEWARD_LOG"] {
            command.env_remove(key);
        }
        command
    }

    /// Runs a command behind the fence and waits for it.
    pub(crate) fn run(&self, arguments: &[&str]) -> Said {
        finish(self.command(arguments))
    }

    /// Whether any server was reached at this address.
    pub(crate) fn was_reached(&self, address: &str) -> bool {
        let address: IpAddr = address.parse().unwrap();
        self.reached.lock().unwrap().iter().any(|peer| peer.ip() == address)
    }

    /// Writes a file into the lab's folder and gives its path.
    pub(crate) fn file(&self, name: &str, content: &str) -> String {
        let path = self.folder.join(name);
        fs::write(&path, content).unwrap();
        path.to_str().unwrap().to_owned()
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        for namespace in [self.host(), self.internet()] {
            drop(Command::new("ip").args(["netns", "del", &namespace]).output());
        }
        drop(fs::remove_dir_all(&self.folder));
    }
}

/// Runs a prepared command to its end.
pub(crate) fn finish(mut command: Command) -> Said {
    let started = Instant::now();
    let output = command.output().unwrap();
    Said::of(&output, started.elapsed())
}

/// Waits until something holds.
#[track_caller]
pub(crate) fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let started = Instant::now();
    while !holds() {
        assert!(started.elapsed() < Duration::from_secs(10), "never: {what}");
        thread::sleep(Duration::from_millis(5));
    }
}

fn remove_leftovers() {
    let Ok(namespaces) = fs::read_dir("/run/netns") else { return };
    for entry in namespaces.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let process = name.strip_prefix("nwtr").and_then(|rest| rest.split('x').next());
        if process.is_some_and(|process| !Path::new("/proc").join(process).exists()) {
            drop(Command::new("ip").args(["netns", "del", &name]).output());
        }
    }
}

pub(crate) fn serve_forever(listener: &TcpListener, reached: &Mutex<Vec<SocketAddr>>) {
    for connection in listener.incoming() {
        let Ok(mut connection) = connection else { return };
        let local = connection.local_addr().unwrap();
        let local = SocketAddr::new(local.ip().to_canonical(), local.port());
        reached.lock().unwrap().push(local);
        thread::spawn(move || {
            let mut request = [0; 4096];
            if connection.read(&mut request).is_ok_and(|length| length > 0) {
                let body = format!("hello from {}\n", local.ip());
                let head =
                    format!("HTTP/1.0 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
                drop(connection.write_all((head + &body).as_bytes()));
            }
        });
    }
}

fn answer_forever(socket: &UdpSocket, asked: &Mutex<Vec<String>>) {
    let table: HashMap<&str, &[&str]> = NAMES.into_iter().collect();
    let mut buffer = [0; 1500];
    while let Ok((length, peer)) = socket.recv_from(&mut buffer) {
        if let Some((name, answer)) = answer(&buffer[..length], &table) {
            asked.lock().unwrap().push(name);
            drop(socket.send_to(&answer, peer));
        }
    }
}

/// Answers A and AAAA questions of the table by hand, NXDOMAIN for other names.
fn answer(query: &[u8], table: &HashMap<&str, &[&str]>) -> Option<(String, Vec<u8>)> {
    const HEADER: usize = 12;
    let mut labels = Vec::new();
    let mut at = HEADER;
    while *query.get(at)? != 0 {
        let end = at + 1 + usize::from(query[at]);
        labels.push(String::from_utf8_lossy(query.get(at + 1..end)?).to_ascii_lowercase());
        at = end;
    }
    let kind = u16::from_be_bytes([*query.get(at + 1)?, *query.get(at + 2)?]);
    let question = query.get(HEADER..at + 5)?;
    let name = labels.join(".");
    let many: &[&str] = &["198.51.100.10"];
    let addresses = table.get(name.as_str()).or_else(|| name.ends_with(MANY).then_some(&many));
    let records: Vec<Vec<u8>> = addresses
        .into_iter()
        .flat_map(|addresses| addresses.iter())
        .filter_map(|address| match (address.parse().unwrap(), kind) {
            (IpAddr::V4(v4), 1) => Some(v4.octets().to_vec()),
            (IpAddr::V6(v6), 28) => Some(v6.octets().to_vec()),
            _ => None,
        })
        .collect();
    let code = if addresses.is_some() { 0 } else { 3 };
    let mut message = query[..2].to_vec();
    message.extend([0x81, 0x80 | code, 0, 1, 0, records.len() as u8, 0, 0, 0, 0]);
    message.extend(question);
    for record in records {
        message.extend([0xc0, 0x0c, 0, kind as u8, 0, 1, 0, 0, 0, 60, 0, record.len() as u8]);
        message.extend(record);
    }
    Some((name, message))
}
