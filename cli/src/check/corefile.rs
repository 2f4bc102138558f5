//! What a Corefile has to say, and may not say, for a CoreDNS that forwards to a resolver of ours. Pure.
//!
//! Facts about plugins are from their documentation and source in github.com/coredns/coredns v1.15.0 (`plugin/*/README.md`,
//! `plugin/rewrite/edns0.go`): `set` replaces what a client sent, `append` keeps it; the first rewrite that fits ends the
//! rules unless it says `continue`; the cache stands before `rewrite` and does not know the client.

use super::{
    caddyfile::{Directive, Server, SyntaxError, parse},
    report::{Finding, Severity},
};

/// The option as the Corefile has to write it.
const OPTION: &str = "rewrite edns0 local set 0xffee {client_ip}";
const OPTION_CODE: u32 = 0xffee;
/// What a cache keeps an answer for at least, unless it is told otherwise, in seconds.
const LEAST_TTL: u32 = 5;

/// What is known beside the file.
#[derive(Clone, Copy, Debug)]
pub(super) struct Terms<'a> {
    /// Addresses of resolvers; none = whatever is forwarded to.
    pub(super) resolvers: &'a [String],
    /// Names are granted to all workloads whose rules allow them.
    pub(super) by_name: bool,
}

/// All findings, by line.
pub(super) fn check(text: &str, terms: &Terms<'_>) -> Result<Vec<Finding>, SyntaxError> {
    let servers = parse(text)?;
    let mut findings = Vec::new();
    let (ours, others): (Vec<&Server>, Vec<&Server>) =
        servers.iter().partition(|server| terms.forwards_of(server).next().is_some());
    if ours.is_empty() {
        let to = terms.resolvers.first().map_or("the address of nameward-resolver", String::as_str);
        findings.push(Finding {
            line: None,
            severity: Severity::Error,
            code: "no-forward",
            message: "no server block forwards to the resolver: nothing is asked, filtered or granted".into(),
            write: format!("forward . {to}"),
        });
    }
    for server in &ours {
        Block { server, terms, findings: &mut findings }.check();
    }
    for server in others.iter().filter(|_| !ours.is_empty()) {
        passes_by(server, &mut findings);
    }
    if !terms.by_name && !ours.is_empty() && !findings.iter().any(|finding| finding.code == "node-cache") {
        findings.push(Finding {
            line: None,
            severity: Severity::Note,
            code: "node-cache",
            message: "a cache on each node in front of CoreDNS (NodeLocal DNSCache) makes all workloads of a node one \
                      client; whether there is one cannot be seen here"
                .into(),
            write: "kubectl -n kube-system get daemonset node-local-dns   # should find none, else use --scope name"
                .into(),
        });
    }
    findings.sort_by_key(|finding| finding.line.unwrap_or(usize::MAX));
    Ok(findings)
}

impl Terms<'_> {
    /// The directives that forward to a resolver.
    fn forwards_of<'a>(&'a self, server: &'a Server) -> impl Iterator<Item = &'a Directive> {
        named(server, "forward")
            .filter(|forward| self.resolvers.is_empty() || targets(forward).any(|to| self.is_resolver(to)))
    }

    fn is_resolver(&self, target: &str) -> bool {
        let bare = |text: &str| {
            let text = text.strip_prefix("dns://").unwrap_or(text);
            let text = text.strip_suffix(":53").unwrap_or(text);
            text.trim_matches(['[', ']']).to_owned()
        };
        self.resolvers.iter().any(|resolver| bare(resolver) == bare(target))
    }
}

/// A server block that forwards to us.
struct Block<'a, 'b> {
    server: &'a Server,
    terms: &'a Terms<'a>,
    findings: &'b mut Vec<Finding>,
}

impl Block<'_, '_> {
    fn check(mut self) {
        self.option();
        self.rewrites();
        self.caches();
        self.forwards();
        self.others();
    }

