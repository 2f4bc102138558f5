//! Figures as a table and as `target/bench/kubernetes.json` (S3).

use std::{fs, path::Path};

use anyhow::Result;
use serde_json::{Value, json};

/// All figures of a run, told as they come.
#[derive(Debug, Default)]
pub(crate) struct Figures(Vec<Value>);

impl Figures {
    /// A figure that no bar is set for.
    pub(crate) fn plain(&mut self, name: &str, unit: &str, value: f64) {
        println!("{name:<66} {value:>10.1} {unit}");
        self.0.push(json!({"name": name, "value": value, "unit": unit, "bar": null, "pass": true}));
    }

    /// A figure that must not be above a bar.
    pub(crate) fn at_most(&mut self, name: &str, unit: &str, value: f64, bar: f64) {
        let pass = value <= bar;
        println!("{name:<66} {value:>10.1} {unit}  bar {bar}: {}", if pass { "holds" } else { "MISSED" });
        self.0.push(json!({"name": name, "value": value, "unit": unit, "bar": bar, "pass": pass}));
    }

    /// Writes the file; with `keeps_others`, what it has of other figures stays: parts may be measured one at a time.
    pub(crate) fn write(&self, file: &Path, keeps_others: bool) -> Result<()> {
        fs::create_dir_all(file.parent().unwrap_or(Path::new(".")))?;
        let before = fs::read(file).ok().filter(|_| keeps_others);
        let mut all: Vec<Value> =
            before.and_then(|text| serde_json::from_slice(&text).ok()).unwrap_or_default();
        all.retain(|known| self.0.iter().all(|figure| figure["name"] != known["name"]));
        all.extend(self.0.iter().cloned());
        Ok(fs::write(file, serde_json::to_string_pretty(&all)?)?)
    }

    /// Whether no bar is missed.
    pub(crate) fn pass(&self) -> bool {
        self.0.iter().all(|figure| figure["pass"] != false)
    }
}

/// The value that this part of all values is not above.
pub(crate) fn percentile(values: &[f64], part: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let last = sorted.len().saturating_sub(1) as f64;
    sorted.get((last * part).round() as usize).copied().unwrap_or(f64::NAN)
}

pub(crate) fn median(values: &[f64]) -> f64 {
    percentile(values, 0.5)
}

pub(crate) fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}
