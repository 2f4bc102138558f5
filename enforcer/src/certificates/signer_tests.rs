use std::{fs, path::PathBuf, sync::Arc};

use nameward_feed::tls::{TlsFiles, credentials};
use rcgen::{CertificateParams, KeyPair};

use super::*;
use crate::certificates::files;

const NODE_1: &str = "node-1";

fn spec(user: &str, node: Option<&str>) -> CertificateSigningRequestSpec {
    let extra = node.map(|node| BTreeMap::from([(NODE.to_owned(), vec![node.to_owned()])]));
    CertificateSigningRequestSpec { username: Some(user.into()), extra, ..Default::default() }
}

#[test]
fn a_node_is_what_the_api_server_says() {
    let node = |user: &str, node| node_of(&spec(user, node), "nameward");
    let enforcer = "system:serviceaccount:nameward:nameward-enforcer";
    assert_eq!(node(enforcer, Some(NODE_1)), Ok(NODE_1.into()));
    assert!(node(enforcer, None).unwrap_err().contains("bound to no pod"));
    for other in
        ["system:serviceaccount:ci:nameward-enforcer", "system:serviceaccount:nameward:default", "admin"]
    {
        assert!(
            node(other, Some(NODE_1)).unwrap_err().contains("only system:serviceaccount:nameward"),
            "{other}"
        );
    }
}

/// A folder that goes with the test.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("nameward-{name}-{}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).unwrap();
    }
}

fn requested(authority: &Authority, asks: &str, is: &str) -> (String, String) {
    let key = KeyPair::generate().unwrap();
    let request = CertificateParams::new([asks.to_owned()]).unwrap().serialize_request(&key).unwrap();
    let signed = authority.sign_request(&request.pem().unwrap(), is, SystemTime::now()).unwrap();
    (signed, key.serialize_pem())
}

/// The ends of a handshake: whether a client with these files and a resolver meet, and the resolver takes it for `node`.
async fn meet(resolver: TlsFiles, client: TlsFiles, node: &str) -> bool {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let (resolver, client) = (credentials(resolver).unwrap(), credentials(client).unwrap());
    let mut accepted = Arc::clone(&resolver).accept(listener).unwrap();
    let name = "nameward-resolver.nameward.svc".try_into().unwrap();
    let connecting = tokio::spawn(async move { client.connect(address, name).await });
    let within = std::time::Duration::from_secs(4);
    let taken = tokio::time::timeout(within, accepted.next()).await;
    connecting.abort();
    taken.is_ok_and(|taken| taken.is_some_and(|taken| taken.is_ok_and(|taken| taken.peer().is(node))))
}

// Nobody speaks for another node, and no node for a resolver.
#[tokio::test]
async fn certificates_are_for_one_side_and_one_name() {
    let (made, key) = Authority::new(SystemTime::now()).unwrap();
    let authority = Authority::read(made.certificate(), &key).unwrap();
    let (server, node, liar) = (Folder::new("server"), Folder::new("node"), Folder::new("liar"));
    let signer = Signer { authority, namespace: "nameward".into() };
    signer.prepare_resolver(&server.0).unwrap();
    let (certificate, key) = requested(&signer.authority, NODE_1, NODE_1);
    write(&node.0, &certificate, &key, made.certificate()).unwrap();
    assert!(meet(files(&server.0), files(&node.0), NODE_1).await);
    assert!(!meet(files(&server.0), files(&node.0), "node-2").await);
    // What a request says of itself does not count.
    let (certificate, key) = requested(&signer.authority, "node-2", NODE_1);
    write(&liar.0, &certificate, &key, made.certificate()).unwrap();
    assert!(!meet(files(&server.0), files(&liar.0), "node-2").await);
    // Nor does a node serve, not even under the resolvers' name.
    let (certificate, key) = requested(&signer.authority, NODE_1, "nameward-resolver.nameward.svc");
    write(&liar.0, &certificate, &key, made.certificate()).unwrap();
    assert!(!meet(files(&liar.0), files(&node.0), NODE_1).await);
}
