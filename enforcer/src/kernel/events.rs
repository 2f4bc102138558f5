//! Reading the ring buffer that all endpoints of a host share. One reader; it does not say what events mean.
#![allow(unsafe_code, reason = "kernel records are read as plain data, their descriptor is waited for")]

use std::{fmt, io, mem::size_of, path::Path};

use aya::maps::{Map, MapData, RingBuf};
use nameward_abi::{Event, maps};
use tokio::io::{Interest, unix::AsyncFd};

use super::KernelError;

/// The only reader of `EVENTS`.
pub struct EventReader {
    ring: AsyncFd<RingBuf<MapData>>,
}

impl fmt::Debug for EventReader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EventReader").finish_non_exhaustive()
    }
}

impl EventReader {
    /// Opens the pinned ring; must be called inside a tokio runtime.
    pub(super) fn open(pin: &Path) -> Result<Self, KernelError> {
        let data = MapData::from_pin(pin).map_err(KernelError::map("open", maps::EVENTS))?;
        let map = Map::from_map_data(data).map_err(KernelError::map("open", maps::EVENTS))?;
        let ring = RingBuf::try_from(map).map_err(KernelError::map("open", maps::EVENTS))?;
        // SAFETY: the ring owns its descriptor, and nobody replaces it while the ring lives.
        let ring = unsafe { AsyncFd::register_with_interest(ring, Interest::READABLE) }
            .map_err(|error| KernelError::file("wait for", pin, error.into_parts().1))?;
        Ok(Self { ring })
    }

    /// Waits for events and returns those that are there, at least one.
    ///
    /// # Errors
    /// When the runtime cannot wait for the ring any more.
    pub async fn next(&mut self) -> io::Result<Vec<Event>> {
        loop {
            let events = self.ready();
            if !events.is_empty() {
                return Ok(events);
            }
            self.ring.readable_mut().await?.clear_ready();
        }
    }

    /// The events that are there now.
    pub fn ready(&mut self) -> Vec<Event> {
        let ring = self.ring.get_mut();
        let mut events = Vec::new();
        while let Some(record) = ring.next() {
            events.extend(parse(&record));
        }
        events
    }
}

fn parse(record: &[u8]) -> Option<Event> {
    if record.len() < size_of::<Event>() {
        return None;
    }
    // SAFETY: Event is plain data (any bytes are valid), the length was checked, alignment is not assumed.
    Some(unsafe { std::ptr::read_unaligned(record.as_ptr().cast::<Event>()) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_records_are_no_events() {
        assert!(parse(&[0; 87]).is_none());
        let mut record = vec![0u8; 88];
        record[8] = 7;
        assert_eq!(parse(&record).unwrap().endpoint_id, 7);
    }
}
