//! Programs made of single instructions, test-run like the real ones: the floor, and what building blocks cost.
#![allow(unsafe_code, reason = "loading instructions without an object has no safe wrapper")]

use std::{
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
};

use nix::libc;

const BPF_PROG_LOAD: libc::c_long = 5;
const BPF_PROG_TEST_RUN: libc::c_long = 10;
const BPF_PROG_TYPE_SCHED_CLS: u32 = 3;

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

/// Test-runs a program `repeat` times: what it returned last, and nanoseconds of one run.
pub(crate) fn run(program: BorrowedFd<'_>, frame: &[u8], repeat: u32) -> (i32, u32) {
    let mut run = Run {
        program: program.as_raw_fd().cast_unsigned(),
        size_in: u32::try_from(frame.len()).unwrap(),
        data_in: frame.as_ptr() as u64,
        repeat,
        ..Run::default()
    };
    bpf(BPF_PROG_TEST_RUN, &mut run).unwrap();
    (run.result.cast_signed(), run.duration)
}

/// A program that was assembled here.
pub(crate) struct Assembled(OwnedFd);

impl Assembled {
    /// The floor: `return TCX_NEXT`.
    pub(crate) fn empty() -> Self {
        Self::load(&[])
    }

    /// These instructions, followed by `return TCX_NEXT`.
    pub(crate) fn load(body: &[u64]) -> Self {
        let mut instructions = body.to_vec();
        instructions.extend([instruction(0xb7, 0, 0, 0, -1), instruction(0x95, 0, 0, 0, 0)]);
        let mut load = Load {
            kind: BPF_PROG_TYPE_SCHED_CLS,
            instructions: u32::try_from(instructions.len()).unwrap(),
            code: instructions.as_ptr() as u64,
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
        run(self.0.as_fd(), frame, repeat).1
    }
}

/// One instruction as the kernel takes it (Documentation/bpf/standardization/instruction-set.rst).
pub(crate) fn instruction(code: u8, to: u8, from: u8, offset: i16, immediate: i32) -> u64 {
    let [low, high] = offset.to_le_bytes();
    let [a, b, c, d] = immediate.to_le_bytes();
    u64::from_le_bytes([code, to | from << 4, low, high, a, b, c, d])
}

/// A call of a helper by its number (enum bpf_func_id).
pub(crate) fn call(helper: i32) -> u64 {
    instruction(0x85, 0, 0, 0, helper)
}

/// A look-up of these octets, a multiple of eight, in a map.
pub(crate) fn lookup(map: BorrowedFd<'_>, key: &[u8]) -> Vec<u64> {
    const LOOKUP: i32 = 1;
    let depth = key.len();
    let mut body = store(key, depth);
    body.extend(map_and_key(map, depth));
    body.push(call(LOOKUP));
    body
}

/// A write of these octets, multiples of eight, to a map.
pub(crate) fn update(map: BorrowedFd<'_>, key: &[u8], value: &[u8]) -> Vec<u64> {
    const UPDATE: i32 = 2;
    let depth = key.len() + value.len();
    let mut body = store(key, key.len());
    body.extend(store(value, depth));
    body.extend(map_and_key(map, key.len()));
    body.extend([instruction(0xbf, 3, 10, 0, 0), instruction(0x07, 3, 0, 0, -i32::try_from(depth).unwrap())]);
    body.extend([instruction(0xb7, 4, 0, 0, 0), call(UPDATE)]);
    body
}

/// Puts octets on the stack, `depth` below its top.
fn store(octets: &[u8], depth: usize) -> Vec<u64> {
    let mut body = Vec::new();
    let depth = i16::try_from(depth).unwrap();
    for (position, word) in (0..).zip(octets.chunks_exact(8)) {
        let word = u64::from_le_bytes(word.try_into().unwrap());
        body.extend([instruction(0x18, 1, 0, 0, word as i32), instruction(0, 0, 0, 0, (word >> 32) as i32)]);
        body.push(instruction(0x7b, 10, 1, position * 8 - depth, 0));
    }
    body
}

/// The first two arguments of a helper: a map, and a key that lies `depth` below the top of the stack.
fn map_and_key(map: BorrowedFd<'_>, depth: usize) -> [u64; 4] {
    let depth = i32::try_from(depth).unwrap();
    let [map, rest] = [instruction(0x18, 1, 1, 0, map.as_raw_fd()), 0];
    [map, rest, instruction(0xbf, 2, 10, 0, 0), instruction(0x07, 2, 0, 0, -depth)]
}