    /// The line that says whom CoreDNS asks for.
    fn option(&mut self) {
        let rules: Vec<&Directive> = named(self.server, "rewrite").filter(|rule| sets_option(rule)).collect();
        let Some(first) = rules.first() else {
            let (severity, message) = match self.terms.by_name {
                true => (
                    Severity::Warning,
                    "CoreDNS does not say whom it asks for: all workloads share one limit, and none is told in the log",
                ),
                false => {
                    (Severity::Error, "CoreDNS does not say whom it asks for: every question is refused")
                }
            };
            return self.find(self.server.line, severity, "no-option", message, OPTION);
        };
        for rule in &rules {
            let words = edns0_words(rule);
            let (action, value) =
                (words.get(2).copied().unwrap_or_default(), words.get(4).copied().unwrap_or_default());
            match action {
                "set" => {}
                "append" => self.find(
                    rule.line,
                    Severity::Error,
                    "appendable-option",
                    "`append` keeps an option that a workload sends itself: it could speak for another",
                    OPTION,
                ),
                _ => self.find(
                    rule.line,
                    Severity::Error,
                    "appendable-option",
                    &format!(
                        "`{action}` does nothing where a workload sends no such option: questions are refused"
                    ),
                    OPTION,
                ),
            }
            if value != "{client_ip}" {
                self.find(
                    rule.line,
                    Severity::Error,
                    "option-value",
                    &format!("the option says `{value}`, which is not whom CoreDNS asks for"),
                    OPTION,
                );
            }
        }
        if let Some(second) = rules.get(1) {
            self.find(
                second.line,
                Severity::Error,
                "option-twice",
                "the option is written twice: which one counts is not clear",
                OPTION,
            );
        }
        self.before_option(first.line);
    }

    /// The first rule that fits ends them all.
    fn before_option(&mut self, option: usize) {
        let ends = |rule: &&Directive| {
            rule.line < option && rule.arguments.first().is_none_or(|mode| mode != "continue")
        };
        for rule in named(self.server, "rewrite").filter(ends) {
            let written =
                rule.arguments.iter().filter(|word| *word != "stop").cloned().collect::<Vec<_>>().join(" ");
            self.find(rule.line, Severity::Error, "option-skipped",
                "where this rule fits it is the last one: the question is sent without the option, and refused",
                &format!("{OPTION} as the first of the rules, or: rewrite continue {written}"));
        }
    }

    /// Answers that are changed behind our back.
    fn rewrites(&mut self) {
        for rule in named(self.server, "rewrite") {
            let is_mode = |word: &&str| ["continue", "stop"].contains(word);
            let words: Vec<&str> = words_of(rule).into_iter().filter(|word| !is_mode(word)).collect();
            if words.first() == Some(&"ttl") {
                self.find(rule.line, Severity::Error, "ttl",
                    "a longer TTL than the resolver's lets workloads use addresses after their grants have ended",
                    "nothing: remove the line, and set ttl.maxSeconds of the installation");
            }
            let of_block = |one: &&Directive| {
                one.name == "answer" && one.arguments.first().is_some_and(|word| word == "value")
            };
            let changed = words.windows(2).any(|pair| pair == ["answer", "value"]).then_some(rule.line);
            if let Some(line) = changed.or_else(|| rule.block.iter().find(of_block).map(|one| one.line)) {
                self.find(
                    line,
                    Severity::Error,
                    "answer-changed",
                    "addresses that are changed here were not granted",
                    "nothing: remove the rule",
                );
            }
        }
    }

    fn caches(&mut self) {
        let caches: Vec<&Directive> = named(self.server, "cache").collect();
        for cache in &caches {
            if !self.terms.by_name {
                self.find(cache.line, Severity::Error, "cache",
                    "the cache gives one workload's answers to others, who were not granted the addresses",
                    "nothing: remove cache here; or start nameward-resolver with --scope name, and check with --scope name");
            }
            self.cache_options(cache);
        }
        if let [_, second, ..] = &caches[..] {
            self.find(
                second.line,
                Severity::Error,
                "cache",
                "a second cache in one block",
                "nothing: remove it",
            );
        }
    }

