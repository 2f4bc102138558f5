//! The user's command.
fn main() {}
