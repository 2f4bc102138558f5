//! `nameward-api`: one place that answers for all nodes, found by what their enforcers say in the cluster.

use std::{fs, path::Path, process::Command, time::Duration};

use nameward_test_support::{Authority, output_within, program, wait_until, wait_until_ok};
use nix::sys::signal::Signal;
use serde_json::Value;

use crate::{
    guarding::{names, policy},
    pod::{Announced, Pod},
    world::{SOON, STATUS, World},
};

const API: &str = "nameward-api";
/// Its name, and the one that enforcers answer to.
const NAME: &str = "api.nameward";
/// The administrator's token.
const ADMIN: &str = "admin-of-a-test";
/// How long a right that was taken away may still count.
const REMEMBERED: Duration = Duration::from_secs(30);

/// The process on the machine of the API server, ended with the scenario.
pub(crate) struct Api<'a> {
    world: &'a World,
    authority: Authority,
}

impl<'a> Api<'a> {
    /// Gives all nodes certificates, and starts it.
    pub(crate) fn start(world: &'a World) -> Self {
        let authority = Authority::new();
        for node in world.nodes() {
            let signed = authority.sign(node.name(), node.name());
            let put = |kind: &str, from: &Path| {
                let fresh = node.machine().folder().join("api.fresh");
                fs::copy(from, &fresh).unwrap();
                fs::rename(&fresh, node.machine().folder().join(format!("api.{kind}"))).unwrap();
            };
            put("pem", &signed.certificate);
            put("key", &signed.key);
            put("ca", &authority.file());
        }
        let control = world.cluster.control();
        let own = authority.sign(API, NAME);
        let token = world.cluster.token("nameward", API).unwrap();
        let kubeconfig = world.cluster.kubeconfig_of(API, &token).unwrap();
        let file = |path: &Path| path.display().to_string();
        let (certificate, key) = (file(&own.certificate), file(&own.key));
        let words = [
            ("--listen", "10.88.0.1:9856"),
            ("--certificate", &certificate),
            ("--key", &key),
            ("--node-certificate", &certificate),
            ("--node-key", &key),
            ("--node-ca", &file(&authority.file())),
            ("--kubeconfig", &file(&kubeconfig)),
        ];
        let words = words.iter().flat_map(|(flag, value)| [(*flag).to_owned(), (*value).to_owned()]);
        let words: Vec<String> = words.chain(["--kubernetes".to_owned()]).collect();
        control.serve(API, &program(API).unwrap(), &words).unwrap();
        wait_until("it serves", SOON, || {
            control.log(API).contains("answering for the cluster").then_some(())
        });
        Self { world, authority }
    }

    /// Status and body of a question by who shows this token.
    pub(crate) fn ask(&self, token: &str, path: &str) -> (String, String) {
        self.ask_by("GET", token, path)
    }

    fn ask_by(&self, method: &str, token: &str, path: &str) -> (String, String) {
        let control = self.world.cluster.control();
        let mut curl: Command = control.command("curl");
        curl.args(["-sS", "--max-time", "10", "-X", method, "--cacert"]).arg(self.authority.file());
        curl.args(["--resolve", &format!("{NAME}:9856:10.88.0.1"), "-w", "\n%{http_code}"]);
        curl.args(["-H", &format!("Authorization: Bearer {token}"), &format!("https://{NAME}:9856{path}")]);
        let output = output_within(&mut curl, Duration::from_secs(30)).unwrap();
        assert!(output.status.success(), "{output:?}");
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let (body, status) = said.rsplit_once('\n').unwrap();
        (status.to_owned(), body.to_owned())
    }

    fn list(&self, path: &str) -> Result<Value, String> {
        let (status, body) = self.ask(ADMIN, path);
        if status == "200" {
            Ok(serde_json::from_str(&body).unwrap())
        } else {
            Err(format!("{status}: {body}"))
        }
    }
}

impl Drop for Api<'_> {
    fn drop(&mut self) {
        if let Err(error) = self.world.cluster.control().signal(API, Signal::SIGTERM) {
            eprintln!("{API} is not ended: {error:#}");
        }
    }
}

