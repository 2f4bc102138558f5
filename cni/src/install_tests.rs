//! The installer against folders like a node's.

use std::{
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use super::*;

/// The folders of a node, with a CNI's configuration in it.
struct Node {
    place: Place,
    folder: PathBuf,
}

const CNI: &str = r#"{"cniVersion":"0.3.1","name":"net","plugins":[{"type":"ptp"}]}"#;

impl Node {
    fn new(test: &str) -> Self {
        let folder = env::temp_dir().join(format!("nwt{}-cni-install-{test}", std::process::id()));
        fs::create_dir_all(folder.join("net.d")).unwrap();
        Self { place: Place::new(folder.join("net.d"), folder.join("bin")), folder }
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.place.conf.join(name), text).unwrap();
    }

    fn refresh(&self) -> Result<Written, InstallError> {
        refresh(&self.place, &ours())
    }

    /// Types of the plugins of our configuration.
    fn plugins(&self) -> Vec<String> {
        let text = fs::read_to_string(self.place.conflist()).unwrap_or_default();
        let parsed: Value = serde_json::from_str(&text).unwrap_or_default();
        let plugins = parsed["plugins"].as_array().into_iter().flatten();
        plugins.map(|plugin| plugin["type"].as_str().unwrap_or_default().to_owned()).collect()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.folder).ok();
    }
}

fn ours() -> Value {
    entry(Path::new("/run/x.sock"), 10, &[])
}

