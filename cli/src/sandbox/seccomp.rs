//! System calls that would lead out of the fence, refused by a seccomp filter (SEMANTICS X2, bypass rows B36).
//!
//! Gives one list of filters, made before the sandbox exists. Refuses and nothing else: what a process without
//! capabilities may do anyway and what the packet hooks judge is not repeated here.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use libc::c_long;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    TargetArch, sock_filter,
};

/// Namespaces that `clone` and `unshare` may not make. A user namespace would hand every capability back inside
/// it: raw sockets, mounts, network set-up, and with them much of the kernel that no unprivileged process
/// reaches. Nothing of it opens the fence by design, but the fence of a cgroup rests on processes without these
/// capabilities. Browsers and build tools that bring a sandbox of their own have to run without it.
const NAMESPACES: [i32; 7] = [
    libc::CLONE_NEWUSER,
    libc::CLONE_NEWNET,
    libc::CLONE_NEWNS,
    libc::CLONE_NEWCGROUP,
    libc::CLONE_NEWPID,
    libc::CLONE_NEWIPC,
    libc::CLONE_NEWUTS,
];

/// Refused whatever the arguments. Keys: a missing one makes the kernel start `/sbin/request-key` outside
/// (its `dns_resolver` type asks DNS there). `pidfd_getfd`: sockets of others. The rest needs capabilities
/// that are gone, and stays refused if a kernel forgets to ask for them.
const REFUSED: [c_long; 25] = [
    libc::SYS_setns,
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_keyctl,
    libc::SYS_pidfd_getfd,
    libc::SYS_bpf,
    libc::SYS_open_by_handle_at,
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_pivot_root,
    libc::SYS_move_mount,
    libc::SYS_open_tree,
    libc::SYS_fsopen,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fspick,
    libc::SYS_mount_setattr,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_kexec_load,
    libc::SYS_kexec_file_load,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_reboot,
];

/// Requests of `ioctl`. The first two push characters into the terminal, which the shell outside reads. The third
/// takes a tun or tap device that the user owns (a virtual machine's): what is written to it enters the machine as if
/// it came from a network, past every hook of the cgroup.
const REFUSED_REQUESTS: [u64; 3] = [libc::TIOCSTI, libc::TIOCLINUX, libc::TUNSETIFF];

