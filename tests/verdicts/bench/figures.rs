//! Figures as a table and as `target/bench/packet.json` (S3).
//!
//! Percentages come from interleaved pairs. Their interval is that of the median by order statistics, which asks
//! nothing of the distribution: a neighbour who takes the processor for a moment spoils a pair, not the figure.

use std::{fs, path::Path, time::Instant};

use serde_json::{Value, json};

/// The fewest pairs that a percentage may come from (S3).
pub(crate) const PAIRS: usize = 20;

/// All figures of a run, told as they come.
pub(crate) struct Figures {
    all: Vec<Value>,
    begun: Instant,
}

/// A median, and where it lies with a certainty of 95 %.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Interval {
    pub(crate) median: f64,
    pub(crate) low: f64,
    pub(crate) high: f64,
}

impl Interval {
    /// Of at least [`PAIRS`] values. The ranks are those between which the median of a sample lies in 95 of 100 cases:
    /// n/2 ± 1.96 √n/2, the normal approximation to the binomial distribution.
    pub(crate) fn of(values: &[f64]) -> Self {
        assert!(values.len() >= PAIRS, "{} pairs say too little", values.len());
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        let count = sorted.len() as f64;
        let reach = 1.96 * count.sqrt() / 2.0;
        let low = (count / 2.0 - reach).floor().max(0.0) as usize;
        let high = ((count / 2.0 + reach).ceil() as usize).min(sorted.len() - 1);
        Self { median: percentile(&mut sorted, 0.5), low: sorted[low], high: sorted[high] }
    }
}

impl Figures {
    pub(crate) fn new() -> Self {
        Self { all: Vec::new(), begun: Instant::now() }
    }

    /// Says what comes next, and when.
    pub(crate) fn begin(&self, part: &str) {
        println!("-- {part} ({:.0} s)", self.begun.elapsed().as_secs_f64());
    }

    /// A figure that no bar is set for.
    pub(crate) fn plain(&mut self, name: &str, unit: &str, value: f64) {
        self.add(json!({"name": name, "value": value, "unit": unit, "bar": null, "pass": true}));
    }

    /// A figure that must not be above a bar.
    pub(crate) fn at_most(&mut self, name: &str, unit: &str, value: f64, bar: f64) {
        self.add(json!({"name": name, "value": value, "unit": unit, "bar": bar, "pass": value <= bar}));
    }

    /// By how much something costs more than its other half of each pair, in per cent, without a bar.
    pub(crate) fn percentage(&mut self, name: &str, pairs: &[f64]) {
        let Interval { median, low, high } = Interval::of(pairs);
        self.add(json!({
            "name": name, "value": median, "unit": "%", "bar": null, "pass": true, "low": low, "high": high,
        }));
    }

    /// The same with a bar. S3: passes when the interval contains or betters the bar; an interval wider than `resolution`
    /// says nothing.
    pub(crate) fn percentage_at_most(&mut self, name: &str, pairs: &[f64], bar: f64, resolution: f64) {
        let Interval { median, low, high } = Interval::of(pairs);
        let pass =
            if high - low > resolution { Value::from("not resolvable") } else { Value::from(low <= bar) };
        self.add(json!({
            "name": name, "value": median, "unit": "%", "bar": bar, "pass": pass, "low": low, "high": high,
        }));
    }

    fn add(&mut self, figure: Value) {
        let number = |key: &str| figure[key].as_f64();
        let between = match (number("low"), number("high")) {
            (Some(low), Some(high)) => format!(" ({low:.2} to {high:.2})"),
            _ => String::new(),
        };
        let bar = number("bar").map_or_else(String::new, |bar| {
            let word = match &figure["pass"] {
                Value::Bool(true) => "holds",
                Value::Bool(false) => "MISSED",
                _ => "not resolvable",
            };
            format!("  bar {bar}: {word}")
        });
        let name = figure["name"].as_str().unwrap();
        let unit = figure["unit"].as_str().unwrap();
        println!("{name:<66} {:>10.2} {unit}{between}{bar}", number("value").unwrap());
        self.all.push(figure);
    }

    /// Writes the file; returns whether no bar is missed.
    pub(crate) fn finish(&self, file: &Path) -> bool {
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(file, serde_json::to_string_pretty(&self.all).unwrap()).unwrap();
        self.all.iter().all(|figure| figure["pass"] != false)
    }
}

/// The value that this part of all values is not above.
pub(crate) fn percentile(values: &mut [f64], part: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    values[((values.len() - 1) as f64 * part).round() as usize]
}
