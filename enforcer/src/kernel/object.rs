//! The kernel object, built by `build.rs` and compiled in.

use std::hash::{DefaultHasher, Hasher};

/// An ELF file is read in place, and its headers want this alignment.
#[repr(C, align(16))]
struct Aligned<T: ?Sized>(T);

static ALIGNED: &Aligned<[u8]> = &Aligned(*include_bytes!(concat!(env!("OUT_DIR"), "/nameward.bpf.o")));

/// The object with all programs and maps, as `aya` and tests load it.
pub static OBJECT: &[u8] = &ALIGNED.0;

/// An object, and what tells it from that of another release.
#[derive(Clone, Copy, Debug)]
pub(super) struct Object {
    pub(super) bytes: &'static [u8],
    /// Never 0. Where it is the same, so are the programs.
    pub(super) number: u64,
}

impl Object {
    pub(super) fn new(bytes: &'static [u8]) -> Self {
        let mut hasher = DefaultHasher::new();
        hasher.write(bytes);
        Self { bytes, number: hasher.finish().max(1) }
    }
}
