//! What a rule may say about names (SEMANTICS N3-N5): one name, everything below one, or any.
//!
//! The one dialect. No regular expressions, no partial labels.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

use crate::{Name, NameError};

/// Suffixes under which strangers own the names beside yours, beyond the public suffix list.
/// The list's private section has most; these are missing from it, or are regional forms of what it has.
const MULTI_TENANT: &[&str] = &[
    "amazonaws.com",
    "azure.com",
    "azure.net",
    "azurefd.net",
    "blob.core.windows.net",
    "cdn77.org",
    "cloudfunctions.net",
    "core.windows.net",
    "digitaloceanspaces.com",
    "dualstack.s3.amazonaws.com",
    "googleapis.com",
    "googleusercontent.com",
    "herokuapp.com",
    "s3.amazonaws.com",
    "storage.googleapis.com",
    "web.core.windows.net",
    "windows.net",
    "workers.dev",
];

/// Names under which public resolvers answer over HTTPS, TLS or QUIC: who may reach them may ask for any name past the
/// fence. The large ones only; a list of all cannot be.
pub const PUBLIC_RESOLVERS: &[&str] = &[
    "adguard-dns.com",
    "cloudflare-dns.com",
    "dns.alidns.com",
    "dns.google",
    "dns.nextdns.io",
    "dns.quad9.net",
    "dns0.eu",
    "doh.cleanbrowsing.org",
    "doh.dns.sb",
    "doh.opendns.com",
    "doh.pub",
    "dns.mullvad.net",
    "one.one.one.one",
];

/// A set of names.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Pattern {
    /// This name.
    Exact(Name),
    /// `*.name`: one or more labels before this name, never the name itself.
    Below(Name),
    /// `*`: every name.
    Any,
}

/// Why a text is not a pattern. Each says what to write instead.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PatternError {
    /// A star that is part of a label.
    #[error("`{text}`: a star stands for whole labels only; write `*.{rest}`, or the full names")]
    PartialLabel {
        /// The whole text.
        text: String,
        /// What follows the label with the star.
        rest: String,
    },
    /// A star that is not in the first label.
    #[error("`{text}`: a star is allowed only as the first label; write `*.{rest}`, or the full names")]
    InnerStar {
        /// The whole text.
        text: String,
        /// What follows the last star.
        rest: String,
    },
    /// `**.x`, another dialect's word for `*.x`.
    #[error("`{text}`: write `*.{rest}`, which here matches one or more labels")]
    DoubleStar {
        /// The whole text.
        text: String,
        /// What follows the stars.
        rest: String,
    },
    /// A regular expression.
    #[error(
        "`{text}` looks like a regular expression; write the full name, or `*.example.com` for all names below one"
    )]
    Regex {
        /// The whole text.
        text: String,
    },
    /// The rest is not a name.
    #[error(transparent)]
    Name(#[from] NameError),
}

/// Something a pattern's author should know (N3, N5).
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PatternWarning {
    /// `*`.
    #[error("`*` allows every name: whoever owns any domain can be reached")]
    AnyName,
    /// A wildcard directly over a public suffix.
    #[error("`*.{0}` stands directly over a public suffix: anybody can register a name below it")]
    PublicSuffix(Name),
    /// A wildcard over a suffix whose names belong to many customers.
    #[error(
        "`*.{0}` covers names of other customers of that service: anybody can get one; write the full names you use"
    )]
    MultiTenant(Name),
    /// A public resolver.
    #[error(
        "`{0}` is a public DNS resolver: who may reach it may ask for every name unseen; leave it out, names are answered by the cluster's own DNS"
    )]
    PublicResolver(Name),
}

impl Pattern {
    /// Parses a pattern in ASCII, as objects carry it.
    ///
    /// # Errors
    /// [`PatternError`], which says what to write.
    pub fn parse(text: &str) -> Result<Self, PatternError> {
        Self::parse_with(text, Name::parse)
    }

    /// Parses what people type, IDN included (N1).
    ///
    /// # Errors
    /// [`PatternError`], which says what to write.
    pub fn from_input(text: &str) -> Result<Self, PatternError> {
        Self::parse_with(text, Name::from_input)
    }

    fn parse_with(text: &str, name: fn(&str) -> Result<Name, NameError>) -> Result<Self, PatternError> {
        if text.contains(['(', ')', '[', ']', '\\', '^', '$', '+', '|', '?', '{', '}'])
            || text.contains(".*") && !text.contains("*.")
        {
            return Err(PatternError::Regex { text: text.to_owned() });
        }
        if text == "*" || text == "*." {
            return Ok(Self::Any);
        }
        match text.strip_prefix("*.") {
            Some(rest) if !rest.contains('*') => Ok(Self::Below(name(rest)?)),
            None if !text.contains('*') => Ok(Self::Exact(name(text)?)),
            _ => Err(misplaced_star(text)),
        }
    }

    /// Whether a name is in the set.
    #[must_use]
    pub fn matches(&self, name: &Name) -> bool {
        match self {
            Self::Exact(exact) => exact == name,
            Self::Below(base) => name.is_below(base),
            Self::Any => true,
        }
    }

    /// What the author should know.
    #[must_use]
    pub fn warnings(&self) -> Vec<PatternWarning> {
        match self {
            Self::Exact(name) => resolver_warning(name).into_iter().collect(),
            Self::Any => vec![PatternWarning::AnyName],
            Self::Below(base) => {
                resolver_warning(base).or_else(|| suffix_warning(base)).into_iter().collect()
            }
        }
    }
}

