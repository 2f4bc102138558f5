//! Ports that lead from one network namespace into another. Neither routes nor rules are needed for them.
//!
//! A namespace is a thread's: listeners are opened by a thread that is inside, and connections are made by one.

use std::{
    fs::File,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket},
    os::fd::AsFd,
    panic::resume_unwind,
    path::Path,
    sync::{
        Arc,
        mpsc::{Receiver, channel},
    },
    thread,
    time::Duration,
};

use anyhow::{Context, Result};
use nix::sched::{CloneFlags, setns};

/// Where the API server listens, inside.
const SERVER: &str = "10.88.0.1:6443";
/// Where the cluster's DNS finds the server that is outside.
pub(crate) const DNS: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 88, 0, 1));
const DNS_PORT: u16 = 53;
/// How long an answer of it may take.
const ANSWER: Duration = Duration::from_secs(5);

/// Opens a port of the loopback network that leads to the API server, and returns its number. It is open as long as the
/// process lives.
pub(crate) fn open(namespace: &Path) -> Result<u16> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let port = listener.local_addr()?.port();
    let (sender, accepted) = channel();
    let namespace = inside(namespace)?;
    // The one thread that is inside.
    thread::Builder::new().name("dial".into()).spawn(move || {
        setns(namespace.as_fd(), CloneFlags::CLONE_NEWNET)?;
        dial(&accepted)
    })?;
    thread::Builder::new().name("gate".into()).spawn(move || {
        listener.incoming().flatten().try_for_each(|stream| sender.send(stream).map_err(|_| ()))
    })?;
    Ok(port)
}

/// Lets what is inside ask a DNS server that this process can reach, at [`DNS`].
pub(crate) fn lead_dns_to(server: IpAddr, namespace: &Path) -> Result<()> {
    let address = SocketAddr::new(DNS, DNS_PORT);
    let sockets = thread::scope(|scope| {
        let thread = scope.spawn(|| -> Result<_> {
            setns(inside(namespace)?.as_fd(), CloneFlags::CLONE_NEWNET)?;
            Ok((UdpSocket::bind(address)?, TcpListener::bind(address)?))
        });
        thread.join().unwrap_or_else(|panic| resume_unwind(panic))
    });
    let (datagrams, listener) = sockets.with_context(|| format!("cannot listen at {address}"))?;
    let (datagrams, server) = (Arc::new(datagrams), SocketAddr::new(server, DNS_PORT));
    thread::Builder::new().name("dns".into()).spawn(move || questions(&datagrams, server))?;
    thread::Builder::new().name("dns-tcp".into()).spawn(move || {
        for client in listener.incoming().flatten() {
            thread::spawn(move || join(client, TcpStream::connect_timeout(&server, ANSWER)?));
        }
    })?;
    Ok(())
}

fn inside(namespace: &Path) -> Result<File> {
    File::open(namespace).with_context(|| namespace.display().to_string())
}

fn questions(datagrams: &Arc<UdpSocket>, server: SocketAddr) -> io::Result<()> {
    let mut buffer = vec![0; 65_535];
    loop {
        let (length, client) = datagrams.recv_from(&mut buffer)?;
        let (question, back) = (buffer[..length].to_vec(), Arc::clone(datagrams));
        // Who does not get an answer asks again.
        thread::spawn(move || back.send_to(&ask(server, &question)?, client));
    }
}

/// Asks from a port of its own, so that no other's answer is taken for it.
fn ask(server: SocketAddr, question: &[u8]) -> io::Result<Vec<u8>> {
    let any = if server.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind(SocketAddr::new(any, 0))?;
    socket.connect(server)?;
    socket.set_read_timeout(Some(ANSWER))?;
    socket.send(question)?;
    let mut answer = vec![0; 65_535];
    let length = socket.recv(&mut answer)?;
    answer.truncate(length);
    Ok(answer)
}

fn dial(accepted: &Receiver<TcpStream>) -> Result<()> {
    for client in accepted {
        // Dropped where nobody answers: the client sees its connection end.
        if let Ok(server) = TcpStream::connect(SERVER) {
            join(client, server)?;
        }
    }
    Ok(())
}

fn join(client: TcpStream, server: TcpStream) -> io::Result<()> {
    let (from, to) = (client.try_clone()?, server.try_clone()?);
    thread::spawn(move || pass(from, to));
    thread::spawn(move || pass(server, client));
    Ok(())
}

fn pass(mut from: TcpStream, mut to: TcpStream) {
    io::copy(&mut from, &mut to).ok();
    // The other side may have ended already.
    to.shutdown(Shutdown::Write).ok();
}
