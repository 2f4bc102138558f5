//! Figures with their 95 % intervals, as a table and as `target/bench/dns.json` (S3).

use std::{fs, path::Path};

use anyhow::Result;
use serde_json::{Value, json};

/// Student's t for 95 %: for 20 rounds and more (19 degrees of freedom), and for the few of a quick run (4).
const T: f64 = 2.093;
const T_OF_FEW: f64 = 2.776;

/// A mean and what it may as well have been.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Interval {
    pub(crate) mean: f64,
    pub(crate) low: f64,
    pub(crate) high: f64,
}

impl Interval {
    pub(crate) fn of(values: &[f64]) -> Self {
        let count = values.len() as f64;
        let mean = values.iter().sum::<f64>() / count;
        let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
        let t = if values.len() < 20 { T_OF_FEW } else { T };
        let reach = t * (squares / (count - 1.0)).sqrt() / count.sqrt();
        Self { mean, low: mean - reach, high: mean + reach }
    }
}

/// All figures of a run.
#[derive(Debug, Default)]
pub(crate) struct Figures(Vec<Value>);

impl Figures {
    /// A figure that no bar is set for.
    pub(crate) fn plain(&mut self, name: &str, unit: &str, values: &[f64]) {
        self.add(name, unit, Interval::of(values), Value::Null, Value::from(true));
    }

    /// A figure of one run that no bar is set for.
    pub(crate) fn once(&mut self, name: &str, unit: &str, value: f64) {
        println!("{name:<60} {value:>11.2} {unit:<24} (one run)");
        self.0.push(json!({"name": name, "value": value, "unit": unit, "bar": null, "pass": true}));
    }

    /// A figure of one run that must not be above a bar.
    pub(crate) fn bounded(&mut self, name: &str, unit: &str, value: f64, bar: f64) {
        let pass = value <= bar;
        println!("{name:<60} {value:>11.2} {unit:<24} (bar {bar}; pass {pass})");
        self.0.push(json!({"name": name, "value": value, "unit": unit, "bar": bar, "pass": pass}));
    }

    /// A ratio of pairs that must reach a bar, which is written as times the other.
    pub(crate) fn at_least(&mut self, name: &str, pairs: &[f64], bar: f64) {
        let interval = Interval::of(pairs);
        let pass = verdict(interval, interval.high >= bar);
        self.add(name, "times", interval, Value::from(bar), pass);
    }

    /// A ratio of pairs that must not be above a bar.
    pub(crate) fn at_most(&mut self, name: &str, pairs: &[f64], bar: f64) {
        let interval = Interval::of(pairs);
        let pass = verdict(interval, interval.low <= bar);
        self.add(name, "times", interval, Value::from(bar), pass);
    }

    fn add(&mut self, name: &str, unit: &str, interval: Interval, bar: Value, pass: Value) {
        let Interval { mean, low, high } = interval;
        println!("{name:<60} {mean:>11.2} {unit:<24} ({low:.2} to {high:.2}; bar {bar}; pass {pass})");
        self.0.push(json!({
            "name": name, "value": mean, "unit": unit, "bar": bar, "pass": pass, "low": low, "high": high,
        }));
    }

    /// Writes the file.
    pub(crate) fn write(&self, file: &Path) -> Result<()> {
        fs::create_dir_all(file.parent().unwrap_or(Path::new(".")))?;
        Ok(fs::write(file, serde_json::to_string_pretty(&self.0)?)?)
    }

    /// Whether no bar is missed.
    pub(crate) fn pass(&self) -> bool {
        self.0.iter().all(|figure| figure["pass"] != false)
    }
}

/// S3: a ratio that is not known to within four tenths shows nothing.
fn verdict(interval: Interval, pass: bool) -> Value {
    const WIDEST: f64 = 0.4;
    if interval.high - interval.low > WIDEST { "not resolvable".into() } else { pass.into() }
}

/// The value that this part of all values, in nanoseconds, is not above.
pub(crate) fn percentile(values: &mut [u32], part: f64) -> f64 {
    values.sort_unstable();
    let last = values.len().saturating_sub(1) as f64;
    values.get((last * part).round() as usize).map_or(f64::NAN, |value| f64::from(*value))
}
