//! The floor: a program of two instructions, test-run like the real ones.
#![allow(unsafe_code, reason = "loading instructions without an object has no safe wrapper")]

use std::{
    io,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
};

use nix::libc;

const BPF_PROG_LOAD: libc::c_long = 5;
const BPF_PROG_TEST_RUN: libc::c_long = 10;
const BPF_PROG_TYPE_SCHED_CLS: u32 = 3;

/// `r0 = -1; exit`
const INSTRUCTIONS: [u64; 2] = [0xffff_ffff_0000_00b7, 0x0000_0000_0000_0095];

/// The head of `union bpf_attr` for BPF_PROG_LOAD (include/uapi/linux/bpf.h).
#[repr(C)]
struct Load {
    kind: u32,
    instructions: u32,
    code: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log: u64,
    kernel: u32,
    flags: u32,
}

/// The head of `union bpf_attr` for BPF_PROG_TEST_RUN.
#[repr(C)]
#[derive(Default)]
struct Run {
    program: u32,
    result: u32,
    size_in: u32,
    size_out: u32,
    data_in: u64,
    data_out: u64,
    repeat: u32,
    duration: u32,
    context_in_size: u32,
    context_out_size: u32,
    context_in: u64,
    context_out: u64,
}

fn bpf<T>(command: libc::c_long, attributes: &mut T) -> io::Result<i32> {
    // SAFETY: the structures above are prefixes of the kernel's, and given with their own size.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, &raw mut *attributes, size_of::<T>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(i32::try_from(result).unwrap()) }
}

/// A loaded program that does nothing.
pub(crate) struct Empty(OwnedFd);

impl Empty {
    pub(crate) fn load() -> Self {
        let mut load = Load {
            kind: BPF_PROG_TYPE_SCHED_CLS,
            instructions: 2,
            code: INSTRUCTIONS.as_ptr() as u64,
            license: c"GPL".as_ptr() as u64,
            log_level: 0,
            log_size: 0,
            log: 0,
            kernel: 0,
            flags: 0,
        };
        let fd = bpf(BPF_PROG_LOAD, &mut load).unwrap();
        // SAFETY: a file descriptor that the kernel has just given us.
        Self(unsafe { OwnedFd::from_raw_fd(fd) })
    }

    /// Nanoseconds of one run.
    pub(crate) fn run(&self, frame: &[u8], repeat: u32) -> u32 {
        let mut run = Run {
            program: self.0.as_raw_fd().cast_unsigned(),
            size_in: u32::try_from(frame.len()).unwrap(),
            data_in: frame.as_ptr() as u64,
            repeat,
            ..Run::default()
        };
        bpf(BPF_PROG_TEST_RUN, &mut run).unwrap();
        run.duration
    }
}
