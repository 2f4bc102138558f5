//! Programs that somebody else attaches, made of a few instructions: a CNI that delivers past the host's side of a link, one
//! who puts himself in front of others, one that translates services in sockets.
#![allow(unsafe_code, reason = "bpf(2): aya loads object files only")]

use std::{
    ffi::CString,
    fs::File,
    io,
    net::SocketAddrV4,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
    path::Path,
};

use anyhow::{Context, Result};
use aya::programs::{LinkOrder, SchedClassifier, TcAttachType, tc::TcAttachOptions};
use nix::libc;

use crate::leftovers::fresh_name;

/// A program of somebody else; it is detached when this is dropped.
#[derive(Debug)]
pub struct ForeignProgram(SchedClassifier);

impl ForeignProgram {
    /// Delivers IPv4 to the other end of a pair, past this end (`bpf_redirect_peer`); the rest passes.
    pub fn delivering_past(index: u32) -> Result<Self> {
        Self::load(&redirecting(index, REDIRECT_PEER))
    }

    /// Sends IPv4 out of an interface (`bpf_redirect`); the rest passes.
    pub fn sending_to(index: u32) -> Result<Self> {
        Self::load(&redirecting(index, REDIRECT))
    }

    /// Attaches at an interface of the calling thread's namespace.
    pub fn attach(&mut self, interface: &str, hook: TcAttachType, order: LinkOrder) -> Result<()> {
        self.0.attach_with_options(interface, hook, TcAttachOptions::TcxOrder(order))?;
        Ok(())
    }

    fn load(instructions: &[u64]) -> Result<Self> {
        let program = load(SCHED_CLS, 0, instructions).context("loading a program of a few instructions")?;
        let pin = Path::new("/sys/fs/bpf").join(fresh_name("foreign"));
        pin_at(&program, &pin).context("pinning it")?;
        let found = SchedClassifier::from_pin(&pin);
        std::fs::remove_file(&pin)?;
        Ok(Self(found?))
    }
}

/// Has sockets of a cgroup that mean a service speak with a backend: its address and port at `connect` and `sendto`, and
/// the service's at `recvfrom`. Goes with the cgroup.
///
/// # Errors
/// When the kernel does not take a program.
pub fn translate_in_sockets(cgroup: &Path, service: SocketAddrV4, backend: SocketAddrV4) -> Result<()> {
    const CONNECT: u32 = 10;
    const SENDMSG: u32 = 14;
    const RECVMSG: u32 = 19;
    let folder = File::open(cgroup)?;
    for (hook, from, to) in
        [(CONNECT, service, backend), (SENDMSG, service, backend), (RECVMSG, backend, service)]
    {
        let program =
            load(CGROUP_SOCK_ADDR, hook, &translating(from, to)).context("loading a translation")?;
        attach_to(&folder, &program, hook).context("attaching a translation")?;
    }
    Ok(())
}

fn translating(from: SocketAddrV4, to: SocketAddrV4) -> [u64; 10] {
    // As the kernel keeps them, in network order (struct bpf_sock_addr: user_ip4 at 4, user_port at 24).
    let address = |of: SocketAddrV4| i32::from_ne_bytes(of.ip().octets());
    let port = |of: SocketAddrV4| i32::from(of.port().to_be());
    [
        instruction(0x61, 2, 1, 4, 0),             // r2 = address
        instruction(0x55, 2, 0, 6, address(from)), // if r2 is another, to the end
        instruction(0x61, 2, 1, 24, 0),            // r2 = port
        instruction(0x55, 2, 0, 4, port(from)),    // if r2 is another, to the end
        instruction(0xb7, 2, 0, 0, address(to)),   // r2 = the other address
        instruction(0x63, 1, 2, 4, 0),             // address = r2
        instruction(0xb7, 2, 0, 0, port(to)),      // r2 = the other port
        instruction(0x63, 1, 2, 24, 0),            // port = r2
        instruction(0xb7, 0, 0, 0, 1),             // go on
        instruction(0x95, 0, 0, 0, 0),
    ]
}

