//! Nodes of known contents, each behind TLS on a port of its own, and the cluster's API over them.

use std::{
    net::{SocketAddr, TcpListener},
    path::PathBuf,
    sync::Arc,
};

use nameward_api::serve::{API, ApiListener, ApiPlace, TlsListener, serve, serve_routes};
use nameward_api_server::{Cluster, Nodes, nodes::Proof, router};
use nameward_test_support::{Authority, Scratch};
use nameward_tls::{Credentials, TlsFiles};
use tokio::runtime::Runtime;

use crate::world::{Fixture, Socket, site};

/// The name in the certificate of who may ask nodes.
pub(crate) const CLIENT: &str = "api.nameward";

/// A node; dropping it ends its connections, too.
pub(crate) struct Served {
    pub(crate) fixture: Arc<Fixture>,
    pub(crate) address: SocketAddr,
    runtime: Option<Runtime>,
}

impl Served {
    /// At an address, in a runtime of its own.
    pub(crate) fn at(address: SocketAddr, name: &str, authority: &Authority, fixture: Arc<Fixture>) -> Self {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let listener = TcpListener::bind(address).unwrap();
        let address = listener.local_addr().unwrap();
        let credentials = Credentials::read(files(authority, name), API).unwrap();
        let listener = TlsListener::for_clients(listener, credentials, vec![CLIENT.into()]);
        let site = site(&fixture, name);
        runtime.spawn(serve(site, ApiListener::Tls(listener)));
        Self { fixture, address, runtime: Some(runtime) }
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

pub(crate) fn files(authority: &Authority, name: &str) -> TlsFiles {
    let signed = authority.sign(name, name);
    TlsFiles { certificate: signed.certificate, key: signed.key, authority: authority.file() }
}

/// Nodes `n1`, `n2` and so on, and the API over them on a unix socket.
pub(crate) struct Whole {
    pub(crate) authority: Authority,
    pub(crate) nodes: Vec<Served>,
    pub(crate) socket: Socket,
    folder: Scratch,
}

impl Whole {
    /// So many live nodes with three endpoints each; further nodes are only said to be there.
    pub(crate) fn new(live: usize, more: &[(&str, SocketAddr)]) -> Self {
        Self::asking_as(CLIENT, live, more)
    }

    pub(crate) fn asking_as(client: &str, live: usize, more: &[(&str, SocketAddr)]) -> Self {
        let (authority, folder) = (Authority::new(), Scratch::new("whole").unwrap());
        let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
        let nodes: Vec<Served> = (0..live)
            .map(|number| {
                let fixture = Fixture::with(3 * number..3 * number + 3);
                Served::at(any, &format!("n{}", number + 1), &authority, fixture)
            })
            .collect();
        let all = nodes.iter().enumerate().map(|(number, node)| (format!("n{}", number + 1), node.address));
        let all = all.chain(more.iter().map(|(name, address)| ((*name).to_owned(), *address)));
        let proof =
            Proof { credentials: Credentials::read(files(&authority, client), API).unwrap(), name: None };
        let socket = Socket(folder.path().join("api"));
        let place: PathBuf = socket.0.clone();
        let listener = ApiPlace::Unix(place).listen(None).unwrap();
        tokio::spawn(serve_routes(router(Cluster::new(Nodes::fixed(all, &proof), None)), listener));
        Self { authority, nodes, socket, folder }
    }

    pub(crate) fn place(&self) -> ApiPlace {
        ApiPlace::Unix(self.folder.path().join("api"))
    }
}