    fn cache_options(&mut self, cache: &Directive) {
        for option in &cache.block {
            let number = |at: usize| option.arguments.get(at).and_then(|text| text.parse::<u32>().ok());
            match option.name.as_str() {
                "serve_stale" => self.find(option.line, Severity::Error, "serve-stale",
                    "stale answers name addresses whose grants may have ended, and grant nothing anew",
                    "nothing: remove serve_stale; nameward-resolver itself gives what is still granted when upstreams fail"),
                "keepttl" => self.find(option.line, Severity::Error, "keepttl",
                    "answers from the cache promise their whole TTL again: workloads use addresses after their grants have ended",
                    "nothing: remove keepttl"),
                "success" if number(2).is_some_and(|least| least > LEAST_TTL) => self.find(option.line, Severity::Warning, "least-ttl",
                    "answers are kept for longer than their TTL: new workloads may get addresses that are granted no more",
                    &format!("success {} {}", option.arguments[0], option.arguments[1])),
                _ => {}
            }
        }
        let never = |option: &Directive| {
            let text = option.arguments.first().map_or("", String::as_str);
            option.name == "servfail" && text.trim_end_matches(|unit: char| unit.is_ascii_alphabetic()) == "0"
        };
        if self.terms.by_name && !cache.block.iter().any(never) {
            let write = match cache.block.is_empty() {
                true => format!("{} {{\n    servfail 0\n}}", line_of(cache)),
                false => "servfail 0, in the block of cache".into(),
            };
            self.find(
                cache.line,
                Severity::Warning,
                "servfail",
                "a SERVFAIL (a grant that was late) is kept for 5 s and given to all workloads",
                &write,
            );
        }
    }

    fn forwards(&mut self) {
        let (ours, others): (Vec<&Directive>, Vec<&Directive>) = named(self.server, "forward")
            .partition(|forward| self.terms.forwards_of(self.server).any(|ours| ours.line == forward.line));
        for forward in ours {
            self.targets(forward);
            for option in &forward.block {
                match option.name.as_str() {
                    "except" => self.find(
                        option.line,
                        Severity::Warning,
                        "except",
                        &format!(
                            "the resolver is not asked for {}: nothing is filtered or granted there",
                            option.arguments.join(", ")
                        ),
                        "nothing: remove except, unless these names are the cluster's own",
                    ),
                    "next" | "next_on_nodata" if !others.is_empty() => self.find(
                        option.line,
                        Severity::Error,
                        "next",
                        "what the resolver filters is asked of the next server",
                        &format!("nothing: remove {}", option.name),
                    ),
                    _ => {}
                }
            }
        }
        for forward in others {
            let (from, to) = (
                forward.arguments.first().cloned().unwrap_or_default(),
                targets(forward).collect::<Vec<_>>().join(" "),
            );
            self.find(forward.line, Severity::Warning, "other-forward",
                &format!("{to} is asked for names below {from} without the resolver: nothing is filtered or granted there"),
                &format!("nothing: remove it, and start nameward-resolver with --route {from}={to}"));
        }
    }

    /// Every server of the line has to be ours.
    fn targets(&mut self, forward: &Directive) {
        let foreign: Vec<_> = targets(forward).filter(|to| !self.terms.is_resolver(to)).collect();
        if !self.terms.resolvers.is_empty() && !foreign.is_empty() {
            self.find(
                forward.line,
                Severity::Error,
                "other-server",
                &format!(
                    "{} is asked as well: what the resolver filters is answered there",
                    foreign.join(", ")
                ),
                &format!("forward {} {}", forward.arguments[0], self.terms.resolvers.join(" ")),
            );
        }
    }

