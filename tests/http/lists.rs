//! Lists: filters, pages, fields, tables, ETags, and the description of all that.

use serde_json::Value;

use crate::world::{ESCAPE, Served};

fn column(list: &Value, field: &str) -> Vec<String> {
    let items = list["items"].as_array().unwrap();
    items.iter().map(|item| item[field].as_str().unwrap_or_default().to_owned()).collect()
}

#[tokio::test]
async fn pages_join_without_a_gap_or_a_double() {
    let served = Served::new();
    let all = served.json("/v1/bindings").await;
    assert_eq!((all["node"].as_str(), all.get("next")), (Some("here"), None));
    let whole = column(&all, "name");
    assert_eq!(whole.len(), 30);
    for limit in [1, 7, 10, 29, 30] {
        let mut joined = Vec::new();
        let mut path = format!("/v1/bindings?limit={limit}");
        loop {
            let page = served.json(&path).await;
            assert!(page["items"].as_array().unwrap().len() <= limit);
            joined.extend(column(&page, "name"));
            let Some(next) = page["next"].as_str() else { break };
            path = format!("/v1/bindings?limit={limit}&cursor={next}");
        }
        assert_eq!(joined, whole, "pages of {limit}");
    }
}

#[tokio::test]
async fn filters_of_bindings_and_endpoints() {
    let served = Served::new();
    let count = async |path: &str| served.json(path).await["items"].as_array().unwrap().len();
    assert_eq!(count("/v1/bindings?name=N3.example.").await, 3);
    assert_eq!(count("/v1/bindings?name=*.example&endpoint=ci/1").await, 10);
    assert_eq!(count("/v1/bindings?address=198.51.100.0/30&pod=1").await, 4);
    assert_eq!(count("/v1/bindings?live=false&namespace=ci").await, 0);
    assert_eq!(count("/v1/bindings?namespace=other").await, 0);
    assert_eq!(count("/v1/bindings?policy=web&limit=5").await, 5);
    assert_eq!(count("/v1/bindings?policy=ci/mail").await, 0);
    assert_eq!(count("/v1/endpoints?pod=2").await, 1);
    assert_eq!(count("/v1/policies?policy=ci/web&endpoint=ci/0").await, 1);
    assert_eq!(count("/v1/traffic?pod=2").await, 3);
    let (_, _, one) = served.get("/v1/endpoints/ci/2", "").await;
    assert!(one.contains("\"uid\":\"ci/2\""), "{one}");
}

#[tokio::test]
async fn decisions_come_latest_first_and_page_to_the_older() {
    let served = Served::new();
    for number in 0..5 {
        served.fixture.deny(if number % 2 == 0 { "ci/0" } else { "ci/1" }, Some("a.example"));
    }
    let numbers = |list: &Value| -> Vec<u64> {
        list["items"].as_array().unwrap().iter().map(|one| one["sequence"].as_u64().unwrap()).collect()
    };
    let first = served.json("/v1/decisions?endpoint=ci/0&limit=2").await;
    assert_eq!(numbers(&first), [5, 3]);
    let next = first["next"].as_str().unwrap();
    let second = served.json(&format!("/v1/decisions?endpoint=ci/0&limit=2&cursor={next}")).await;
    assert_eq!((numbers(&second), second.get("next")), (vec![1], None));
    let some =
        served.json("/v1/decisions?since=2027-01-15T08:00:03Z&until=2027-01-15T08:00:05Z&verdict=deny").await;
    assert_eq!(numbers(&some), [4, 3]);
    let suggestions = served.json("/v1/suggestions?endpoint=ci/1").await;
    assert_eq!(suggestions["items"][0]["destinations"][0]["destination"], "a.example");
}

// Issue 8
#[tokio::test]
async fn names_that_are_not_answered_are_decisions_without_a_peer() {
    let served = Served::new();
    served.fixture.refuse("ci/0", "refused.example");
    served.fixture.refuse("ci/0", "forbidden.example");
    served.fixture.deny("ci/0", Some("forbidden.example"));
    served.fixture.refuse("ci/0", ESCAPE);
    let all = served.json("/v1/decisions?reason=filtered").await;
    assert_eq!(column(&all, "name"), [ESCAPE, "forbidden.example", "refused.example"]);
    assert_eq!(column(&all, "queryType"), ["AAAA"; 3]);
    assert_eq!(column(&all, "responseCode"), ["NXDOMAIN"; 3]);
    let of_any_address = served.json("/v1/decisions?address=0.0.0.0/0").await;
    assert_eq!(column(&of_any_address, "reason"), ["no-match"]);
    let some = served.json("/v1/decisions?name=refused.example&fields=name,queryType").await;
    assert_eq!(some["items"][0], serde_json::json!({"name": "refused.example", "queryType": "AAAA"}));
    let (_, _, table) = served.get("/v1/decisions", "accept: text/plain\r\n").await;
    assert!(table.contains("question AAAA") && table.contains(r"\u{1b}]0;owned"), "{table}");
    assert!(!table.contains('\u{1b}'), "{table}");
    // What a deny forbids is not suggested, nor what is no name.
    let suggestions = served.json("/v1/suggestions").await;
    assert_eq!(
        column(&serde_json::json!({"items": suggestions["items"][0]["destinations"]}), "destination"),
        ["refused.example"]
    );
}