// Issue 8: one question, all nodes
pub(crate) fn all_nodes_are_asked_at_one_place(world: &World) {
    world.namespace("asking", &policy("asking", &names("allowed.example", "{protocol: TCP, port: 80}")));
    let pods = [0, 1].map(|node| {
        Pod::on(world, node, "asking", &format!("pod{node}"), "app: runner", Announced::ByPlugin)
    });
    for pod in &pods {
        pod.run().is_guarded();
        pod.reaches("http://allowed.example/");
        pod.is_refused("http://203.0.113.10/");
    }
    let api = Api::start(world);
    let (status, body) = api.ask("none", "/v1/bindings");
    assert_eq!(status, "401", "{body}");
    assert_eq!(api.ask("none", "/healthz").0, "200");
    let of = |list: &Value, field: &str| -> Vec<String> {
        let items = list["items"].as_array().into_iter().flatten();
        items
            .map(|item| format!("{} {}", item["node"].as_str().unwrap(), item[field].as_str().unwrap_or("-")))
            .collect()
    };
    let bindings = wait_until_ok("both nodes answer", STATUS, || {
        let list = api.list("/v1/bindings?namespace=asking&name=allowed.example")?;
        let mut all = of(&list, "workload");
        all.sort();
        if all == ["n1 asking/pod0", "n2 asking/pod1"] { Ok(list) } else { Err(format!("{list}")) }
    });
    assert_eq!(bindings.get("unanswered"), None, "{bindings}");
    // A pod is asked for by its name, and its node answers.
    let path = "/v1/explain?endpoint=asking/pod1&destination=allowed.example&port=80";
    let explained = api.list(path).unwrap();
    assert_eq!(
        (explained["node"].as_str(), explained["verdict"].as_str()),
        (Some("n2"), Some("allowed")),
        "{explained}"
    );
    let decisions = wait_until_ok("both denials are told", SOON, || {
        let list = api.list("/v1/decisions?namespace=asking&verdict=deny&address=203.0.113.10")?;
        if of(&list, "reason").len() >= 2 { Ok(list) } else { Err(list.to_string()) }
    });
    let workloads = of(&decisions, "workload");
    assert!(
        workloads.contains(&"n1 asking/pod0".into()) && workloads.contains(&"n2 asking/pod1".into()),
        "{decisions}"
    );
    // A pod of another namespace is not among them.
    assert!(of(&api.list("/v1/decisions?namespace=asking2").unwrap(), "workload").is_empty());
    pods.into_iter().for_each(Pod::delete);
}

/// Gives an account of a namespace a role in that namespace.
fn bind(world: &World, namespace: &str, role: &str) {
    world.apply(&format!(
        "apiVersion: v1\nkind: ServiceAccount\nmetadata: {{namespace: {namespace}, name: tenant}}\n---\napiVersion: \
         rbac.authorization.k8s.io/v1\nkind: RoleBinding\nmetadata: {{namespace: {namespace}, name: tenant-{role}}}\nroleRef: \
         {{apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: {role}}}\nsubjects: [{{kind: ServiceAccount, name: tenant, \
         namespace: {namespace}}}]\n"
    ));
}

