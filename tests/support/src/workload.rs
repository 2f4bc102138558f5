//! A workload in its own namespace, behind a veth of the host, with its own resolv.conf.

use std::{
    fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    path::PathBuf,
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, bail};

use crate::{
    bounded::output_within,
    leftovers::{fresh_name, scratch_root},
    netns::Netns,
};

/// How long a client may take.
const LIMIT: Duration = Duration::from_secs(60);

/// One workload: 10.7.N.2 and 2001:db8:7:N::2, behind the host's interface `wN`.
#[derive(Debug)]
pub struct Workload {
    namespace: Netns,
    interface: String,
    addresses: Vec<IpAddr>,
    resolv_conf: PathBuf,
}

impl Workload {
    pub(crate) fn attach(host: &Netns, number: u8, dns: IpAddr) -> Result<Self> {
        let namespace = Netns::new(&format!("w{number}"))?;
        let interface = format!("w{number}");
        host.join(&interface, &namespace, "eth0")?;
        let gateways = [format!("10.7.{number}.1"), format!("2001:db8:7:{number}::1")];
        host.address(&interface, &[&format!("{}/24", gateways[0]), &format!("{}/64", gateways[1])])?;
        let addresses: Vec<IpAddr> = vec![
            Ipv4Addr::new(10, 7, number, 2).into(),
            Ipv6Addr::new(0x2001, 0xdb8, 7, u16::from_str_radix(&number.to_string(), 16)?, 0, 0, 0, 2).into(),
        ];
        namespace.address("eth0", &[&format!("{}/24", addresses[0]), &format!("{}/64", addresses[1])])?;
        for gateway in gateways {
            namespace.ip(&format!("route replace default via {gateway}"))?;
        }
        let resolv_conf = scratch_root().join(fresh_name("resolv.conf"));
        fs::create_dir(&resolv_conf)?;
        let resolv_conf = resolv_conf.join("resolv.conf");
        fs::write(&resolv_conf, format!("nameserver {dns}\noptions timeout:2 attempts:2\n"))?;
        Ok(Self { namespace, interface, addresses, resolv_conf })
    }

    /// The host's end of its link.
    pub fn interface(&self) -> &str {
        &self.interface
    }

    /// Its own addresses.
    pub fn addresses(&self) -> &[IpAddr] {
        &self.addresses
    }

    /// Its namespace.
    pub fn namespace(&self) -> &Netns {
        &self.namespace
    }

    /// A command of the workload: its network, its resolv.conf (in a mount namespace of the command alone).
    pub fn command(&self, program: &str) -> Command {
        let mut command = self.namespace.command("unshare");
        let bind = r#"mount --bind "$0" /etc/resolv.conf && exec "$@""#;
        command.args(["--mount", "--propagation", "private", "sh", "-c", bind]);
        command.arg(&self.resolv_conf).arg(program).stdin(Stdio::null());
        command
    }

    /// Runs a command that must succeed, and returns what it wrote.
    pub fn output(&self, program: &str, arguments: &[&str]) -> Result<String> {
        let output = output_within(self.command(program).args(arguments), LIMIT)?;
        if !output.status.success() {
            let text = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            bail!("{program} {}: {}: {text}", arguments.join(" "), output.status);
        }
        String::from_utf8(output.stdout).context("output is not text")
    }
}

impl Drop for Workload {
    fn drop(&mut self) {
        if let Some(folder) = self.resolv_conf.parent() {
            drop(fs::remove_dir_all(folder));
        }
    }
}
