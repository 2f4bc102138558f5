//! The policy objects, their schema and the reader of policy files.
//!
//! Types of `nameward.io/v1alpha1` with the rules the API server checks, their conversion to rules of
//! `nameward_policy`, and readers of files that check the same rules and say where a mistake stands. No client of
//! the API server, and nothing that decides. Used by the resolver, the enforcer, the API and the command.

mod mistake;
pub mod static_config;

pub use mistake::{Mistake, Mistakes, Place, Warning, render};
