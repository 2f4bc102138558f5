//! A sandbox and the world around it: a cgroup in a network namespace of its own, an outside namespace with
//! servers, and a stand-in for the resolver. All of it goes when it is dropped; names begin with `nwt`.

use std::{
    fs::File,
    io::{Read, Write},
    net::{IpAddr, Ipv4Addr, TcpListener, TcpStream, UdpSocket},
    os::fd::AsFd,
    path::Path,
    process::{Child, Command, Output, Stdio},
    sync::{
        Once,
        atomic::{AtomicU32, Ordering},
    },
    thread,
    time::Duration,
};

use nameward_abi::{
    Address, Admitted, Allow, CidrRule, Counter, DnsRedirect, Event, Mode, PortKey, PortRule, Reason, Switch,
    TrustedServer, flags,
};
use nameward_enforcer::kernel::{
    Attachment, BootNanos, EndpointSpec, EventReader, Host, HostOptions, KernelEndpoint, KernelStore,
    MapWrite, OwnCgroup, cgroup2_mount, netns_cookie, remove_empty_cgroups,
};
use nix::sched::{CloneFlags, setns};

/// Where the resolver answers for most servers, and for 9.9.9.9.
pub(crate) const DEFAULT_PORT: u16 = 5301;
pub(crate) const TRUSTED_PORT: u16 = 5302;
pub(crate) const TCP: u8 = 6;
pub(crate) const UDP: u8 = 17;
pub(crate) const ICMP: u8 = 1;

static NUMBER: AtomicU32 = AtomicU32::new(0);
static CLEAN: Once = Once::new();

/// Whether privileged tests can run here; where they must (`NAMEWARD_MUST_RUN=1`), it fails instead.
pub(crate) fn privileged() -> bool {
    if nix::unistd::Uid::effective().is_root() {
        CLEAN.call_once(|| {
            Host::remove_abandoned(Path::new("/sys/fs/bpf"), "nwtcg").unwrap();
            for name in names_of_the_dead() {
                remove_empty_cgroups(&name).unwrap();
                for namespace in [format!("{name}h"), format!("{name}o")] {
                    drop(Command::new("ip").args(["netns", "del", &namespace]).output());
                }
            }
        });
        return true;
    }
    assert!(
        std::env::var_os("NAMEWARD_MUST_RUN").is_none(),
        "NAMEWARD_MUST_RUN is set, but this is not root"
    );
    false
}

/// Names of sandboxes whose test process is gone.
fn names_of_the_dead() -> Vec<String> {
    let folders = ["/run/netns".into(), cgroup2_mount().unwrap()];
    let entries = folders.iter().flat_map(std::fs::read_dir).flatten().flatten();
    let mut names: Vec<String> = entries
        .filter_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            let (process, _) = name.strip_prefix("nwtcg")?.split_once('x')?;
            let is_dead = !Path::new("/proc").join(process).exists();
            is_dead.then(|| name.trim_end_matches(['h', 'o']).to_owned())
        })
        .collect();
    names.sort();
    names.dedup();
    names
}

/// Runs a command that must succeed and returns its output.
pub(crate) fn must(command: &str) -> String {
    said(&Command::new("sh").args(["-c", command]).output().unwrap(), command)
}

fn said(output: &Output, what: &str) -> String {
    let error = String::from_utf8_lossy(&output.stderr);
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{what}: {}\n{text}{error}", output.status);
    text.trim_end().to_owned()
}

/// A sandbox at 198.51.100.1 and 2001:db8:51::1; `outside` is .2 and .3, ::2 and ::3.
pub(crate) struct Sandbox {
    pub(crate) name: String,
    pub(crate) host: Option<Host>,
    pub(crate) endpoint: KernelEndpoint,
    pub(crate) cgroup: Option<OwnCgroup>,
    events: Option<(tokio::runtime::Runtime, EventReader)>,
    rules: (Mode, u64, u32),
}

impl Sandbox {
    /// With rules that allow nothing, as `run` begins.
    pub(crate) fn new() -> Self {
        let mut sandbox = Self::without_rules();
        sandbox.switch(Mode::Enforce, flags::REJECT | flags::INBOUND_NONE);
        sandbox
    }

