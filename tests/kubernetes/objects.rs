//! The objects as users meet them with kubectl: warnings, columns, explanations, limits.

use nameward_test_support::wait_until_ok;
use serde_json::{Value, json};

use crate::{
    guarding::{names, policy},
    pod::Pod,
    world::{STATUS, World},
};

const WEB: &str = "{protocol: TCP, port: 80}";

// N3, N5: what the schema cannot judge is warned of at once, and nothing is refused for it.
pub(crate) fn kubectl_warns_at_once(world: &World) {
    world.namespace("warned", "");
    let apply = |name: &str| world.apply(&policy("warned", &names(&format!("'{name}'"), WEB)));
    for (name, said) in [
        ("*", "`*` allows every name"),
        ("*.com", "directly over a top-level domain"),
        ("*.github.io", "directly over a public or shared suffix"),
        ("dns.google", "a public DNS resolver is allowed"),
    ] {
        let told = apply(name);
        let warnings: Vec<&str> = told.lines().filter(|line| line.starts_with("Warning:")).collect();
        assert!(matches!(warnings.as_slice(), [one] if one.contains(said)), "{name}: {told}");
    }
    let told = apply("*.pkg.example");
    assert!(!told.contains("Warning"), "{told}");
    // What the short list lacks is in the condition, with the rule's name.
    assert!(!apply("*.s3.eu-central-1.amazonaws.com").contains("Warning"));
    let rules = ["-n", "warned", "egresspolicy", "rules"];
    wait_until_ok("the condition warns", STATUS, || {
        let object = world.cluster.get(&rules).map_err(|error| error.to_string())?;
        let said = object["status"]["conditions"].to_string();
        if said.contains("rule web: ") && said.contains("eu-central-1") { Ok(()) } else { Err(said) }
    });
    world.kubectl("-n warned delete egresspolicy rules");
}

/// `kubectl get` shows what counts, by every name of the objects.
pub(crate) fn kubectl_shows_columns(world: &World) {
    world.namespace("columns", &policy("columns", &names("allowed.example", WEB)));
    world.condition(&["-n", "columns", "egresspolicy", "rules"], "Programmed", "True", "NothingSelected");
    let columns = |words: &str| {
        let said = world.kubectl(words);
        let head = said.lines().next().unwrap_or_default();
        head.split("  ").map(|one| one.trim().to_owned()).filter(|one| !one.is_empty()).collect::<Vec<_>>()
    };
    let usual = ["NAME", "MODE", "SELECTED", "PROGRAMMED", "NOT COVERED", "ACCEPTED", "AGE"];
    assert_eq!(columns("-n columns get egpol"), usual);
    let wide = columns("-n columns get egresspolicies -o wide");
    assert_eq!(wide.iter().filter(|one| !usual.contains(&one.as_str())).collect::<Vec<_>>(), ["COVERED"]);
    let said = world.kubectl("-n columns get egpol --no-headers");
    let row: Vec<&str> = said.split_whitespace().collect();
    assert_eq!(row[..6], ["rules", "Enforce", "0", "0", "0", "True"], "{said}");
    assert_eq!(columns("get egressnodes"), ["NAME", "PODS", "PROGRAMMED", "NOT COVERED", "REPORTED"]);
    let all = world.kubectl("get nameward -A -o name");
    assert!(
        all.contains("egresspolicy.nameward.io/rules") && all.contains("egressnode.nameward.io/n1"),
        "{all}"
    );
}

/// Every field has a sentence in what `kubectl explain` reads.
pub(crate) fn kubectl_explains_every_field(world: &World) {
    let text = world.kubectl("get --raw /openapi/v3/apis/nameward.io/v1alpha1");
    let document: Value = serde_json::from_str(&text).unwrap();
    for kind in ["EgressPolicy", "ClusterEgressPolicy", "EgressConfig", "EgressNode"] {
        let schema = &document["components"]["schemas"][format!("io.nameward.v1alpha1.{kind}")];
        let mut fields = 0;
        for part in ["spec", "status"] {
            if let Some(schema) = schema["properties"].get(part) {
                described(schema, &format!("{kind}.{part}"), &mut fields);
            }
        }
        assert!(fields > 10, "{kind} has {fields} fields");
    }
    let said = world.kubectl("explain egresspolicy.spec.egress.graceSeconds");
    let said = said.split_whitespace().collect::<Vec<_>>().join(" ");
    let grace = "components/schemas/io.nameward.v1alpha1.EgressPolicy/properties/spec/properties/egress/items/properties/graceSeconds/description";
    let grace = grace.split('/').fold(&document, |value, word| &value[word]).as_str().unwrap();
    assert!(said.contains("FIELD: graceSeconds <integer>") && said.contains(grace), "{said}");
}

