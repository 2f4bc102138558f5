//! DNS sockets that are served, by whose they are: an enforcer's node, or our own.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use nameward_feed::sockets::DnsSocket;
use nameward_policy::Name;

use crate::{Server, Serving, feed_server::SocketTaker};

/// Sockets by owner. Questions that were taken from one are answered also when it is let go.
#[derive(Debug)]
pub(super) struct DnsSockets {
    server: Server,
    /// None once we are stopping.
    served: Mutex<Option<HashMap<String, Vec<Serving>>>>,
}

impl DnsSockets {
    pub(super) fn new(server: Server) -> Self {
        Self { server, served: Mutex::new(Some(HashMap::new())) }
    }

    /// Takes no more questions, now or later: those that come wait in the sockets, if somebody else holds them too.
    pub(super) fn let_all_go(&self) {
        self.served().take();
    }

    fn serve(&self, owner: &str, sockets: Vec<DnsSocket>) -> Vec<Serving> {
        let serve = |socket| match self.server.serve(socket) {
            Ok(serving) => Some(serving),
            Err(error) => {
                tracing::error!(owner, %error, "a DNS socket cannot be served");
                None
            }
        };
        sockets.into_iter().filter_map(serve).collect()
    }

    fn served(&self) -> MutexGuard<'_, Option<HashMap<String, Vec<Serving>>>> {
        self.served.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl SocketTaker for DnsSockets {
    /// New ones first: there is no moment at which nobody reads.
    fn replace(&self, node: &str, sockets: Vec<DnsSocket>) {
        let mut served = self.served();
        let Some(served) = served.as_mut() else { return };
        let serving = self.serve(node, sockets);
        tracing::debug!(node, sockets = serving.len(), "serving the DNS sockets of an enforcer");
        drop(served.insert(node.to_owned(), serving));
    }

    fn forget(&self, names: &[Name]) {
        self.server.forget(names);
    }

    /// Ports tell endpoints apart on loopback only; elsewhere they stand for servers.
    fn let_go(&self, node: &str, ports: &[u16]) {
        if let Some(serving) = self.served().as_mut().and_then(|served| served.get_mut(node)) {
            serving.retain(|one| !(one.local().ip().is_loopback() && ports.contains(&one.local().port())));
        }
    }
}