    /// Attached, and nothing more.
    pub(crate) fn without_rules() -> Self {
        let name = format!("nwtcg{}x{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        must(&format!(
            "ip netns add {name}h && ip netns add {name}o &&
             ip -n {name}h link add eth0 type veth peer name eth0 netns {name}o &&
             for ns in {name}h {name}o; do ip -n $ns link set lo up; ip -n $ns link set eth0 up; done &&
             ip -n {name}h addr add 198.51.100.1/24 dev eth0 &&
             ip -n {name}h addr add 2001:db8:51::1/64 dev eth0 nodad &&
             for i in 2 3; do
               ip -n {name}o addr add 198.51.100.$i/24 dev eth0
               ip -n {name}o addr add 2001:db8:51::$i/64 dev eth0 nodad
             done &&
             ip -n {name}h route add default via 198.51.100.2 &&
             ip -n {name}h -6 route add default via 2001:db8:51::2 &&
             nsenter --net=/run/netns/{name}h sysctl -qw net.ipv4.ping_group_range='0 0'"
        ));
        in_namespace(&format!("{name}h"), serve_dns);
        in_namespace(&format!("{name}o"), serve_echo);
        let cgroup = OwnCgroup::create(&name).unwrap();
        let options = HostOptions { instance: Some(name.clone()), ..HostOptions::default() };
        let host = Host::open(&options).unwrap();
        host.beat(BootNanos::now()).unwrap();
        let endpoint = in_namespace(&format!("{name}h"), || host.attach(&spec(cgroup.path())).unwrap());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let events = {
            let _guard = runtime.enter();
            host.events().unwrap()
        };
        let events = Some((runtime, events));
        let rules = (Mode::NoPolicyYet, 0, 0);
        Self { name, host: Some(host), endpoint, cgroup: Some(cgroup), events, rules }
    }

    /// Takes the fence away, as if it had never been there, and attaches it again.
    pub(crate) fn attach_afresh(&mut self) {
        self.host().remove("sandbox").unwrap();
        self.attach_again();
        self.switch(self.rules.0, self.rules.1);
    }

    /// The namespace that the sandbox is in.
    pub(crate) fn inside(&self) -> String {
        format!("{}h", self.name)
    }

    /// The namespace around it.
    pub(crate) fn outside(&self) -> String {
        format!("{}o", self.name)
    }

    pub(crate) fn path(&self) -> &Path {
        self.cgroup.as_ref().unwrap().path()
    }

    pub(crate) fn host(&self) -> &Host {
        self.host.as_ref().unwrap()
    }

    /// Loads the programs again and puts them in the place of those that are attached.
    pub(crate) fn attach_again(&mut self) {
        let inside = self.inside();
        self.endpoint = in_namespace(&inside, || self.host().attach(&spec(self.path())).unwrap());
    }

    /// Puts a mode and flags in force, under a new generation.
    pub(crate) fn switch(&mut self, mode: Mode, flags: u64) {
        self.rules = (mode, flags, self.rules.2 + 1);
        let switch = Switch::new(0, mode, flags, self.rules.2);
        self.endpoint.write(&MapWrite::Switch(switch)).unwrap();
    }

    /// Allows a network to a port, or every network to it. `length` counts from the v4-mapped form on.
    pub(crate) fn allow_block(&mut self, network: &str, length: u32, protocol: u8, port: u16) {
        self.port(protocol, port);
        let allow = [self.class(protocol, port), 0];
        let rule = CidrRule { allow, ..CidrRule::default() };
        self.endpoint.write(&MapWrite::Cidr(length, address(network), rule)).unwrap();
    }

    /// Grants an address for a port until `ends`.
    pub(crate) fn grant(&mut self, to: &str, protocol: u8, port: u16, ends: BootNanos) {
        self.port(protocol, port);
        let admitted = Admitted { classes: [self.class(protocol, port), 0] };
        self.endpoint.write(&MapWrite::Admitted(7, admitted)).unwrap();
        let allow = Allow { expires_at: ends.0, admitted_id: 7, ..Allow::default() };
        self.endpoint.write(&MapWrite::Allow(address(to), allow)).unwrap();
    }

    fn class(&self, protocol: u8, port: u16) -> u64 {
        1 << ((u32::from(protocol) * 7 + u32::from(port)) % 64)
    }

    fn port(&mut self, protocol: u8, port: u16) {
        let rule = PortRule { classes: [self.class(protocol, port), 0] };
        let key = PortKey { protocol, port: port.to_be_bytes() };
        self.endpoint.write(&MapWrite::Port(24, key, rule)).unwrap();
    }

    /// A command that runs in the sandbox, or in a cgroup below it.
    pub(crate) fn command(&self, below: &str, program: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new("sh");
        let enter =
            "echo 0 > \"$1/cgroup.procs\" && ns=$2 && shift 2 && exec nsenter --net=/run/netns/$ns \"$@\"";
        command.args(["-c", enter, "enter"]).arg(self.path().join(below)).arg(self.inside());
        command.arg(program).args(arguments);
        command
    }

    /// What a Python program prints in the sandbox.
    pub(crate) fn python(&self, program: &str) -> String {
        let program = format!("{PRELUDE}{program}");
        said(&self.command("", "python3", &["-c", &program]).output().unwrap(), "python3")
    }

    /// Starts a Python program in the sandbox; it is ready when it has printed a line.
    pub(crate) fn start(&self, below: &str, program: &str) -> Running {
        Running::start(self.command(below, "python3", &["-c", &format!("{PRELUDE}{program}")]))
    }

    /// Starts a Python program beside the sandbox, in one of the namespaces.
    pub(crate) fn start_beside(&self, namespace: &str, program: &str) -> Running {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/run/netns/{namespace}"));
        command.args(["python3", "-c", &format!("{PRELUDE}{program}")]);
        Running::start(command)
    }

    /// Packets counted for a reason.
    pub(crate) fn count(&self, reason: Reason) -> u64 {
        let stats = self.endpoint.stats().unwrap();
        let find = |(of, counter): &(Reason, Counter)| (*of == reason).then_some(counter.packets);
        stats.iter().find_map(find).unwrap()
    }

    /// Events told since the last call.
    pub(crate) fn events(&mut self) -> Vec<Event> {
        let (runtime, reader) = self.events.as_mut().unwrap();
        let _guard = runtime.enter();
        reader.ready()
    }

    /// Reasons, verdicts and ports of the events told since the last call.
    pub(crate) fn told(&mut self) -> Vec<(Reason, u8, u16)> {
        let short = |event: &Event| {
            (Reason::from_number(event.reason).unwrap(), event.verdict, u16::from_be_bytes(event.remote_port))
        };
        self.events().iter().map(short).collect()
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        drop(self.events.take());
        if let Some(host) = self.host.take() {
            drop(host.remove_all());
        }
        drop(self.cgroup.take());
        for namespace in [self.inside(), self.outside()] {
            drop(Command::new("ip").args(["netns", "del", &namespace]).status());
        }
    }
}

