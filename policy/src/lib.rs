//! Names, patterns, rules, bindings and grants: what may be reached, by whom, until when.
