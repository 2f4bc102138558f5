//! Metrics by the OpenMetrics rules: families with their help are declared once, and get their values at each scrape.
//! The page that documents them is made of the same declarations.

use std::{collections::BTreeMap, fmt};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric, MetricEncoder, text},
    metrics::{MetricType, counter::ConstCounter, gauge::ConstGauge},
    registry::Registry,
};

/// The media type of [`page`].
pub const FORMAT: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// What is counted or measured.
#[derive(Debug)]
pub struct Family {
    /// Its name, without `_total`.
    pub name: &'static str,
    /// Whether it only grows.
    pub kind: Kind,
    /// What it says. Ends without a full stop.
    pub help: &'static str,
    /// Its labels. None of them is ever a domain name.
    pub labels: &'static [&'static str],
}

/// Whether a value only grows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// It does, until the process begins anew.
    Counter,
    /// It may fall.
    Gauge,
}

/// A value.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Value {
    /// A whole number.
    Whole(u64),
    /// Any number.
    Real(f64),
}

impl From<u64> for Value {
    fn from(number: u64) -> Self {
        Self::Whole(number)
    }
}

impl From<usize> for Value {
    fn from(number: usize) -> Self {
        Self::Whole(number as u64)
    }
}

impl From<bool> for Value {
    fn from(truth: bool) -> Self {
        Self::Whole(truth.into())
    }
}

impl From<f64> for Value {
    fn from(number: f64) -> Self {
        Self::Real(number)
    }
}

impl Family {
    /// One that only grows; its samples are named `NAME_total`.
    pub const fn counter(name: &'static str, labels: &'static [&'static str], help: &'static str) -> Self {
        Self { name, kind: Kind::Counter, help, labels }
    }

    /// One that may fall.
    pub const fn gauge(name: &'static str, labels: &'static [&'static str], help: &'static str) -> Self {
        Self { name, kind: Kind::Gauge, help, labels }
    }

    /// What its samples are called.
    pub fn sample_name(&self) -> String {
        match self.kind {
            Kind::Counter => format!("{}_total", self.name),
            Kind::Gauge => self.name.to_owned(),
        }
    }
}

type Labels = Vec<(&'static str, String)>;

/// The values of one scrape.
#[derive(Debug, Default)]
pub struct Scrape(BTreeMap<&'static str, Vec<(Labels, Value)>>);

impl Scrape {
    /// A value of a family; one value for each of its labels, in their order.
    pub fn add(&mut self, family: &'static Family, labels: &[&str], value: impl Into<Value>) {
        debug_assert_eq!(family.labels.len(), labels.len(), "{}", family.name);
        let labels = family.labels.iter().copied().zip(labels.iter().map(ToString::to_string)).collect();
        self.0.entry(family.name).or_default().push((labels, value.into()));
    }
}

/// The page of a scrape: every family, also those without a value.
pub fn page(families: &'static [&'static Family], fill: impl FnOnce(&mut Scrape)) -> String {
    let mut scrape = Scrape::default();
    fill(&mut scrape);
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Filled { families, scrape }));
    let mut page = String::new();
    // Writing to a String cannot fail.
    text::encode(&mut page, &registry).ok();
    page
}

#[derive(Debug)]
struct Filled {
    families: &'static [&'static Family],
    scrape: Scrape,
}

impl Collector for Filled {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        for family in self.families {
            let kind = match family.kind {
                Kind::Counter => MetricType::Counter,
                Kind::Gauge => MetricType::Gauge,
            };
            let mut metric = encoder.encode_descriptor(family.name, family.help, None, kind)?;
            for (labels, value) in self.scrape.0.get(family.name).into_iter().flatten() {
                if labels.is_empty() {
                    encode(family.kind, *value, metric)?;
                    break;
                }
                encode(family.kind, *value, metric.encode_family(labels)?)?;
            }
        }
        Ok(())
    }
}

fn encode(kind: Kind, value: Value, metric: MetricEncoder<'_>) -> Result<(), fmt::Error> {
    match (kind, value) {
        (Kind::Counter, Value::Whole(number)) => ConstCounter::new(number).encode(metric),
        (Kind::Counter, Value::Real(number)) => ConstCounter::new(number).encode(metric),
        (Kind::Gauge, Value::Whole(number)) => ConstGauge::new(number).encode(metric),
        (Kind::Gauge, Value::Real(number)) => ConstGauge::new(number).encode(metric),
    }
}

/// The families as a table in Markdown.
pub fn table(families: &[&Family]) -> String {
    let mut text = String::from("| metric | kind | labels | what it says |\n|---|---|---|---|\n");
    for family in families {
        let kind = match family.kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
        };
        let labels: Vec<String> = family.labels.iter().map(|label| format!("`{label}`")).collect();
        text +=
            &format!("| `{}` | {kind} | {} | {} |\n", family.sample_name(), labels.join(", "), family.help);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    static PACKETS: Family = Family::counter("nameward_x", &["endpoint", "reason"], "What it is");
    static AGE: Family = Family::gauge("nameward_age_seconds", &[], "How old it is");
    static NEVER: Family = Family::gauge("nameward_never", &[], "What never came");

    #[test]
    fn samples_follow_their_family_and_labels_are_escaped() {
        static FAMILIES: &[&Family] = &[&PACKETS, &AGE, &NEVER];
        let page = page(FAMILIES, |scrape| {
            scrape.add(&AGE, &[], 0.5);
            scrape.add(&PACKETS, &["a\"b\\c\nd", "port"], 3_u64);
            scrape.add(&PACKETS, &["e", "port"], 4_u64);
        });
        assert_eq!(
            page,
            "# HELP nameward_x What it is\n# TYPE nameward_x counter\n\
             nameward_x_total{endpoint=\"a\\\"b\\\\c\\nd\",reason=\"port\"} 3\n\
             nameward_x_total{endpoint=\"e\",reason=\"port\"} 4\n\
             # HELP nameward_age_seconds How old it is\n# TYPE nameward_age_seconds gauge\nnameward_age_seconds 0.5\n\
             # HELP nameward_never What never came\n# TYPE nameward_never gauge\n# EOF\n"
        );
    }

    #[test]
    fn the_table_names_what_a_scrape_shows() {
        assert_eq!(
            table(&[&PACKETS, &AGE]).lines().skip(2).collect::<Vec<_>>(),
            [
                "| `nameward_x_total` | counter | `endpoint`, `reason` | What it is |",
                "| `nameward_age_seconds` | gauge |  | How old it is |",
            ]
        );
    }
}
