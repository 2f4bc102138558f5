//! A question to an upstream, and the questions that are outstanding: they tell answers from forgeries (A9)
//! and our own questions from those of others (R10).

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::BuildHasher;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rand::RngExt;

use crate::wire::query::Query;
use crate::wire::{HEADER, UDP_OCTETS, types};

/// Letters from which on the case alone says that a question is ours.
const TELLING_LETTERS: usize = 12;

/// The EDNS option of padding (RFC 7830).
const PADDING: u8 = 12;
/// Octets of a block (RFC 8467, section 4.1).
const PADDED_TO: usize = 128;

#[derive(Clone, Copy)]
enum Form {
    Plain,
    Padded,
}

/// What is asked, without ID and letter case: those are new for every attempt.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Question {
    /// The name on the wire, in lower case.
    pub name: Arc<[u8]>,
    /// The type.
    pub record_type: u16,
    /// DNSSEC records wanted.
    pub dnssec_ok: bool,
    /// Checking disabled.
    pub checking_disabled: bool,
}

/// Questions on their way. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Outstanding(Arc<Mutex<Asking>>);

#[derive(Debug, Default)]
struct Asking {
    hashing: foldhash::fast::RandomState,
    /// By the hash of a question in its letter case, which nobody can foresee.
    ids: HashMap<u64, Ids, foldhash::fast::RandomState>,
}

/// IDs of the attempts with the same question and letter case: nearly always one.
#[derive(Debug)]
struct Ids {
    first: u16,
    more: Vec<u16>,
}

/// One attempt; forgotten when dropped.
#[derive(Debug)]
pub struct Asked {
    outstanding: Outstanding,
    /// The message to send.
    pub message: Vec<u8>,
    id: u16,
    question_end: usize,
}

impl Question {
    /// The question of a client. Its EDNS options stay behind, the client subnet among them (Q5).
    pub fn of(query: &Query<'_>) -> Self {
        Self {
            name: query.name.to_ascii_lowercase().into(),
            record_type: query.record_type,
            dnssec_ok: query.dnssec_ok(),
            checking_disabled: query.checking_disabled,
        }
    }

    /// A message with an ID and a letter case of its own.
    pub fn ask(&self, outstanding: &Outstanding) -> Asked {
        self.ask_in(outstanding, Form::Plain)
    }

    /// The same for a connection that others can see, but not read: its length tells nothing (RFC 8467).
    pub fn ask_padded(&self, outstanding: &Outstanding) -> Asked {
        self.ask_in(outstanding, Form::Padded)
    }

    fn ask_in(&self, outstanding: &Outstanding, form: Form) -> Asked {
        let mut random = rand::rng();
        let id: u16 = random.random();
        let mut message = Vec::with_capacity(self.name.len() + 32);
        message.extend(id.to_be_bytes());
        message.extend([1, u8::from(self.checking_disabled) << 4, 0, 1, 0, 0, 0, 0, 0, 1]);
        message.extend_from_slice(&self.name);
        mix_case(&mut message[HEADER..], &mut random);
        message.extend(self.record_type.to_be_bytes());
        message.extend([0, 1]);
        let question_end = message.len();
        message.push(0);
        message.extend(types::OPT.to_be_bytes());
        message.extend(UDP_OCTETS.to_be_bytes());
        message.extend([0, 0, u8::from(self.dnssec_ok) << 7, 0]);
        match form {
            Form::Plain => message.extend([0, 0]),
            Form::Padded => pad(&mut message),
        }
        let asked = Asked { outstanding: outstanding.clone(), message, id, question_end };
        outstanding.add(asked.question(), id);
        asked
    }
}

impl Asked {
    /// Its ID.
    pub fn id(&self) -> u16 {
        self.id
    }

    /// Whether a message answers this attempt: ID, question and letter case are the same (A9). A server that
    /// could not read the question may leave it out of an error.
    pub fn is_answered_by(&self, message: &[u8]) -> bool {
        answers(self.id, self.question(), message)
    }

    fn question(&self) -> &[u8] {
        &self.message[HEADER..self.question_end]
    }
}

fn answers(id: u16, question: &[u8], message: &[u8]) -> bool {
    let header = message.get(..HEADER).is_some_and(|header| {
        let opcode_and_qr = header[2] & 0xf8;
        header[..2] == id.to_be_bytes() && opcode_and_qr == 0x80
    });
    if !header {
        return false;
    }
    let code = message[3] & 0xf;
    let unread = message[4..HEADER] == [0; 8] && message.len() == HEADER && matches!(code, 1 | 4 | 5);
    unread || (message[4..6] == [0, 1] && message[HEADER..].starts_with(question))
}

impl Drop for Asked {
    fn drop(&mut self) {
        self.outstanding.remove(self.question(), self.id);
    }
}

impl Outstanding {
    /// Whether a query is one of ours that came back: the same letter case, chosen at random, and for names
    /// of few letters the same ID (R10).
    pub fn is_ours(&self, query: &Query<'_>) -> bool {
        let asking = self.lock();
        let Some(ids) = asking.ids.get(&asking.hashing.hash_one(query.question)) else { return false };
        let letters = query.name.iter().filter(|octet| octet.is_ascii_alphabetic()).count();
        letters >= TELLING_LETTERS || ids.first == query.id || ids.more.contains(&query.id)
    }

