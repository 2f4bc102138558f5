//! squid.conf, and lists of domains.

use super::*;

const PORTS: &str = "acl SSL_ports port 443\nacl Safe_ports port 80 443\nhttp_access deny !Safe_ports\nhttp_access deny CONNECT !SSL_ports\n";
const TCP: &str = "note: TCP 80, 443: Squid lets requests through";
const EVERYBODY: &str = "note: the policy is about every workload of its namespace";

fn squid(text: &str, options: &Options) -> Imported {
    imported(text, Some(SourceKind::Squid), options)
}

fn clients() -> Options {
    Options { widen: vec![Widen::Clients], ..Options::default() }
}

#[test]
fn an_allow_list() {
    let text = format!(
        "{PORTS}acl ok dstdomain .example.com www.Example.ORG. # ours\nacl ok dstdomain -n a.example\nhttp_access allow ok\nhttp_access deny all\n"
    );
    squid(&text, &Options::default()).is(
        &["in: all", "+ *.example.com example.com www.example.org a.example -> TCP/80 TCP/443"],
        &[TCP, EVERYBODY],
    );
    let chosen = Options {
        ports: vec![443],
        namespace: Some("ci".into()),
        selector: LabelSelector {
            match_labels: [("app".to_owned(), "a".to_owned())].into(),
            ..LabelSelector::default()
        },
        ..Options::default()
    };
    squid(&text, &chosen)
        .is(&["ci/in: app=a", "+ *.example.com example.com www.example.org a.example -> TCP/443"], &[]);
    // It is known by its text.
    imported(&text, None, &Options::default()).is(
        &["in: all", "+ *.example.com example.com www.example.org a.example -> TCP/80 TCP/443"],
        &[TCP, EVERYBODY],
    );
}

#[test]
fn the_first_line_that_matches_decides() {
    let text = format!(
        "{PORTS}acl ok dstdomain .example.com\nacl bad dstdomain bad.example.com\nhttp_access deny bad\nhttp_access allow ok\nhttp_access deny all\nhttp_access allow bad\n"
    );
    let expected = ["in: all", "+ *.example.com example.com -> TCP/80 TCP/443", "- bad.example.com -> all"];
    squid(&text, &Options::default())
        .is(&expected, &["10:1: http_access: note: it comes after", TCP, EVERYBODY]);
    let late = text.replace(
        "http_access deny bad\nhttp_access allow ok\n",
        "http_access allow ok\nhttp_access deny bad\n",
    );
    squid(&late, &Options::default()).is(
        &expected,
        &[
            "8:1: http_access deny: not carried over: a line before it allows",
            "note: it comes after",
            TCP,
            EVERYBODY,
        ],
    );
    // All but these are denied.
    let only = format!(
        "{PORTS}acl ok dstdomain .example.com\nacl some dstdomain a.example.com b.example\nhttp_access deny !ok\nhttp_access allow some\nhttp_access allow all\n"
    );
    squid(&only, &Options::default()).is(
        &["in: all", "+ a.example.com -> TCP/80 TCP/443", "+ *.example.com example.com -> TCP/80 TCP/443"],
        &["8:1: http_access allow: not carried over: a line before it denies some", TCP, EVERYBODY],
    );
}

#[test]
fn who_asks_is_said_by_selectors() {
    let text = format!(
        "{PORTS}acl lan src 10.0.0.0/8\nacl ok dstdomain a.example\nhttp_access allow lan ok\nhttp_access deny all\n"
    );
    squid(&text, &Options::default()).is(
        &[],
        &["7:1: http_access allow: not carried over: who asks", TCP, "so there is nothing to write"],
    );
    squid(&text, &clients()).is(&["in: all", "+ a.example -> TCP/80 TCP/443"], &[TCP, EVERYBODY]);
    let denied = text.replace("allow lan ok", "deny !lan");
    let found = squid(&denied, &Options::default());
    assert!(found.objects.is_empty() && found.refusals == 1, "{:?}", found.notes);
    let everywhere = text.replace("allow lan ok", "allow lan");
    squid(&everywhere, &clients()).is(&[], &["it lets somebody go everywhere", TCP, "nothing to write"]);
}

#[test]
fn ports_never_become_more() {
    let with = |lines: &str| {
        format!("{lines}acl ok dstdomain a.example\nhttp_access allow ok\nhttp_access deny all\n")
    };
    for (lines, ports, note) in [
        ("", "TCP/80 TCP/443", "only TCP 80, 443 are written"),
        (
            "acl s port 443 8443\nhttp_access deny CONNECT !s\n",
            "TCP/80 TCP/443 TCP/8443",
            "note: TCP 80, 443, 8443",
        ),
        (
            "acl s port 443 563\nacl p port 80 443 1025-65535\nhttp_access deny !p\nhttp_access deny CONNECT !s\n",
            "TCP/80 TCP/443",
            "not carried over: of the ports",
        ),
        (
            "acl p port 8080\nhttp_access deny !p\nacl s port 8000-8999\nhttp_access deny CONNECT !s\n",
            "",
            "only TCP none are written",
        ),
        ("acl p port 443\nhttp_access deny !p\n", "TCP/443", "only TCP 443 are written"),
    ] {
        let found = squid(&with(lines), &Options::default());
        if ports.is_empty() {
            found.is(&[], &[note, "nothing to write"]);
        } else {
            found.is(&["in: all", &format!("+ a.example -> {ports}")], &[note, EVERYBODY]);
        }
    }
    let twice = "acl p port 80 443\nacl q port 443\nhttp_access deny !p\nhttp_access deny !q\n";
    assert!(squid(&with(twice), &Options::default()).objects.is_empty());
}

