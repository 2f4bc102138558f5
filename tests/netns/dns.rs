//! DNS of interface endpoints: whatever server they ask, and whatever the host does to packets, it reaches the
//! resolver's sockets under the endpoint's identity, and the answer comes from the server that was asked.

#![allow(unsafe_code, reason = "an option of sockets that has no safe wrapper")]

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{Read, Write},
    net::{IpAddr, SocketAddr, SocketAddrV4, TcpListener, TcpStream, UdpSocket},
    os::fd::AsRawFd,
    path::PathBuf,
    sync::mpsc,
    thread,
    time::Duration,
};

use aya::programs::{LinkOrder, TcAttachType};
use nameward_abi::{Identity, Mode, Switch};
use nameward_enforcer::{
    dns_link::{DnsLink, DnsLinkOptions},
    kernel::{Attachment, BootNanos, EndpointSpec, Host, KernelStore, MapWrite, interface_index},
};
use nameward_feed::sockets::{DnsSocket, Transport};
use nameward_test_support::{CgroupGuard, ForeignProgram, output_within, translate_in_sockets};
use nix::libc;

use crate::lab::{Lab, Workload, inside, inside_thread, must, privileged};

const WAIT: Duration = Duration::from_secs(5);

pub(crate) fn link_options(lab: &Lab) -> DnsLinkOptions {
    DnsLinkOptions {
        link: "nwdns0".into(),
        namespace: PathBuf::from(format!("/run/netns/{}d", lab.name)),
        trusted: vec!["10.96.0.10:53".parse().unwrap()],
    }
}

/// Answers every question with itself, and says who asked, by which road, meaning which server.
fn answer(sockets: Vec<DnsSocket>) -> mpsc::Receiver<(Transport, IpAddr, Option<SocketAddr>)> {
    let (tell, told) = mpsc::channel();
    for DnsSocket { transport, server, socket } in sockets {
        let tell = tell.clone();
        match transport {
            Transport::Udp => {
                let socket = UdpSocket::from(socket);
                socket.set_nonblocking(false).unwrap();
                socket.set_read_timeout(Some(WAIT)).unwrap();
                thread::spawn(move || {
                    let mut buffer = [0; 512];
                    while let Ok((length, asker)) = socket.recv_from(&mut buffer) {
                        socket.send_to(&buffer[..length], asker).unwrap();
                        if tell.send((transport, asker.ip(), server)).is_err() {
                            return;
                        }
                    }
                });
            }
            Transport::Tcp => {
                let socket = TcpListener::from(socket);
                socket.set_nonblocking(false).unwrap();
                thread::spawn(move || {
                    // Ends with the process: a listener has no timeout.
                    while let Ok((mut stream, asker)) = socket.accept() {
                        let mut buffer = [0; 512];
                        let length = stream.read(&mut buffer).unwrap();
                        stream.write_all(&buffer[..length]).unwrap();
                        if tell.send((transport, asker.ip(), server)).is_err() {
                            return;
                        }
                    }
                });
            }
        }
    }
    told
}

/// Servers of the cluster's DNS that answer by another port.
fn backends() -> Vec<SocketAddr> {
    vec!["10.7.9.9:5353".parse().unwrap()]
}

/// Attaches a workload with the redirect, rules that allow nothing, and identity number `index`.
fn guard(host: &Host, link: &DnsLink, workload: &Workload, index: u16) {
    let attachment = Attachment::Interface { name: workload.interface.clone() };
    let spec = EndpointSpec {
        addresses: workload.addresses.clone(),
        dns: link.redirect(index, &backends()),
        ..EndpointSpec::new(format!("w{index}"), attachment)
    };
    let (four, six) = DnsLink::identity(index);
    let identity = Identity { ifindex: interface_index(&workload.interface).unwrap(), receive: 0 };
    host.set_identity(four.into(), identity).unwrap();
    host.set_identity(six.into(), identity).unwrap();
    let mut endpoint = host.attach(&spec).unwrap();
    endpoint.write(&MapWrite::Switch(Switch::new(0, Mode::Enforce, 0, 1))).unwrap();
}