#[test]
fn our_configuration_is_the_first_and_a_copy_of_the_cnis() {
    let node = Node::new("first");
    assert!(matches!(node.refresh(), Err(InstallError::NoCni(_))));
    node.write("10-net.conflist", CNI);
    node.write("99-loopback.conf", r#"{"cniVersion":"0.3.1","type":"loopback"}"#);
    node.write("00-README.txt", "not read");
    assert_eq!(node.refresh().unwrap(), Written::From(node.place.conf.join("10-net.conflist")));
    assert_eq!(node.plugins(), ["ptp", PLUGIN]);
    assert_eq!(node.refresh().unwrap(), Written::Unchanged);
    let mut read: Vec<PathBuf> =
        fs::read_dir(&node.place.conf).unwrap().flatten().map(|entry| entry.path()).collect();
    read.retain(|path| is_read(path));
    read.sort();
    assert_eq!(read[0], node.place.conflist());
}

#[test]
fn a_file_that_would_win_over_ours_is_named() {
    let node = Node::new("not-first");
    node.write("00-multus.conf", r#"{"cniVersion":"0.3.1","name":"multus","type":"multus"}"#);
    let said = node.refresh().unwrap_err().to_string();
    assert!(said.contains("00-multus.conf") && said.contains("rename it"), "{said}");
}

/// F2: what is in force stays.
#[test]
fn a_configuration_that_makes_no_sense_changes_nothing() {
    let node = Node::new("nonsense");
    node.write("10-net.conflist", CNI);
    node.refresh().unwrap();
    node.write("10-net.conflist", "{ half a fi");
    let said = node.refresh().unwrap_err().to_string();
    assert!(said.contains("10-net.conflist") && said.contains("not JSON"), "{said}");
    assert_eq!(node.plugins(), ["ptp", PLUGIN]);
}

#[test]
fn uninstalling_leaves_the_program_to_pods_that_need_it() {
    let node = Node::new("uninstall");
    node.write("10-net.conflist", CNI);
    install_program(Path::new("/proc/self/exe"), &node.place.bin).unwrap();
    node.refresh().unwrap();
    uninstall(&node.place, false, Duration::ZERO).unwrap();
    assert!(!node.place.conflist().exists() && node.place.bin.join(PLUGIN).exists());
    assert!(node.place.conf.join("10-net.conflist").exists());
    uninstall(&node.place, true, Duration::ZERO).unwrap();
    assert!(!node.place.bin.join(PLUGIN).exists());
    uninstall(&node.place, true, Duration::ZERO).unwrap();
}

/// A file that is executed cannot be written to ("text file busy").
#[test]
fn the_program_is_replaced_while_it_runs() {
    let node = Node::new("busy");
    install_program(Path::new("/bin/sleep"), &node.place.bin).unwrap();
    let program = node.place.bin.join(PLUGIN);
    let mut running = Started(Command::new(&program).arg("1000").spawn().unwrap());
    assert!(fs::write(&program, "x").is_err(), "the test's own premise");
    install_program(Path::new("/bin/true"), &node.place.bin).unwrap();
    assert!(Command::new(&program).status().unwrap().success());
    assert!(running.0.try_wait().unwrap().is_none(), "the old one goes on");
    assert_eq!(fs::read_dir(&node.place.bin).unwrap().count(), 1, "nothing is left beside it");
}

/// A process that ends with its test.
struct Started(Child);

impl Drop for Started {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(30);
    while !holds() {
        assert!(Instant::now() < end, "{what}: not within 30 s");
        thread::sleep(Duration::from_millis(5));
    }
}

/// Starts this very test again as a process of its own, which then watches.
fn start(node: &Node) -> Started {
    let mut command = Command::new(env::current_exe().unwrap());
    command.args(["--exact", "install::tests::watches_when_it_is_told_to", "--nocapture"]);
    command.env("NAMEWARD_TEST_WATCH", &node.folder).stdout(Stdio::null()).stderr(Stdio::null());
    Started(command.spawn().unwrap())
}

#[test]
fn watches_when_it_is_told_to() {
    let Some(folder) = env::var_os("NAMEWARD_TEST_WATCH").map(PathBuf::from) else { return };
    let stop = Stop::listen().unwrap();
    watch::watch(&Place::new(folder.join("net.d"), folder.join("bin")), &ours(), &stop).unwrap();
}

#[test]
fn a_cni_may_rewrite_remove_and_break_its_configuration() {
    let node = Node::new("watch");
    let watching = start(&node);
    // A CNI that is installed after us, by a rename as agents do it.
    node.write("tmp", CNI);
    fs::rename(node.place.conf.join("tmp"), node.place.conf.join("10-net.conflist")).unwrap();
    wait_until("it is chained", || node.plugins() == ["ptp", PLUGIN]);
    node.write("10-net.conflist", &CNI.replace("ptp", "bridge"));
    wait_until("the new one is chained", || node.plugins() == ["bridge", PLUGIN]);
    // Somebody removes ours: it comes back.
    fs::remove_file(node.place.conflist()).unwrap();
    wait_until("ours is back", || node.plugins() == ["bridge", PLUGIN]);
    node.write("10-net.conflist", "{");
    fs::remove_file(node.place.conf.join("10-net.conflist")).unwrap();
    node.write("05-new.conf", r#"{"cniVersion":"1.0.0","name":"n","type":"macvlan"}"#);
    wait_until("the next CNI is chained", || node.plugins() == ["macvlan", PLUGIN]);
    drop(watching);
    assert_eq!(node.plugins(), ["macvlan", PLUGIN], "it stays when the installer is killed");
}

/// What is taken away while an installer watches would be back at once.
#[test]
fn uninstalling_waits_for_the_installer_that_watches() {
    let node = Node::new("watched");
    node.write("10-net.conflist", CNI);
    let mut watching = start(&node);
    wait_until("it is chained", || node.plugins() == ["ptp", PLUGIN]);
    let refused = uninstall(&node.place, false, Duration::ZERO).unwrap_err();
    assert!(matches!(refused, InstallError::Watched(_)), "{refused}");
    assert_eq!(node.plugins(), ["ptp", PLUGIN]);
    thread::scope(|scope| {
        let waits = scope.spawn(|| uninstall(&node.place, false, Duration::from_secs(30)));
        let watcher = i32::try_from(watching.0.id()).unwrap();
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(watcher), nix::sys::signal::Signal::SIGTERM)
            .unwrap();
        waits.join().unwrap().unwrap();
    });
    watching.0.wait().unwrap();
    assert!(!node.place.conflist().exists());
}
