//! Address blocks with exceptions, flattened into prefixes of which the longest match says everything.
//!
//! IPv4 is v4-mapped. `::/0` is every IPv6 address and no IPv4 address, although the kernel's trie holds both.

use std::collections::BTreeMap;

use ipnet::IpNet;

use crate::{
    address::{Address, mapped},
    tables::{CidrClasses, MAX_CLASSES},
};

/// The prefix that holds all of IPv4.
const IPV4: Prefix = Prefix { address: 0xffff << 32, bits: 96 };

/// What a block does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BlockKind {
    Allow,
    Deny,
    /// Allowed by a `cluster` peer.
    AllowCluster,
    /// A range of the cluster that nothing allows: known for `inbound: Cluster`.
    MarkCluster,
}

/// A block of one rule.
#[derive(Clone, Debug)]
pub(crate) struct Block {
    pub(crate) cidr: IpNet,
    pub(crate) except: Vec<IpNet>,
    /// Position of the port class.
    pub(crate) class: usize,
    pub(crate) kind: BlockKind,
}

/// Sorted so that a prefix comes before those inside it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Prefix {
    address: u128,
    bits: u32,
}

impl Prefix {
    fn of(net: &IpNet) -> Self {
        match net.trunc() {
            IpNet::V4(v4) => {
                let address = u128::from_be_bytes(mapped(v4.network().octets()));
                Self { address, bits: u32::from(v4.prefix_len()) + 96 }
            }
            IpNet::V6(v6) => Self { address: v6.network().to_bits(), bits: u32::from(v6.prefix_len()) },
        }
    }

    fn contains(self, other: Self) -> bool {
        let mask = u128::MAX.checked_shl(128 - self.bits).unwrap_or(0);
        self.bits <= other.bits && other.address & mask == self.address
    }

    fn key(self) -> (u32, Address) {
        (self.bits, self.address.to_be_bytes())
    }
}

/// How many blocks are in force, by class.
#[derive(Clone)]
struct Counts {
    allow: [u32; MAX_CLASSES],
    deny: [u32; MAX_CLASSES],
    cluster: [u32; MAX_CLASSES],
}

impl Counts {
    const NONE: Self = Self { allow: [0; MAX_CLASSES], deny: [0; MAX_CLASSES], cluster: [0; MAX_CLASSES] };

    fn change(&mut self, block: &Block, by: fn(u32, u32) -> u32) {
        let class = block.class;
        if matches!(block.kind, BlockKind::Allow | BlockKind::AllowCluster) {
            self.allow[class] = by(self.allow[class], 1);
        }
        if matches!(block.kind, BlockKind::AllowCluster | BlockKind::MarkCluster) {
            self.cluster[class] = by(self.cluster[class], 1);
        }
        if block.kind == BlockKind::Deny {
            self.deny[class] = by(self.deny[class], 1);
        }
    }

    fn classes(&self) -> CidrClasses {
        let bits = |counts: &[u32]| {
            counts
                .iter()
                .enumerate()
                .filter(|(_, count)| **count > 0)
                .fold(0, |bits, (class, _)| bits | 1 << class)
        };
        CidrClasses { allow: bits(&self.allow), deny: bits(&self.deny), cluster: bits(&self.cluster) }
    }
}

/// What begins and what stops to count at a prefix: positions of blocks.
#[derive(Default)]
struct Turn {
    begins: Vec<usize>,
    excepted: Vec<usize>,
}

/// The prefixes, without those that say the same as what they lie in.
pub(crate) fn flatten(blocks: &[Block]) -> BTreeMap<(u32, Address), CidrClasses> {
    let mut flat = BTreeMap::new();
    let mut around: Vec<(Prefix, Counts, CidrClasses)> = Vec::new();
    for (prefix, turn) in turns(blocks) {
        while around.last().is_some_and(|(outer, ..)| !outer.contains(prefix)) {
            around.pop();
        }
        let outer = around.last();
        let mut counts = outer.map_or(Counts::NONE, |(_, counts, _)| counts.clone());
        let said = outer.map_or(CidrClasses::default(), |(.., classes)| *classes);
        turn.begins.iter().for_each(|block| counts.change(&blocks[*block], u32::wrapping_add));
        turn.excepted.iter().for_each(|block| counts.change(&blocks[*block], u32::wrapping_sub));
        let classes = counts.classes();
        if classes != said {
            flat.insert(prefix.key(), classes);
        }
        around.push((prefix, counts, classes));
    }
    flat
}

fn turns(blocks: &[Block]) -> BTreeMap<Prefix, Turn> {
    let mut turns: BTreeMap<Prefix, Turn> = BTreeMap::new();
    for (position, block) in blocks.iter().enumerate() {
        let whole = Prefix::of(&block.cidr);
        let excepted = exceptions(whole, &block.except);
        if excepted.contains(&whole) {
            continue;
        }
        turns.entry(whole).or_default().begins.push(position);
        for prefix in excepted {
            turns.entry(prefix).or_default().excepted.push(position);
        }
    }
    turns
}

/// The exceptions of a block, cut to it, none inside another.
fn exceptions(whole: Prefix, except: &[IpNet]) -> Vec<Prefix> {
    let mut wanted: Vec<Prefix> = except.iter().map(Prefix::of).collect();
    if IPV4.contains(whole) {
        wanted.retain(|prefix| IPV4.contains(*prefix));
    }
    if whole.bits < IPV4.bits && whole.contains(IPV4) {
        wanted.push(IPV4);
    }
    wanted.sort_unstable();
    let mut kept: Vec<Prefix> = Vec::new();
    for prefix in wanted {
        if prefix.contains(whole) {
            return vec![whole];
        }
        if whole.contains(prefix) && !kept.last().is_some_and(|outer| outer.contains(prefix)) {
            kept.push(prefix);
        }
    }
    kept
}