/// A program that runs beside the test; killed when dropped.
pub(crate) struct Running {
    child: Child,
    output: std::io::BufReader<std::process::ChildStdout>,
}

impl Running {
    fn start(mut command: Command) -> Self {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let output = std::io::BufReader::new(child.stdout.take().unwrap());
        let mut running = Self { child, output };
        assert_eq!(running.line(), "ready");
        running
    }

    /// The next line it prints.
    pub(crate) fn line(&mut self) -> String {
        let mut line = String::new();
        std::io::BufRead::read_line(&mut self.output, &mut line).unwrap();
        line.trim_end().to_owned()
    }

    /// Gives it a line to read.
    pub(crate) fn tell(&mut self, line: &str) {
        writeln!(self.child.stdin.as_mut().unwrap(), "{line}").unwrap();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

const PRELUDE: &str = r#"
import errno, os, socket, struct, sys, time
from socket import *
setdefaulttimeout(5)
def query(id=1, kind=1):
    return struct.pack('>6H', id, 0x100, 1, 0, 0, 0) + b'\x04test\0' + struct.pack('>2H', kind, 1)
def answered(data):
    return inet_ntoa(data[-4:])
def attempt(work):
    try: return work() or 'ok'
    except OSError as e: return errno.errorcode.get(e.errno, str(e))
def show(*values):
    print(*values, flush=True)
def listen(family, kind, address, port):
    s = socket(family, kind); s.setsockopt(SOL_SOCKET, SO_REUSEADDR, 1); s.settimeout(None)
    s.bind((address, port))
    if kind == SOCK_STREAM: s.listen()
    return s
def serve(s):
    show('ready')
    while True:
        if s.type == SOCK_STREAM:
            c, _ = s.accept(); c.sendall(b'hello'); c.close()
        else:
            data, peer = s.recvfrom(512); s.sendto(b'hello', peer)
"#;

/// The v4-mapped form that maps use.
pub(crate) fn address(text: &str) -> Address {
    match text.parse().unwrap() {
        IpAddr::V4(four) => four.to_ipv6_mapped().octets(),
        IpAddr::V6(six) => six.octets(),
    }
}

fn spec(cgroup: &Path) -> EndpointSpec {
    let attachment = Attachment::Cgroup { path: cgroup.into(), netns_cookie: netns_cookie().unwrap() };
    let mut dns = DnsRedirect {
        resolver4: address("127.0.0.1"),
        resolver6: address("::1"),
        default_port: DEFAULT_PORT.to_be_bytes(),
        ..DnsRedirect::default()
    };
    dns.trusted[0] = TrustedServer {
        address: address("9.9.9.9"),
        port: 53u16.to_be_bytes(),
        resolver_port: TRUSTED_PORT.to_be_bytes(),
        ..TrustedServer::default()
    };
    EndpointSpec { dns, ..EndpointSpec::new("sandbox", attachment) }
}

/// Does `work` on a thread in a namespace; sockets it makes stay there.
pub(crate) fn in_namespace<T: Send>(namespace: &str, work: impl FnOnce() -> T + Send) -> T {
    let file = File::open(format!("/run/netns/{namespace}")).unwrap();
    thread::scope(|scope| {
        let thread = scope.spawn(|| {
            setns(file.as_fd(), CloneFlags::CLONE_NEWNET).unwrap();
            work()
        });
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// Answers every A question with 203.0.113.x, x being the last two digits of the port asked, by UDP and TCP.
fn serve_dns() {
    for port in [DEFAULT_PORT, TRUSTED_PORT] {
        for host in ["127.0.0.1", "::1"] {
            let udp = UdpSocket::bind((host, port)).unwrap();
            let tcp = TcpListener::bind((host, port)).unwrap();
            thread::spawn(move || {
                let mut buffer = [0; 4096];
                while let Ok((length, peer)) = udp.recv_from(&mut buffer) {
                    drop(udp.send_to(&answer(&buffer[..length], port), peer));
                }
            });
            thread::spawn(move || {
                for stream in tcp.incoming().flatten() {
                    drop(answer_tcp(stream, port));
                }
            });
        }
    }
}

fn answer_tcp(mut stream: TcpStream, port: u16) -> std::io::Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    let mut length = [0; 2];
    stream.read_exact(&mut length)?;
    let mut query = vec![0; usize::from(u16::from_be_bytes(length))];
    stream.read_exact(&mut query)?;
    let answer = answer(&query, port);
    let mut framed = u16::try_from(answer.len()).unwrap().to_be_bytes().to_vec();
    framed.extend(answer);
    stream.write_all(&framed)
}

fn answer(query: &[u8], port: u16) -> Vec<u8> {
    let name = query[12..].iter().position(|octet| *octet == 0).unwrap();
    let question = &query[12..12 + name + 5];
    let is_a = question[name + 1..name + 3] == [0, 1];
    let mut answer = query[..2].to_vec();
    answer.extend([0x81, 0x80, 0, 1, 0, u8::from(is_a), 0, 0, 0, 0]);
    answer.extend(question);
    if is_a {
        answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4]);
        answer.extend(Ipv4Addr::new(203, 0, 113, (port % 100) as u8).octets());
    }
    answer
}

/// TCP and UDP port 80 say what they are told.
fn serve_echo() {
    for host in ["198.51.100.2", "2001:db8:51::2"] {
        let udp = UdpSocket::bind((host, 80)).unwrap();
        let tcp = TcpListener::bind((host, 80)).unwrap();
        thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok((length, peer)) = udp.recv_from(&mut buffer) {
                drop(udp.send_to(&buffer[..length], peer));
            }
        });
        thread::spawn(move || {
            for mut stream in tcp.incoming().flatten() {
                thread::spawn(move || {
                    let mut reader = stream.try_clone().unwrap();
                    drop(std::io::copy(&mut reader, &mut stream));
                });
            }
        });
    }
}
