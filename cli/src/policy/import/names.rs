//! Names and patterns of other dialects in ours (SEMANTICS N3, N4, N6).

use nameward_policy::Pattern;

use super::{Options, Widen, at::At, notes::Notes};

/// What a star means in another dialect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Dialect {
    /// A leading `*.` stands for one or more whole labels, as here: ClusterNetworkPolicy (network-policy-api,
    /// `DomainName`), AWS's policies, Istio's hosts.
    Ours,
    /// A leading `*.` stands for one label: GKE's FQDNNetworkPolicy.
    OneLabel,
    /// A star stands for characters of one label, also within one; a leading `**.` for whole labels (since 1.19); only
    /// stars for every name: Cilium's `matchPattern` (`pkg/fqdn/matchpattern`).
    Cilium,
}

/// A pattern in our dialect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Meant {
    /// It means the same.
    Same(String),
    /// It means more: names of several labels, too.
    Wider(String),
}

/// A name without a star.
///
/// # Errors
/// What is wrong with it and what to write.
pub(super) fn exact(text: &str) -> Result<String, String> {
    match Pattern::parse(text) {
        Ok(Pattern::Exact(name)) => Ok(name.to_string()),
        Ok(_) => Err(format!("`{text}` is a pattern where a name is expected")),
        Err(error) => Err(error.to_string()),
    }
}

/// A pattern of a dialect.
///
/// # Errors
/// Why it cannot be said here, and what to write instead.
pub(super) fn meant(text: &str, dialect: Dialect) -> Result<Meant, String> {
    let bare = text.strip_suffix('.').unwrap_or(text);
    let rest = bare.trim_start_matches('*');
    let stars = bare.len() - rest.len();
    let all_below = rest.strip_prefix('.').filter(|below| !below.is_empty() && !below.contains('*'));
    match (dialect, stars, all_below) {
        (Dialect::Cilium, 1.., _) if rest.is_empty() => Ok(Meant::Same("*".into())),
        (Dialect::Cilium, 2.., Some(below)) => parse(&format!("*.{below}")).map(Meant::Same),
        (Dialect::Cilium | Dialect::OneLabel, 1, Some(_)) => parse(bare).map(Meant::Wider),
        (Dialect::OneLabel, 1.., _) if rest.is_empty() => {
            Err(format!("`{text}`: what it means there is not known; write the names"))
        }
        _ => parse(text).map(Meant::Same),
    }
}

/// A pattern for a rule. What it would widen is written only when the user agreed, and said.
pub(super) fn pattern(
    at: &At<'_>,
    text: &str,
    dialect: Dialect,
    options: &Options,
    notes: &mut Notes,
) -> Option<String> {
    match meant(text, dialect) {
        Ok(Meant::Same(pattern)) => Some(pattern),
        Ok(Meant::Wider(pattern)) if options.widens(Widen::OneLabel) => {
            notes.told(
                at,
                format!(
                    "widened, as you said: `{text}` stood for one label, `{pattern}` stands for any number"
                ),
            );
            Some(pattern)
        }
        Ok(Meant::Wider(pattern)) => {
            let reason = format!(
                "`{text}` stands for one label there, `{pattern}` for any number here; write the full names, or import with --widen one-label"
            );
            notes.left(at, reason);
            None
        }
        Err(reason) => {
            notes.left(at, reason);
            None
        }
    }
}

fn parse(text: &str) -> Result<String, String> {
    Pattern::parse(text).map(|pattern| pattern.to_string()).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn same(text: &str) -> Result<Meant, String> {
        Ok(Meant::Same(text.into()))
    }

    #[test]
    fn patterns_of_cilium() {
        // N6; the patterns are those that Cilium publishes in its own tests (pkg/fqdn/matchpattern).
        let meant = |text| meant(text, Dialect::Cilium);
        assert_eq!(meant("Cilium.io."), same("cilium.io"));
        assert_eq!(meant("_foobar._tcp.cilium.io."), same("_foobar._tcp.cilium.io"));
        for stars in ["*", "**", "***.", "*."] {
            assert_eq!(meant(stars), same("*"), "{stars}");
        }
        for below in ["**.cilium.io.", "***.cilium.io"] {
            assert_eq!(meant(below), same("*.cilium.io"), "{below}");
        }
        for one in ["*.cilium.io.", "*.com"] {
            assert!(matches!(meant(one), Ok(Meant::Wider(_))), "{one}");
        }
        for partial in [
            "*.ci*.io.",
            "*.ci**.io.",
            "*.*.cilium.io.",
            "**.*.cilium.io.",
            "**.ci*.io.",
            "test.**.cilium.io.",
            "*cilium.io",
            "**cilium.io",
            "sub*.cilium.io",
            "a.**",
            "*.*",
        ] {
            assert!(meant(partial).is_err(), "{partial}: {:?}", meant(partial));
        }
        for broken in ["", ".", "*..", "**..", "a..b", ".a", "[a-z]*.cilium.io.", "a{1,2}.cilium.io."] {
            assert!(meant(broken).is_err(), "{broken}: {:?}", meant(broken));
        }
    }

    #[test]
    fn patterns_of_the_others() {
        // N3, N6
        assert_eq!(meant("*.kubernetes.io", Dialect::Ours), same("*.kubernetes.io"));
        assert_eq!(meant("Kubernetes.io.", Dialect::Ours), same("kubernetes.io"));
        assert!(meant("**.kubernetes.io", Dialect::Ours).is_err());
        assert!(matches!(meant("*.example.com", Dialect::OneLabel), Ok(Meant::Wider(_))));
        for refused in ["*", "**.example.com", "a*.example.com", "*example.com"] {
            assert!(meant(refused, Dialect::OneLabel).is_err(), "{refused}");
        }
    }
}