/// A question by UDP; who the answer came from.
fn ask_udp(server: &str) -> SocketAddr {
    let server: SocketAddr = server.parse().unwrap();
    let any = if server.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let socket = UdpSocket::bind(any).unwrap();
    socket.set_read_timeout(Some(WAIT)).unwrap();
    socket.send_to(b"\x12\x34 a question of 24 byte", server).unwrap();
    let mut buffer = [0; 512];
    let (length, from) = socket.recv_from(&mut buffer).unwrap();
    assert_eq!(&buffer[..length], b"\x12\x34 a question of 24 byte");
    from
}

fn ask_tcp(server: &str) {
    let mut stream = TcpStream::connect_timeout(&server.parse().unwrap(), WAIT).unwrap();
    stream.set_read_timeout(Some(WAIT)).unwrap();
    stream.write_all(b"\x12\x34 a question by stream").unwrap();
    let mut buffer = Vec::new();
    stream.read_to_end(&mut buffer).unwrap();
    assert_eq!(buffer, b"\x12\x34 a question by stream");
}

#[test]
fn any_server_is_the_resolver_behind_a_hostile_host() {
    if !privileged() {
        return;
    }
    let mut lab = Lab::new();
    let (one, two) = (lab.workload(), lab.workload());
    must(&format!(
        "nsenter --net=/run/netns/{} sh -c 'sysctl -qw net.ipv4.conf.all.rp_filter=1 net.ipv4.conf.default.rp_filter=1 &&
         nft add table inet wall &&
         for hook in input output forward; do
           nft add chain inet wall $hook \"{{ type filter hook $hook priority 0; policy drop; }}\"
         done'",
        lab.host()
    ));
    // Neighbour discovery is IPv6, and the host drops it.
    for workload in [&one, &two] {
        let mac =
            must(&format!("ip -n {} -br link show {} | awk '{{print $3}}'", lab.host(), workload.interface));
        let gateway = workload.interface.replace('w', "2001:db8:7:") + "::1";
        must(&format!("ip -n {} neigh replace {gateway} lladdr {} dev eth0", workload.namespace, mac.trim()));
    }
    let (host, link, told) = inside(&lab.host(), async || {
        let host = Host::open(&lab.options()).unwrap();
        let link = DnsLink::open(link_options(&lab), &host).unwrap();
        guard(&host, &link, &one, 1);
        guard(&host, &link, &two, 2);
        host.beat(BootNanos::now()).unwrap();
        let told = answer(link.sockets().unwrap());
        (host, link, told)
    });
    for (index, workload) in [(1, &one), (2, &two)] {
        inside(&workload.namespace, async || {
            for server in ["8.8.8.8:53", "10.96.0.10:53", "[2001:4860:4860::8888]:53"] {
                assert_eq!(ask_udp(server), server.parse().unwrap());
                ask_tcp(server);
            }
        });
        let (four, six) = DnsLink::identity(index);
        let heard: BTreeSet<_> = (0..6)
            .map(|_| told.recv_timeout(WAIT).unwrap())
            .map(|(transport, asker, server)| (transport == Transport::Udp, asker, server))
            .collect();
        let trusted = Some("10.96.0.10:53".parse().unwrap());
        let expected = [true, false]
            .into_iter()
            .flat_map(|udp| [(udp, four.into(), None), (udp, four.into(), trusted), (udp, six.into(), None)]);
        assert_eq!(heard, expected.collect());
    }
    inside(&lab.host(), async || {
        link.remove().unwrap();
        host.remove_all().unwrap();
        assert!(interface_index("nwdns0").is_err());
    });
    assert!(!link_options(&lab).namespace.exists());
}

