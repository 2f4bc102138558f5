//! A workload behind a veth of a node, the roads that its packets can take, and the traffic of a client and a server.

use std::{
    io::{ErrorKind, Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    os::fd::AsRawFd,
    process::Stdio,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use aya::programs::{
    TcAttachType,
    tc::{SchedClassifierLink, SchedClassifierLinkId},
};
use nameward_abi::programs;
use nameward_test_support::Netns;
use nix::{
    sched::{CpuSet, sched_setaffinity},
    sys::socket::shutdown,
    unistd::Pid,
};

use crate::{
    bench::packets::full_lab,
    lab::{Lab, NAMED4, OWN4, program},
};

/// What stands in the way of packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Guard {
    /// Nothing.
    None,
    /// Our programs, with 1,000 grants, 1,000 prefixes and 4,096 flows.
    Programs,
    /// What one would write for nftables: connections that are known, else a set of 1,000 addresses with their port.
    Nftables,
}

/// What is measured, and by which port of the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Traffic {
    /// One byte there and back, on one connection.
    Requests = 8_080,
    /// The same, a connection each.
    Connections = 8_081,
    /// As many bytes as there is room for.
    Stream = 8_082,
}

impl Traffic {
    pub(crate) const ALL: [Self; 3] = [Self::Requests, Self::Connections, Self::Stream];

    fn server(self) -> SocketAddr {
        SocketAddr::new(NAMED4.parse().unwrap(), self as u16)
    }
}

/// Where client and server run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// Each on a processor of its own.
    Apart,
    /// On one processor: nothing sleeps, and all that a packet costs shows.
    Together,
}

impl Place {
    const CLIENT: usize = 0;

    const fn server(self) -> usize {
        match self {
            Self::Apart => 1,
            Self::Together => Self::CLIENT,
        }
    }
}

/// A node, a workload, and servers on the node.
pub(crate) struct Road {
    lab: Lab,
    servers: Servers,
    node: Netns,
    workload: Netns,
}

const TABLE: &str = "nwbench";
const DOOR: &str = "w1";

impl Road {
    pub(crate) fn new(place: Place) -> Self {
        let node = Netns::new("node").unwrap();
        let workload = Netns::new("work").unwrap();
        node.join(DOOR, &workload, "eth0").unwrap();
        node.address(DOOR, &["10.0.0.1/24"]).unwrap();
        node.address("lo", &[&format!("{NAMED4}/32")]).unwrap();
        workload.address("eth0", &[&format!("{OWN4}/24")]).unwrap();
        workload.ip("route add default via 10.0.0.1").unwrap();
        let servers = Servers::new(&node, &Traffic::ALL, place.server());
        Self { lab: full_lab(), servers, node, workload }
    }

    /// Traffic under a guard: transactions or bytes a second.
    pub(crate) fn rate(&mut self, guard: Guard, traffic: Traffic, time: Duration) -> f64 {
        let Self { lab, node, workload, servers: _ } = self;
        let links = (guard == Guard::Programs).then(|| node.run(|| attach(lab)).unwrap());
        let table = (guard == Guard::Nftables).then(|| Table::new(node, &set_rule()));
        let rate = workload.run(|| {
            pin(Place::CLIENT);
            traffic.run(time)
        });
        drop(table);
        drop(links);
        rate.unwrap()
    }
}

/// A table of nftables while it lives.
pub(crate) struct Table<'a>(&'a Netns);

impl<'a> Table<'a> {
    pub(crate) fn new(node: &'a Netns, chains: &str) -> Self {
        let mut nft = node.command("nft").args(["-f", "-"]).stdin(Stdio::piped()).spawn().unwrap();
        let text = format!("table inet {TABLE} {{\n{chains}\n}}\n");
        nft.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
        assert!(nft.wait().unwrap().success(), "nft does not take the table");
        Self(node)
    }
}

impl Drop for Table<'_> {
    fn drop(&mut self) {
        self.0.output("nft", &["delete", "table", "inet", TABLE]).unwrap();
    }
}

fn set_rule() -> String {
    let mut elements: Vec<String> = (0..1_000u32)
        .map(|i| {
            let [_, a, b, c] = (0x0a40_0000 + i * 7).to_be_bytes();
            format!("11.{a}.{b}.{c} . tcp . 443")
        })
        .collect();
    elements.extend(Traffic::ALL.map(|traffic| format!("{NAMED4} . tcp . {}", traffic as u16)));
    let elements = elements.join(", ");
    format!(
        "set allowed {{ type ipv4_addr . inet_proto . inet_service; elements = {{ {elements} }}; }}
         chain guard {{
             type filter hook input priority 0; policy drop;
             ct state established,related accept
             iifname \"{DOOR}\" ip daddr . meta l4proto . th dport @allowed accept
         }}"
    )
}