/// Options of sockets, by level.
///
/// By the first two, a program chooses who of the sockets that share a port is sent to. The kernel leaves such a
/// program out when a hook asks who would be: it names one of ours, and a listener outside is reached (X6). The next
/// ones choose the link, where an allowed address is whoever answers for it, or a source that is not the host's, to
/// which answers and errors then carry what was sent. (`IP_FREEBIND` works on sockets of both families.
/// `IPV6_2292PKTINFO` only asks for what arrives.) The next ones join groups: the kernel then sends reports (IGMP, MLD)
/// that no hook sees, to an address of the command's choice. The last ones keep a route in the socket (source routing,
/// RFC 791, RFC 8754): what it sends is for one address and goes to another. Each such packet is judged and denied, but
/// nobody needs them. Hop-by-hop and destination options (54, 59, and 55) name no address that a packet is sent to, and
/// the kernel takes them from CAP_NET_RAW only. `TCP_ULP` can put SMC into a TCP socket, whose data goes by RDMA; for
/// TLS in the kernel, its other use, programs have their own.
const REFUSED_OPTIONS: [(i32, i32); 24] = [
    (libc::SOL_SOCKET, libc::SO_ATTACH_REUSEPORT_CBPF),
    (libc::SOL_SOCKET, libc::SO_ATTACH_REUSEPORT_EBPF),
    (libc::SOL_SOCKET, libc::SO_BINDTODEVICE),
    (libc::SOL_SOCKET, libc::SO_BINDTOIFINDEX),
    (libc::IPPROTO_IP, libc::IP_UNICAST_IF),
    (libc::IPPROTO_IPV6, libc::IPV6_UNICAST_IF),
    (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO),
    (libc::IPPROTO_IP, libc::IP_FREEBIND),
    (libc::IPPROTO_IPV6, libc::IPV6_FREEBIND),
    (libc::IPPROTO_IP, libc::IP_TRANSPARENT),
    (libc::IPPROTO_IPV6, libc::IPV6_TRANSPARENT),
    (libc::IPPROTO_IP, libc::IP_ADD_MEMBERSHIP),
    (libc::IPPROTO_IP, libc::IP_ADD_SOURCE_MEMBERSHIP),
    (libc::IPPROTO_IP, MCAST_JOIN_GROUP),
    (libc::IPPROTO_IP, MCAST_JOIN_SOURCE_GROUP),
    (libc::IPPROTO_IPV6, libc::IPV6_ADD_MEMBERSHIP),
    (libc::IPPROTO_IPV6, libc::IPV6_JOIN_ANYCAST),
    (libc::IPPROTO_IPV6, MCAST_JOIN_GROUP),
    (libc::IPPROTO_IPV6, MCAST_JOIN_SOURCE_GROUP),
    (libc::IPPROTO_IP, libc::IP_OPTIONS),
    (libc::IPPROTO_IPV6, IPV6_RTHDR),
    (libc::IPPROTO_IPV6, libc::IPV6_2292RTHDR),
    (libc::IPPROTO_IPV6, libc::IPV6_2292PKTOPTIONS),
    (libc::IPPROTO_TCP, libc::TCP_ULP),
];
// Of <linux/in.h> and <linux/in6.h>, for which libc has no names.
const MCAST_JOIN_GROUP: i32 = 42;
const MCAST_JOIN_SOURCE_GROUP: i32 = 46;
const IPV6_RTHDR: i32 = 57;

/// Options that are said to be set, and are not: then the kernel refuses to send broadcasts (EACCES), which reach all
/// listeners of the host. A refusal would break programs in Go, which set it on each UDP socket.
const IGNORED_OPTIONS: [(i32, i32); 1] = [(libc::SOL_SOCKET, libc::SO_BROADCAST)];

/// Answered "not implemented", so that programs take their other road: io_uring makes sockets and sends
/// without system calls that a filter sees; the flags of `clone3` are in memory that a filter cannot read.
const ABSENT: [c_long; 4] =
    [libc::SYS_io_uring_setup, libc::SYS_io_uring_enter, libc::SYS_io_uring_register, libc::SYS_clone3];

/// Socket families that the packet hooks judge, or that stay on the machine.
const FAMILIES: [i32; 4] = [libc::AF_UNIX, libc::AF_INET, libc::AF_INET6, libc::AF_NETLINK];

/// IP "protocols" from here on (SMC, MPTCP) run over sockets of the kernel's own; programs fall back to TCP.
const FIRST_KERNEL_PROTOCOL: u64 = 256;

type Rules = BTreeMap<i64, Vec<SeccompRule>>;

/// The filters, to be applied one after the other; the strictest answer counts.
pub(crate) fn filters() -> Result<Vec<BpfProgram>> {
    let arch =
        TargetArch::try_from(std::env::consts::ARCH).context("no system call filter for this processor")?;
    let mut programs = Vec::new();
    for (errno, rules) in [
        (libc::EPERM, refused()?),
        (0, [(libc::SYS_setsockopt, socket_options(&IGNORED_OPTIONS)?)].into()),
        (libc::ENOSYS, ABSENT.iter().map(|call| (*call, vec![])).collect()),
        (libc::EAFNOSUPPORT, families()?),
        (libc::EPROTONOSUPPORT, protocols()?),
    ] {
        let filter =
            SeccompFilter::new(rules, SeccompAction::Allow, SeccompAction::Errno(errno as u32), arch)?;
        programs.push(BpfProgram::try_from(filter)?);
    }
    if let Some(first) = programs.first_mut() {
        first.splice(0..0, no_x32());
    }
    Ok(programs)
}

