//! Who may do what, as real pods see it.

use nameward_test_support::wait_until;

use crate::pods::{Container, Pod, SOON, STATUS, World, names, pod_of, policy};

const RULES: &[&str] = &["egresspolicy", "rules"];

/// A policy of the cluster.
fn guardrail(name: &str, namespaces: &str, rest: &str) -> String {
    format!(
        "apiVersion: nameward.io/v1alpha1\nkind: ClusterEgressPolicy\nmetadata: {{name: {name}}}\nspec:\n  subject:\n    \
         namespaceSelector: {{matchExpressions: [{{key: kubernetes.io/metadata.name, operator: In, values: [{namespaces}]}}]}}\n    \
         podSelector: {{}}\n  {rest}\n"
    )
}

// R1, N3: names of a policy, asked of the cluster's DNS with its search list.
pub(crate) fn names_through_coredns(world: &World) {
    world.namespace("names", &policy("names", &names("allowed.example, '*.pkg.example'")));
    let runner = world.pod("names", "runner", "app: runner");
    let other = world.pod("names", "other", "app: other");
    runner.reaches("http://allowed.example/");
    runner.reaches("http://a.pkg.example/");
    for url in ["http://denied.example/", "http://203.0.113.10/", "http://allowed.example:8080/"] {
        runner.may_not(url);
    }
    other.reaches("http://denied.example/");
    world.apply(&policy("names", &names("denied.example")));
    runner.reaches("http://denied.example/");
    runner.is_refused("http://allowed.example/");
    world.kubectl("-n names delete egresspolicy rules");
    runner.reaches("http://allowed.example/");
    world.kubectl("delete namespace names --wait=false");
}

// Promise 5: what an init container sends with its first instruction does not arrive.
pub(crate) fn an_init_container_sends_nothing(world: &World) {
    const FAR: &str = "203.0.113.12";
    world.namespace("init", &policy("init", "[]"));
    world.count_arrivals(FAR);
    for (name, labels) in [("guarded", "app: runner"), ("free", "app: other")] {
        let first =
            Container::shell("curl -s --max-time 1 http://203.0.113.12/; ping -c 1 -W 1 203.0.113.12; true");
        world.apply(&pod_of("init", name, labels, &[first], &Container::sleeps()));
        world.running("init", name);
        assert_eq!(world.arrivals(FAR) > 0, name == "free", "packets of {name} have arrived, or not");
    }
    world.kubectl("delete namespace init --wait=false");
}

// R8: services by their ClusterIP through kube-proxy, and the pods behind them, on another node.
pub(crate) fn services_and_pods_of_two_nodes(world: &World) {
    let config = "apiVersion: nameward.io/v1alpha1\nkind: EgressConfig\nmetadata: {name: default}\nspec: {cluster: {pods: \
                  [10.244.0.0/16], services: [10.96.0.0/16]}}\n";
    world.apply(config);
    let service = "apiVersion: v1\nkind: Service\nmetadata: {namespace: services, name: web}\nspec: {selector: {app: server}, \
                   ports: [{port: 80, targetPort: 8080}]}\n";
    world.namespace("services", service);
    let serves = Container::shell(
        "mkdir /tmp/w; echo from-a-pod > /tmp/w/index.html; exec httpd -f -p 8080 -h /tmp/w",
    );
    world.apply(&pod_of("services", "server", "app: server", &[], &serves.on("n2")));
    world.apply(&pod_of("services", "runner", "app: runner", &[], &Container::sleeps().on("n1")));
    let (server, runner) = (world.running("services", "server"), world.running("services", "runner"));
    assert_eq!((server.node, runner.node), (1, 0));
    runner.reaches("http://web/");
    let peers =
        |peers: &str| format!("[{{name: c, to: [{{cluster: [{peers}]}}], ports: [{{protocol: TCP}}]}}]");
    world.apply(&policy("services", &names("allowed.example")));
    runner.is_refused("http://web/");
    world.apply(&policy("services", &peers("Services")));
    // By its short name, its full name, and its address.
    runner.reaches("http://web/");
    runner.reaches("http://web.services.svc.cluster.local/");
    let address = world.kubectl("-n services get service web -o jsonpath={.spec.clusterIP}");
    runner.reaches(&format!("http://{address}/"));
    runner.may_not("http://203.0.113.10/");
    world.apply(&policy("services", &peers("Pods")));
    runner.reaches(&format!("http://{}:8080/", server.address));
    runner.is_refused("http://web/");
    // Both nodes enforce the same policy, and both are counted.
    world.kubectl("-n services label pod server app=runner --overwrite");
    let more = world.apply(&policy("services", &names("allowed.example")));
    runner.is_refused(&format!("http://{}:8080/", server.address));
    for pod in [&server, &runner] {
        pod.reaches("http://allowed.example/");
        pod.is_refused("http://203.0.113.10/");
    }
    wait_until(&format!("two are selected and programmed ({more})"), SOON * 5, || {
        let counts =
            world.cluster.get(&[&["-n", "services"], RULES].concat()).ok()?["status"]["endpoints"].clone();
        (counts["selected"] == 2 && counts["programmed"] == 2).then_some(())
    });
    world.kubectl("delete egressconfig default");
    world.kubectl("delete namespace services --wait=false");
}