fn described(schema: &Value, path: &str, fields: &mut usize) {
    *fields += 1;
    assert!(schema["description"].as_str().is_some_and(|text| text.ends_with('.')), "{path} has no sentence");
    for (name, inner) in schema["properties"].as_object().into_iter().flatten() {
        described(inner, &format!("{path}.{name}"), fields);
    }
    for (name, inner) in schema["items"]["properties"].as_object().into_iter().flatten() {
        described(inner, &format!("{path}.{name}"), fields);
    }
}

/// A policy whose rules are these.
fn rules(name: &str, egress: &Value, deny: &Value) -> Value {
    json!({
        "apiVersion": "nameward.io/v1alpha1", "kind": "EgressPolicy",
        "metadata": {"namespace": "limits", "name": name},
        "spec": {"podSelector": {"matchLabels": {"app": "runner"}}, "egress": egress, "deny": deny},
    })
}

/// A name of 253 octets.
fn long_name(number: usize) -> String {
    let label = format!("{number:a>63}");
    format!("{label}.{label}.{label}.{}", "b".repeat(61))
}

/// Policies of which each is at some of its limits.
fn at_limits() -> Vec<Value> {
    let web = json!([{"protocol": "TCP", "port": 80}]);
    let many =
        |count: usize, one: &dyn Fn(usize) -> Value| Value::from((0..count).map(one).collect::<Vec<_>>());
    let name = |number: usize| json!({"domainNames": [format!("n{number}.example")]});
    let block = |number: usize| {
        let except = many(32, &|inner| json!(format!("10.{number}.{inner}.0/24")));
        json!({"ipBlock": {"cidr": format!("10.{number}.0.0/16"), "except": except}})
    };
    let names_of = |number: usize| json!({"domainNames": many(256, &|inner| json!(format!("n{inner}.p{number}.example")))});
    let range = |number: usize| json!({"protocol": "UDP", "port": 20_001 + 100 * number, "endPort": 20_062 + 100 * number});
    let one = |to: Value, ports: &Value| json!([{"name": "one", "to": to, "ports": ports}]);
    let rule = |number: usize| json!({"name": format!("r{number}"), "to": [name(number)], "ports": web});
    let denied = |number: usize| json!({"name": format!("d{number}"), "to": [name(1_000 + number)]});
    let mut selector = rules("selector", &one(json!([name(0)]), &web), &json!([]));
    let labels: Vec<(String, Value)> = (0..64).map(|number| (format!("k{number}"), json!("v"))).collect();
    let values = many(64, &|number| json!(format!("v{number}")));
    selector["spec"]["podSelector"] = json!({
        "matchLabels": serde_json::Map::from_iter(labels),
        "matchExpressions": many(64, &|number| json!({"key": format!("k{number}"), "operator": "In", "values": values})),
    });
    let review =
        json!({"owner": "o".repeat(253), "justification": "j".repeat(1_024), "ticket": "t".repeat(253)});
    let long = json!({"domainNames": many(256, &|number| json!(long_name(number)))});
    let mut names = one(json!([long]), &web);
    names[0]["review"] = review;
    names[0]["graceSeconds"] = json!(86_400);
    vec![
        rules("rules", &many(64, &rule), &many(64, &denied)),
        rules("peers", &one(many(16, &names_of), &web), &json!([])),
        rules("blocks", &one(many(16, &block), &web), &json!([])),
        rules("ports", &one(json!([name(1)]), &many(32, &range)), &json!([])),
        rules("long", &names, &json!([])),
        selector,
    ]
}

// Bad input: policies at every limit are taken and in force, together; one more of anything is refused with its place.
pub(crate) fn policies_at_every_limit(world: &World) {
    world.namespace(
        "limits",
        &policy("limits", &names("allowed.example", WEB)).replace("name: rules", "name: small"),
    );
    let pod = Pod::new(world, "limits", "runner", "app: runner");
    pod.run().reaches("http://allowed.example/");
    let all = at_limits();
    for object in &all {
        world.apply(&object.to_string());
    }
    for object in &all {
        let name = object["metadata"]["name"].as_str().unwrap();
        let reason = if name == "selector" { "NothingSelected" } else { "Programmed" };
        world.condition(&["-n", "limits", "egresspolicy", name], "Programmed", "True", reason);
        world.condition(&["-n", "limits", "egresspolicy", name], "Accepted", "True", "Accepted");
    }
    pod.reaches("http://allowed.example/");
    pod.may_not("http://203.0.113.10/");
    let mut one_more = all[0].clone();
    let mut rule = one_more["spec"]["egress"][0].clone();
    rule["name"] = json!("r64");
    one_more["spec"]["egress"].as_array_mut().unwrap().push(rule);
    let error = world.cluster.apply(&one_more.to_string()).unwrap_err().to_string();
    assert!(error.contains("spec.egress") && error.contains("64"), "{error}");
    pod.delete();
}
