//! A real name server (nsd) in a namespace, with a zone given as text.

use std::{
    fs,
    net::{SocketAddr, UdpSocket},
    path::PathBuf,
    process::{Child, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::{
    leftovers::{fresh_name, scratch_root},
    netns::Netns,
    wait::wait_until,
};

/// A question for the start of authority of the root: the answer shows that the server serves.
const PROBE: &[u8] = b"\x4e\x57\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x00\x00\x06\x00\x01";

/// nsd, authoritative for the root zone; it ends with the guard.
#[derive(Debug)]
pub struct NameServer {
    addresses: Vec<SocketAddr>,
    process: Child,
    folder: PathBuf,
}

impl NameServer {
    /// Serves `zone`, the text of a root zone, at these addresses of a namespace, and returns when it does.
    pub fn start(namespace: &Netns, addresses: &[SocketAddr], zone: &str) -> Result<Self> {
        let folder = scratch_root().join(fresh_name("nsd"));
        fs::create_dir(&folder)?;
        fs::write(folder.join("root.zone"), zone)?;
        fs::write(folder.join("nsd.conf"), configuration(&folder, addresses))?;
        let log = fs::File::create(folder.join("nsd.log"))?;
        let process = namespace
            .command("nsd")
            .arg("-d")
            .arg("-c")
            .arg(folder.join("nsd.conf"))
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .context("cannot start nsd; `cargo xtask setup` installs it")?;
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
        fs::write(self.folder.join("root.zone"), zone)?;
        Ok(kill(Pid::from_raw(self.process.id().cast_signed()), Signal::SIGHUP)?)
    }

    fn wait(&mut self, namespace: &Netns, address: SocketAddr) -> Result<()> {
        let (bind, mut buffer) = (if address.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" }, [0; 512]);
        let socket = namespace.run(|| UdpSocket::bind(bind))??;
        socket.set_read_timeout(Some(Duration::from_millis(50)))?;
        let served = wait_until("nsd answers", Duration::from_secs(10), || {
            if let Ok(Some(status)) = self.process.try_wait() {
                return Some(Err(status));
            }
            socket.send_to(PROBE, address).ok()?;
            socket.recv(&mut buffer).ok().map(Ok)
        });
        let Err(status) = served else { return Ok(()) };
        bail!("nsd ended: {status}: {}", fs::read_to_string(self.folder.join("nsd.log"))?)
    }
}

impl Drop for NameServer {
    fn drop(&mut self) {
        // nsd's parent ends its children on SIGTERM; the namespace's guard gets what would still be there.
        kill(Pid::from_raw(self.process.id().cast_signed()), Signal::SIGTERM).ok();
        drop(self.process.wait());
        drop(fs::remove_dir_all(&self.folder));
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
         pidfile: \"\"\n  xfrdfile: \"{folder}/xfrd.state\"\n  zonelistfile: \"{folder}/zone.list\"\n  \
         cookie-secret-file: \"{folder}/cookies\"\n  server-count: 1\n  rrl-ratelimit: 0\n\
         remote-control:\n  control-enable: no\n\
         zone:\n  name: \".\"\n  zonefile: root.zone\n"
    )
}
