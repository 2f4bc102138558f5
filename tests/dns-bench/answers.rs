//! Cached answers, misses that are forwarded, latency at half load: ours and other servers in turn.
//!
//! All servers run on one processor, the client and the name server behind them on the other. Rounds ask each server
//! in turn, so that a busy machine troubles all alike, and what is compared is answers per second of the server's own
//! processor time.

use std::{path::Path, time::Duration};

use anyhow::{Context, Result, ensure};
use nameward_test_support::{Netns, Scratch, output_within};
use nix::{
    sched::{CpuSet, sched_setaffinity},
    unistd::Pid,
};

use crate::{
    Extent,
    client::{Client, Done, Load, WINDOW},
    figures::{Figures, Interval, percentile},
    questions::{self, ENDPOINTS, NAMES, Shuffle},
    servers::{CLIENT_CPU, Role, Server, Servers},
};

/// Questions that wait for an answer of the upstream: more than a forwarder's socket holds are none that it answers.
const MISS_WINDOW: usize = 128;
const WARM_WITHIN: Duration = Duration::from_secs(120);
const CACHED_BAR: f64 = 1.4;
const EQUAL: f64 = 1.0;
const LATENCY_BAR: f64 = 1.2;
const DNSPERF_SECONDS: u32 = 3;
const THOUSAND: f64 = 1_000.0;

/// A part of what is measured here.
type Measured = fn(&mut Lab, &Netns, &mut Servers, &mut Figures) -> Result<()>;

pub(crate) fn measure(extent: Extent, what: Measured, figures: &mut Figures) -> Result<()> {
    let namespace = Netns::new("dnsbench")?;
    let mut servers = Servers::start(&namespace)?;
    namespace.run(|| {
        let mut only = CpuSet::new();
        only.set(CLIENT_CPU)?;
        sched_setaffinity(Pid::from_raw(0), &only)?;
        let mut lab = Lab { client: Client::new()?, shuffle: Shuffle::new(), missed: 0, extent };
        what(&mut lab, &namespace, &mut servers, figures)
    })?
}

/// Answers from memory.
pub(crate) fn cached(
    lab: &mut Lab,
    namespace: &Netns,
    servers: &mut Servers,
    figures: &mut Figures,
) -> Result<()> {
    lab.cached(&servers.cached, figures)?;
    servers.check()?;
    lab.half_load(&servers.cached, figures)?;
    servers.check()?;
    dnsperf(namespace, &servers.cached, figures)
}

/// Questions that are forwarded.
pub(crate) fn misses(lab: &mut Lab, _: &Netns, servers: &mut Servers, figures: &mut Figures) -> Result<()> {
    lab.misses(&servers.forwarding, figures)?;
    servers.check()
}

pub(crate) struct Lab {
    client: Client,
    shuffle: Shuffle,
    missed: u64,
    extent: Extent,
}

/// What one turn of a server showed.
struct Turn {
    per_cpu_second: f64,
    per_second: f64,
    lost: u64,
}

impl Turn {
    fn new(done: &Done, used: Duration) -> Self {
        let answers = done.answers as f64;
        let per_second = answers / done.elapsed.as_secs_f64();
        Self { per_cpu_second: answers / used.as_secs_f64(), per_second, lost: done.lost }
    }
}

impl Lab {
    fn cached(&mut self, servers: &[Server], figures: &mut Figures) -> Result<()> {
        for server in servers {
            self.warm(server)?;
        }
        let turns = rounds(self.extent.rounds(), servers, |server| {
            self.turn(server, WINDOW, None).map(|(turn, _)| turn)
        })?;
        report("cached", servers, &turns, figures);
        let best = best(servers, &turns).context("no forwarder is there")?;
        let ours = place(servers, "nameward")?;
        let pairs = ratios(&turns[ours], &turns[best]);
        let name = format!("cached answers per CPU second: nameward over {}", servers[best].name);
        figures.at_least(&name, &pairs, CACHED_BAR);
        let pairs = ratios(&turns[ours], &turns[place(servers, "nsd")?]);
        figures.at_least("cached answers per CPU second: nameward over nsd", &pairs, EQUAL);
        Ok(())
    }

