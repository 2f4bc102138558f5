//! Where a stream of many nodes is: the place in each node's own stream, in one identifier. Pure.
//!
//! A node stands in it as a hash of its name, so that hundreds of them fit into a header.

use std::collections::BTreeMap;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use nameward_api::Problem;

/// Says what is inside.
const FORM: u8 = 1;
/// Octets of a node: hash, epoch in milliseconds, sequence number.
const NODE: usize = 8 + 6 + 6;
/// A longer identifier would not fit into the head of a request.
const LONGEST: usize = 12_288;

/// The latest event that was seen of each node, as the node itself calls it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Positions(BTreeMap<u64, (u64, u64)>);

impl Positions {
    /// Reads an identifier.
    pub(crate) fn read(text: &str) -> Result<Self, Problem> {
        let bad = || {
            Problem::bad(
                "Last-Event-ID: pass on the identifier of an event of the cluster as it is, or leave it out",
            )
        };
        let octets = URL_SAFE_NO_PAD.decode(text).map_err(|_| bad())?;
        let (form, rest) = octets.split_first().ok_or_else(bad)?;
        if *form != FORM || rest.len() % NODE != 0 {
            return Err(bad());
        }
        let number = |octets: &[u8]| octets.iter().fold(0, |number, octet| number << 8 | u64::from(*octet));
        let one = |node: &[u8]| (number(&node[..8]), (number(&node[8..14]), number(&node[14..])));
        Ok(Self(rest.chunks_exact(NODE).map(one).collect()))
    }

    /// The identifier; none when it would be too long to be given back.
    pub(crate) fn text(&self) -> Option<String> {
        let mut octets = vec![FORM];
        for (hash, (epoch, sequence)) in &self.0 {
            octets.extend(hash.to_be_bytes());
            octets.extend(&epoch.to_be_bytes()[2..]);
            octets.extend(&sequence.to_be_bytes()[2..]);
        }
        let text = URL_SAFE_NO_PAD.encode(octets);
        (text.len() <= LONGEST).then_some(text)
    }

    /// Takes an event's identifier down; what is none is passed over.
    pub(crate) fn advance(&mut self, node: &str, id: &str) {
        let parts = id.split_once('-');
        let read = parts.and_then(|(epoch, sequence)| {
            Some((u64::from_str_radix(epoch, 16).ok()?, sequence.parse().ok()?))
        });
        if let Some(position) = read {
            self.0.insert(hash(node), position);
        }
    }

    /// Where a node's own stream goes on.
    pub(crate) fn of(&self, node: &str) -> Option<String> {
        self.0.get(&hash(node)).map(|(epoch, sequence)| format!("{epoch:x}-{sequence}"))
    }
}

/// FNV-1a: the same in every version, unlike the standard library's.
fn hash(node: &str) -> u64 {
    node.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, octet| {
        (hash ^ u64::from(octet)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_node_goes_on_where_it_was() {
        let mut positions = Positions::default();
        positions.advance("n1", "19a5b2c3d4e-7");
        positions.advance("n2", "19a5b2c3d4f-123456789");
        positions.advance("n1", "19a5b2c3d4e-8");
        positions.advance("n3", "nonsense");
        let read = Positions::read(&positions.text().unwrap()).unwrap();
        assert_eq!(read, positions);
        assert_eq!(read.of("n1").as_deref(), Some("19a5b2c3d4e-8"));
        assert_eq!(read.of("n2").as_deref(), Some("19a5b2c3d4f-123456789"));
        assert_eq!(read.of("n3"), None);
        assert_eq!(Positions::read(&Positions::default().text().unwrap()).unwrap(), Positions::default());
    }

    #[test]
    fn hundreds_of_nodes_fit_into_a_header() {
        let mut positions = Positions::default();
        (0..400).for_each(|number| positions.advance(&format!("node-{number}"), "19a5b2c3d4e-4294967296"));
        let text = positions.text().unwrap();
        assert!(text.len() < 12_000, "{}", text.len());
        assert_eq!(Positions::read(&text).unwrap(), positions);
        (0..600).for_each(|number| positions.advance(&format!("node-{number}"), "19a5b2c3d4e-1"));
        assert_eq!(positions.text(), None);
    }

    #[test]
    fn what_is_no_identifier_is_refused() {
        for bad in ["", "abc-7", "AQA", "!", "Ag"] {
            assert_eq!(Positions::read(bad).unwrap_err().status, 400, "{bad}");
        }
    }
}
