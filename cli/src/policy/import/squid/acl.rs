//! What Squid's acls are about, and the names and ports in them.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
};

use nameward_crds::Place;

use crate::policy::import::{names::exact, notes::Notes};

/// Ranges of ports, both ends inclusive.
pub(super) type Ranges = Vec<(u16, u16)>;
/// Files of names, by the last part of their paths.
pub(in crate::policy::import) type Lists = HashMap<String, (PathBuf, String)>;

/// Names that every squid.conf has without saying so, and what they are about.
const BUILT_IN: &[(&str, Acl)] = &[
    ("all", Acl::All),
    ("manager", Acl::Proxy),
    ("localhost", Acl::Clients),
    ("to_localhost", Acl::Never),
    ("to_linklocal", Acl::Never),
    ("CONNECT", Acl::Connect),
];

/// What an acl is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Acl {
    /// Names, as our patterns.
    Names {
        names: Vec<String>,
        /// Whether all of them could be carried over.
        whole: bool,
    },
    /// Ports of the other side.
    Ports(Ranges),
    /// Who asks.
    Clients,
    /// Requests for a tunnel.
    Connect,
    /// Squid's own pages.
    Proxy,
    /// Addresses that names never grant here.
    Never,
    /// Everything.
    All,
    /// Something else, by its type.
    Other(&'static str),
}

/// Acls by their names.
#[derive(Debug)]
pub(super) struct Acls(HashMap<String, Acl>);

impl Acls {
    pub(super) fn built_in() -> Self {
        Self(BUILT_IN.iter().map(|(name, acl)| ((*name).to_owned(), acl.clone())).collect())
    }

    pub(super) fn get(&self, name: &str) -> Option<&Acl> {
        self.0.get(name)
    }

    /// Values of one name add up; what Squid defines itself stays that; two types under one name are an error of the file.
    pub(super) fn add(&mut self, name: &str, acl: Acl) {
        if BUILT_IN.iter().any(|(built_in, _)| *built_in == name) {
            return;
        }
        let merged = match (self.0.remove(name), acl) {
            (Some(Acl::Names { mut names, whole }), Acl::Names { names: more, whole: all }) => {
                names.extend(more);
                Acl::Names { names, whole: whole && all }
            }
            (Some(Acl::Ports(mut ports)), Acl::Ports(more)) => {
                ports.extend(more);
                Acl::Ports(ports)
            }
            (Some(known), more) if known != more => Acl::Other("an acl of two types"),
            (_, acl) => acl,
        };
        self.0.insert(name.to_owned(), merged);
    }
}

/// An `acl` line.
pub(super) fn read(kind: &str, values: &[&str], place: Place, lists: &Lists, notes: &mut Notes) -> Acl {
    // `-n` only keeps Squid from looking addresses up.
    let values: Vec<&str> = values.iter().copied().filter(|value| *value != "-n" && *value != "--").collect();
    match kind {
        "dstdomain" => {
            let before = notes.lost();
            let names = values.iter().flat_map(|value| domain_or_file(value, place, lists, notes)).collect();
            Acl::Names { names, whole: notes.lost() == before }
        }
        "port" => {
            let ports: Option<Ranges> = values.iter().map(|value| port_range(value)).collect();
            ports.map_or(Acl::Other("ports that are not understood"), Acl::Ports)
        }
        "src" | "localip" | "myip" | "localport" | "myport" | "myportname" | "arp" | "eui64"
        | "srcdomain" | "srcdom_regex" | "proxy_auth" | "proxy_auth_regex" | "user_cert"
        | "clientside_mark" => Acl::Clients,
        "method" if values == ["CONNECT"] => Acl::Connect,
        "proto" if values == ["cache_object"] => Acl::Proxy,
        "dst" => Acl::Other("addresses (`dst`)"),
        "dstdom_regex" => Acl::Other("regular expressions of names (`dstdom_regex`)"),
        "time" => Acl::Other("times; rules here have a `schedule`"),
        "ssl::server_name" | "ssl::server_name_regex" => Acl::Other("TLS server names"),
        _ => Acl::Other("something that only a proxy sees"),
    }
}

/// One value of dstdomain: a name, or in quotes a file of names.
fn domain_or_file(value: &str, place: Place, lists: &Lists, notes: &mut Notes) -> Vec<String> {
    let Some(path) = value.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')) else {
        return domain(value, place, notes);
    };
    let last =
        Path::new(path).file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let Some((file, text)) = lists.get(&last) else {
        let reason =
            format!("the file `{path}` is not read by itself; give it, too (--from squid squid.conf {last})");
        notes.left_at(place, "dstdomain", reason);
        return Vec::new();
    };
    let origin = notes.origin().clone();
    notes.about(file, "", Place { line: 1, column: 1 });
    let names = list(text, notes);
    notes.again(&origin);
    names
}

/// The names of a file, a name a line.
pub(super) fn list(text: &str, notes: &mut Notes) -> Vec<String> {
    let mut names = Vec::new();
    for (index, line) in text.lines().enumerate() {
        for (column, word) in words(line) {
            names.extend(domain(word, Place { line: index + 1, column }, notes));
        }
    }
    names
}

/// The words of a line with their columns, without its comment.
pub(super) fn words(line: &str) -> Vec<(usize, &str)> {
    let column = |word: &str| {
        let offset = (word.as_ptr() as usize).saturating_sub(line.as_ptr() as usize);
        line.get(..offset).map_or(1, |before| before.chars().count() + 1)
    };
    let words = line.split_whitespace().take_while(|word| !word.starts_with('#'));
    words.map(|word| (column(word), word)).collect()
}

/// `.example.com` is the name and all below it.
fn domain(value: &str, place: Place, notes: &mut Notes) -> Vec<String> {
    let found = if value.contains('*') {
        let below = value.trim_start_matches('*').trim_start_matches('.');
        Err(format!(
            "`{value}`: a star means nothing to Squid; write `.{below}` for the name and all below it"
        ))
    } else if value.parse::<std::net::IpAddr>().is_ok() {
        Err(format!("`{value}` is an address; write an `ipBlock`"))
    } else if let Some(name) = value.strip_prefix('.') {
        exact(name).map(|name| vec![format!("*.{name}"), name])
    } else {
        exact(value).map(|name| vec![name])
    };
    found.unwrap_or_else(|reason| {
        notes.left_at(place, "dstdomain", reason);
        Vec::new()
    })
}

fn port_range(value: &str) -> Option<(u16, u16)> {
    let (first, last) = value.split_once('-').unwrap_or((value, value));
    let (first, last) = (first.parse().ok()?, last.parse().ok()?);
    (first > 0 && first <= last).then_some((first, last))
}