// Issue 8: a tenant sees its own namespaces
pub(crate) fn a_tenant_sees_its_own_namespace(world: &World) {
    // Aggregated roles are put together by a controller that this cluster has not.
    for (namespace, role) in [("mine", "nameward-live-view"), ("theirs", "nameward-live-view")] {
        world
            .namespace(namespace, &policy(namespace, &names("allowed.example", "{protocol: TCP, port: 80}")));
        bind(world, namespace, role);
    }
    let pods = ["mine", "theirs"].map(|namespace| {
        let pod = Pod::new(world, namespace, "runner", "app: runner");
        pod.run().is_guarded();
        pod.reaches("http://allowed.example/");
        pod.is_refused("http://203.0.113.10/");
        pod
    });
    let api = Api::start(world);
    let tenant = world.cluster.token("mine", "tenant").unwrap();
    let status = |path: &str| api.ask(&tenant, path).0;
    wait_until_ok("it sees its own", STATUS, || {
        let (status, body) = api.ask(&tenant, "/v1/bindings?namespace=mine");
        let is_so = status == "200" && body.contains("allowed.example") && !body.contains("theirs");
        if is_so { Ok(()) } else { Err(format!("{status}: {body}")) }
    });
    for path in [
        "/v1/bindings?namespace=theirs",
        "/v1/bindings?endpoint=theirs/runner",
        "/v1/bindings",
        "/v1/bindings?namespace=",
        "/v1/endpoints",
        "/v1/decisions",
        "/v1/decisions?follow=true",
        "/v1/decisions?follow=true&namespace=theirs",
        "/v1/suggestions",
        "/v1/subjects?namespace=theirs",
        "/v1/traffic?namespace=theirs",
        "/v1/policies?namespace=theirs",
        "/v1/endpoints/theirs/runner",
        "/v1/explain?endpoint=theirs/runner&destination=a.example",
    ] {
        let (status, body) = api.ask(&tenant, path);
        assert_eq!(status, "403", "{path}: {body}");
        assert!(body.contains("system:serviceaccount:mine:tenant may not"), "{path}: {body}");
    }
    // By its identifier nobody knows where a pod is.
    assert_eq!(status(&format!("/v1/endpoints/{}", pods[0].is_guarded()["uid"].as_str().unwrap())), "403");
    // A namespace that does not fit narrows to nothing, and a second one is no way around.
    let (code, body) = api.ask(&tenant, "/v1/bindings?namespace=mine&endpoint=theirs/runner");
    assert!(code == "404" || (code == "200" && body.contains("\"items\":[]")), "{code}: {body}");
    assert_eq!(status("/v1/bindings?namespace=mine&namespace=theirs"), "400");
    assert_eq!(status("/v1/explain?endpoint=mine/runner&destination=allowed.example&port=80"), "200");
    assert_eq!(status("/v1/endpoints/mine/runner"), "200");
    let decisions = api.ask(&tenant, "/v1/decisions?namespace=mine&verdict=deny").1;
    assert!(decisions.contains("mine/runner") && !decisions.contains("theirs"), "{decisions}");
    for token in ["", "none", "admin-of-a-tes"] {
        assert_eq!(api.ask(token, "/v1/bindings?namespace=mine").0, "401", "{token:?}");
    }
    assert_eq!(api.ask("", "/readyz"), ("200".into(), "ready\n".into()));
    // Taking back is a right of its own.
    let flush = |token: &str, path: &str| api.ask_by("DELETE", token, path);
    let (code, body) = flush(&tenant, "/v1/bindings?name=*&namespace=mine");
    assert!(code == "403" && body.contains("delete egressbindings"), "{code}: {body}");
    bind(world, "mine", "nameward-live-admin");
    let flushed = wait_until_ok("it may", REMEMBERED, || {
        let (code, body) = flush(&tenant, "/v1/bindings?name=*&namespace=mine");
        if code == "200" { Ok(body) } else { Err(body) }
    });
    assert!(flushed.contains("allowed.example"), "{flushed}");
    pods[0].reaches("http://allowed.example/");
    assert!(
        api.list("/v1/bindings?namespace=theirs&live=true").unwrap()["items"][0]["name"] == "allowed.example"
    );
    // A right that is taken away counts a little longer, and a stream ends with it.
    world.kubectl("-n mine delete rolebinding tenant-nameward-live-view");
    wait_until("it sees nothing any more", REMEMBERED * 2, || {
        (status("/v1/bindings?namespace=mine") == "403").then_some(())
    });
    pods.into_iter().for_each(Pod::delete);
}

// What cannot be reviewed is refused; what was is remembered.
pub(crate) fn nobody_new_is_let_in_without_an_api_server(world: &World) {
    let api = Api::start(world);
    wait_until_ok("the administrator is let in", STATUS, || api.list("/v1/endpoints?limit=1"));
    world.cluster.stop_server().unwrap();
    assert!(api.list("/v1/endpoints?limit=1").is_ok(), "who was let in a moment ago");
    let (code, body) = api.ask("scheduler-of-a-test", "/v1/endpoints");
    assert!(code == "503" && body.contains("does not say who you are"), "{code}: {body}");
    let (code, body) = api.ask("", "/readyz");
    assert!(code == "503" && body.contains("does not say who may ask"), "{code}: {body}");
    world.cluster.start_server().unwrap();
    let code = || api.ask("scheduler-of-a-test", "/v1/endpoints").0;
    wait_until("it is asked again", SOON, || (code() == "403").then_some(()));
    assert_eq!(api.ask("", "/readyz").0, "200");
}