fn refused() -> Result<Rules> {
    let mut rules: Rules = REFUSED.iter().map(|call| (*call, vec![])).collect();
    let namespaces = NAMESPACES
        .iter()
        .map(|flag| rule(0, SeccompCmpOp::MaskedEq(*flag as u64), *flag as u64))
        .collect::<Result<Vec<_>>>()?;
    rules.insert(libc::SYS_clone, namespaces.clone());
    // Its low bits are a signal in `clone`, the time namespace in `unshare`.
    let time = rule(0, SeccompCmpOp::MaskedEq(libc::CLONE_NEWTIME as u64), libc::CLONE_NEWTIME as u64)?;
    rules.insert(libc::SYS_unshare, [namespaces, vec![time]].concat());
    let requests = REFUSED_REQUESTS.map(|request| rule(1, SeccompCmpOp::Eq, request));
    rules.insert(libc::SYS_ioctl, requests.into_iter().collect::<Result<_>>()?);
    rules.insert(libc::SYS_setsockopt, socket_options(&REFUSED_OPTIONS)?);
    Ok(rules)
}

fn families() -> Result<Rules> {
    let other = FAMILIES
        .iter()
        .map(|family| condition(0, SeccompCmpOp::Ne, *family as u64))
        .collect::<Result<Vec<_>>>()?;
    let other = SeccompRule::new(other)?;
    Ok([(libc::SYS_socket, vec![other.clone()]), (libc::SYS_socketpair, vec![other])].into())
}

fn protocols() -> Result<Rules> {
    // SOCK_PACKET of AF_INET becomes a packet socket (`__sock_create`).
    const SOCK_PACKET: u64 = 10;
    let rules = vec![
        rule(2, SeccompCmpOp::Ge, FIRST_KERNEL_PROTOCOL)?,
        rule(1, SeccompCmpOp::MaskedEq(0xf), SOCK_PACKET)?,
    ];
    Ok([(libc::SYS_socket, rules)].into())
}

fn socket_options(options: &[(i32, i32)]) -> Result<Vec<SeccompRule>> {
    options.iter().copied().map(socket_option).collect()
}

fn socket_option((level, option): (i32, i32)) -> Result<SeccompRule> {
    let level = condition(1, SeccompCmpOp::Eq, level as u64)?;
    let option = condition(2, SeccompCmpOp::Eq, option as u64)?;
    Ok(SeccompRule::new(vec![level, option])?)
}

fn rule(argument: u8, operator: SeccompCmpOp, value: u64) -> Result<SeccompRule> {
    Ok(SeccompRule::new(vec![condition(argument, operator, value)?])?)
}

/// The kernel reads these arguments as 32 bits, so the upper half must not make a difference.
fn condition(argument: u8, operator: SeccompCmpOp, value: u64) -> Result<SeccompCondition> {
    Ok(SeccompCondition::new(argument, SeccompCmpArgLen::Dword, operator, value)?)
}

/// x32 calls carry the architecture of x86-64 and a bit in their number: a second list of the same calls.
/// (Other architectures are killed by what `seccompiler` puts in front of each filter.)
fn no_x32() -> Vec<sock_filter> {
    const X32_BIT: u32 = 0x4000_0000;
    const LOAD_WORD: u16 = 0x20; // BPF_LD | BPF_W | BPF_ABS
    const JUMP_IF_GREATER_OR_EQUAL: u16 = 0x35; // BPF_JMP | BPF_JGE | BPF_K
    const RETURN: u16 = 0x06; // BPF_RET | BPF_K
    vec![
        sock_filter { code: LOAD_WORD, jt: 0, jf: 0, k: 0 },
        sock_filter { code: JUMP_IF_GREATER_OR_EQUAL, jt: 0, jf: 1, k: X32_BIT },
        sock_filter { code: RETURN, jt: 0, jf: 0, k: libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32 },
    ]
}