#[test]
fn the_link_survives_the_process() {
    if !privileged() {
        return;
    }
    let lab = Lab::new();
    inside(&lab.host(), async || {
        let host = Host::open(&lab.options()).unwrap();
        let first = DnsLink::open(link_options(&lab), &host).unwrap();
        let redirect = first.redirect(7, &[]);
        // A resolver goes on with its copies while the enforcer is away.
        let copies = first.sockets().unwrap();
        drop((first, host));
        let host = Host::open(&lab.options()).unwrap();
        let second = DnsLink::open(link_options(&lab), &host).unwrap();
        assert_eq!(second.redirect(7, &[]), redirect);
        assert_eq!(second.sockets().unwrap().len(), copies.len());
        second.remove().unwrap();
    });
}

/// A question whose datagram has no checksum (RFC 768).
fn ask_without_checksum(server: &str) {
    let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
    compute_no_checksum(&socket);
    socket.set_read_timeout(Some(WAIT)).unwrap();
    socket.connect(server).unwrap();
    socket.send(b"\x12\x34 a question of 24 byte").unwrap();
    let mut buffer = [0; 512];
    let length = socket.recv(&mut buffer).unwrap();
    assert_eq!(&buffer[..length], b"\x12\x34 a question of 24 byte");
}

/// `SO_NO_CHECK`: the kernel computes none.
fn compute_no_checksum(socket: &UdpSocket) {
    let on: libc::c_int = 1;
    // SAFETY: the option reads an int, which outlives the call.
    let status = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_NO_CHECK,
            (&raw const on).cast(),
            size_of_val(&on) as libc::socklen_t,
        )
    };
    assert_eq!(status, 0, "{}", std::io::Error::last_os_error());
}

// Issue: any server address, one on the workload's own subnet and a link-local one; no checksum; a redirecting program
// behind ours
#[test]
fn servers_near_and_far_are_the_resolver() {
    if !privileged() {
        return;
    }
    let mut lab = Lab::new();
    let workload = lab.workload();
    // Somebody on its own subnet who would answer himself.
    must(&format!("ip -n {} addr add 10.7.1.53/24 dev {}", lab.host(), workload.interface));
    let (host, link, told) = inside(&lab.host(), async || {
        let host = Host::open(&lab.options()).unwrap();
        let link = DnsLink::open(link_options(&lab), &host).unwrap();
        guard(&host, &link, &workload, 1);
        let told = answer(link.sockets().unwrap());
        (host, link, told)
    });
    let ask = || {
        inside(&workload.namespace, async || {
            for server in ["10.7.1.53:53", "169.254.25.10:53", "10.7.1.1:53", "203.0.113.77:53"] {
                assert_eq!(ask_udp(server), server.parse().unwrap());
                ask_tcp(server);
                ask_without_checksum(server);
            }
        });
        let (four, _) = DnsLink::identity(1);
        for _ in 0..12 {
            assert_eq!(told.recv_timeout(WAIT).unwrap().1, IpAddr::from(four));
        }
    };
    ask();
    let _other = inside(&lab.host(), async || {
        must("ip link add away type veth peer name nowhere; ip link set away up; ip link set nowhere up");
        let mut other = ForeignProgram::sending_to(interface_index("away").unwrap()).unwrap();
        other.attach(&workload.interface, TcAttachType::Ingress, LinkOrder::last()).unwrap();
        other
    });
    ask();
    inside(&lab.host(), async || {
        link.remove().unwrap();
        host.remove_all().unwrap();
    });
}

