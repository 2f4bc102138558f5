//! Domain names as policy and the resolver compare them (SEMANTICS N1, N2).
//!
//! A [`Name`] is always in its one canonical form: lower-case ASCII, A-labels, no final dot. Cloning is a
//! reference count. DNS messages are read elsewhere.

use std::{borrow::Borrow, fmt, str::FromStr, sync::Arc};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

/// Longest name in octets, without the final dot (RFC 1035 section 2.3.4, as text).
pub const MAX_NAME: usize = 253;
/// Longest label in octets.
pub const MAX_LABEL: usize = 63;

/// A domain name in canonical form. Never empty: the root is not a name that policy knows.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Name(Arc<str>);

/// Why a text is not a name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Nothing before the final dot.
    #[error("a name is empty; write one like `example.com`")]
    Empty,
    /// Over 253 octets.
    #[error("the name has {octets} octets; a name has at most 253")]
    TooLong {
        /// How many it has.
        octets: usize,
    },
    /// Two dots in a row, or one at the start.
    #[error("`{text}` has an empty label; remove the extra dot")]
    EmptyLabel {
        /// The whole text.
        text: String,
    },
    /// A label over 63 octets.
    #[error("the label `{label}` has {} octets; a label has at most 63", label.len())]
    LabelTooLong {
        /// The label.
        label: String,
    },
    /// Something other than letters, digits, `-`, `_`.
    #[error(
        "`{text}` contains `{character}`; a name has letters, digits, `-` and `_` (other scripts as A-labels, `xn--...`)"
    )]
    Character {
        /// The whole text.
        text: String,
        /// The first character that does not belong.
        character: char,
    },
    /// UTS 46 does not map it to A-labels.
    #[error("`{text}` is not an internationalised domain name by UTS 46; write its A-labels (`xn--...`)")]
    Idn {
        /// The whole text.
        text: String,
    },
}

impl Name {
    /// Parses ASCII text, ignoring letter case and one final dot (N1, N2).
    ///
    /// # Errors
    /// [`NameError`], which says what to write.
    pub fn parse(text: &str) -> Result<Self, NameError> {
        let bare = text.strip_suffix('.').unwrap_or(text);
        check(text, bare)?;
        Ok(if bare.bytes().any(|octet| octet.is_ascii_uppercase()) {
            Self(bare.to_ascii_lowercase().into())
        } else {
            Self(bare.into())
        })
    }

    /// Parses what people type: as [`Name::parse`], and other scripts are converted by UTS 46.
    ///
    /// # Errors
    /// [`NameError`], which says what to write.
    pub fn from_input(text: &str) -> Result<Self, NameError> {
        if text.is_ascii() {
            return Self::parse(text);
        }
        let ascii = idna::domain_to_ascii(text).map_err(|_| NameError::Idn { text: text.to_owned() })?;
        Self::parse(&ascii)
    }

    /// The canonical text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The labels, leftmost first.
    pub fn labels(&self) -> impl DoubleEndedIterator<Item = &str> {
        self.0.split('.')
    }

    /// The name itself, then each of its ancestors: `a.b.c`, `b.c`, `c`.
    #[must_use]
    pub fn suffixes(&self) -> Suffixes<'_> {
        Suffixes { rest: Some(&self.0) }
    }

    /// Whether this name is below `ancestor`, by whole labels, and not `ancestor` itself.
    #[must_use]
    pub fn is_below(&self, ancestor: &Self) -> bool {
        self.0.strip_suffix(&*ancestor.0).is_some_and(|front| front.ends_with('.'))
    }

    /// The name without its leftmost label.
    #[must_use]
    pub fn parent(&self) -> Option<Self> {
        self.0.split_once('.').map(|(_, parent)| Self(parent.into()))
    }
}

/// See [`Name::suffixes`].
#[derive(Clone, Debug)]
pub struct Suffixes<'a> {
    rest: Option<&'a str>,
}

impl<'a> Iterator for Suffixes<'a> {
    type Item = &'a str;

