//! The names that are asked for, the zone that has them, and who asks.

use std::net::Ipv4Addr;

/// Names that are asked for again and again.
pub(crate) const NAMES: u32 = 2_000;
/// Workloads that ask.
pub(crate) const ENDPOINTS: u32 = 200;

/// The address of a workload.
pub(crate) fn source(endpoint: u32) -> Ipv4Addr {
    let [.., low] = (1 + endpoint).to_be_bytes();
    Ipv4Addr::new(127, 1, 0, low)
}

/// Writes the question for a name that every cache has.
pub(crate) fn cached(name: u32, into: &mut Vec<u8>) {
    write(&format!("n{name:04}"), "hit", into);
}

/// Writes the question for a name that nobody has asked for.
pub(crate) fn missed(number: u64, into: &mut Vec<u8>) {
    write(&format!("m{number:08x}"), "miss", into);
}

fn write(first: &str, second: &str, into: &mut Vec<u8>) {
    into.extend([0, 0, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    for label in [first, second, "bench", "example"] {
        into.push(label.len() as u8);
        into.extend(label.bytes());
    }
    into.extend([0, 0, 1, 0, 1]);
}

/// The text of a root zone with all of them.
pub(crate) fn zone() -> String {
    let mut zone = String::from(
        "$ORIGIN .\n$TTL 3600\n. IN SOA ns. h. 1 3600 600 86400 60\n. IN NS ns.\nns. IN A 127.0.0.1\n\
         *.miss.bench.example. IN A 198.51.100.1\n",
    );
    zone.extend(
        (0..NAMES).map(|name| format!("n{name:04}.hit.bench.example. IN A 198.51.100.{}\n", 1 + name % 250)),
    );
    zone
}

/// Numbers without an order, the same in each run.
pub(crate) struct Shuffle(u64);

impl Shuffle {
    pub(crate) fn new() -> Self {
        Self(0x9e37_79b9_7f4a_7c15)
    }

    /// xorshift64 (Marsaglia).
    pub(crate) fn below(&mut self, end: u32) -> u32 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        ((self.0 >> 32) % u64::from(end)) as u32
    }
}