// Issue: a bridge with the DNS server on the same bridge
#[test]
fn a_server_at_the_same_bridge_is_the_resolver() {
    if !privileged() {
        return;
    }
    let mut lab = Lab::new();
    let (workload, server) = (lab.bridged(), lab.bridged());
    // It would answer itself, and nothing of the node would stand between.
    let (datagrams, listener) = inside_thread(&server.namespace, || {
        (UdpSocket::bind("[::]:53").unwrap(), TcpListener::bind("[::]:53").unwrap())
    });
    let (host, link, told) = inside(&lab.host(), async || {
        let host = Host::open(&lab.options()).unwrap();
        let link = DnsLink::open(link_options(&lab), &host).unwrap();
        guard(&host, &link, &workload, 1);
        host.beat(BootNanos::now()).unwrap();
        let told = answer(link.sockets().unwrap());
        (host, link, told)
    });
    inside(&workload.namespace, async || {
        for at in ["10.8.0.3:53", "[2001:db8:8::3]:53"] {
            assert_eq!(ask_udp(at), at.parse().unwrap());
            ask_tcp(at);
        }
    });
    let askers: BTreeSet<_> = (0..4).map(|_| told.recv_timeout(WAIT).unwrap().1).collect();
    let (four, six) = DnsLink::identity(1);
    assert_eq!(askers, BTreeSet::from([four.into(), six.into()]));
    datagrams.set_nonblocking(true).unwrap();
    listener.set_nonblocking(true).unwrap();
    assert!(datagrams.recv_from(&mut [0; 64]).is_err() && listener.accept().is_err(), "it was asked");
    inside(&lab.host(), async || {
        link.remove().unwrap();
        host.remove_all().unwrap();
    });
}

/// Asks a server by a socket that is connected, by one that is not, and by a stream; says who answered.
const ASK: &str = "\
import socket, sys
server, question = (sys.argv[1], 53), b'\\x12\\x34 a question of 24 byte'
one = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); one.settimeout(5); one.connect(server); one.send(question)
assert one.recv(64) == question
two = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); two.settimeout(5); two.sendto(question, server)
said, peer = two.recvfrom(64)
assert said == question and peer == server, peer
three = socket.create_connection(server, 5); three.send(question); assert three.recv(64) == question
print('answered')
";

// Issue: socket load balancing: a connect hook translates the service to backend:5353, so no packet is for port 53
#[test]
fn a_backend_that_sockets_are_translated_to_is_the_resolver() {
    if !privileged() {
        return;
    }
    let mut lab = Lab::new();
    let workload = lab.workload();
    let service: SocketAddrV4 = "10.96.0.10:53".parse().unwrap();
    let SocketAddr::V4(backend) = backends()[0] else { panic!("it is of IPv4") };
    let cgroup = CgroupGuard::new("sockets").unwrap();
    translate_in_sockets(cgroup.path(), service, backend).unwrap();
    let (host, link, told) = inside(&lab.host(), async || {
        let host = Host::open(&lab.options()).unwrap();
        let link = DnsLink::open(link_options(&lab), &host).unwrap();
        guard(&host, &link, &workload, 1);
        host.beat(BootNanos::now()).unwrap();
        let told = answer(link.sockets().unwrap());
        (host, link, told)
    });
    let mut asks = cgroup.command("nsenter");
    asks.arg(format!("--net=/run/netns/{}", workload.namespace)).args(["--", "python3", "-c", ASK]);
    let output = output_within(asks.arg(service.ip().to_string()), WAIT * 4).unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "answered\n", "{output:?}");
    let (four, _) = DnsLink::identity(1);
    for _ in 0..3 {
        let (_, asker, meant) = told.recv_timeout(WAIT).unwrap();
        assert_eq!(
            (asker, meant),
            (four.into(), Some(service.into())),
            "who asks a backend means the service"
        );
    }
    inside(&lab.host(), async || {
        link.remove().unwrap();
        host.remove_all().unwrap();
    });
}

/// Asks several servers from one socket, so many questions each, before it reads. Returns how often each answered.
fn ask_at_once(servers: &[&str], questions: u8) -> BTreeMap<SocketAddr, usize> {
    let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
    socket.set_read_timeout(Some(WAIT)).unwrap();
    for id in 0..questions {
        for (index, server) in servers.iter().enumerate() {
            socket.send_to(&[&[index as u8, id], &b" a question of 24 byte"[..]].concat(), server).unwrap();
        }
    }
    let (mut buffer, mut heard) = ([0; 512], BTreeMap::new());
    for _ in 0..usize::from(questions) * servers.len() {
        let (_, from) = socket.recv_from(&mut buffer).unwrap();
        *heard.entry(from).or_default() += 1;
        if questions == 1 {
            assert_eq!(from, servers[usize::from(buffer[0])].parse().unwrap(), "whose ID it is");
        }
    }
    heard
}

