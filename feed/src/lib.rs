//! The contract between resolver and enforcer.
