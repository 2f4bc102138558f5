//! What the chart renders, without a cluster.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{Command, Output},
    time::Duration,
};

use nameward_test_support::{cluster::tool, output_within};

use crate::World;

const LIMIT: Duration = Duration::from_secs(60);
/// Set to anything, the golden files are written instead of compared.
const WRITE: &str = "NAMEWARD_GOLDEN";

/// The chart in the tree.
pub(crate) fn chart() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../helm/nameward")
}

fn helm(words: &[&str], arguments: &[&str]) -> Output {
    let mut command = Command::new(tool("helm").unwrap());
    command.args(words).arg(chart()).args(arguments);
    output_within(&mut command, LIMIT).unwrap()
}

/// What `helm template` writes, without the definitions of objects, which are files in the tree already.
fn rendered(arguments: &[&str]) -> Result<String, String> {
    let all = [&["--namespace", "nameward", "--set", "crds.install=false"], arguments].concat();
    let output = helm(&["template", "nameward"], &all);
    if output.status.success() {
        Ok(String::from_utf8(output.stdout).unwrap())
    } else {
        Err(String::from_utf8_lossy(&output.stderr).into_owned())
    }
}

pub(crate) fn the_chart_lints(_: &World) {
    for arguments in [
        &["--strict"][..],
        &["--strict", "--set", "cni.install=false,crds.install=false"],
        &["--strict", "--set", "forward.enabled=true,forward.scope=Endpoint"],
    ] {
        let output = helm(&["lint"], arguments);
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
        assert!(!said.contains("[WARNING]") && !said.contains("[ERROR]"), "{said}");
    }
}

pub(crate) fn the_chart_renders_as_it_is_written_down(_: &World) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("helm/golden");
    let everything = folder.join("everything.values.yaml").display().to_string();
    let cases: [(&str, &[&str]); 3] = [
        ("default", &["--set", "clusterDNS.addresses={10.96.0.10}"]),
        ("everything", &["--values", &everything]),
        (
            "forward",
            &["--set", "clusterDNS.addresses={10.96.0.10},forward.enabled=true,forward.clusterIP=10.96.0.53"],
        ),
    ];
    for (name, arguments) in cases {
        let file = folder.join(format!("{name}.yaml"));
        let text = rendered(arguments).unwrap();
        if env::var_os(WRITE).is_some() {
            fs::write(&file, text).unwrap();
            continue;
        }
        let golden = fs::read_to_string(&file).unwrap_or_default();
        let differs = text.lines().zip(golden.lines()).position(|(one, other)| one != other);
        let line = differs.unwrap_or_else(|| text.lines().count().min(golden.lines().count()));
        assert!(
            text == golden,
            "line {} of {} differs: {:?}; with {WRITE}=1 this test writes the file",
            line + 1,
            file.display(),
            text.lines().nth(line)
        );
    }
}

/// Each mistake is refused with its place, before anything is rendered.
pub(crate) fn values_that_make_no_sense_are_refused(_: &World) {
    let cases = [
        ("cni.timeoutSeconds=0", "/cni/timeoutSeconds"),
        ("forward.upstreams={198.51.100.53}", "/forward/upstreams"),
        ("forward.enabled=true,forward.scope=Pod", "/forward/scope"),
        ("forward.enabled=true,forward.clusterIP=resolver", "/forward/clusterIP"),
        ("forward.enabled=true,forward.replicas=0", "/forward/replicas"),
        ("cni.install=false,cni.exemptWhenDown={kube-system}", "/cni/exemptWhenDown"),
        ("image.digests.enforcer=sha256:abc", "/image/digests/enforcer"),
        ("enforcer.memory.maxPods=0", "/enforcer/memory/maxPods"),
        ("enforcer.replicas=2", "replicas"),
        ("clusterDNS.addresses={kube-dns}", "/clusterDNS/addresses/0"),
        ("updateStrategy.maxUnavailable=0", "/updateStrategy/maxUnavailable"),
        ("enforcer.apiPort=9854", "enforcer.apiPort and resolver.metricsPort"),
        // Nobody can be asked for it here.
        ("clusterDNS.domain=cluster.local", "clusterDNS.addresses is empty"),
    ];
    for (values, place) in cases {
        let dns: &[&str] = if values.starts_with("clusterDNS") {
            &[]
        } else {
            &["--set", "clusterDNS.addresses={10.96.0.10}"]
        };
        let said = rendered(&[dns, &["--set", values]].concat()).expect_err(values);
        assert!(said.contains(place), "{values}: {said}");
    }
    let dns = ["--set", "clusterDNS.addresses={10.96.0.10}", "--namespace", "kube-system"];
    let said = rendered(&dns).expect_err("a namespace of others");
    assert!(said.contains("--namespace nameward --create-namespace"), "{said}");
}