    /// Each server at half of what it answered at most, and the latencies side by side.
    fn half_load(&mut self, servers: &[Server], figures: &mut Figures) -> Result<()> {
        let both = [place(servers, "nameward")?, place(servers, "unbound")?];
        let mut paces = Vec::new();
        for at in both {
            paces.push(self.turn(&servers[at], WINDOW, None)?.0.per_second / 2.0);
        }
        let (mut p99, mut median) = (vec![Vec::new(); 2], vec![Vec::new(); 2]);
        for _ in 0..self.extent.rounds() {
            for (side, at) in both.into_iter().enumerate() {
                let (_, mut done) = self.turn(&servers[at], WINDOW, Some(paces[side]))?;
                p99[side].push(percentile(&mut done.latencies, 0.99) / THOUSAND);
                median[side].push(percentile(&mut done.latencies, 0.5) / THOUSAND);
            }
        }
        for (side, name) in ["nameward", "unbound"].into_iter().enumerate() {
            figures.plain(&format!("half load: median, {name}"), "us", &median[side]);
            figures.plain(&format!("half load: p99, {name}"), "us", &p99[side]);
        }
        let pairs: Vec<f64> = p99[0].iter().zip(&p99[1]).map(|(ours, theirs)| ours / theirs).collect();
        figures.at_most("half load: p99, nameward over unbound", &pairs, LATENCY_BAR);
        Ok(())
    }

    fn misses(&mut self, servers: &[Server], figures: &mut Figures) -> Result<()> {
        let turns = rounds(self.extent.rounds(), servers, |server| self.miss_turn(server))?;
        report("misses", servers, &turns, figures);
        figures.at_least(
            "misses per CPU second: nameward over dnsdist without cache",
            &ratios(&turns[0], &turns[1]),
            EQUAL,
        );
        Ok(())
    }

    /// Every workload asks for every name, where that makes a difference.
    fn warm(&mut self, server: &Server) -> Result<()> {
        let endpoints = if server.role == Role::Ours { ENDPOINTS } else { 1 };
        let mut all = (0..NAMES).flat_map(|name| (0..endpoints).map(move |endpoint| (name, endpoint)));
        let load = Load { target: server.at, window: MISS_WINDOW, pace: None, time: WARM_WITHIN };
        let done = self.client.run(&load, &mut |message| {
            let (name, endpoint) = all.next()?;
            questions::cached(name, message);
            Some(questions::source(endpoint))
        })?;
        ensure!(done.wrong == 0, "{}: {} wrong answers, warming up", server.name, done.wrong);
        Ok(())
    }

    fn turn(&mut self, server: &Server, window: usize, pace: Option<f64>) -> Result<(Turn, Done)> {
        let (client, shuffle) = (&mut self.client, &mut self.shuffle);
        let load = Load { target: server.at, window, pace, time: self.extent.turn() };
        let before = server.group.used();
        let done = client.run(&load, &mut |message| {
            questions::cached(shuffle.below(NAMES), message);
            Some(questions::source(shuffle.below(ENDPOINTS)))
        })?;
        let turn = Turn::new(&done, server.group.used() - before);
        ensure!(done.answers > 0 && done.wrong == 0, "{}: {} wrong answers", server.name, done.wrong);
        Ok((turn, done))
    }

    fn miss_turn(&mut self, server: &Server) -> Result<Turn> {
        let (client, shuffle, missed) = (&mut self.client, &mut self.shuffle, &mut self.missed);
        let load = Load { target: server.at, window: MISS_WINDOW, pace: None, time: self.extent.turn() };
        let before = server.group.used();
        let done = client.run(&load, &mut |message| {
            *missed += 1;
            questions::missed(*missed, message);
            Some(questions::source(shuffle.below(ENDPOINTS)))
        })?;
        ensure!(done.answers > 0 && done.wrong == 0, "{}: {} wrong answers", server.name, done.wrong);
        Ok(Turn::new(&done, server.group.used() - before))
    }
}