// R2, R3: a deny-only policy of the cluster isolates nobody, and no policy of a namespace lifts it.
pub(crate) fn tenants_cannot_lift_guardrails(world: &World) {
    world.namespace("tenant", "");
    let deny =
        "deny: [{name: block, to: [{ipBlock: {cidr: 203.0.113.10/32}}, {domainNames: [denied.example]}]}]";
    world.apply(&guardrail("guardrail", "tenant", deny));
    let pod = world.pod("tenant", "runner", "app: runner");
    pod.is_refused("http://203.0.113.10/");
    pod.reaches("http://203.0.113.11/");
    pod.reaches("http://other.example/");
    let everything = "[{name: all, to: [{ipBlock: {cidr: 0.0.0.0/0}}, {domainNames: [denied.example, allowed.example]}], ports: \
                      [{protocol: Any}]}]";
    world.apply(&policy("tenant", everything));
    pod.reaches("http://allowed.example/");
    pod.may_not("http://203.0.113.10/");
    pod.may_not("http://denied.example/");
    world.kubectl("delete clusteregresspolicy guardrail");
    pod.reaches("http://203.0.113.10/");
    world.kubectl("delete namespace tenant --wait=false");
}

// R6: a policy that only audits takes nothing away, and tells what it would have denied.
pub(crate) fn audit_denies_nothing_and_tells(world: &World) {
    let audit = policy("audit", &names("allowed.example")).replace("  egress:", "  mode: Audit\n  egress:");
    world.namespace("audit", &audit);
    let pod = world.pod("audit", "runner", "app: runner");
    pod.reaches("http://allowed.example/");
    pod.reaches("http://203.0.113.10/");
    wait_until("it is told what would have been denied", SOON, || {
        let told =
            world.cluster.nodes()[pod.node].rest("/v1/decisions?verdict=would-deny&limit=1000").ok()?;
        let mut told = told["items"].as_array()?.iter();
        told.any(|one| one["remote"] == "203.0.113.10" && one["local"] == pod.address.as_str()).then_some(())
    });
    world.apply(&audit.replace("Audit", "Enforce"));
    pod.is_refused("http://203.0.113.10/");
    pod.reaches("http://allowed.example/");
    // Beside what is enforced, a second verdict says what the audited policy would make of it.
    let deny = "  mode: Audit\n  deny: [{name: block, to: [{ipBlock: {cidr: 198.51.100.10/32}}]}]\n  egress:";
    let next = policy("audit", &names("other.example")).replace("  egress:", deny);
    world.apply(&next.replace("name: rules", "name: next"));
    let staged = |verdicts: &str, remote: &str| {
        let path = format!("/v1/decisions?verdict={verdicts}&limit=1000");
        let told = world.cluster.nodes()[pod.node].rest(&path).ok()?;
        let mut told = told["items"].as_array()?.iter();
        let found = told.find(|one| one["remote"] == remote && one["local"] == pod.address.as_str())?;
        Some(found["staged"]["verdict"].clone())
    };
    let verdict = wait_until("it would be cut", SOON, || {
        pod.reaches("http://allowed.example/");
        staged("pass,staged-deny", "198.51.100.10")
    });
    assert_eq!(verdict, "deny");
    world.kubectl("delete namespace audit --wait=false");
}