#[test]
fn what_denies_is_carried_over_whole_or_nothing_is() {
    let allow = "acl ok dstdomain .example.com\n";
    let end = "http_access allow ok\nhttp_access deny all\n";
    for (lines, says) in [
        (
            "acl bad dstdomain a.example.com *.b.example.com\nhttp_access deny bad\n",
            "some of the names that it denies",
        ),
        (
            "acl bad dstdomain \"/etc/squid/bad.txt\"\nhttp_access deny bad\n",
            "the file `/etc/squid/bad.txt` is not read by itself",
        ),
        ("acl bad dstdom_regex ^bad\nhttp_access deny bad\n", "regular expressions of names"),
        ("acl bad dst 198.51.100.0/24\nhttp_access deny bad\n", "addresses (`dst`)"),
        ("http_access deny unheard-of\n", "which no acl defines"),
        ("http_access forbid all\n", "`allow` or `deny` is expected"),
        ("include /etc/squid/conf.d/*.conf\n", "is not read and may deny"),
        ("if ${process_number} = 1\nendif\n", "is not read and may deny"),
        ("http_reply_access deny all\n", "denies something after http_access allowed it"),
        ("acl two dstdomain a.example\nacl two port 80\nhttp_access deny two\n", "an acl of two types"),
        ("http_access allow all\n", "this is no list of what is allowed"),
    ] {
        let found = squid(&format!("{allow}{lines}{end}"), &Options::default());
        assert!(found.objects.is_empty() && found.refusals > 0, "{lines}: {:?}", found.lines());
        assert!(found.notes.iter().any(|note| note.contains(says)), "{lines}: {:?}", found.notes);
    }
    let open = squid(&format!("{allow}http_access deny ok\n"), &Options::default());
    open.is(&[], &["refused: what no line decides is allowed"]);
    // A line that goes on counts as one.
    let long =
        format!("{allow}acl bad dstdomain a.example.com \\\n  b.example.com\nhttp_access deny bad\n{end}");
    let found = squid(&long, &Options::default());
    assert_eq!(found.lines()[2], "- a.example.com b.example.com -> all", "{:?}", found.notes);
    let own_pages = format!(
        "{allow}http_access allow localhost manager\nhttp_access deny manager\nhttp_access deny to_localhost\n{end}"
    );
    assert_eq!(squid(&own_pages, &Options::default()).lines().len(), 2);
}

#[test]
fn files_of_names() {
    let configuration =
        "acl ok dstdomain \"/etc/squid/allowed.txt\"\nhttp_access allow ok\nhttp_access deny all\n";
    let list = "# ours\n.example.com\na.example  198.51.100.7\n";
    let sources = [
        (PathBuf::from("squid.conf"), configuration.to_owned()),
        (PathBuf::from("lists/allowed.txt"), list.to_owned()),
    ];
    let mut notes = Notes::default();
    let objects = policies(&sources, Some(SourceKind::Squid), &Options::default(), &mut notes).unwrap();
    assert_eq!(
        objects.iter().flat_map(lines).collect::<Vec<_>>(),
        ["squid: all", "+ *.example.com example.com a.example -> TCP/80 TCP/443"]
    );
    let first = notes.list()[0].to_string();
    assert!(
        first
            .starts_with("lists/allowed.txt:3:12: dstdomain: not carried over: `198.51.100.7` is an address"),
        "{first}"
    );
    let sources = [sources[0].clone(), sources[1].clone(), (PathBuf::from("other.txt"), String::new())];
    let mut notes = Notes::default();
    policies(&sources, Some(SourceKind::Squid), &Options::default(), &mut notes).unwrap();
    assert!(notes.list()[0].to_string().contains("no acl reads this file"), "{:?}", notes.list()[0]);
}

#[test]
fn plain_lists() {
    let text = "a.example\n\n# all of it\n.example.com # and below\n*.example.org\n";
    imported(text, Some(SourceKind::List), &Options::default()).is(
        &["in: all", "+ a.example *.example.com example.com -> TCP/80 TCP/443"],
        &["5:1: dstdomain: not carried over: `*.example.org`: a star means nothing to Squid; write `.example.org`", "a list says no ports", EVERYBODY],
    );
    imported("# nothing\n", Some(SourceKind::List), &Options::default()).is(&[], &["it names no domain"]);
}