// Promise 1: resolvers and runtimes (c-ares for one) ask everything from one port.
#[test]
fn a_socket_may_have_many_questions_on_their_way() {
    if !privileged() {
        return;
    }
    let mut lab = Lab::new();
    let workload = lab.workload();
    let (host, link, _told) = inside(&lab.host(), async || {
        let host = Host::open(&lab.options()).unwrap();
        let link = DnsLink::open(link_options(&lab), &host).unwrap();
        guard(&host, &link, &workload, 1);
        let told = answer(link.sockets().unwrap());
        (host, link, told)
    });
    inside(&workload.namespace, async || {
        let heard = ask_at_once(&["203.0.113.77:53"], 60);
        assert_eq!(heard, BTreeMap::from([("203.0.113.77:53".parse().unwrap(), 60)]));
        // Two that share the resolver's port, and one that has its own.
        let heard = ask_at_once(&["203.0.113.77:53", "198.51.100.7:53", "10.96.0.10:53"], 1);
        assert_eq!(heard.len(), 3, "{heard:?}");
        let heard = ask_at_once(&["203.0.113.77:53", "10.96.0.10:53"], 30);
        assert_eq!(heard.into_values().collect::<Vec<_>>(), [30, 30]);
    });
    inside(&lab.host(), async || {
        link.remove().unwrap();
        host.remove_all().unwrap();
    });
}

// Q1, issue: two endpoints with the same pod address
#[test]
fn two_workloads_with_one_address_are_told_apart() {
    if !privileged() {
        return;
    }
    let mut lab = Lab::new();
    let (one, two) = (lab.workload(), lab.workload());
    must(&format!(
        "ip -n {0} addr add 10.7.9.2/32 dev eth0; ip -n {1} addr add 10.7.9.2/32 dev eth0",
        one.namespace, two.namespace
    ));
    let shared = |workload: &Workload| Workload {
        namespace: workload.namespace.clone(),
        interface: workload.interface.clone(),
        addresses: vec!["10.7.9.2".parse().unwrap()],
    };
    let (host, link, told) = inside(&lab.host(), async || {
        let host = Host::open(&lab.options()).unwrap();
        let link = DnsLink::open(link_options(&lab), &host).unwrap();
        guard(&host, &link, &shared(&one), 1);
        guard(&host, &link, &shared(&two), 2);
        let told = answer(link.sockets().unwrap());
        (host, link, told)
    });
    // The same socket address on both sides, at the same time.
    let sockets = [&one, &two].map(|workload| {
        inside(&workload.namespace, async || {
            let socket = UdpSocket::bind("10.7.9.2:5353").unwrap();
            socket.set_read_timeout(Some(WAIT)).unwrap();
            socket.connect("8.8.8.8:53").unwrap();
            socket
        })
    });
    for round in 0..3 {
        for (number, socket) in [1_u8, 2].into_iter().zip(&sockets) {
            socket
                .send(&[round, number, b' ', b'a', b'n', b'y', b' ', b't', b'e', b'x', b't', number])
                .unwrap();
        }
        for (number, socket) in [1_u8, 2].into_iter().zip(&sockets) {
            let mut buffer = [0; 64];
            let length = socket.recv(&mut buffer).unwrap();
            assert_eq!((length, buffer[0], buffer[1], buffer[11]), (12, round, number, number));
        }
        let askers: BTreeSet<_> = (0..2).map(|_| told.recv_timeout(WAIT).unwrap().1).collect();
        let identities = [1, 2].map(|index| IpAddr::from(DnsLink::identity(index).0));
        assert_eq!(askers, identities.into_iter().collect());
    }
    inside(&lab.host(), async || {
        link.remove().unwrap();
        host.remove_all().unwrap();
    });
}
