//! Web servers that say who connected, so that a test can ask the far side whether anything arrived.

use std::{
    io::{BufRead, BufReader, Write},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream},
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::Duration,
};

use anyhow::{Context, Result};

use crate::netns::Netns;

/// A connection that arrived at a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hit {
    /// The server's address.
    pub server: SocketAddr,
    /// Whose connection it was, as the server sees it.
    pub client: SocketAddr,
}

/// HTTP servers in a namespace; each answers `hello from ADDRESS`.
#[derive(Debug)]
pub struct WebServers {
    hits: Arc<Mutex<Vec<Hit>>>,
}

impl WebServers {
    /// Listens on each address and port of the namespace. The threads end with the process.
    pub(crate) fn start(namespace: &Netns, addresses: &[IpAddr], ports: &[u16]) -> Result<Self> {
        let hits = Arc::new(Mutex::new(Vec::new()));
        for address in addresses.iter().flat_map(|ip| ports.iter().map(|port| SocketAddr::new(*ip, *port))) {
            let listener = namespace
                .run(|| TcpListener::bind(address))?
                .with_context(|| format!("web server at {address}"))?;
            let hits = Arc::clone(&hits);
            thread::Builder::new().name(format!("web {address}")).spawn(move || serve(&listener, &hits))?;
        }
        Ok(Self { hits })
    }

    /// All connections so far, in the order of their arrival.
    pub fn hits(&self) -> Vec<Hit> {
        self.hits.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// How many connections arrived at an address.
    pub fn count(&self, server: IpAddr) -> usize {
        self.hits().iter().filter(|hit| hit.server.ip() == server).count()
    }
}

fn serve(listener: &TcpListener, hits: &Mutex<Vec<Hit>>) {
    while let Ok((stream, client)) = listener.accept() {
        let Ok(server) = stream.local_addr() else { continue };
        hits.lock().unwrap_or_else(PoisonError::into_inner).push(Hit { server, client });
        // A client that hangs or hangs up is no reason to stop serving others.
        thread::spawn(move || answer(stream, server));
    }
}

fn answer(mut stream: TcpStream, server: SocketAddr) -> std::io::Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(60)))?;
    let mut reader = BufReader::new(stream.try_clone()?);
    let body = format!("hello from {}\n", server.ip());
    loop {
        let mut line = String::new();
        while reader.read_line(&mut line)? > 0 && line != "\r\n" {
            line.clear();
        }
        if line.is_empty() {
            return Ok(());
        }
        let head = "HTTP/1.1 200 OK\r\nContent-Type: text/plain";
        write!(stream, "{head}\r\nContent-Length: {}\r\n\r\n{body}", body.len())?;
    }
}