#[tokio::test]
async fn fields_tables_and_tags() {
    let served = Served::new();
    let some = served.json("/v1/bindings?fields=name,endpoint&limit=1").await;
    assert_eq!(some["items"][0], serde_json::json!({"endpoint": "ci/0", "name": "n0.example"}));
    let (_, head, table) = served.get("/v1/endpoints", "accept: text/plain\r\n").await;
    assert!(head.contains("content-type: text/plain"), "{head}");
    assert!(table.starts_with("UID    MODE"), "{table}");
    // Data stays data: what stands in a problem's text moves no cursor and sets no title.
    assert!(!table.contains('\u{1b}') && table.contains(r"\u{1b}]0;owned"), "{table}");
    assert!(served.get("/v1/endpoints", "").await.2.contains(r"\u001b]0;owned"), "{ESCAPE}");
    let tag =
        |head: &str| head.lines().find_map(|line| line.strip_prefix("etag: ").map(str::to_owned)).unwrap();
    let (_, head, _) = served.get("/v1/bindings?limit=2", "").await;
    // Heads are in lower case here.
    let first = tag(&head);
    // Seconds have gone by, nothing else.
    let (status, head, body) = served
        .get("/v1/bindings?limit=2", &format!("if-none-match: {}\r\n", first.replacen('w', "W", 1)))
        .await;
    assert_eq!((status, body.as_str(), tag(&head)), (304, "", first.clone()));
    let (status, ..) = served
        .get("/v1/bindings?limit=3", &format!("if-none-match: {}\r\n", first.replacen('w', "W", 1)))
        .await;
    assert_eq!(status, 200);
}

#[tokio::test]
async fn health_readiness_and_the_rest() {
    let served = Served::new();
    assert_eq!(served.get("/healthz", "").await.2, "ok\n");
    assert_eq!(served.get("/readyz", "").await.2, "ready\n");
    served.fixture.pending.lock().unwrap().push(format!("endpoint {ESCAPE}"));
    let (status, _, why) = served.get("/readyz", "").await;
    assert!(status == 503 && why.starts_with("endpoint ") && !why.contains('\u{1b}'), "{why}");
    assert_eq!(served.get("/metrics", "").await.2, "# EOF\n");
}

/// What is described is there, and what is there is described.
#[tokio::test]
async fn the_description_is_of_these_routes() {
    let served = Served::new();
    let description = served.json("/openapi.json").await;
    assert!(description["openapi"].as_str().unwrap().starts_with("3.1"), "{}", description["openapi"]);
    let paths = description["paths"].as_object().unwrap();
    for path in paths.keys() {
        let asked = path.replace("{uid}", "ci/0")
            + if path == "/v1/explain" { "?endpoint=ci/0&destination=a.example" } else { "" };
        assert_eq!(served.get(&asked, "").await.0, 200, "{path}");
    }
    let (_, _, said) = served.get("/nothing", "").await;
    let listed = said.split_once("ask for one of ").unwrap().1.split('"').next().unwrap().split(", ");
    let listed: Vec<String> =
        listed.map(|path| path.replace("UID", "{uid}")).filter(|path| path != "/openapi.json").collect();
    let mut described: Vec<String> = paths.keys().cloned().collect();
    described.sort();
    let mut sorted = listed.clone();
    sorted.sort();
    assert_eq!(sorted, described);
}

/// `fields=` knows the fields that the description has.
#[tokio::test]
async fn fields_are_those_of_the_description() {
    use nameward_api::types::{
        BindingStatus, Decision, EndpointStatus, Item, PolicyStatus, SubjectStatus, Suggestion, TrafficStatus,
    };
    let description: Value = serde_json::from_str(nameward_api::openapi::json()).unwrap();
    let described = |name: &str| -> Vec<String> {
        let mut fields: Vec<String> = description["components"]["schemas"][name]["properties"]
            .as_object()
            .unwrap()
            .keys()
            .cloned()
            .collect();
        fields.sort();
        fields
    };
    let sorted = |fields: &[&str]| -> Vec<String> {
        let mut fields: Vec<String> = fields.iter().map(ToString::to_string).collect();
        fields.sort();
        fields
    };
    assert_eq!(sorted(BindingStatus::FIELDS), described("BindingStatus"));
    assert_eq!(sorted(Decision::FIELDS), described("Decision"));
    assert_eq!(sorted(EndpointStatus::FIELDS), described("EndpointStatus"));
    assert_eq!(sorted(PolicyStatus::FIELDS), described("PolicyStatus"));
    assert_eq!(sorted(SubjectStatus::FIELDS), described("SubjectStatus"));
    assert_eq!(sorted(Suggestion::FIELDS), described("Suggestion"));
    assert_eq!(sorted(TrafficStatus::FIELDS), described("TrafficStatus"));
}
