//! Which upstream a question goes to: by its name, by the server that the workload meant, else the default (Q6).

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use nameward_policy::Name;

use super::{Group, Upstream};

/// Servers that workloads mean, kept at most: their number is the enforcer's, not the workloads'.
const MOST_MEANT: usize = 1_024;

/// Groups of servers and what they are for.
#[derive(Debug)]
pub struct Routes {
    default: Arc<Group>,
    domains: Vec<(Name, Arc<Group>)>,
    meant: Mutex<HashMap<SocketAddr, Arc<Group>>>,
}

impl Routes {
    /// `domains`: names at or below a domain go to servers of their own.
    pub fn new(default: Vec<Upstream>, domains: Vec<(Name, Vec<Upstream>)>) -> Self {
        let mut domains: Vec<_> =
            domains.into_iter().map(|(name, servers)| (name, Arc::new(Group::new(servers)))).collect();
        domains.sort_by_key(|(name, _)| std::cmp::Reverse(name.as_str().len()));
        Self { default: Arc::new(Group::new(default)), domains, meant: Mutex::default() }
    }

    /// The group for a name, `meant` being the trusted server that the workload addressed.
    pub fn group(&self, name: &Name, meant: Option<SocketAddr>) -> Arc<Group> {
        let at_or_below = |domain: &Name| name == domain || name.is_below(domain);
        if let Some((_, group)) = self.domains.iter().find(|(domain, _)| at_or_below(domain)) {
            return group.clone();
        }
        let Some(server) = meant else { return self.default.clone() };
        let mut known = self.meant.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= MOST_MEANT && !known.contains_key(&server) {
            known.clear();
        }
        known.entry(server).or_insert_with(|| Arc::new(Group::new([server]))).clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> Name {
        Name::parse(text).unwrap()
    }

    // Q6
    #[test]
    fn longest_domain_then_the_server_meant_then_the_default() {
        let server = |last: u8| SocketAddr::from(([192, 0, 2, last], 53));
        let own = |domain, last| (name(domain), vec![server(last).into()]);
        let domains = vec![own("corp.example", 2), own("lab.corp.example", 3)];
        let routes = Routes::new(vec![server(1).into()], domains);
        let asked = |text: &str, meant| routes.group(&name(text), meant).addresses().next();
        assert_eq!(asked("a.test", None), Some(server(1)));
        assert_eq!(asked("a.test", Some(server(9))), Some(server(9)));
        assert_eq!(asked("corp.example", Some(server(9))), Some(server(2)));
        assert_eq!(asked("x.lab.corp.example", None), Some(server(3)));
        assert_eq!(asked("notcorp.example", None), Some(server(1)));
        let again = [routes.group(&name("a"), Some(server(9))), routes.group(&name("b"), Some(server(9)))];
        assert_eq!(again[0].number(), again[1].number());
    }
}
