//! A client that keeps answers for longer than their TTL: Java's `InetAddress`, for 30 s by default and for ever on request.

use std::{path::PathBuf, process::Command};

use nameward_test_support::{output_within, privileged};

use crate::pair_lab::Host;

const SOURCE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/standalone/programs/LongCache.java");
/// The address of `short.example`, whose TTL is 5 s.
const ADDRESS: &str = "198.51.100.12";

fn compile() -> PathBuf {
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("java{}", std::process::id()));
    let mut javac = Command::new("javac");
    let output = output_within(javac.arg("-d").arg(&folder).arg(SOURCE), std::time::Duration::from_secs(120));
    let output = output.unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    folder
}

// A5: an address outlives its TTL by the grace
#[test]
fn java_connects_to_what_it_remembers() {
    if !privileged() {
        return;
    }
    let (host, folder) = (Host::running("short.example"), compile());
    let java = |name: &str, seconds: &str| {
        let mut command = host.workloads[1].command("java");
        command.args(["-Xshare:auto", "-XX:TieredStopAtLevel=1", "-Dsun.net.inetaddr.ttl=-1", "-cp"]);
        command.arg(&folder).args(["LongCache", name, "80", seconds]);
        let output = output_within(&mut command, std::time::Duration::from_secs(60)).unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    // It looks up once, waits until the TTL is over, and connects again to what it remembers.
    let said = java("short.example", "6");
    assert_eq!(said.matches(&format!("hello from {ADDRESS}")).count(), 2, "{said}\n{}", host.logs());
    let denied = java("denied.example", "0");
    assert!(denied.contains("UnknownHostException"), "{denied}");
    let unnamed = java("203.0.113.10", "0");
    assert!(unnamed.contains("ConnectException"), "{unnamed}");
    drop(std::fs::remove_dir_all(folder));
}
