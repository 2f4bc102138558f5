//! What packets, connections, floods, grants and endpoints cost: `cargo xtask bench packet [--quick] [PART]...`.
//!
//! Writes `target/bench/packet.json`. What is compared is measured in turns within one run (S3), so that a machine
//! which is busy troubles both alike; the rest wants a quiet one.
#![allow(clippy::unwrap_used, reason = "a measurement that cannot go on fails")]
#![allow(dead_code, reason = "the lab serves the tests, too")]

mod bench {
    pub(crate) mod assembly;
    pub(crate) mod endpoints;
    pub(crate) mod estate;
    pub(crate) mod figures;
    pub(crate) mod flood;
    pub(crate) mod grants;
    pub(crate) mod packets;
    pub(crate) mod parts;
    pub(crate) mod road;
    pub(crate) mod traffic;
}
mod lab;
mod packets;

use std::path::Path;

use crate::bench::figures::Figures;

/// A part of the measurement, told by its name.
type Part = (&'static str, fn(&mut Figures, bool));

const PARTS: [Part; 6] = [
    ("packets", bench::packets::measure),
    ("parts", bench::parts::measure),
    ("traffic", bench::traffic::measure),
    ("flood", bench::flood::measure),
    ("grants", |figures, _| bench::grants::measure(figures)),
    ("endpoints", |figures, _| bench::endpoints::measure(figures)),
];

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (options, wanted): (Vec<_>, Vec<_>) = arguments.iter().partition(|word| word.starts_with("--"));
    let names = PARTS.map(|(name, _)| name);
    let usage = format!("cargo xtask bench packet [--quick] [PART]...; parts: {}", names.join(", "));
    if options.iter().any(|word| *word == "--help") {
        println!("{usage}\n--quick measures less of everything, in five minutes at most");
        return;
    }
    let strange = wanted.iter().find(|word| !names.contains(&word.as_str()));
    if let Some(word) = strange.or(options.iter().find(|word| **word != "--quick")) {
        eprintln!("error: unknown {word:?}: {usage}");
        std::process::exit(2);
    }
    assert!(nameward_test_support::privileged(), "this needs root");
    let mut figures = Figures::new();
    for (name, measure) in PARTS {
        if wanted.is_empty() || wanted.iter().any(|word| *word == name) {
            figures.begin(name);
            measure(&mut figures, !options.is_empty());
        }
    }
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join("target/bench");
    std::process::exit(i32::from(!figures.finish(&folder.join("packet.json"))));
}
