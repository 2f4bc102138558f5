//! Nodes: the enforcer's own end of the feed, with a backend that grants when a test lets it.

use std::{
    net::{IpAddr, SocketAddr},
    path::Path,
    sync::{Arc, Condvar, Mutex},
    time::Duration,
};

use nameward_enforcer::{
    GrantRequest, Granted, Refused,
    feed_client::{Backend, BindingView, EndpointView, FeedClient, Place},
};
use nameward_feed::{Identity, sockets::DnsSocket};
use nameward_test_support::wait_until;
use tokio::task::JoinHandle;

use crate::{coredns::pod, enforcer::endpoint};

pub(crate) const SOON: Duration = Duration::from_secs(20);

/// What an enforcer has, was asked to grant, and whether it grants now.
#[derive(Default)]
pub(crate) struct State {
    endpoints: Mutex<Vec<EndpointView>>,
    granted: Mutex<Vec<GrantRequest>>,
    is_held: Mutex<bool>,
    let_go: Condvar,
}

impl Backend for State {
    fn endpoints(&self) -> Vec<EndpointView> {
        self.endpoints.lock().unwrap().clone()
    }

    fn bindings(&self) -> Vec<BindingView> {
        Vec::new()
    }

    fn grant(&self, request: GrantRequest) -> Result<Granted, Refused> {
        let held = self.is_held.lock().unwrap();
        drop(self.let_go.wait_while(held, |held| *held).unwrap());
        self.granted.lock().unwrap().push(request);
        Ok(Granted { usable_for: Duration::from_secs(600) })
    }

    fn dns_sockets(&self) -> std::io::Result<Vec<DnsSocket>> {
        Ok(Vec::new())
    }
}

/// A node with pods, each with the names it may ask.
pub(crate) struct Node {
    pub(crate) number: u8,
    pub(crate) state: Arc<State>,
    pub(crate) client: Arc<FeedClient>,
    task: JoinHandle<()>,
}

impl Node {
    /// Connects to the resolvers of the folder.
    pub(crate) fn start(number: u8, feed: &Path, pods: &[&[&str]]) -> Self {
        let state = Arc::<State>::default();
        let views = pods.iter().zip(1..).map(|(names, pod)| view(number, pod, 1, names));
        state.endpoints.lock().unwrap().extend(views);
        let place = Place::Folder(feed.to_owned());
        let backend = Arc::clone(&state) as Arc<dyn Backend>;
        let client = FeedClient::new(vec![place], format!("node-{number}"), backend);
        let task = tokio::spawn(Arc::clone(&client).run());
        Self { number, state, client, task }
    }

    /// The address of its pod with this number; the first is 1.
    pub(crate) fn pod(&self, number: u8) -> IpAddr {
        pod(self.number, number)
    }

    /// A pod may ask other names from now on.
    pub(crate) fn publish(&self, pod: u8, generation: u32, names: &[&str]) {
        let view = view(self.number, pod, generation, names);
        self.state.endpoints.lock().unwrap()[usize::from(pod) - 1] = view.clone();
        self.client.publish(&view);
    }

    /// Grants nothing until it is let go.
    pub(crate) fn hold(&self) {
        *self.state.is_held.lock().unwrap() = true;
    }

    pub(crate) fn let_go(&self) {
        *self.state.is_held.lock().unwrap() = false;
        self.state.let_go.notify_all();
    }

    /// The endpoints that a name was granted to; "" for all.
    pub(crate) fn granted(&self, name: &str) -> Vec<String> {
        let granted = self.state.granted.lock().unwrap();
        let of_name = granted.iter().filter(|request| request.name == name);
        of_name.map(|request| request.endpoint.to_string()).collect()
    }

    #[track_caller]
    pub(crate) fn wait_until_granted(&self, name: &str) {
        wait_until(name, SOON, || (!self.granted(name).is_empty()).then_some(()));
    }

    /// Its enforcer is gone; what it was granted is kept.
    pub(crate) fn cut_off(&self) {
        self.task.abort();
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.let_go();
        self.task.abort();
    }
}

/// The identifier of a pod.
pub(crate) fn uid(node: u8, pod: u8) -> String {
    format!("pod-{node}-{pod}")
}

fn view(node: u8, number: u8, generation: u32, names: &[&str]) -> EndpointView {
    let unused = SocketAddr::from(([127, 0, 0, 1], 1));
    EndpointView {
        uid: uid(node, number).into(),
        name: format!("ci/{}", uid(node, number)),
        generation,
        identity: vec![Identity::Source(pod(node, number))],
        addresses: Vec::new(),
        rules: endpoint("x", unused, generation, names).rules.to_vec().into(),
    }
}