/// Attaches both programs for as long as the links live.
fn attach(lab: &mut Lab) -> [SchedClassifierLink; 2] {
    let index = nix::net::if_::if_nametoindex(DOOR).unwrap();
    lab.configure(|config| config.ifindex = index);
    let hooks =
        [(programs::POD_INGRESS, TcAttachType::Egress), (programs::POD_EGRESS, TcAttachType::Ingress)];
    hooks.map(|(name, hook)| {
        let program = program(&mut lab.ebpf, name);
        let id: SchedClassifierLinkId = program.attach(DOOR, hook).unwrap();
        program.take_link(id).unwrap()
    })
}

/// Servers on the node, until they are dropped.
pub(crate) struct Servers {
    stop: Arc<AtomicBool>,
    /// The kernel's handles by which they are woken.
    listeners: Vec<TcpListener>,
    threads: Vec<JoinHandle<()>>,
}

impl Servers {
    /// On one processor.
    pub(crate) fn new(node: &Netns, traffics: &[Traffic], processor: usize) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (mut listeners, mut threads) = (Vec::new(), Vec::new());
        for traffic in traffics.iter().copied() {
            let listener = node.run(|| TcpListener::bind(traffic.server())).unwrap().unwrap();
            listeners.push(listener.try_clone().unwrap());
            let stop = Arc::clone(&stop);
            threads.push(thread::spawn(move || {
                pin(processor);
                while let Ok((stream, _)) = listener.accept() {
                    if stop.load(Ordering::Relaxed) {
                        return;
                    }
                    // A client that has gone away ends its connection, not the server.
                    drop(answer(stream, traffic));
                }
            }));
        }
        Self { stop, listeners, threads }
    }
}

impl Drop for Servers {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for listener in &self.listeners {
            shutdown(listener.as_raw_fd(), nix::sys::socket::Shutdown::Both).unwrap();
        }
        for thread in self.threads.drain(..) {
            thread.join().unwrap();
        }
    }
}

/// Keeps the calling thread on one processor.
pub(crate) fn pin(processor: usize) {
    let mut set = CpuSet::new();
    set.set(processor).unwrap();
    sched_setaffinity(Pid::from_raw(0), &set).unwrap();
}

/// What a server does with a connection: one byte back, the same until the end, or reading until the end.
fn answer(mut stream: TcpStream, traffic: Traffic) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut buffer = vec![0; 1 << 18];
    match traffic {
        Traffic::Connections => {
            stream.read_exact(&mut buffer[..1])?;
            stream.write_all(&buffer[..1])
        }
        Traffic::Requests => loop {
            match stream.read_exact(&mut buffer[..1]) {
                Ok(()) => stream.write_all(&buffer[..1])?,
                Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Ok(()),
                Err(error) => return Err(error),
            }
        },
        Traffic::Stream => {
            while stream.read(&mut buffer)? > 0 {}
            Ok(())
        }
    }
}

impl Traffic {
    /// A client for so long: transactions or bytes a second.
    pub(crate) fn run(self, time: Duration) -> f64 {
        match self {
            Self::Requests => self.requests(time),
            Self::Connections => self.connections(time),
            Self::Stream => self.stream(time),
        }
    }

    fn connect(self) -> TcpStream {
        let stream = TcpStream::connect(self.server()).unwrap();
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        stream
    }

    fn requests(self, time: Duration) -> f64 {
        let mut stream = self.connect();
        let mut exchange = || {
            let mut byte = [7];
            stream.write_all(&byte).unwrap();
            stream.read_exact(&mut byte).unwrap();
        };
        for _ in 0..50 {
            exchange();
        }
        count(time, exchange)
    }

    fn connections(self, time: Duration) -> f64 {
        count(time, || {
            let mut stream = self.connect();
            stream.write_all(&[7]).unwrap();
            let mut rest = Vec::new();
            // The server ends the connection: ports of the client are free again at once.
            stream.read_to_end(&mut rest).unwrap();
            assert_eq!(rest, [7]);
        })
    }

    fn stream(self, time: Duration) -> f64 {
        let mut stream = self.connect();
        let buffer = vec![7; 1 << 17];
        for _ in 0..200 {
            stream.write_all(&buffer).unwrap();
        }
        let mut bytes = 0;
        let begun = Instant::now();
        while begun.elapsed() < time {
            stream.write_all(&buffer).unwrap();
            bytes += buffer.len();
        }
        stream.shutdown(Shutdown::Write).unwrap();
        stream.read_to_end(&mut Vec::new()).unwrap();
        bytes as f64 / begun.elapsed().as_secs_f64()
    }
}

/// How often something can be done in a second.
fn count(time: Duration, mut work: impl FnMut()) -> f64 {
    let begun = Instant::now();
    let mut done = 0;
    while begun.elapsed() < time {
        work();
        done += 1;
    }
    f64::from(done) / begun.elapsed().as_secs_f64()
}
