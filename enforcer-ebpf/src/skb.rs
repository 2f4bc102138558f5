//! Reading a packet: directly where its bytes are linear, by helper where they are not.
//!
//! Direct reads cost a few nanoseconds, the helper about thirty. Every read is bounded by the packet's end.

use core::{arch::asm, mem::MaybeUninit};

use aya_ebpf::{bindings::__sk_buff, helpers::bpf_skb_load_bytes};

/// Offsets stay below this, so that the verifier knows a bound; the parser refuses what lies beyond.
pub const OFFSET_LIMIT: u32 = 1024; // see `bounded`

/// A packet in the kernel.
pub type Skb = *mut __sk_buff;

/// Reads a `T`, any bit pattern of which must be valid, at `offset`. `None` beyond the packet's end.
///
/// Packets are not aligned for `T`; the kernels this runs on have unaligned access.
#[inline(always)]
pub fn read<T: Copy>(skb: Skb, offset: u32) -> Option<T> {
    let offset = bounded(offset);
    // SAFETY: the verifier checks every access to the context and, by the comparison below, to the packet.
    unsafe {
        let start = (*skb).data as usize + offset as usize;
        if end_of::<T>(start) <= (*skb).data_end as usize {
            return Some(*(start as *const T));
        }
    }
    read_paged(skb, offset)
}

/// The first octets of a packet, where they are linear.
#[derive(Clone, Copy)]
pub struct Linear(usize);

impl Linear {
    /// Reads a `T`, any bit pattern of which must be valid, at `offset`: within the octets that were asked for.
    #[inline(always)]
    pub fn read<T: Copy>(self, offset: usize) -> T {
        // SAFETY: the verifier checks every access.
        unsafe { *((self.0 + offset) as *const T) }
    }
}

/// The first `octets` of a packet, a constant; `None` where it is shorter or they are not linear.
#[inline(always)]
pub fn linear(skb: Skb, octets: usize) -> Option<Linear> {
    // SAFETY: fields of the context, which the verifier knows.
    unsafe {
        let start = (*skb).data as usize;
        let mut end = start;
        // See `end_of`.
        asm!("{0} += {1}", inout(reg) end, in(reg) octets, options(pure, nomem, nostack));
        (end <= (*skb).data_end as usize).then_some(Linear(start))
    }
}

#[inline(always)]
fn read_paged<T: Copy>(skb: Skb, offset: u32) -> Option<T> {
    let mut value = MaybeUninit::<T>::zeroed();
    // SAFETY: the helper writes all of `value` or fails.
    unsafe {
        let status = bpf_skb_load_bytes(skb.cast(), offset, value.as_mut_ptr().cast(), size_of::<T>() as u32);
        (status == 0).then(|| value.assume_init())
    }
}

/// Bounds an offset where the compiler cannot see it: it would leave out what it can prove and the verifier cannot.
#[inline(always)]
fn bounded(offset: u32) -> u32 {
    let mut offset = u64::from(offset);
    // SAFETY: one instruction on one register.
    unsafe { asm!("{0} &= 1023", inout(reg) offset, options(pure, nomem, nostack)) };
    offset as u32
}

/// `start + size`, hidden for the same reason: the verifier knows `start + 1 <= end`, and not `start < end`.
#[inline(always)]
fn end_of<T>(start: usize) -> usize {
    let mut end = start;
    // SAFETY: one instruction on one register.
    unsafe { asm!("{0} += {1}", inout(reg) end, in(reg) size_of::<T>(), options(pure, nomem, nostack)) };
    end
}
