//! What single packets cannot show: real stacks that get our answers, and frames whose tag is not in their bytes.
//! Two namespaces without names, joined by a veth; both end with their threads.

#![allow(unsafe_code, reason = "packet sockets have no safe wrapper for their address")]

use std::{
    io::ErrorKind,
    net::{SocketAddr, TcpStream, UdpSocket},
    os::fd::AsRawFd,
    process::Command,
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use nameward_abi::Reason;
use nix::{
    libc,
    sched::{CloneFlags, unshare},
    sys::socket::{AddressFamily, SockFlag, SockType, socket},
};

use crate::{
    lab::*,
    packets::{Flag, tcp},
};

fn must(command: &str) {
    let output = Command::new("sh").args(["-ec", command]).output().unwrap();
    assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Runs `work` as the workload behind an interface that the programs are attached to, and returns the instance.
fn behind_interface(work: fn()) -> Lab {
    let host = thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        let (to_host, from_workload) = mpsc::channel();
        let (to_workload, from_host) = mpsc::channel::<()>();
        let workload = thread::spawn(move || {
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            to_host.send(nix::unistd::gettid()).unwrap();
            from_host.recv().unwrap();
            must(
                "ip link set lo up; ip link set w up; ip address add 10.0.0.2/24 dev w; \
                 ip address add 2001:db8:1::2/64 dev w nodad; \
                 ip route add default via 10.0.0.1; ip route add default via 2001:db8:1::1",
            );
            work();
        });
        let thread_id = from_workload.recv().unwrap();
        must(&format!(
            "ip link add outer type veth peer name w netns {thread_id}; ip address add 10.0.0.1/24 dev outer; \
             ip address add 2001:db8:1::1/64 dev outer nodad; ip link set outer up"
        ));
        let mut lab = Lab::new();
        lab.attach("outer");
        to_workload.send(()).unwrap();
        workload.join().unwrap();
        lab
    });
    host.join().unwrap()
}

// G6
#[test]
fn refused_connections_fail_at_once() {
    if !privileged() {
        return;
    }
    let mut lab = behind_interface(|| {
        for unknown in [UNKNOWN4, UNKNOWN6] {
            let server = SocketAddr::new(unknown.parse().unwrap(), 443);
            let begun = Instant::now();
            let refused = TcpStream::connect_timeout(&server, Duration::from_secs(20)).unwrap_err();
            assert_eq!(refused.kind(), ErrorKind::ConnectionRefused, "{unknown}");
            // Not after a time-out; a first packet may be lost while the link comes up.
            assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
        }
    });
    assert_eq!(lab.counters()[Reason::NoMatch as usize].packets, 2);
}

// G6
#[test]
fn refused_datagrams_are_told() {
    if !privileged() {
        return;
    }
    let mut lab = behind_interface(|| {
        let any4 = ("0.0.0.0:0", UNKNOWN4, libc::EHOSTUNREACH);
        for (local, unknown, errno) in [any4, ("[::]:0", UNKNOWN6, libc::EACCES)] {
            let socket = UdpSocket::bind(local).unwrap();
            socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
            socket.connect(SocketAddr::new(unknown.parse().unwrap(), 443)).unwrap();
            socket.send(&[7; 1_000]).unwrap();
            let refused = socket.recv(&mut [0; 16]).unwrap_err();
            assert_eq!(refused.raw_os_error(), Some(errno), "{unknown}");
        }
    });
    assert_eq!(lab.counters()[Reason::NoMatch as usize].packets, 2);
}

/// Sends a frame as it is.
fn send_frame(interface: &str, frame: &[u8]) {
    let raw = socket(AddressFamily::Packet, SockType::Raw, SockFlag::empty(), None).unwrap();
    // SAFETY: zero is a valid value of every field.
    let mut to: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    to.sll_family = libc::AF_PACKET as u16;
    to.sll_ifindex = nix::net::if_::if_nametoindex(interface).unwrap().cast_signed();
    // SAFETY: both pointers go with their own lengths.
    let sent = unsafe {
        let length = u32::try_from(size_of_val(&to)).unwrap();
        libc::sendto(raw.as_raw_fd(), frame.as_ptr().cast(), frame.len(), 0, (&raw const to).cast(), length)
    };
    assert_eq!(sent, frame.len().cast_signed(), "{}", std::io::Error::last_os_error());
}

/// The kernel takes the tag out of the bytes before programs see them.
// B25
#[test]
fn tagged_frames_are_not_ip() {
    if !privileged() {
        return;
    }
    let mut lab = behind_interface(|| {
        let frame = tcp((OWN4, 40_000), (NAMED4, 443), Flag::Syn);
        // A network, a priority alone, a provider's tag (IEEE 802.1ad), one tag in another.
        for tags in [
            &[0x81, 0, 0, 5][..],
            &[0x81, 0, 0x20, 0],
            &[0x88, 0xa8, 0, 5],
            &[0x88, 0xa8, 0, 5, 0x81, 0, 0, 6],
        ] {
            let mut tagged = frame.clone();
            tagged.splice(12..12, tags.iter().copied());
            send_frame("w", &tagged);
        }
        // Whatever follows on the wire comes after it.
        let server = SocketAddr::new(UNKNOWN4.parse().unwrap(), 443);
        TcpStream::connect_timeout(&server, Duration::from_secs(20)).unwrap_err();
    });
    assert_eq!(lab.counters()[Reason::NotIp as usize].packets, 4);
    assert_eq!(lab.counters()[Reason::Name as usize].packets, 0);
}

/// Shorter than what a test run takes: frames that end within their IP header.
// G5
#[test]
fn frames_that_end_anywhere_are_malformed() {
    if !privileged() {
        return;
    }
    const CUT: usize = 54 - 15 + 74 - 15;
    let mut lab = behind_interface(|| {
        let four = tcp((OWN4, 40_000), (NAMED4, 443), Flag::Syn);
        let six = tcp((OWN6, 40_000), (NAMED6, 443), Flag::Syn);
        for frame in [four, six] {
            (15..frame.len()).for_each(|length| send_frame("w", &frame[..length]));
        }
        let server = SocketAddr::new(UNKNOWN4.parse().unwrap(), 443);
        TcpStream::connect_timeout(&server, Duration::from_secs(20)).unwrap_err();
    });
    assert_eq!(lab.counters()[Reason::Malformed as usize].packets, CUT as u64);
    assert_eq!(lab.counters()[Reason::Name as usize].packets, 0);
}
