//! What the maps of an endpoint should hold, and getting there: rule sets switched at once, names granted before
//! anybody hears of it, what is in use kept, what has drifted repaired.

mod switch;