// R10: a policy that selects everything, and the cluster's DNS with it, does not let questions go round.
pub(crate) fn coredns_is_selected_and_asks_on(world: &World) {
    let rules = "isolate: true\n  egress: [{name: web, to: [{domainNames: [allowed.example]}, {cluster: [APIServer]}], ports: \
                 [{protocol: TCP}]}]";
    world.apply(&guardrail("all", "kube-system, everything", rules));
    world.namespace("everything", "");
    let pod = world.pod("everything", "one", "app: x");
    pod.reaches("http://allowed.example/");
    pod.may_not("http://denied.example/");
    world.kubectl("-n kube-system rollout restart deployment coredns");
    world.kubectl("-n kube-system rollout status deployment coredns --timeout=50s");
    pod.reaches("http://allowed.example/");
    pod.may_not("http://denied.example/");
    world.kubectl("delete clusteregresspolicy all");
    pod.reaches("http://denied.example/");
    world.kubectl("delete namespace everything --wait=false");
}

// F2: what makes no sense is refused, or told; what is in force stays, also for pods that start then.
pub(crate) fn bad_objects_change_nothing(world: &World) {
    world.namespace("bad", &policy("bad", &names("allowed.example")));
    let pod = world.pod("bad", "runner", "app: runner");
    let as_before = |pod: &Pod<'_>| {
        pod.reaches("http://allowed.example/");
        pod.may_not("http://203.0.113.10/");
    };
    as_before(&pod);
    let wrong = policy("bad", &names("'foo*.example'"));
    let error = world.cluster.apply(&wrong).unwrap_err().to_string();
    assert!(error.contains("domainNames"), "{error}");
    as_before(&pod);
    // Each fits the schema, and all together do not fit into a workload's tables.
    let many = |name: &str, first: u16| {
        let rules = (0..64).map(|number| {
            let port = first + 2 * number;
            format!("{{name: r{port}, to: [{{ipBlock: {{cidr: 203.0.113.0/24}}}}], ports: [{{protocol: TCP, port: {port}}}]}}")
        });
        let rules = rules.collect::<Vec<_>>().join(", ");
        policy("bad", &format!("[{rules}]")).replace("name: rules", &format!("name: {name}"))
    };
    world.apply(&many("many", 20_000));
    world.apply(&many("more", 30_000));
    let words = ["-n", "bad", "egresspolicy", "more"];
    wait_until("its status says so", STATUS, || {
        let object = world.cluster.get(&words).ok()?;
        let mut conditions = object["status"]["conditions"].as_array()?.iter();
        conditions.any(|one| one["type"] == "Accepted" && one["reason"] == "DoesNotFit").then_some(())
    });
    as_before(&pod);
    world.kubectl("-n bad delete egresspolicy many more");
    as_before(&world.pod("bad", "late", "app: runner"));
    world.kubectl("delete namespace bad --wait=false");
}

// Who administers a namespace may write its policies; who may only deploy there reads them.
pub(crate) fn who_may_write_policies(world: &World) {
    world.namespace("rights", "");
    for role in ["admin", "edit", "view"] {
        world.kubectl(&format!(
            "-n rights create rolebinding {role} --clusterrole={role} --user={role}-of-rights"
        ));
    }
    let may = |role: &str, verb: &str, what: &str| {
        let user = format!("{role}-of-rights");
        // What stands behind a slash would be the name of an object.
        let (what, part) = what.split_once('/').unwrap_or((what, ""));
        let part = format!("--subresource={part}");
        let said =
            world.cluster.kubectl(&["-n", "rights", "auth", "can-i", verb, what, &part, "--as", &user]);
        said.is_ok_and(|said| said.trim() == "yes")
    };
    // The controller adds up roles a moment after they have come.
    wait_until("admin may", SOON * 3, || may("admin", "create", "egresspolicies").then_some(()));
    wait_until("view may read", SOON * 3, || may("view", "list", "egresspolicies").then_some(()));
    for verb in ["create", "update", "patch", "delete"] {
        assert!(may("admin", verb, "egresspolicies"), "{verb}");
        assert!(!may("edit", verb, "egresspolicies") && !may("view", verb, "egresspolicies"), "{verb}");
        for what in ["clusteregresspolicies", "egressconfigs", "egressnodes", "egresspolicies/status"] {
            assert!(!may("admin", verb, what), "{verb} {what}");
        }
    }
    assert!(may("edit", "list", "egresspolicies") && may("edit", "create", "deployments"));
    world.kubectl("delete namespace rights --wait=false");
}
