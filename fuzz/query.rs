//! Any bytes as a query: read, judged, answered from memory, by policy, or by an upstream that is not there.
#![no_main]

use std::{
    net::IpAddr,
    sync::{Arc, LazyLock},
};

use hickory_proto::op::{Message, MessageType};
use libfuzzer_sys::fuzz_target;
use nameward_resolver::{
    Server, ServerConfig,
    decisions::{Decision, DecisionSink},
    endpoints::{EndpointView, Endpoints, Identity},
    grants::Acknowledge,
    upstream::Upstream,
    wire::query::{Query, Unanswerable},
};
use tokio::runtime::{Builder, Runtime};

#[path = "rules.rs"]
mod rules;

const PORT: u16 = 5300;
/// The forwarder whose EDNS option counts.
const FORWARDER: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 10));
const WORKLOAD: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 20));

struct Nowhere;

impl DecisionSink for Nowhere {
    fn decided(&self, _: Decision) {}
}

static LAB: LazyLock<(Runtime, Server)> = LazyLock::new(|| {
    let runtime = Builder::new_current_thread().enable_time().build().expect("a runtime");
    let endpoints = Arc::new(Endpoints::new());
    let identity = vec![Identity::Port(PORT), Identity::Source([10, 0, 0, 9].into())];
    endpoints.apply(EndpointView {
        uid: "w".into(),
        name: "ci/w".into(),
        generation: 1,
        rules: rules::rules(),
        identity,
    });
    let config =
        ServerConfig { trusted_forwarders: vec![FORWARDER], ..ServerConfig::new([] as [Upstream; 0]) };
    (runtime, Server::new(config, endpoints, Arc::new(Acknowledge), Arc::new(Nowhere)))
});

fuzz_target!(|data: &[u8]| {
    let (runtime, server) = &*LAB;
    let local = ([127, 0, 0, 1], PORT).into();
    for peer in [WORKLOAD, FORWARDER] {
        let answer = runtime.block_on(server.answer(data, peer, local));
        let silent = matches!(Query::read(data), Err(Unanswerable::Silent));
        assert_eq!(answer.is_none(), silent);
        let Some(answer) = answer else { continue };
        assert_eq!(answer[..2], data[..2], "ID");
        assert!(answer.len() <= 1232);
        let message = Message::from_vec(&answer).expect("an answer that can be read");
        assert_eq!(message.metadata.message_type, MessageType::Response);
        assert!(message.answers.len() <= 1, "nobody gave an answer but that to ANY");
    }
});