    fn next(&mut self) -> Option<&'a str> {
        let suffix = self.rest?;
        self.rest = suffix.split_once('.').map(|(_, rest)| rest);
        Some(suffix)
    }
}

fn check(text: &str, bare: &str) -> Result<(), NameError> {
    if bare.is_empty() {
        return Err(NameError::Empty);
    }
    if bare.len() > MAX_NAME {
        return Err(NameError::TooLong { octets: bare.len() });
    }
    let stranger = |c: &char| !(c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'));
    if let Some(character) = bare.chars().find(stranger) {
        return Err(NameError::Character { text: text.to_owned(), character });
    }
    for label in bare.split('.') {
        if label.is_empty() {
            return Err(NameError::EmptyLabel { text: text.to_owned() });
        }
        if label.len() > MAX_LABEL {
            return Err(NameError::LabelTooLong { label: label.to_owned() });
        }
    }
    Ok(())
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl FromStr for Name {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        Self::parse(text)
    }
}

impl Borrow<str> for Name {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl AsRef<str> for Name {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl Serialize for Name {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Name {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
        Self::parse(&text).map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn canonical_form() {
        // N1, N2
        for text in ["Example.COM", "example.com.", "EXAMPLE.com."] {
            assert_eq!(Name::parse(text).unwrap().as_str(), "example.com");
        }
        assert_eq!(Name::parse("_srv._tcp.a-b.example").unwrap().as_str(), "_srv._tcp.a-b.example");
        assert_eq!(Name::parse("localhost").unwrap().as_str(), "localhost");
    }

    #[test]
    fn refused_texts() {
        // N1
        for text in ["", ".", "a..b", ".a", "a b", "a/b", "*.a", "a\0b", "bücher.example", "a:53", "a.."] {
            assert!(Name::parse(text).is_err(), "{text:?}");
        }
        let label = "a".repeat(64);
        assert_eq!(Name::parse(&label), Err(NameError::LabelTooLong { label: label.clone() }));
        assert!(Name::parse(&label[1..]).is_ok());
        let long = format!("{}.{}.{}.{}", &label[1..], &label[1..], &label[1..], &label[3..]);
        assert_eq!(long.len(), 253);
        assert!(Name::parse(&long).is_ok());
        assert!(Name::parse(&format!("{long}.")).is_ok());
        assert_eq!(Name::parse(&format!("a{long}")), Err(NameError::TooLong { octets: 254 }));
    }

    #[test]
    fn idn_input() {
        // N1: the command line converts by UTS 46, objects do not.
        assert_eq!(Name::from_input("Bücher.example").unwrap().as_str(), "xn--bcher-kva.example");
        assert_eq!(Name::from_input("example.com").unwrap().as_str(), "example.com");
        assert!(Name::from_input("a\u{202e}b.example").is_err());
        assert!(Name::parse("Bücher.example").is_err());
    }

    #[test]
    fn below_by_whole_labels() {
        // N3
        let base = Name::parse("example.com").unwrap();
        let below = |text: &str| Name::parse(text).unwrap().is_below(&base);
        assert!(below("a.example.com") && below("a.b.example.com"));
        assert!(!below("example.com") && !below("badexample.com") && !below("com"));
    }

    #[test]
    fn suffixes_are_the_name_and_its_ancestors() {
        let name = Name::parse("a.b.c").unwrap();
        assert_eq!(name.suffixes().collect::<Vec<_>>(), ["a.b.c", "b.c", "c"]);
        assert_eq!(name.parent().unwrap().as_str(), "b.c");
        assert_eq!(Name::parse("c").unwrap().parent(), None);
    }

    #[test]
    fn serialised_as_text_and_checked_when_read() {
        let name: Name = serde_json::from_str("\"A.example.\"").unwrap();
        assert_eq!(serde_json::to_string(&name).unwrap(), "\"a.example\"");
        assert!(serde_json::from_str::<Name>("\"a b\"").is_err());
    }
}
