//! The policy objects, their schema and the reader of policy files.