/// The resolvers themselves, and what stands below them, like `security.cloudflare-dns.com`.
fn resolver_warning(name: &Name) -> Option<PatternWarning> {
    let is_one = PUBLIC_RESOLVERS.iter().any(|resolver| {
        let front = name.as_str().strip_suffix(resolver);
        front.is_some_and(|front| front.is_empty() || front.ends_with('.'))
    });
    is_one.then(|| PatternWarning::PublicResolver(name.clone()))
}

fn suffix_warning(base: &Name) -> Option<PatternWarning> {
    let text = base.as_str();
    // A star over a service's suffix is as open as one over an ancestor of it.
    let shared = MULTI_TENANT.iter().any(|suffix| *suffix == text || is_regional_bucket_host(text));
    let listed = psl::suffix(text.as_bytes())
        .filter(|suffix| suffix.is_known() && suffix.as_bytes().len() == text.len());
    match listed.and_then(|suffix| suffix.typ()) {
        Some(psl::Type::Private) => Some(PatternWarning::MultiTenant(base.clone())),
        Some(psl::Type::Icann) => Some(PatternWarning::PublicSuffix(base.clone())),
        None if shared => Some(PatternWarning::MultiTenant(base.clone())),
        // A single label that is on no list is still a whole top-level domain.
        None if !text.contains('.') => Some(PatternWarning::PublicSuffix(base.clone())),
        None => None,
    }
}

/// `s3.eu-west-1.amazonaws.com`, `s3-eu-west-1.amazonaws.com` and their kin.
fn is_regional_bucket_host(text: &str) -> bool {
    text.strip_suffix(".amazonaws.com")
        .is_some_and(|front| front.split('.').any(|label| label.starts_with("s3")))
}

fn misplaced_star(text: &str) -> PatternError {
    let text = text.to_owned();
    let rest = text.rsplit('*').next().unwrap_or_default();
    let rest = rest.split_once('.').map_or("example.com", |(_, rest)| rest).to_owned();
    if text.strip_prefix("**.").is_some_and(|rest| !rest.contains('*')) {
        return PatternError::DoubleStar { text, rest };
    }
    let first = text.split('.').next().unwrap_or_default();
    if first.contains('*') && text.matches('*').count() == 1 {
        PatternError::PartialLabel { text, rest }
    } else {
        PatternError::InnerStar { text, rest }
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(name) => write!(f, "{name}"),
            Self::Below(base) => write!(f, "*.{base}"),
            Self::Any => f.write_str("*"),
        }
    }
}

impl FromStr for Pattern {
    type Err = PatternError;

    fn from_str(text: &str) -> Result<Self, PatternError> {
        Self::parse(text)
    }
}

impl Serialize for Pattern {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Pattern {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
        Self::parse(&text).map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> Name {
        Name::parse(text).unwrap()
    }

    #[test]
    fn star_is_one_or_more_whole_labels() {
        // N3
        let pattern = Pattern::parse("*.Example.com.").unwrap();
        assert_eq!(pattern, Pattern::Below(name("example.com")));
        assert!(pattern.matches(&name("a.example.com")) && pattern.matches(&name("a.b.example.com")));
        assert!(!pattern.matches(&name("example.com")) && !pattern.matches(&name("aexample.com")));
        assert!(Pattern::parse("*").unwrap().matches(&name("anything.at.all")));
        assert!(!Pattern::parse("example.com").unwrap().matches(&name("a.example.com")));
    }

    #[test]
    fn refusals_say_what_to_write() {
        // N4, N6
        let message = |text: &str| Pattern::parse(text).unwrap_err().to_string();
        assert!(
            message("foo*.example.com").contains("write `*.example.com`"),
            "{}",
            message("foo*.example.com")
        );
        assert!(message("a.*.example.com").contains("write `*.example.com`"));
        assert!(message("*.*.example.com").contains("write `*.example.com`"));
        assert!(message("**.example.com").contains("write `*.example.com`"));
        assert!(message("^.*\\.example\\.com$").contains("regular expression"));
        assert!(
            message("example.*").contains("regular expression")
                || message("example.*").contains("first label")
        );
        assert!(Pattern::parse("*..a").is_err());
    }

    #[test]
    fn wide_patterns_draw_warnings() {
        // N3, N5
        let warned = |text: &str| Pattern::parse(text).unwrap().warnings();
        assert_eq!(warned("*"), [PatternWarning::AnyName]);
        assert_eq!(warned("*.com"), [PatternWarning::PublicSuffix(name("com"))]);
        assert_eq!(warned("*.co.uk"), [PatternWarning::PublicSuffix(name("co.uk"))]);
        for shared in ["s3.amazonaws.com", "blob.core.windows.net", "github.io", "s3.eu-west-1.amazonaws.com"]
        {
            assert_eq!(warned(&format!("*.{shared}")), [PatternWarning::MultiTenant(name(shared))]);
        }
        for narrow in ["*.example.com", "com", "*.acme.github.io"] {
            assert_eq!(warned(narrow), []);
        }
        for (text, resolver) in [
            ("dns.google", "dns.google"),
            ("*.dns.google", "dns.google"),
            ("security.cloudflare-dns.com", "security.cloudflare-dns.com"),
        ] {
            assert_eq!(warned(text), [PatternWarning::PublicResolver(name(resolver))]);
        }
        assert_eq!(warned("notdns.google"), []);
    }

    #[test]
    fn text_and_back() {
        for text in ["*", "*.example.com", "example.com"] {
            assert_eq!(Pattern::parse(text).unwrap().to_string(), text);
        }
    }
}
