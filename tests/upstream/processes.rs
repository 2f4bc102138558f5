//! `nameward-enforcer` and `nameward-resolver` as processes with nothing but the network between them.

use std::{path::Path, process::Command};

use nameward_feed::tls::TlsFiles;
use nameward_test_support::{
    Authority, CgroupGuard, Daemon, Netns, Scratch, output_within, privileged, program,
};

use crate::lab::SOON;

const RESOLVER: &str = "127.0.0.1:9853";

/// An enforcer's instance, taken away in the end. Its name tells the next run whose it was.
struct Instance<'a> {
    name: String,
    host: &'a Netns,
}

impl Instance<'_> {
    fn command(&self) -> Command {
        let mut command = command(self.host, "nameward-enforcer");
        command.args(["--instance", &self.name]);
        command
    }
}

impl Drop for Instance<'_> {
    fn drop(&mut self) {
        let removed = output_within(self.command().arg("--remove"), SOON);
        if !removed.as_ref().is_ok_and(|output| output.status.success()) {
            eprintln!("{} was not removed: {removed:?}", self.name);
        }
        drop(std::fs::remove_dir_all(Path::new("/run/nameward").join(&self.name)));
    }
}

fn command(host: &Netns, name: &str) -> Command {
    let mut command = host.command("env");
    command.args(["-u", "RUST_LOG"]).arg(program(name).unwrap());
    command
}

fn with_certificates(command: &mut Command, files: &TlsFiles) {
    command.arg("--feed-certificate").arg(&files.certificate);
    command.arg("--feed-key").arg(&files.key).arg("--feed-ca").arg(&files.authority);
}

// DESIGN 6
#[test]
fn an_enforcer_finds_its_resolver_over_the_network() {
    if !privileged() {
        return;
    }
    let (authority, host) = (Authority::new(), Netns::new("far").unwrap());
    let (folder, cgroup) = (Scratch::new("far").unwrap(), CgroupGuard::new("far").unwrap());
    let files = |name: &str| {
        let signed = authority.sign(name, name);
        TlsFiles { certificate: signed.certificate, key: signed.key, authority: authority.file() }
    };
    let mut resolver = command(&host, "nameward-resolver");
    resolver.args(["--feed", &format!("tls://{RESOLVER}"), "--upstream", "192.0.2.53"]);
    resolver.args(["--listen", "127.0.0.1:53", "--trusted-forwarder", "127.0.0.1"]);
    with_certificates(&mut resolver, &files("resolver.example"));
    let log = |name: &str| folder.path().join(name);
    let says =
        |name: &str, text: &str| std::fs::read_to_string(log(name)).is_ok_and(|log| log.contains(text));
    let mut resolver = Daemon::start("nameward-resolver", &mut resolver, &log("resolver")).unwrap();
    resolver.wait(SOON, || says("resolver", "serving")).unwrap();
    let config = format!(
        "endpoints:\n- {{name: box, namespace: ci, labels: {{app: ci}}, cgroup: {}}}\npolicies: []\n",
        cgroup.path().display()
    );
    let config = folder.file("host.yaml", &config).unwrap();
    let instance = Instance { name: format!("nwt{}f", std::process::id()), host: &host };
    let start = |name: &str, node: &str, feed: &str| {
        let mut command = instance.command();
        command.arg("--config").arg(&config).args(["--node", node, "--feed", feed]);
        command.arg("--state").arg(folder.path().join("state"));
        with_certificates(&mut command, &files("node-1"));
        Daemon::start("nameward-enforcer", &mut command, &log(name)).unwrap()
    };
    let feed = format!("tls://{RESOLVER}#resolver.example");
    let mut enforcer = start("enforcer", "node-1", &feed);
    enforcer.wait(SOON, || says("enforcer", "a resolver is connected")).unwrap();
    resolver.wait(SOON, || says("resolver", "an enforcer is connected")).unwrap();
    assert_eq!(enforcer.stop().unwrap().code(), Some(0));
    // Each side says what is wrong with the other.
    let mut liar = start("liar", "node-2", &feed);
    liar.wait(SOON, || says("liar", "its certificate is not for node node-2")).unwrap();
    assert_eq!(liar.stop().unwrap().code(), Some(0));
    let mut lost = start("lost", "node-1", &format!("tls://{RESOLVER}#other.example"));
    lost.wait(SOON, || says("lost", "not valid for name")).unwrap();
    assert_eq!(lost.stop().unwrap().code(), Some(0));
}