/// Helpers, by their numbers in `include/uapi/linux/bpf.h`.
const REDIRECT: i32 = 23;
const REDIRECT_PEER: i32 = 155;

fn redirecting(index: u32, helper: i32) -> [u64; 8] {
    const IPV4: i32 = 0x0800_u16.to_be() as i32;
    [
        instruction(0x61, 2, 1, 16, 0),                  // r2 = protocol of the packet
        instruction(0x55, 2, 0, 4, IPV4),                // if r2 != IPv4, four further on
        instruction(0xb7, 1, 0, 0, index.cast_signed()), // r1 = the interface
        instruction(0xb7, 2, 0, 0, 0),                   // r2 = no flags
        instruction(0x85, 0, 0, 0, helper),              // call
        instruction(0x95, 0, 0, 0, 0),                   // return what it says
        instruction(0xb7, 0, 0, 0, -1),                  // TCX_NEXT
        instruction(0x95, 0, 0, 0, 0),
    ]
}

/// `struct bpf_insn`.
const fn instruction(code: u8, to: u8, from: u8, offset: i16, number: i32) -> u64 {
    let low = code as u64 | ((to | from << 4) as u64) << 8 | (offset.cast_unsigned() as u64) << 16;
    low | (number.cast_unsigned() as u64) << 32
}

/// Kinds of programs.
const SCHED_CLS: u32 = 3;
const CGROUP_SOCK_ADDR: u32 = 18;

/// `hook` is where it is to be attached, of kinds that are verified for that.
fn load(kind: u32, hook: u32, instructions: &[u64]) -> io::Result<OwnedFd> {
    /// The part of `union bpf_attr` for loading that every kernel knows.
    #[repr(C)]
    struct Load {
        kind: u32,
        count: u32,
        instructions: u64,
        license: u64,
        log_level: u32,
        log_size: u32,
        log: u64,
        kernel_version: u32,
        flags: u32,
        name: [u8; 16],
        interface: u32,
        hook: u32,
    }
    const BPF_PROG_LOAD: libc::c_int = 5;
    let license = c"GPL";
    let attributes = Load {
        kind,
        count: u32::try_from(instructions.len()).map_err(io::Error::other)?,
        instructions: instructions.as_ptr() as u64,
        license: license.as_ptr() as u64,
        log_level: 0,
        log_size: 0,
        log: 0,
        kernel_version: 0,
        flags: 0,
        name: *b"somebody_else\0\0\0",
        interface: 0,
        hook,
    };
    let descriptor = bpf(BPF_PROG_LOAD, &attributes)?;
    // SAFETY: the kernel has just made it for us.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}

fn pin_at(program: &OwnedFd, at: &Path) -> io::Result<()> {
    /// The part of `union bpf_attr` for pins.
    #[repr(C)]
    struct Pin {
        path: u64,
        program: u32,
        flags: u32,
    }
    const BPF_OBJ_PIN: libc::c_int = 6;
    let path = CString::new(at.as_os_str().as_encoded_bytes())?;
    let program = program.as_raw_fd().cast_unsigned();
    bpf(BPF_OBJ_PIN, &Pin { path: path.as_ptr() as u64, program, flags: 0 }).map(drop)
}

fn attach_to(cgroup: &File, program: &OwnedFd, hook: u32) -> io::Result<()> {
    /// The part of `union bpf_attr` for attaching.
    #[repr(C)]
    struct Attach {
        target: u32,
        program: u32,
        hook: u32,
        flags: u32,
    }
    const BPF_PROG_ATTACH: libc::c_int = 8;
    const ALLOW_MULTI: u32 = 2;
    let (target, program) = (cgroup.as_raw_fd().cast_unsigned(), program.as_raw_fd().cast_unsigned());
    bpf(BPF_PROG_ATTACH, &Attach { target, program, hook, flags: ALLOW_MULTI }).map(drop)
}

fn bpf<T>(command: libc::c_int, attributes: &T) -> io::Result<i32> {
    // SAFETY: the kernel reads as many bytes as it is told, and keeps no pointer.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, &raw const *attributes, size_of::<T>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { i32::try_from(result).map_err(io::Error::other) }
}
