//! `--learn FILE`: what the command asked for, as a policy that `--policy` takes (SEMANTICS X4, X5).
//!
//! A name that was asked for, with the ports that were tried on its addresses; every port when it never came to
//! that. An address that no name gave, as a CIDR. A name that gave a private address gets a rule that says so.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::net::IpAddr;

use nameward_policy::{
    Name,
    address::{AddressClass, judge},
};

use super::{Subject, flag::has_ports};

/// More destinations than a policy can hold are not written down.
pub(super) const KEPT: usize = 4_000;
/// Limits of the policy schema.
const PORTS_PER_RULE: usize = 32;
/// See [`PORTS_PER_RULE`].
const PEERS_PER_RULE: usize = 16;
/// See [`PORTS_PER_RULE`].
const RULES_PER_POLICY: usize = 64;

/// Protocol number and port.
type Use = (u8, u16);

/// What was asked for.
#[derive(Debug, Default)]
pub(crate) struct Learned {
    names: BTreeMap<Name, Asked>,
    addresses: BTreeMap<IpAddr, BTreeSet<Use>>,
    left_out: u64,
}

/// What is known of a name.
#[derive(Debug, Default)]
struct Asked {
    uses: BTreeSet<Use>,
    private: bool,
}

impl Learned {
    /// Takes what was asked for.
    pub(crate) fn add(&mut self, subject: &Subject) {
        match subject {
            Subject::Question { name } => {
                if let Ok(name) = Name::parse(name) {
                    self.name(name);
                }
            }
            Subject::Packet { inbound: true, .. } => {}
            Subject::Packet { protocol, address, port, name, .. } => {
                let port = if has_ports(*protocol) { *port } else { 0 };
                // No rule can name port 0.
                if has_ports(*protocol) && port == 0 {
                    return;
                }
                let class = judge(*address);
                let name = name.as_deref().and_then(|name| Name::parse(name).ok());
                // What no name may give is reached by its address only.
                if name.is_none() || matches!(class, AddressClass::Never(_)) {
                    self.address(*address, (*protocol, port));
                }
                if let Some(asked) = name.and_then(|name| self.name(name)) {
                    asked.uses.insert((*protocol, port));
                    asked.private |= matches!(class, AddressClass::Private(_));
                }
            }
        }
    }

    /// How often something was asked for that there was no room for.
    pub(crate) fn left_out(&self) -> u64 {
        self.left_out
    }

    fn name(&mut self, name: Name) -> Option<&mut Asked> {
        if self.is_full() && !self.names.contains_key(&name) {
            self.left_out += 1;
            return None;
        }
        Some(self.names.entry(name).or_default())
    }

    fn address(&mut self, address: IpAddr, one: Use) {
        if self.is_full() && !self.addresses.contains_key(&address) {
            self.left_out += 1;
        } else {
            self.addresses.entry(address).or_default().insert(one);
        }
    }

    fn is_full(&self) -> bool {
        self.names.len() + self.addresses.len() >= KEPT
    }

    /// As many policies as their limits need, in one file. The title is a comment: a line for each of its lines.
    pub(crate) fn to_policy(&self, title: &[&str], (namespace, name): (&str, &str)) -> String {
        // Readers of YAML 1.1 end a comment at these separators, too.
        let breaks =
            |character: &char| character.is_control() || matches!(character, '\u{2028}' | '\u{2029}');
        let line = |line: &&str| line.chars().filter(|character| !breaks(character)).collect::<String>();
        let mut text: String = title.iter().map(|one| format!("# {}\n", line(one))).collect();
        let rules = self.rules();
        let documents: Vec<&[LearnedRule]> = match rules.is_empty() {
            true => vec![&[]],
            false => rules.chunks(RULES_PER_POLICY).collect(),
        };
        for (number, rules) in documents.iter().enumerate() {
            if number > 0 {
                text.push_str("---\n");
            }
            document(&mut text, (namespace, name), number + 1, rules);
        }
        text
    }