/// Turns of all servers, one after the other, again and again.
fn rounds(
    number: usize,
    servers: &[Server],
    mut turn: impl FnMut(&Server) -> Result<Turn>,
) -> Result<Vec<Vec<Turn>>> {
    let mut turns: Vec<Vec<Turn>> = servers.iter().map(|_| Vec::new()).collect();
    for _ in 0..number {
        for (server, turns) in servers.iter().zip(&mut turns) {
            turns.push(turn(server)?);
        }
    }
    Ok(turns)
}

fn report(what: &str, servers: &[Server], turns: &[Vec<Turn>], figures: &mut Figures) {
    for (server, turns) in servers.iter().zip(turns) {
        let name = server.name;
        let lost: u64 = turns.iter().map(|turn| turn.lost).sum();
        figures.plain(
            &format!("{what}: {name}, {lost} lost"),
            "answers per CPU second",
            &per_cpu_second(turns),
        );
        let per_second: Vec<f64> = turns.iter().map(|turn| turn.per_second).collect();
        figures.plain(&format!("{what}: {name}"), "answers per second", &per_second);
        let resident = server.group.resident() as f64 / f64::from(1 << 20);
        figures.once(&format!("{what}: {name}"), "MiB in memory", resident);
    }
}

fn per_cpu_second(turns: &[Turn]) -> Vec<f64> {
    turns.iter().map(|turn| turn.per_cpu_second).collect()
}

fn ratios(ours: &[Turn], theirs: &[Turn]) -> Vec<f64> {
    ours.iter().zip(theirs).map(|(ours, theirs)| ours.per_cpu_second / theirs.per_cpu_second).collect()
}

fn best(servers: &[Server], turns: &[Vec<Turn>]) -> Option<usize> {
    let mean = |at: &usize| Interval::of(&per_cpu_second(&turns[*at])).mean;
    let forwarders = (0..servers.len()).filter(|at| servers[*at].role == Role::Forwarder);
    forwarders.max_by(|one, other| mean(one).total_cmp(&mean(other)))
}

fn place(servers: &[Server], name: &str) -> Result<usize> {
    servers.iter().position(|server| server.name == name).with_context(|| format!("{name} is not there"))
}

/// The same by a client that others know; it is slower than the servers, so batches stay small.
fn dnsperf(namespace: &Netns, servers: &[Server], figures: &mut Figures) -> Result<()> {
    let folder = Scratch::new("dnsperf")?;
    let names: String = (0..NAMES).map(|name| format!("n{name:04}.hit.bench.example A\n")).collect();
    let names = folder.file("names", &names)?;
    for server in servers {
        let before = server.group.used();
        let answers = dnsperf_turn(namespace, server, &names)?;
        let used = (server.group.used() - before).as_secs_f64();
        let name = format!("dnsperf: {}", server.name);
        figures.once(&name, "answers per CPU second", answers / used);
        figures.once(&name, "answers per second", answers / f64::from(DNSPERF_SECONDS));
    }
    Ok(())
}

fn dnsperf_turn(namespace: &Netns, server: &Server, names: &Path) -> Result<f64> {
    let mut command = namespace.command("taskset");
    let (port, seconds) = (server.at.port().to_string(), DNSPERF_SECONDS.to_string());
    command.args(["-c", &CLIENT_CPU.to_string(), "dnsperf", "-s", "127.0.0.1", "-p", &port, "-l", &seconds]);
    command.args(["-a", &questions::source(0).to_string(), "-q", "1000", "-d"]).arg(names);
    let output = output_within(&mut command, Duration::from_secs(30))?;
    let text = String::from_utf8_lossy(&output.stdout);
    let completed = text.lines().find_map(|line| line.trim().strip_prefix("Queries completed:"));
    let number = completed.and_then(|rest| rest.split_whitespace().next()?.parse().ok());
    number.with_context(|| format!("dnsperf said: {text}{}", String::from_utf8_lossy(&output.stderr)))
}
