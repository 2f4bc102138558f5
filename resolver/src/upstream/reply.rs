//! What a server answered, read as far as it has to be.

use hickory_proto::{
    op::{Message, ResponseCode},
    serialize::binary::DecodeError,
};

use super::Question;
use crate::wire::verbatim::Verbatim;

/// An answer to a question.
#[derive(Clone, Debug)]
pub enum Reply {
    /// Addresses, which can be passed on as they came.
    Verbatim(Verbatim),
    /// Anything else.
    Message(Box<Message>),
}

impl Reply {
    /// Reads an answer that is known to be to this question.
    ///
    /// # Errors
    /// When it is malformed.
    pub fn read(octets: &[u8], question: &Question) -> Result<Self, DecodeError> {
        // Signatures belong to the records that they are of: they are told apart elsewhere.
        let verbatim = || Verbatim::read(octets, &question.name, question.record_type);
        match (!question.dnssec_ok).then(verbatim).flatten() {
            Some(verbatim) => Ok(Self::Verbatim(verbatim)),
            None => Message::from_vec(octets).map(|message| Self::Message(Box::new(message))),
        }
    }

    /// Its response code.
    pub fn code(&self) -> ResponseCode {
        match self {
            Self::Verbatim(_) => ResponseCode::NoError,
            Self::Message(message) => message.metadata.response_code,
        }
    }

    /// Whether it is an answer: the others are asked where it is not.
    pub(super) fn is_answer(&self) -> bool {
        matches!(self.code(), ResponseCode::NoError | ResponseCode::NXDomain)
    }

    /// As records.
    ///
    /// # Errors
    /// Never for one that was read: octets are taken only when they can be read this way, too.
    pub fn into_message(self) -> Result<Message, DecodeError> {
        match self {
            Self::Verbatim(verbatim) => Message::from_vec(verbatim.message()),
            Self::Message(message) => Ok(*message),
        }
    }
}