    fn add(&self, question: &[u8], id: u16) {
        let mut asking = self.lock();
        let hash = asking.hashing.hash_one(question);
        match asking.ids.entry(hash) {
            Entry::Vacant(vacant) => drop(vacant.insert(Ids { first: id, more: Vec::new() })),
            Entry::Occupied(mut known) => known.get_mut().more.push(id),
        }
    }

    fn remove(&self, question: &[u8], id: u16) {
        let mut asking = self.lock();
        let hash = asking.hashing.hash_one(question);
        let Entry::Occupied(mut known) = asking.ids.entry(hash) else { return };
        let Ids { first, more } = known.get_mut();
        if let Some(at) = more.iter().position(|other| *other == id) {
            more.swap_remove(at);
        } else if *first == id {
            match more.pop() {
                Some(other) => *first = other,
                None => drop(known.remove()),
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Asking> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The options of an EDNS record, whose length comes first: padding up to a whole block.
fn pad(message: &mut Vec<u8>) {
    let unpadded = message.len() + 2 + 4;
    let padding = unpadded.next_multiple_of(PADDED_TO) - unpadded;
    let [high, low] = u16::try_from(padding).unwrap_or(0).to_be_bytes();
    let [options_high, options_low] = u16::try_from(padding + 4).unwrap_or(4).to_be_bytes();
    message.extend([options_high, options_low, 0, PADDING, high, low]);
    message.resize(message.len() + padding, 0);
}

/// Letter case at random, at least one letter in upper case where there is one.
fn mix_case(name: &mut [u8], random: &mut impl RngExt) {
    let mut upper = false;
    let mut at = 0;
    let mut first = None;
    let (mut bits, mut left): (u64, u32) = (0, 0);
    while let Some(length @ 1..) = name.get(at).copied() {
        let label = name.iter_mut().enumerate().skip(at + 1).take(usize::from(length));
        for (position, letter) in label.filter(|(_, letter)| letter.is_ascii_lowercase()) {
            first = first.or(Some(position));
            if left == 0 {
                (bits, left) = (random.random(), u64::BITS);
            }
            if bits & 1 == 1 {
                letter.make_ascii_uppercase();
                upper = true;
            }
            (bits, left) = (bits >> 1, left - 1);
        }
        at += 1 + usize::from(length);
    }
    if let (false, Some(position)) = (upper, first) {
        name[position] = name[position].to_ascii_uppercase();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn question() -> Question {
        let name = b"\x03www\x07example\x04test\x00"[..].into();
        Question { name, record_type: 1, dnssec_ok: true, checking_disabled: false }
    }

    fn answer(asked: &Asked) -> Vec<u8> {
        let mut message = asked.message[..asked.question_end].to_vec();
        message[2] |= 0x80;
        message[11] = 0;
        message
    }

    // A9
    #[test]
    fn only_the_same_id_question_and_case_answer() {
        let outstanding = Outstanding::default();
        let asked = question().ask(&outstanding);
        let good = answer(&asked);
        assert!(asked.is_answered_by(&good));
        for (at, change) in [(0, 1), (2, 0x80), (HEADER + 1, 0x20), (asked.question_end - 3, 1)] {
            let mut bad = good.clone();
            bad[at] ^= change;
            assert!(!asked.is_answered_by(&bad), "octet {at}");
        }
        for length in 0..good.len() {
            assert!(!asked.is_answered_by(&good[..length]), "{length} octets");
        }
    }

    // A9: an own ID and case for each attempt
    #[test]
    fn attempts_differ() {
        let outstanding = Outstanding::default();
        let messages: Vec<_> = (0..16).map(|_| question().ask(&outstanding).message.clone()).collect();
        assert!(messages.iter().any(|message| message[..2] != messages[0][..2]));
        assert!(messages.iter().any(|message| message[HEADER..] != messages[0][HEADER..]));
    }

    // R10
    #[test]
    fn our_own_question_is_known_while_it_is_outstanding() {
        let outstanding = Outstanding::default();
        let asked = question().ask(&outstanding);
        let message = asked.message.clone();
        let query = Query::read(&message).unwrap();
        assert!(outstanding.is_ours(&query));
        let mut other_id = message.clone();
        other_id[0] ^= 1;
        assert!(outstanding.is_ours(&Query::read(&other_id).unwrap()));
        let mut other_case = message.clone();
        other_case[HEADER + 1] ^= 0x20;
        assert!(!outstanding.is_ours(&Query::read(&other_case).unwrap()));
        drop(asked);
        assert!(!outstanding.is_ours(&query));
    }

    // RFC 8467, section 4.1
    #[test]
    fn padded_questions_have_the_same_length() {
        let outstanding = Outstanding::default();
        let long = Question { name: b"\x3faaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\x3faaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\x00"[..].into(), ..question() };
        for (question, length) in [(question(), 128), (long, 256)] {
            let asked = question.ask_padded(&outstanding);
            assert_eq!(asked.message.len(), length);
            assert!(Query::read(&asked.message).is_ok());
        }
    }

    // Q5: client subnet and everything else stays behind
    #[test]
    fn only_our_own_edns_goes_upstream() {
        let outstanding = Outstanding::default();
        let asked = question().ask(&outstanding);
        assert!(asked.message.ends_with(&[0, 0, 41, 0x04, 0xd0, 0, 0, 0x80, 0, 0, 0]));
    }
}