    /// Destinations with the same ports share a rule, up to what a rule can hold.
    fn rules(&self) -> Vec<LearnedRule> {
        let mut by_ports: BTreeMap<(Vec<String>, bool), Destinations> = BTreeMap::new();
        for (name, asked) in &self.names {
            let same = by_ports.entry((ports(&asked.uses), asked.private)).or_default();
            same.names.push(name.to_string());
        }
        for (address, uses) in &self.addresses {
            by_ports.entry((ports(uses), false)).or_default().addresses.push(*address);
        }
        let mut rules = Vec::new();
        for ((ports, private), destinations) in by_ports {
            rules.extend(destinations.peers().chunks(PEERS_PER_RULE).map(|peers| LearnedRule {
                ports: ports.clone(),
                peers: peers.to_vec(),
                private,
            }));
        }
        rules
    }
}

/// A rule in the words of the file.
#[derive(Debug)]
struct LearnedRule {
    ports: Vec<String>,
    peers: Vec<String>,
    private: bool,
}

fn document(text: &mut String, (namespace, name): (&str, &str), number: usize, rules: &[LearnedRule]) {
    let suffix = if number > 1 { format!("-{number}") } else { String::new() };
    // Writing to a String cannot fail.
    writeln!(
        text,
        "apiVersion: nameward.io/v1alpha1\nkind: EgressPolicy\nmetadata:\n  name: {name}{suffix}\n  \
         namespace: {namespace}\nspec:\n  podSelector: {{}}"
    )
    .ok();
    text.push_str(if rules.is_empty() { "  egress: []\n" } else { "  egress:\n" });
    for (index, rule) in rules.iter().enumerate() {
        writeln!(text, "  - name: rule-{}\n    to:", index + 1).ok();
        for peer in &rule.peers {
            writeln!(text, "    - {peer}").ok();
        }
        writeln!(text, "    ports:").ok();
        for port in &rule.ports {
            writeln!(text, "    - {port}").ok();
        }
        if rule.private {
            text.push_str("    privateAddresses: true\n");
        }
    }
}

#[derive(Debug, Default)]
struct Destinations {
    names: Vec<String>,
    addresses: Vec<IpAddr>,
}

impl Destinations {
    fn peers(&self) -> Vec<String> {
        const NAMES_PER_PEER: usize = 256;
        let names = self.names.chunks(NAMES_PER_PEER).map(|names| {
            let names = names.iter().map(|name| format!("{name:?}")).collect::<Vec<_>>().join(", ");
            format!("domainNames: [{names}]")
        });
        let blocks = self.addresses.iter().map(|address| {
            let length = if address.is_ipv4() { 32 } else { 128 };
            format!("ipBlock: {{cidr: \"{address}/{length}\"}}")
        });
        names.chain(blocks).collect()
    }
}

