//! What the maps of an endpoint should hold, and getting there: rule sets switched at once.

pub(crate) mod switch;
