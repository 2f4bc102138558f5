//! CoreDNS as a child process, with a Corefile of the test's.

use std::{
    net::{IpAddr, SocketAddr, UdpSocket},
    process::Command,
    time::Duration,
};

use nameward_test_support::{Daemon, Scratch};

/// The line that says whom CoreDNS asks for.
pub(crate) const OPTION: &str = "rewrite edns0 local set 0xffee {client_ip}";
const READY: Duration = Duration::from_secs(30);

/// The process. Everything that asks it does so from an address of the loopback network.
pub(crate) struct CoreDns {
    pub(crate) address: SocketAddr,
    _process: Daemon,
    _folder: Scratch,
}

impl CoreDns {
    /// With these lines in its only server block; it forwards to `resolver`.
    pub(crate) fn start(resolver: SocketAddr, lines: &[&str]) -> Self {
        // Somebody may take the port meanwhile: then another is tried.
        (0..5).find_map(|_| Self::try_start(resolver, lines)).expect("CoreDNS does not start")
    }

    fn try_start(resolver: SocketAddr, lines: &[&str]) -> Option<Self> {
        Self::start_at(free_port(), resolver, lines)
    }

    /// The same at an address that others know already; none when somebody else has it.
    pub(crate) fn start_at(address: SocketAddr, resolver: SocketAddr, lines: &[&str]) -> Option<Self> {
        let corefile = corefile(address.port(), resolver, lines);
        let folder = Scratch::new("coredns").unwrap();
        let file = folder.file("Corefile", &corefile).unwrap();
        let log = folder.path().join("log");
        let mut command = Command::new("coredns");
        command.arg("-conf").arg(file);
        let mut process = Daemon::start("coredns", &mut command, &log).expect(
            "CoreDNS is missing; `cargo xtask test --only forward` builds it and sets PATH for its tests",
        );
        let listens = || std::fs::read_to_string(&log).is_ok_and(|text| text.contains("CoreDNS-"));
        match process.wait(READY, listens) {
            Ok(()) => Some(Self { address, _process: process, _folder: folder }),
            Err(error) if error.to_string().contains("address already in use") => None,
            Err(error) => panic!("{error}"),
        }
    }
}

/// One server block that forwards to the resolver.
pub(crate) fn corefile(port: u16, resolver: SocketAddr, lines: &[&str]) -> String {
    let lines = lines.join("\n    ");
    format!(".:{port} {{\n    bind 127.0.0.1\n    {lines}\n    forward . {resolver}\n}}\n")
}

/// A port of 127.0.0.1 that nobody has at the moment.
pub(crate) fn free_port() -> SocketAddr {
    UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

/// The address of a pod of a node.
pub(crate) fn pod(node: u8, number: u8) -> IpAddr {
    [127, 10, node, number].into()
}
