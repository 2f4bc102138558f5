//! Hash maps read by the batch: one system call for thousands of entries, where aya takes two for each. An endpoint is
//! locked while its maps are read.
#![allow(unsafe_code, reason = "bpf(2) for batches, which aya does not have")]

use std::{
    io,
    os::fd::{AsFd, AsRawFd},
};

use aya::{
    Pod,
    maps::{HashMap, IterableMap, MapData, MapError},
    sys::SyscallError,
};

/// Entries of a system call: more than a bucket ever holds.
const BATCH: usize = 1_024;
/// `enum bpf_cmd`.
const BPF_MAP_LOOKUP_BATCH: libc::c_int = 24;

/// The part of `union bpf_attr` for batches.
#[repr(C)]
struct Batch {
    in_batch: u64,
    out_batch: u64,
    keys: u64,
    values: u64,
    count: u32,
    map: u32,
    element_flags: u64,
    flags: u64,
}

/// All entries. What changes meanwhile may be there or not, as with one by one.
pub(super) fn entries<K: Pod, V: Pod>(map: &HashMap<MapData, K, V>) -> Result<Vec<(K, V)>, MapError> {
    let failed = |io_error| SyscallError { call: "bpf_map_lookup_batch", io_error };
    let mut all = Vec::new();
    let mut place = None;
    // Room for values is made once; the kernel says how much of it it has filled.
    let (mut keys, mut values) = (Vec::<K>::with_capacity(BATCH), Vec::<V>::with_capacity(BATCH));
    loop {
        let mut next = 0_u64;
        let mut batch = Batch {
            in_batch: place.as_ref().map_or(0, |place: &u64| std::ptr::from_ref(place) as u64),
            out_batch: std::ptr::from_mut(&mut next) as u64,
            keys: keys.as_mut_ptr() as u64,
            values: values.as_mut_ptr() as u64,
            count: BATCH as u32,
            map: map.map().fd().as_fd().as_raw_fd() as u32,
            element_flags: 0,
            flags: 0,
        };
        // SAFETY: the attributes are of this command and their length is said; keys and values have room for `count`
        // entries of the sizes that aya has compared with the map's, and the places of hash maps are 32 bits wide.
        let done = unsafe {
            libc::syscall(
                libc::SYS_bpf,
                BPF_MAP_LOOKUP_BATCH,
                std::ptr::from_mut(&mut batch),
                size_of::<Batch>() as libc::c_uint,
            )
        };
        let error = (done != 0).then(io::Error::last_os_error);
        let is_last = error.as_ref().is_some_and(|error| error.raw_os_error() == Some(libc::ENOENT));
        if let Some(error) = error.filter(|_| !is_last) {
            return Err(failed(error).into());
        }
        let count = (batch.count as usize).min(BATCH);
        // SAFETY: the kernel has filled so many, and any bits are a value of a `Pod`.
        unsafe {
            keys.set_len(count);
            values.set_len(count);
        }
        all.extend(keys.drain(..).zip(values.drain(..)));
        if is_last {
            return Ok(all);
        }
        place = Some(next);
    }
}
