//! The kernel object, built by `build.rs` and compiled in.

/// An ELF file is read in place, and its headers want this alignment.
#[repr(C, align(16))]
struct Aligned<T: ?Sized>(T);

static ALIGNED: &Aligned<[u8]> = &Aligned(*include_bytes!(concat!(env!("OUT_DIR"), "/nameward.bpf.o")));

/// The object with all programs and maps, as `aya` and tests load it.
pub static OBJECT: &[u8] = &ALIGNED.0;
