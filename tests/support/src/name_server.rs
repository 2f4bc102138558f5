//! A real name server (nsd) in a namespace, with a zone given as text.

use std::{
    fs,
    net::{SocketAddr, UdpSocket},
    time::Duration,
};

use anyhow::Result;
use nix::sys::signal::Signal;

use crate::{daemon::Daemon, leftovers::Scratch, netns::Netns};

/// A question for the start of authority of the root: the answer shows that the server serves.
const PROBE: &[u8] = b"\x4e\x57\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x00\x00\x06\x00\x01";

/// nsd, authoritative for the root zone; it ends with the guard.
#[derive(Debug)]
pub struct NameServer {
    addresses: Vec<SocketAddr>,
    process: Daemon,
    folder: Scratch,
}

impl NameServer {
    /// Serves `zone`, the text of a root zone, at these addresses of a namespace, and returns when it does.
    pub fn start(namespace: &Netns, addresses: &[SocketAddr], zone: &str) -> Result<Self> {
        let folder = Scratch::new("nsd")?;
        folder.file("root.zone", zone)?;
        let file = folder.file("nsd.conf", &configuration(folder.path(), addresses))?;
        let mut nsd = namespace.command("nsd");
        let process =
            Daemon::start("nsd", nsd.arg("-d").arg("-c").arg(file), &folder.path().join("nsd.log"))?;
        let mut server = Self { addresses: addresses.to_vec(), process, folder };
        for address in addresses {
            server.wait(namespace, *address)?;
        }
        Ok(server)
    }

    /// Where it listens.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Loads another zone; answers that are on their way are of the old one.
    pub fn replace_zone(&self, zone: &str) -> Result<()> {
        fs::write(self.folder.path().join("root.zone"), zone)?;
        self.process.signal(Signal::SIGHUP)
    }

    fn wait(&mut self, namespace: &Netns, address: SocketAddr) -> Result<()> {
        let (bind, mut buffer) = (if address.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" }, [0; 512]);
        let socket = namespace.run(|| UdpSocket::bind(bind))??;
        socket.set_read_timeout(Some(Duration::from_millis(50)))?;
        self.process.wait(Duration::from_secs(30), || {
            socket.send_to(PROBE, address).is_ok() && socket.recv(&mut buffer).is_ok()
        })
    }
}

fn configuration(folder: &std::path::Path, addresses: &[SocketAddr]) -> String {
    let folder = folder.display();
    let listen: String = addresses
        .iter()
        .map(|address| format!("  ip-address: {}@{}\n", address.ip(), address.port()))
        .collect();
    // rrl-ratelimit: one client asking much is what tests do, not an attack.
    format!(
        "server:\n{listen}  username: \"\"\n  chroot: \"\"\n  zonesdir: \"{folder}\"\n  database: \"\"\n  \
         pidfile: \"\"\n  xfrdir: \"{folder}\"\n  xfrdfile: \"{folder}/xfrd.state\"\n  \
         zonelistfile: \"{folder}/zone.list\"\n  cookie-secret-file: \"{folder}/cookies\"\n  server-count: 1\n  rrl-ratelimit: 0\n\
         remote-control:\n  control-enable: no\n\
         zone:\n  name: \".\"\n  zonefile: root.zone\n"
    )
}
