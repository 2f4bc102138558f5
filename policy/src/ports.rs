//! Port classes (DESIGN of the kernel's tables): distinct sets of protocols and ports, each a bit, flattened into
//! prefixes of which the longest match says everything.

use std::collections::BTreeMap;

use crate::{PortSpec, tables::PortPrefix};

/// A set of protocols and ports in one normal form, so that equal sets share a class.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct PortSet {
    /// Every protocol; then `protocols` is empty.
    any: bool,
    /// Inclusive ranges, sorted, neither touching nor empty.
    protocols: BTreeMap<u8, Vec<(u16, u16)>>,
    /// Rules that mean direct DNS have classes of their own.
    pub(crate) direct_dns: bool,
}

impl PortSet {
    pub(crate) fn new(specs: &[PortSpec], direct_dns: bool) -> Self {
        let mut set = Self { direct_dns, ..Self::default() };
        for spec in specs {
            let range = if spec.protocol.has_ports() { (spec.first, spec.last) } else { (0, u16::MAX) };
            match spec.protocol.number() {
                None => set.any = true,
                Some(_) if range.0 > range.1 => {}
                Some(number) => set.protocols.entry(number).or_default().push(range),
            }
        }
        if set.any {
            set.protocols.clear();
        }
        set.protocols.values_mut().for_each(merge);
        set
    }

    pub(crate) fn is_empty(&self) -> bool {
        !self.any && self.protocols.is_empty()
    }

    pub(crate) fn contains(&self, protocol: u8, port: u16) -> bool {
        let within =
            |ranges: &Vec<(u16, u16)>| ranges.iter().any(|(first, last)| (*first..=*last).contains(&port));
        self.any || self.protocols.get(&protocol).is_some_and(within)
    }
}

fn merge(ranges: &mut Vec<(u16, u16)>) {
    ranges.sort_unstable();
    ranges.dedup_by(|next, kept| {
        let touches = next.0 <= kept.1.saturating_add(1);
        if touches {
            kept.1 = kept.1.max(next.1);
        }
        touches
    });
}

/// The prefixes of all classes; the class of a set is its position.
pub(crate) fn flatten(sets: &[PortSet]) -> BTreeMap<PortPrefix, u64> {
    let mut prefixes = BTreeMap::new();
    let everywhere = classes(sets, |set| set.any);
    if everywhere != 0 {
        prefixes.insert(PortPrefix::default(), everywhere);
    }
    let mut protocols: Vec<u8> = sets.iter().flat_map(|set| set.protocols.keys().copied()).collect();
    protocols.sort_unstable();
    protocols.dedup();
    for protocol in protocols {
        flatten_protocol(sets, protocol, &mut prefixes);
    }
    prefixes
}

fn flatten_protocol(sets: &[PortSet], protocol: u8, prefixes: &mut BTreeMap<PortPrefix, u64>) {
    let whole = classes(sets, |set| {
        set.any || set.protocols.get(&protocol).is_some_and(|ranges| ranges[..] == [(0, u16::MAX)])
    });
    prefixes.insert(PortPrefix { bits: 8, protocol, port: 0 }, whole);
    let mut bounds: Vec<u32> = sets
        .iter()
        .filter_map(|set| set.protocols.get(&protocol))
        .flatten()
        .flat_map(|(first, last)| [u32::from(*first), u32::from(*last) + 1])
        .chain([0, 1 << 16])
        .collect();
    bounds.sort_unstable();
    bounds.dedup();
    // Every bound changes some class: no two neighbours say the same.
    for pair in bounds.windows(2) {
        let (start, end) = (pair[0], pair[1]);
        let here = classes(sets, |set| u16::try_from(start).is_ok_and(|port| set.contains(protocol, port)));
        if here == whole {
            continue;
        }
        for (port, bits) in aligned_blocks(start, end) {
            prefixes.insert(PortPrefix { bits, protocol, port }, here);
        }
    }
}

/// The fewest prefixes that make up `start..end`.
fn aligned_blocks(mut start: u32, end: u32) -> impl Iterator<Item = (u16, u32)> {
    std::iter::from_fn(move || {
        let port = u16::try_from(start).ok().filter(|_| start < end)?;
        let by_alignment = start.trailing_zeros().min(16);
        let by_length = (end - start).ilog2();
        let size = by_alignment.min(by_length);
        start += 1 << size;
        Some((port, 24 - size))
    })
}

fn classes(sets: &[PortSet], mut holds: impl FnMut(&PortSet) -> bool) -> u64 {
    sets.iter().enumerate().filter(|(_, set)| holds(set)).fold(0, |bits, (class, _)| bits | 1 << class)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Protocol;

    #[test]
    fn equal_sets_written_differently_are_one_class() {
        let tcp = |first, last| PortSpec::range(Protocol::Tcp, first, last);
        let one = PortSet::new(&[tcp(80, 81), tcp(82, 90), tcp(85, 86)], false);
        assert_eq!(one, PortSet::new(&[tcp(80, 90)], false));
        assert_ne!(one, PortSet::new(&[tcp(80, 91)], false));
        assert_eq!(
            PortSet::new(&[tcp(1, 2), PortSpec::all(Protocol::Any)], false),
            PortSet::new(&[PortSpec::all(Protocol::Any)], false)
        );
        assert_eq!(
            PortSet::new(&[PortSpec::all(Protocol::Tcp)], false),
            PortSet::new(&[PortSpec::all(Protocol::Number(6))], false)
        );
        assert!(PortSet::new(&[tcp(5, 4)], false).is_empty() && PortSet::new(&[], false).is_empty());
    }

    #[test]
    fn what_says_the_same_is_one_prefix() {
        // Two classes over the same ports, one written in two ranges.
        let tcp = |first, last| PortSpec::range(Protocol::Tcp, first, last);
        let sets = [PortSet::new(&[tcp(0, 1023)], false), PortSet::new(&[tcp(0, 511), tcp(512, 1023)], true)];
        let flat = flatten(&sets);
        assert_eq!(
            flat.into_iter().map(|(prefix, classes)| (prefix.bits, classes)).collect::<Vec<_>>(),
            [(8, 0), (14, 3)]
        );
        // A class of its own that ends inside another is cut there, and nowhere else.
        let cut = flatten(&[PortSet::new(&[tcp(0, 1023)], false), PortSet::new(&[tcp(0, u16::MAX)], false)]);
        assert_eq!(
            cut.into_iter().map(|(prefix, classes)| (prefix.bits, classes)).collect::<Vec<_>>(),
            [(8, 2), (14, 3)]
        );
        // Bounds of another class that changes nothing there, a wildcard's, cut nothing.
        let any = PortSet::new(&[PortSpec::all(Protocol::Any)], false);
        let with_any = flatten(&[any, PortSet::new(&[tcp(1, 2)], false)]);
        assert_eq!(with_any.len(), 4, "{with_any:?}");
    }

    #[test]
    fn ranges_become_the_fewest_prefixes() {
        // R4
        let blocks = |start, end| aligned_blocks(start, end).collect::<Vec<_>>();
        assert_eq!(blocks(0, 1 << 16), [(0, 8)]);
        assert_eq!(blocks(443, 444), [(443, 24)]);
        assert_eq!(blocks(30_000, 31_000).len(), 7);
        assert_eq!(blocks(65_535, 65_536), [(65_535, 24)]);
        assert_eq!(blocks(1, 65_535).len(), 30);
    }
}