fn ports(uses: &BTreeSet<Use>) -> Vec<String> {
    if uses.is_empty() || uses.len() > PORTS_PER_RULE {
        return vec!["{protocol: TCP}".to_owned(), "{protocol: UDP}".to_owned()];
    }
    uses.iter()
        .map(|(protocol, port)| match protocol {
            6 => format!("{{protocol: TCP, port: {port}}}"),
            17 => format!("{{protocol: UDP, port: {port}}}"),
            132 => format!("{{protocol: SCTP, port: {port}}}"),
            1 | 58 => "{protocol: ICMPEcho}".to_owned(),
            other => format!("{{protocol: {other}}}"),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use nameward_crds::file;
    use nameward_policy::{Pattern, Peer, PortSpec, Protocol};

    use super::*;

    fn packet(protocol: u8, address: &str, port: u16, name: Option<&str>) -> Subject {
        let (address, name) = (address.parse().unwrap(), name.map(Into::into));
        Subject::Packet { protocol, address, port, name, inbound: false }
    }

    fn learned(subjects: &[Subject]) -> Learned {
        let mut learned = Learned::default();
        subjects.iter().for_each(|subject| learned.add(subject));
        learned
    }

    fn read(learned: &Learned, command: &str) -> file::PolicyFile {
        let text = learned.to_policy(&[command], ("default", "learned"));
        file::read(&text, Path::new("learned.yaml")).unwrap_or_else(|mistakes| panic!("{mistakes}\n{text}"))
    }

    #[test]
    fn what_is_written_is_what_policy_reads() {
        // X4, X5
        let learned = learned(&[
            Subject::Question { name: "asked.example".into() },
            packet(6, "198.51.100.1", 443, Some("Used.example.")),
            packet(17, "198.51.100.1", 443, Some("used.example")),
            packet(6, "2001:db8::1", 22, None),
            packet(1, "203.0.113.1", 0, None),
            packet(47, "203.0.113.2", 0, None),
            packet(6, "203.0.113.3", 0, None),
        ]);
        let file = read(&learned, "curl \n x\u{2028}y: 'z'");
        let peers = |protocols: &[PortSpec]| {
            let rules = file.rules();
            let rule = rules.into_iter().find(|rule| rule.ports == protocols);
            rule.unwrap_or_else(|| panic!("{:?}", file.policies)).peers
        };
        let names = |text: &str| vec![Peer::Names(vec![Pattern::parse(text).unwrap()])];
        let block = |text: &str| vec![Peer::Block { cidr: text.parse().unwrap(), except: vec![] }];
        let (tcp, udp) = (Protocol::Tcp, Protocol::Udp);
        assert_eq!(peers(&[PortSpec::all(tcp), PortSpec::all(udp)]), names("asked.example"));
        assert_eq!(peers(&[PortSpec::one(tcp, 443), PortSpec::one(udp, 443)]), names("used.example"));
        assert_eq!(peers(&[PortSpec::one(tcp, 22)]), block("2001:db8::1/128"));
        assert_eq!(peers(&[PortSpec::all(Protocol::IcmpEcho)]), block("203.0.113.1/32"));
        assert_eq!(peers(&[PortSpec::all(Protocol::Number(47))]), block("203.0.113.2/32"));
        assert_eq!(file.rules().len(), 5);
    }

    #[test]
    fn private_addresses_of_names_are_written_as_such() {
        // X4, A3
        let learned = learned(&[
            packet(6, "198.51.100.1", 443, Some("public.example")),
            packet(6, "10.9.9.9", 443, Some("private.example")),
            packet(6, "127.0.0.1", 443, Some("own.example")),
        ]);
        let rules = read(&learned, "x").rules();
        let of = |text: &str| {
            let pattern = Pattern::parse(text).unwrap();
            let names = |peer: &Peer| matches!(peer, Peer::Names(names) if names.contains(&pattern));
            rules.iter().find(|rule| rule.peers.iter().any(names)).unwrap()
        };
        assert!(of("private.example").private_addresses);
        assert!(!of("public.example").private_addresses && !of("own.example").private_addresses);
        let own = Peer::Block { cidr: "127.0.0.1/32".parse().unwrap(), except: vec![] };
        assert!(rules.iter().any(|rule| rule.peers.contains(&own)), "a name cannot give it: {rules:?}");
    }

    #[test]
    fn nothing_learned_is_a_policy_that_allows_nothing() {
        // X4
        assert_eq!(read(&Learned::default(), "true").rules(), []);
    }

    #[test]
    fn more_than_one_policy_can_hold_goes_into_several() {
        // X4: many names, many addresses, many ports
        let names = (0..2_000).map(|n| packet(6, "198.51.100.1", 1 + n % 97, Some(&format!("n{n}.example"))));
        let addresses =
            (0..1_500_u16).map(|n| packet(6, &format!("198.51.{}.{}", n / 250, n % 250), 443, None));
        let many_ports = (1..100).map(|port| packet(17, "203.0.113.1", port, None));
        let learned = learned(&names.chain(addresses).chain(many_ports).collect::<Vec<_>>());
        let file = read(&learned, "x");
        assert!(file.policies.len() > 1);
        let count = |peer: &Peer| match peer {
            Peer::Names(names) => names.len(),
            Peer::Block { .. } => 1,
            Peer::Cluster(_) => 0,
        };
        assert_eq!(file.rules().iter().flat_map(|rule| &rule.peers).map(count).sum::<usize>(), 3_501);
    }
}
