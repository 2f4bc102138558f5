//! What is tried, in which order, and what has to come of it. Anything else ends the demo with an error.

use std::{
    cell::Cell,
    time::{Duration, Instant},
};

use anyhow::{Result, bail, ensure};
use serde_json::Value;

use crate::{
    rest::Rest,
    shell::{Said, begin, end, quietly, try_in},
    stop,
    world::{Actor, World},
};

/// Something that a workload tries.
struct Attempt {
    what: &'static str,
    line: &'static str,
    ends: Ends,
    /// What the enforcer is asked to explain: a destination and a port.
    explain: Option<(&'static str, u16, Protocol)>,
}

/// What carries what is tried.
#[derive(Clone, Copy)]
enum Protocol {
    Tcp,
    Udp,
}

/// How it has to end.
#[derive(Clone, Copy)]
enum Ends {
    /// The command succeeds and its output contains this.
    Well(&'static str),
    /// The command succeeds, as DNS clients do also with a refusal, and its output contains this.
    Told(&'static str),
    /// The command fails.
    Refused,
}

/// Tells it all.
pub(crate) fn tell(world: &mut World) -> Result<()> {
    introduce(world);
    let started = Instant::now();
    let story = Story::default();
    story.attempts(&world.rest, &world.runner, RUNNER)?;
    story.attempts(&world.rest, &world.shop, SHOP)?;
    story.far_side(world)?;
    story.expiry(world)?;
    story.bindings(world)?;
    story.denials(world)?;
    story.without_processes(world)?;
    let (steps, took) = (story.steps.get(), started.elapsed().as_secs_f32());
    println!("\nall {steps} steps went as they should, in {took:.1} s; removing everything");
    Ok(())
}

const TCP: Protocol = Protocol::Tcp;

const RUNNER: &[Attempt] = &[
    Attempt {
        what: "an allowed name is answered, once its addresses are in the workload's map",
        line: "kdig +edns registry.example A",
        ends: Ends::Told("198.51.100.10"),
        explain: None,
    },
    Attempt {
        what: "the connection passes (IPv4)",
        line: "curl -sS -4 http://registry.example/",
        ends: Ends::Well("hello from 198.51.100.10"),
        explain: Some(("198.51.100.10", 80, TCP)),
    },
    Attempt {
        what: "the connection passes (IPv6)",
        line: "curl -sS -6 http://registry.example/",
        ends: Ends::Well("hello from 2001:db8:1::10"),
        explain: Some(("2001:db8:1::10", 80, TCP)),
    },
    Attempt {
        what: "a name below a pattern, through two aliases that no rule names",
        line: "curl -sS http://npm.pkg.example/",
        ends: Ends::Well("hello from 203.0.113.11"),
        explain: Some(("203.0.113.11", 80, TCP)),
    },
    Attempt {
        what: "another port of an allowed name",
        line: "curl -sS --max-time 5 http://registry.example:8080/",
        ends: Ends::Refused,
        explain: Some(("registry.example", 8080, TCP)),
    },
    Attempt {
        what: "a name that no rule allows is answered by our resolver, with the reason in the answer",
        line: "kdig +edns evil.example A",
        ends: Ends::Told("NXDOMAIN"),
        explain: Some(("evil.example", 80, TCP)),
    },
    Attempt {
        what: "its address, without asking",
        line: "curl -sS --max-time 5 http://203.0.113.10/",
        ends: Ends::Refused,
        explain: Some(("203.0.113.10", 80, TCP)),
    },
    Attempt {
        what: "a name that the cluster's guardrails deny",
        line: "kdig +edns drop.paste.example A",
        ends: Ends::Told("NXDOMAIN"),
        explain: Some(("drop.paste.example", 80, TCP)),
    },
    Attempt {
        what: "an allowed name that points into the private network",
        line: "kdig +edns rebind.pkg.example A",
        ends: Ends::Told("NOERROR"),
        explain: Some(("10.9.9.9", 80, TCP)),
    },
    Attempt {
        what: "another resolver: the question is brought to ours all the same",
        line: "kdig +edns @203.0.113.12 evil.example A",
        ends: Ends::Told("NXDOMAIN"),
        explain: None,
    },
    Attempt {
        what: "DNS over TLS past the resolver",
        line: "kdig +tls +timeout=2 +retry=0 @203.0.113.12 evil.example A",
        ends: Ends::Refused,
        explain: None,
    },
    Attempt {
        what: "a datagram to the port of QUIC, at an address that only TCP is allowed to",
        line: "kdig +timeout=2 +retry=0 -p 443 @198.51.100.10 quic.example",
        ends: Ends::Refused,
        explain: Some(("198.51.100.10", 443, Protocol::Udp)),
    },
    Attempt {
        what: "cloud metadata",
        line: "curl -sS --max-time 5 http://169.254.169.254/",
        ends: Ends::Refused,
        explain: Some(("169.254.169.254", 80, TCP)),
    },
];

const SHOP: &[Attempt] = &[
    Attempt {
        what: "the other workload has its own policy",
        line: "curl -sS http://payments.example:8080/",
        ends: Ends::Well("hello from 198.51.100.11"),
        explain: Some(("payments.example", 8080, TCP)),
    },
    Attempt {
        what: "what the runner asked for opens nothing here",
        line: "curl -sS --max-time 5 http://198.51.100.10/",
        ends: Ends::Refused,
        explain: Some(("198.51.100.10", 80, TCP)),
    },
    Attempt {
        what: "a range of addresses that a rule allows",
        line: "curl -sS http://198.51.100.13:443/",
        ends: Ends::Well("hello from 198.51.100.13"),
        explain: Some(("198.51.100.13", 443, TCP)),
    },
    Attempt {
        what: "an exception of that range",
        line: "curl -sS --max-time 5 http://198.51.100.10:443/",
        ends: Ends::Refused,
        explain: Some(("198.51.100.10", 443, TCP)),
    },
];

fn introduce(world: &World) {
    let [resolver, enforcer] = world.processes.ids()[..] else { return };
    println!();
    println!("Two workloads in network namespaces, behind a host that is one as well:");
    println!("   runner (ci/runner)  may reach registry.example and *.pkg.example on TCP 80");
    println!("   shop   (shop/web)   may reach payments.example on TCP 8080, 198.51.100.0/24 on TCP 443");
    println!("   nobody may reach 169.254.169.254 or *.paste.example");
    println!(
        "The policies are tests/demo/host.yaml. On the host ({}) run, as they would in production,",
        world.host().name()
    );
    println!("nameward-resolver (process {resolver}) and nameward-enforcer (process {enforcer}).");
    println!("What follows \"why:\" is the enforcer's own explanation, asked for over its REST.");
}

/// Numbers the steps.
#[derive(Default)]
struct Story {
    steps: Cell<usize>,
}

impl Story {
    fn step(&self, what: &str) -> Result<()> {
        stop::check()?;
        self.steps.set(self.steps.get() + 1);
        println!("\n{:2}. {what}", self.steps.get());
        Ok(())
    }

    fn attempts(&self, rest: &Rest, actor: &Actor, attempts: &[Attempt]) -> Result<()> {
        for attempt in attempts {
            self.step(attempt.what)?;
            let said = try_in(actor.name, &actor.workload, attempt.line)?;
            attempt.ends.check(&said)?;
            if let Some((destination, port, protocol)) = attempt.explain {
                let protocol = match protocol {
                    Protocol::Tcp => "tcp",
                    Protocol::Udp => "udp",
                };
                println!("   why: {}", rest.explain(&actor.uid, destination, port, protocol)?);
            }
        }
        Ok(())
    }

    /// The servers' own view: nothing of what was denied arrived.
    fn far_side(&self, world: &World) -> Result<()> {
        self.step("what the servers saw")?;
        let hits = world.internet.web().hits();
        for hit in &hits {
            println!("      {} from {}", hit.server, hit.client.ip());
        }
        let denied = ["203.0.113.10", "203.0.113.12"];
        ensure!(
            hits.iter().all(|hit| !denied.contains(&hit.server.ip().to_string().as_str())),
            "a denied connection arrived"
        );
        ensure!(
            hits.iter()
                .all(|hit| hit.server.port() != 8080 || hit.server.ip().to_string() == "198.51.100.11"),
            "a denied port was reached"
        );
        Ok(())
    }

    /// New connections end with the grant, live ones do not.
    fn expiry(&self, world: &World) -> Result<()> {
        let runner = &world.runner;
        let attempt = |line: &str| try_in(runner.name, &runner.workload, line);
        self.step("an address counts as long as its TTL (5 s here) and the rule's grace (none here)")?;
        let live = "curl -sS --rate 6/m http://short.example/ http://short.example/";
        println!("   {} $ {live} &      (one connection, the second request 10 s later)", runner.name);
        let mut connection = begin(&runner.workload, live)?;
        let server = "198.51.100.12".parse()?;
        stop::wait_until("the first request arrives", Duration::from_secs(10), || {
            Ok((world.internet.web().count(server) > 0).then_some(()))
        })?;
        let line = "curl -sS --max-time 5 --resolve short.example:80:198.51.100.12 http://short.example/";
        let opened = Cell::new(1);
        stop::wait_until("the address has lapsed", Duration::from_secs(15), || {
            let said = quietly(&runner.workload, line)?;
            opened.set(opened.get() + usize::from(said.success));
            Ok((!said.success).then_some(()))
        })?;
        Ends::Refused.check(&attempt(line)?)?;
        println!("   why: {}", world.rest.explain(&runner.uid, "198.51.100.12", 80, "tcp")?);
        self.step("the connection that was open before goes on")?;
        ensure!(connection.try_wait()?.is_none(), "the second request was made before the address lapsed");
        let said = stop::wait_until("the second request is made", Duration::from_secs(15), || {
            Ok(connection.try_wait()?.map(|_| ()))
        })
        .and_then(|()| end(connection, live))?;
        said.show();
        ensure!(said.success && said.lines.len() == 2, "the open connection was cut");
        ensure!(world.internet.web().count(server) == opened.get(), "the second request opened a connection");
        self.step("asked again, the name counts again")?;
        Ends::Well("hello").check(&attempt("curl -sS http://short.example/")?)
    }

    /// Which names gave which addresses to whom, now.
    fn bindings(&self, world: &World) -> Result<()> {
        self.step("live bindings: who was given which addresses for which name, and until when")?;
        world.rest.show("/v1/bindings");
        let items = world.rest.items("/v1/bindings")?;
        ensure!(!items.is_empty(), "there are no bindings");
        for item in &items {
            for lease in item["addresses"].as_array().into_iter().flatten() {
                let left = &lease["secondsLeft"];
                let (endpoint, name, address) =
                    (text(&item["endpoint"]), text(&item["name"]), text(&lease["address"]));
                println!("      {endpoint:<14} {name:<20} {address:<16} {left} s left");
            }
        }
        Ok(())
    }

    /// Denials with the names that the workload knew the addresses by.
    fn denials(&self, world: &World) -> Result<()> {
        self.step("denials, as they were recorded")?;
        world.rest.show("/v1/decisions");
        let denied = || -> Result<Vec<Value>> {
            let all = world.rest.items("/v1/decisions")?;
            Ok(all.into_iter().filter(|decision| decision["verdict"] == "deny").collect())
        };
        let decisions = denied()?;
        for decision in &decisions {
            let name = decision["name"].as_str().unwrap_or("never resolved");
            let (endpoint, reason) = (text(&decision["endpoint"]), text(&decision["reason"]));
            let peer = format!("{} port {}", text(&decision["remote"]), decision["remotePort"]);
            let packets = decision["packets"].as_u64().unwrap_or_default();
            let packets = if packets == 1 { "1 packet".into() } else { format!("{packets} packets") };
            println!("      {endpoint:<11} {peer:<28} ({name}): {reason}, {packets}");
        }
        let by_name = decisions.iter().any(|decision| decision["name"] == "registry.example");
        ensure!(by_name, "the denied port of registry.example is not among the decisions");
        Ok(())
    }

    /// Processes that are gone change nothing in the kernel.
    fn without_processes(&self, world: &mut World) -> Result<()> {
        self.step("enforcer and resolver are stopped: what was granted stays, what was denied stays")?;
        world.processes.stop()?;
        let known = "curl -sS --resolve registry.example:80:198.51.100.10 http://registry.example/";
        let runner = &world.runner;
        Ends::Well("hello").check(&try_in(runner.name, &runner.workload, known)?)?;
        let denied = "curl -sS --max-time 5 http://203.0.113.10/";
        Ends::Refused.check(&try_in(runner.name, &runner.workload, denied)?)?;
        self.step("they are started again, and take over what is there")?;
        world.start()?;
        let runner = &world.runner;
        let line = "curl -sS http://pip.pkg.example/";
        Ends::Well("hello from 203.0.113.11").check(&try_in(runner.name, &runner.workload, line)?)?;
        println!("   why: {}", world.rest.explain(&runner.uid, "203.0.113.11", 80, "tcp")?);
        Ok(())
    }
}

impl Ends {
    fn check(self, said: &Said) -> Result<()> {
        let shown = said.lines.join("\n");
        match self {
            Self::Well(text) | Self::Told(text) if said.success && shown.contains(text) => Ok(()),
            Self::Well(text) | Self::Told(text) => bail!("it should have said {text:?}: {shown}"),
            Self::Refused if !said.success => Ok(()),
            Self::Refused => bail!("it should have been refused: {shown}"),
        }
    }
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or("-")
}
