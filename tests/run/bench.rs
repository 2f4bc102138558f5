//! What `nameward run` costs: its start, and the first connection to a new name. Writes `target/bench/run.json`.
//!
//! `NAMEWARD_BIN` names the command to measure (a release build). What is said "over bare" is the median of the
//! differences between pairs that are measured in turns, so that a busy machine troubles both alike.
#![allow(clippy::unwrap_used, reason = "a measurement that cannot go on fails")]
#![allow(dead_code, reason = "the lab serves the tests, too")]

mod lab;

use std::fs;
use std::io::Read;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::lab::{DNS, Lab, must, nameward, privileged};

const STARTS: usize = 20;
const BATCHES: usize = 20;
const NAMES_PER_BATCH: usize = 50;
const START_BAR_MS: f64 = 100.0;
const CONNECTION_BAR_MS: f64 = 0.5;
const MEDIAN: f64 = 0.5;
const P99: f64 = 0.99;

fn main() {
    assert!(privileged(), "this needs root");
    let lab = Lab::new();
    let mut figures = starts(&lab);
    figures.extend(first_connections(&lab));
    let passed = figures.iter().all(|figure| figure["pass"] != false);
    for figure in &figures {
        println!(
            "{:<44} {:>8.3} {} (95 % of runs like this: {:.3} to {:.3}; bar {})",
            figure["name"].as_str().unwrap(),
            figure["value"].as_f64().unwrap(),
            figure["unit"].as_str().unwrap(),
            figure["low"].as_f64().unwrap(),
            figure["high"].as_f64().unwrap(),
            figure["bar"].as_f64().map_or("none".into(), |bar| bar.to_string()),
        );
    }
    let folder = nameward().ancestors().nth(2).unwrap().join("bench");
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join("run.json"), serde_json::to_string_pretty(&figures).unwrap()).unwrap();
    drop(lab);
    std::process::exit(i32::from(!passed));
}

/// A percentile of these values, with the interval that contains it in 95 of 100 runs like this one.
fn figure(name: &str, values: &[f64], part: f64, bar: Option<f64>) -> serde_json::Value {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    let last = (values.len() - 1) as f64;
    // Ranks of order statistics: the number of values below a percentile is binomial.
    let spread = 1.96 * (values.len() as f64 * part * (1.0 - part)).sqrt();
    let at = |rank: f64| values[rank.clamp(0.0, last) as usize];
    let middle = last * part;
    let (value, low, high) =
        (at(middle.round()), at((middle - spread).floor()), at((middle + spread).ceil()));
    let pass = bar.is_none_or(|bar| value <= bar);
    serde_json::json!({
        "name": name, "value": value, "unit": "ms", "bar": bar, "pass": pass, "low": low, "high": high,
    })
}

/// Time until the command's first output, bare and behind the fence.
fn starts(lab: &Lab) -> Vec<serde_json::Value> {
    let (mut bare, mut fenced, mut whole) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..STARTS {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/run/netns/{}", lab.host())).args(["/bin/echo", "x"]);
        bare.push(first_byte(command).0);
        let (first, end) =
            first_byte(lab.command(&["--allow", "allowed.example:443", "--", "/bin/echo", "x"]));
        fenced.push(first);
        whole.push(end);
    }
    let over: Vec<f64> = fenced.iter().zip(&bare).map(|(fenced, bare)| fenced - bare).collect();
    vec![
        figure("start: first output, over bare", &over, MEDIAN, Some(START_BAR_MS)),
        figure("start: first output, bare", &bare, MEDIAN, None),
        figure("start: from the call to its return", &whole, MEDIAN, None),
    ]
}

fn first_byte(mut command: Command) -> (f64, f64) {
    let begun = Instant::now();
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
    let mut byte = [0];
    child.stdout.take().unwrap().read_exact(&mut byte).unwrap();
    let first = milliseconds(begun.elapsed());
    assert!(child.wait().unwrap().success());
    (first, milliseconds(begun.elapsed()))
}

/// Lookup and connection, by the system's resolver and behind the fence.
fn first_connections(lab: &Lab) -> Vec<serde_json::Value> {
    let probe = lab.folder.join("first");
    let probe = probe.to_str().unwrap();
    must(&format!("gcc -O1 -o {probe} {}/run/programs/first.c", env!("CARGO_MANIFEST_DIR")));
    let resolv = lab.file("resolv.conf", &format!("nameserver {DNS}\n"));
    let (mut bare, mut fenced, mut over) = (Vec::new(), Vec::new(), Vec::new());
    let rounds = NAMES_PER_BATCH.to_string();
    for batch in 0..BATCHES {
        let mut command = Command::new("nsenter");
        let script = format!("mount --bind {resolv} /etc/resolv.conf && exec {probe} b{batch}x {rounds}");
        command.arg(format!("--net=/run/netns/{}", lab.host()));
        command.args(["unshare", "--mount", "--propagation", "private", "sh", "-c", &script]);
        let without = times(command);
        let name = format!("f{batch}x");
        let with = times(lab.command(&["--allow", "*.many.example:80", "--", probe, &name, &rounds]));
        over.push(median(&with) - median(&without));
        bare.extend(without);
        fenced.extend(with);
    }
    vec![
        figure("first connection to a new name, over bare", &over, MEDIAN, Some(CONNECTION_BAR_MS)),
        figure("first connection, bare, median", &bare, MEDIAN, None),
        figure("first connection, fenced, median", &fenced, MEDIAN, None),
        figure("first connection, bare, p99", &bare, P99, None),
        figure("first connection, fenced, p99", &fenced, P99, None),
    ]
}

fn times(mut command: Command) -> Vec<f64> {
    let output = command.stdin(Stdio::null()).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines().map(|line| milliseconds(Duration::from_nanos(line.parse().unwrap()))).collect()
}

fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1_000.0
}

fn median(values: &[f64]) -> f64 {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
