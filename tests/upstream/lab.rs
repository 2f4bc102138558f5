//! One who asks a group of servers, as the resolver does.

use std::{
    net::{IpAddr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
    time::Duration,
};

use hickory_proto::{
    op::Message,
    rr::{RData, RecordType},
};
use nameward_resolver::{
    counters::Counters,
    upstream::{Group, Outstanding, Question, Upstream, UpstreamError},
};
use nameward_test_support::{Asked, FakeDns, Reply, address_record};

/// What tests wait for at most.
pub(crate) const SOON: Duration = Duration::from_secs(20);

/// A group of servers and what is counted.
pub(crate) struct Asker {
    group: Arc<Group>,
    outstanding: Outstanding,
    pub(crate) counters: Arc<Counters>,
}

impl Asker {
    pub(crate) fn new(servers: impl IntoIterator<Item = impl Into<Upstream>>) -> Self {
        Self {
            group: Arc::new(Group::new(servers)),
            outstanding: Outstanding::default(),
            counters: Arc::default(),
        }
    }

    pub(crate) async fn ask(&self, name: &str) -> Result<Message, UpstreamError> {
        let question = question(name);
        let asking = self.group.ask(&question, &self.outstanding, &self.counters);
        let reply = tokio::time::timeout(SOON, asking).await.expect("a question without an end")?;
        Ok(reply.into_message().expect("what was read can be read"))
    }

    pub(crate) async fn addresses(&self, name: &str) -> Vec<IpAddr> {
        addresses(&self.ask(name).await.unwrap_or_else(|error| panic!("{name}: {error}")))
    }
}

pub(crate) fn question(name: &str) -> Question {
    let mut octets = Vec::new();
    for label in name.split('.') {
        octets.push(u8::try_from(label.len()).unwrap());
        octets.extend(label.as_bytes());
    }
    octets.push(0);
    Question {
        name: octets.into(),
        record_type: RecordType::A.into(),
        dnssec_ok: false,
        checking_disabled: false,
    }
}

pub(crate) fn addresses(message: &Message) -> Vec<IpAddr> {
    let address = |data: &RData| match data {
        RData::A(a) => Some(IpAddr::from(a.0)),
        _ => None,
    };
    message.answers.iter().filter_map(|record| address(&record.data)).collect()
}

/// The address that the server numbered `last` gives for every name.
pub(crate) fn address(last: u8) -> IpAddr {
    [198, 51, 100, last].into()
}

/// An answer with that address.
pub(crate) fn records(asked: &Asked, last: u8) -> Reply {
    Reply::Records(vec![address_record(&asked.name, 60, address(last))])
}

/// A server that gives one address for every name.
pub(crate) async fn well(last: u8) -> FakeDns {
    FakeDns::start(move |asked| records(asked, last)).await.unwrap()
}

/// A server with a script.
pub(crate) async fn scripted(script: impl Fn(&Asked) -> Reply + Send + Sync + 'static) -> FakeDns {
    FakeDns::start(script).await.unwrap()
}

/// An address of this host that no other test has, with this port.
pub(crate) fn own_address(port: u16) -> SocketAddr {
    static NEXT: AtomicU8 = AtomicU8::new(64);
    let [.., high, low] = std::process::id().to_be_bytes();
    SocketAddr::from(([127, NEXT.fetch_add(1, Ordering::Relaxed), high, low], port))
}