    fn others(&mut self) {
        let server = self.server;
        for directive in &server.directives {
            let line = directive.line;
            match directive.name.as_str() {
                "autopath" => self.find(line, Severity::Error, "autopath",
                    "CoreDNS asks for other names than the workload did: decisions are about names that nobody asked for, and an answer \
                     to one search domain is given for another",
                    "nothing: remove autopath; nameward-resolver answers search domains fast"),
                "acl" => self.find(line, Severity::Warning, "acl",
                    "acl refuses by client before the resolver is asked: a name that policy allows may fail without a word of the policy",
                    "nothing: remove acl, and write it as an EgressPolicy"),
                "view" => self.find(line, Severity::Error, "view",
                    "clients that the view leaves out are answered by another block, and get there what was not granted to them",
                    "nothing: remove view, and leave the choice to policies"),
                "dns64" => self.find(line, Severity::Error, "dns64",
                    "dns64 makes addresses that were not granted", "nothing: remove dns64, and let the upstream of nameward-resolver do it"),
                "import" => self.find(line, Severity::Warning, "import",
                    &format!("what {} holds is not seen here", directive.arguments.join(" ")),
                    "its lines in place of the import, to have them checked"),
                "bind" if directive.arguments.iter().any(|to| is_node_cache(to)) => {
                    let (severity, write) = match self.terms.by_name {
                        true => (Severity::Warning, "nothing, as long as CoreDNS itself is checked with --scope name as well"),
                        false => (Severity::Error, "nameward-resolver --scope name, or no cache on the nodes"),
                    };
                    self.find(line, severity, "node-cache",
                        "this is a cache on a node: CoreDNS and the resolver see the node instead of its workloads", write);
                }
                _ => {}
            }
        }
    }

    fn find(&mut self, line: usize, severity: Severity, code: &'static str, message: &str, write: &str) {
        self.findings.push(Finding {
            line: Some(line),
            severity,
            code,
            message: message.into(),
            write: write.into(),
        });
    }
}

/// A block that answers by others than us.
fn passes_by(server: &Server, findings: &mut Vec<Finding>) {
    let answers = ["forward", "grpc", "erratic"];
    let by = server.directives.iter().find(|directive| answers.contains(&directive.name.as_str()));
    let view = server.directives.iter().any(|directive| directive.name == "view");
    let Some(by) = by else { return };
    let (severity, code) = if view { (Severity::Error, "view") } else { (Severity::Warning, "other-zone") };
    findings.push(Finding {
        line: Some(by.line),
        severity,
        code,
        message: format!(
            "{} is answered without the resolver: nothing is filtered or granted there",
            server.zones.join(", ")
        ),
        write: "nothing: remove the block, and start nameward-resolver with --route for its zone".into(),
    });
}

fn named<'a>(server: &'a Server, name: &'a str) -> impl Iterator<Item = &'a Directive> {
    server.directives.iter().filter(move |directive| directive.name == name)
}

/// Servers of a `forward FROM TO...`.
fn targets(forward: &Directive) -> impl Iterator<Item = &str> {
    forward.arguments.iter().skip(1).map(String::as_str)
}

fn words_of(directive: &Directive) -> Vec<&str> {
    directive.arguments.iter().map(String::as_str).collect()
}

/// `edns0 TYPE ACTION CODE VALUE`, without what stands before it.
fn edns0_words(rule: &Directive) -> Vec<&str> {
    words_of(rule).into_iter().skip_while(|word| *word != "edns0").collect()
}

fn sets_option(rule: &Directive) -> bool {
    let words = edns0_words(rule);
    let number = |text: &str| match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        Some(digits) => u32::from_str_radix(digits, 16).ok(),
        None => text.parse().ok(),
    };
    words.get(1) == Some(&"local") && words.get(3).and_then(|code| number(code)) == Some(OPTION_CODE)
}

fn is_node_cache(address: &str) -> bool {
    address.starts_with("169.254.") || address.contains("__PILLAR__")
}

fn line_of(directive: &Directive) -> String {
    std::iter::once(&directive.name).chain(&directive.arguments).cloned().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
#[path = "corefile_tests.rs"]
mod tests;
