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
