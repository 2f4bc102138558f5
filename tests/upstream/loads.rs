//! Loads that others know, for correctness under them: dnsperf over UDP and TCP, and resperf, which asks at a rate whatever is
//! answered. How fast is measured elsewhere.

use std::{fmt::Write, net::SocketAddr, process::Command};

use nameward_test_support::{Scratch, output_within};

use crate::{
    lab::{SOON, records, scripted},
    real::endpoints,
    resolver::Resolver,
};

/// Questions of one load.
const QUESTIONS: usize = 2_000;

async fn scene() -> (nameward_test_support::FakeDns, Resolver, SocketAddr) {
    let upstream = scripted(|asked| records(asked, 1)).await;
    // A load asks for more in a second than a workload may.
    let settings = "settings: {limits: {queriesPerSecond: 1000000, pendingQueries: 10000}}\n";
    let (resolver, server) =
        Resolver::with_endpoints(&format!("{settings}{}", endpoints()), upstream.address(), &[]);
    (upstream, resolver, server)
}

/// Lines for both: known names, new ones, and ones that are filtered.
fn questions(folder: &Scratch) -> std::path::PathBuf {
    let mut text = String::new();
    for number in 0..QUESTIONS {
        match number % 4 {
            0 => writeln!(text, "new{number}.example A"),
            1 => writeln!(text, "filtered{number}.test AAAA"),
            _ => writeln!(text, "known{}.example A", number % 50),
        }
        .unwrap();
    }
    folder.file("questions", &text).unwrap()
}

/// The number behind a word of a report.
fn number(report: &str, label: &str) -> f64 {
    let line = report.lines().find_map(|line| line.trim().strip_prefix(label));
    let text = line.unwrap_or_else(|| panic!("no {label:?} in {report}")).trim();
    text.split([' ', '%']).next().unwrap().parse().unwrap_or_else(|error| panic!("{text}: {error}"))
}

// Q7
#[tokio::test(flavor = "multi_thread")]
async fn dnsperf_loses_nothing() {
    let (_upstream, _resolver, server) = scene().await;
    let folder = Scratch::new("dnsperf").unwrap();
    let file = questions(&folder);
    for mode in ["udp", "tcp"] {
        let mut command = Command::new("dnsperf");
        command.args(["-s", &server.ip().to_string(), "-p", &server.port().to_string(), "-m", mode]);
        command.args(["-q", "50", "-t", "6", "-c", "4", "-n", "1", "-d"]).arg(&file);
        let output = output_within(&mut command, SOON).unwrap();
        let report = String::from_utf8(output.stdout).unwrap();
        assert_eq!(number(&report, "Queries sent:") as usize, QUESTIONS, "{report}");
        assert_eq!(number(&report, "Queries lost:") as usize, 0, "{report}");
        let codes = report.lines().find(|line| line.contains("Response codes:")).unwrap();
        assert!(codes.contains("NOERROR 1500") && codes.contains("NXDOMAIN 500"), "{report}");
    }
}

// Q7
#[tokio::test(flavor = "multi_thread")]
async fn resperf_loses_nothing() {
    let (_upstream, _resolver, server) = scene().await;
    let folder = Scratch::new("resperf").unwrap();
    let file = questions(&folder);
    let mut command = Command::new("resperf");
    command.args(["-s", &server.ip().to_string(), "-p", &server.port().to_string(), "-t", "6"]);
    // Up to a rate that any machine can answer, and kept there.
    command.args(["-m", "1000", "-r", "1", "-c", "1", "-d"]).arg(&file).current_dir(folder.path());
    let output = output_within(&mut command, SOON).unwrap();
    let report = String::from_utf8(output.stdout).unwrap();
    assert!(number(&report, "Queries completed:") >= 1_000.0, "{report}");
    assert_eq!(number(&report, "Queries lost:") as usize, 0, "{report}");
}
