use super::*;

const RESOLVER: &str = "10.96.0.53";

fn findings(text: &str, by_name: bool) -> Vec<Finding> {
    let resolvers = [RESOLVER.to_owned()];
    check(text, &Terms { resolvers: &resolvers, by_name }).unwrap_or_else(|error| panic!("{text}: {error}"))
}

/// Code and line of what is no note, in the two scopes.
fn codes(text: &str, by_name: bool) -> Vec<(&'static str, Option<usize>)> {
    let told = findings(text, by_name).into_iter().filter(|one| one.severity != Severity::Note);
    told.map(|one| (one.code, one.line)).collect()
}

/// A block that is as it should be, with these lines more.
fn block(more: &str) -> String {
    format!(".:53 {{\n    {OPTION}\n    forward . {RESOLVER}\n{more}}}\n")
}

#[test]
fn what_the_help_shows_passes() {
    assert_eq!(codes(&block(""), false), []);
    assert_eq!(codes(&block("    cache 30 {\n        servfail 0\n    }\n"), true), []);
    let kubernetes = "    errors\n    health {\n       lameduck 5s\n    }\n    ready\n    kubernetes cluster.local in-addr.arpa ip6.arpa {\n\
                      \x20      pods insecure\n       fallthrough in-addr.arpa ip6.arpa\n    }\n    prometheus :9153\n    loop\n    reload\n    loadbalance\n";
    assert_eq!(codes(&block(kubernetes), false), []);
    let elsewhere = format!(".:53 {{\n    {OPTION}\n    forward . dns://{RESOLVER}:53\n}}\n");
    assert_eq!(codes(&elsewhere, false), []);
}

// DESIGN 5: each of the things that must be found
#[test]
fn what_breaks_a_promise_is_found() {
    let error = |more: &str, by_name: bool, code: &'static str, line: usize| {
        let text = block(more);
        let found = findings(&text, by_name);
        let one = found
            .iter()
            .find(|one| one.code == code)
            .unwrap_or_else(|| panic!("{code} in {text}: {found:?}"));
        assert_eq!((one.severity, one.line), (Severity::Error, Some(line)), "{text}");
        assert!(!one.write.is_empty());
    };
    error("    cache 30\n", false, "cache", 4);
    error("    cache {\n        serve_stale 1h\n    }\n", true, "serve-stale", 5);
    error("    cache {\n        serve_stale\n    }\n", false, "serve-stale", 5);
    error("    cache {\n        keepttl\n    }\n", true, "keepttl", 5);
    error("    autopath @kubernetes\n", true, "autopath", 4);
    error("    view internal {\n        expr client_ip() == '10.0.0.1'\n    }\n", true, "view", 4);
    error("    dns64\n", false, "dns64", 4);
    error("    rewrite ttl example.org 3600\n", true, "ttl", 4);
    error("    rewrite name a b answer value 10.0.0.1 10.0.0.2\n", true, "answer-changed", 4);
    error(
        "    rewrite stop {\n        name a b\n        answer value 10.0.0.1 10.0.0.2\n    }\n",
        true,
        "answer-changed",
        6,
    );
    error("    bind 169.254.20.10\n", false, "node-cache", 4);
    assert_eq!(codes(&block("    acl {\n        block net 10.0.0.0/8\n    }\n"), false), [("acl", Some(4))]);
}

#[test]
fn the_option_has_to_be_set_first_and_by_coredns() {
    let rules = |rules: &str| format!(".:53 {{\n{rules}    forward . {RESOLVER}\n}}\n");
    assert_eq!(codes(&rules(""), false), [("no-option", Some(1))]);
    assert_eq!(findings(&rules(""), true)[0].severity, Severity::Warning, "names are granted to all anyway");
    let append = rules("    rewrite edns0 local append 0xffee {client_ip}\n");
    assert_eq!(codes(&append, false), [("appendable-option", Some(2))]);
    assert!(findings(&append, true).iter().any(|one| one.severity == Severity::Error));
    let replace = rules("    rewrite edns0 local replace 65518 {client_ip}\n");
    assert_eq!(codes(&replace, false), [("appendable-option", Some(2))]);
    let value = rules("    rewrite edns0 local set 0xffee 0x0a000001\n");
    assert_eq!(codes(&value, false), [("option-value", Some(2))]);
    let other = rules("    rewrite edns0 local set 0xffed {client_ip}\n");
    assert_eq!(codes(&other, false), [("no-option", Some(1))]);
    let late = rules(&format!("    rewrite name a.example b.example\n    {OPTION}\n"));
    assert_eq!(codes(&late, false), [("option-skipped", Some(2))]);
    let goes_on = rules(&format!("    rewrite continue name a.example b.example\n    {OPTION}\n"));
    assert_eq!(codes(&goes_on, false), []);
    let continues = rules(
        "    rewrite continue edns0 local set 0xffee {client_ip}\n    rewrite name a.example b.example\n",
    );
    assert_eq!(codes(&continues, false), []);
}

#[test]
fn caches_are_fine_where_names_are_granted_to_all() {
    assert_eq!(codes(&block("    cache 30\n"), true), [("servfail", Some(4))]);
    assert_eq!(
        codes(&block("    cache {\n        servfail 0s\n        success 9984 3600 30\n    }\n"), true),
        [("least-ttl", Some(6))]
    );
    let written = &findings(&block("    cache 30 example.org\n"), true)[0].write;
    assert_eq!(written, "cache 30 example.org {\n    servfail 0\n}");
}

#[test]
fn what_passes_the_resolver_by_is_said() {
    let beside = |more: &str| codes(&block(more), false);
    assert_eq!(beside("    forward corp.example 10.0.0.1\n"), [("other-forward", Some(4))]);
    assert_eq!(
        codes(&format!(". {{\n {OPTION}\n forward . {RESOLVER} 10.0.0.1\n}}"), false),
        [("other-server", Some(3))]
    );
    let next = format!(
        ". {{\n {OPTION}\n forward . {RESOLVER} {{\n  next NXDOMAIN\n  except a.example\n }}\n forward . 10.0.0.1\n}}"
    );
    assert_eq!(codes(&next, false), [("next", Some(4)), ("except", Some(5)), ("other-forward", Some(7))]);
    let zones = format!(
        "{}corp.example:53 {{\n    forward . 10.0.0.1\n}}\nlocal.example {{\n    file db\n}}\n",
        block("")
    );
    assert_eq!(codes(&zones, false), [("other-zone", Some(6))]);
    assert_eq!(codes(". {\n forward . /etc/resolv.conf\n}\n", false), [("no-forward", None)]);
    let anywhere = check(&block(""), &Terms { resolvers: &[], by_name: false }).unwrap();
    assert!(anywhere.iter().all(|one| one.severity == Severity::Note), "{anywhere:?}");
}

#[test]
fn snippets_are_seen_through_and_files_are_not() {
    let text = format!(
        "(common) {{\n    cache\n}}\n. {{\n    import common\n    import /etc/more\n    {OPTION}\n    forward . {RESOLVER}\n}}\n"
    );
    assert_eq!(codes(&text, false), [("cache", Some(2)), ("import", Some(6))]);
}
