//! Metrics as Prometheus reads them: the text format, version 0.0.4.
//!
//! Invariants: a family stands once, with its help and its kind before its samples; counters end in
//! `_total`, and every name carries its base unit. Asserted here, and checked by `promtool`.

use std::collections::BTreeMap;
use std::fmt;

use ashlar_reactor::meters::{Times, upper_bound_ns};

/// The media type of what is exposed.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// What a family is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Counter,
    Gauge,
    Histogram,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

/// A value: whole where it is a count, of seconds where it is a time.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Value {
    /// A whole number.
    Whole(u64),
    /// Any number.
    Real(f64),
}

impl From<u64> for Value {
    fn from(value: u64) -> Self {
        Self::Whole(value)
    }
}

impl From<f64> for Value {
    fn from(value: f64) -> Self {
        Self::Real(value)
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Whole(value) => value.fmt(f),
            Self::Real(value) => value.fmt(f),
        }
    }
}

/// A family of metrics: one name, many sets of labels.
#[derive(Clone, Debug, PartialEq)]
pub struct Family {
    name: &'static str,
    help: &'static str,
    kind: Kind,
    /// Name, labels as they are written, value.
    samples: Vec<(String, Value)>,
}

impl Family {
    /// Of numbers that only grow, and start again with the process.
    pub fn counter(name: &'static str, help: &'static str) -> Self {
        assert!(name.ends_with("_total"), "{name} is a counter");
        Self::new(name, help, Kind::Counter)
    }

    /// Of numbers that come and go.
    pub fn gauge(name: &'static str, help: &'static str) -> Self {
        assert!(!name.ends_with("_total"), "{name} is a gauge");
        Self::new(name, help, Kind::Gauge)
    }

    /// Of times.
    pub fn histogram(name: &'static str, help: &'static str) -> Self {
        assert!(name.ends_with("_seconds"), "{name} is of times");
        Self::new(name, help, Kind::Histogram)
    }

    fn new(name: &'static str, help: &'static str, kind: Kind) -> Self {
        let samples = Vec::new();
        Self {
            name,
            help,
            kind,
            samples,
        }
    }

    /// One more sample.
    pub fn push(&mut self, labels: &[(&str, &str)], value: impl Into<Value>) {
        let sample = format!("{}{}", self.name, Labels(labels, None));
        self.samples.push((sample, value.into()));
    }

    /// One more histogram.
    pub fn push_times(&mut self, labels: &[(&str, &str)], times: &Times) {
        let bounds = (0..times.buckets().len()).map(upper_bound_ns);
        let bounds = bounds.map(|ns| ns.map(|ns| seconds(u128::from(ns))));
        let sum = times.sum().as_secs_f64();
        self.push_buckets(labels, bounds.zip(times.buckets().iter().copied()), sum);
    }

    /// The same from buckets, each without those below, the last without a bound, and the sum of all.
    pub fn push_buckets(
        &mut self,
        labels: &[(&str, &str)],
        buckets: impl Iterator<Item = (Option<f64>, u64)>,
        sum: f64,
    ) {
        let (mut count, mut has_end) = (0, false);
        for (bound, more) in buckets {
            count += more;
            has_end = bound.is_none();
            let bound = bound.map_or_else(|| "+Inf".to_owned(), |bound| bound.to_string());
            let sample = format!("{}_bucket{}", self.name, Labels(labels, Some(&bound)));
            self.samples.push((sample, Value::Whole(count)));
        }
        assert!(has_end, "a histogram ends without a bound");
        let text = Labels(labels, None).to_string();
        let sum_sample = format!("{}_sum{text}", self.name);
        self.samples.push((sum_sample, Value::Real(sum)));
        let count_sample = format!("{}_count{text}", self.name);
        self.samples.push((count_sample, Value::Whole(count)));
    }
}

fn seconds(ns: u128) -> f64 {
    let ns = u64::try_from(ns).unwrap_or(u64::MAX);
    std::time::Duration::from_nanos(ns).as_secs_f64()
}

/// Labels between braces; nothing where there are none.
struct Labels<'a>(&'a [(&'a str, &'a str)], Option<&'a str>);

impl fmt::Display for Labels<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bound = self.1.map(|bound| ("le", bound));
        let all = self.0.iter().copied().chain(bound);
        let mut any = false;
        for (name, value) in all {
            f.write_str(if any { "," } else { "{" })?;
            any = true;
            write!(f, "{name}=\"{}\"", Escaped(value))?;
        }
        f.write_str(if any { "}" } else { "" })
    }
}

/// A label's value: backslash, quote and line feed are escaped, nothing else is special.
struct Escaped<'a>(&'a str);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for c in self.0.chars() {
            match c {
                '\\' => f.write_str("\\\\")?,
                '"' => f.write_str("\\\"")?,
                '\n' => f.write_str("\\n")?,
                c => write!(f, "{c}")?,
            }
        }
        Ok(())
    }
}

/// Families, each once.
#[derive(Debug, Default)]
pub struct Exposition {
    families: BTreeMap<&'static str, Family>,
}

impl Exposition {
    /// Takes a family in; its samples follow those that came before under the same name.
    pub fn add(&mut self, family: Family) {
        let entry = self.families.entry(family.name);
        let known = entry.or_insert_with(|| Family::new(family.name, family.help, family.kind));
        assert_eq!(known.kind, family.kind, "{} is of one kind", family.name);
        known.samples.extend(family.samples);
    }
}

impl fmt::Display for Exposition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for family in self.families.values().filter(|f| !f.samples.is_empty()) {
            writeln!(f, "# HELP {} {}", family.name, family.help)?;
            writeln!(f, "# TYPE {} {}", family.name, family.kind.name())?;
            for (sample, value) in &family.samples {
                writeln!(f, "{sample} {value}")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_family_stands_once_whoever_adds_to_it() {
        let mut exposition = Exposition::default();
        for disk in ["a", "b\"\\\n"] {
            let mut family = Family::gauge("ashlar_disk_used_bytes", "Bytes used.");
            family.push(&[("disk", disk)], 7);
            exposition.add(family);
        }
        let expected = "\
# HELP ashlar_disk_used_bytes Bytes used.
# TYPE ashlar_disk_used_bytes gauge
ashlar_disk_used_bytes{disk=\"a\"} 7
ashlar_disk_used_bytes{disk=\"b\\\"\\\\\\n\"} 7
";
        assert_eq!(exposition.to_string(), expected);
    }

    #[test]
    fn buckets_hold_those_below() {
        let mut exposition = Exposition::default();
        let mut family = Family::histogram("ashlar_wait_seconds", "Waits.");
        let buckets = [(Some(0.5), 2), (Some(1.0), 0), (None, 1)];
        family.push_buckets(&[], buckets.into_iter(), 3.5);
        exposition.add(family);
        let text = exposition.to_string();
        for line in [
            "ashlar_wait_seconds_bucket{le=\"0.5\"} 2",
            "ashlar_wait_seconds_bucket{le=\"1\"} 2",
            "ashlar_wait_seconds_bucket{le=\"+Inf\"} 3",
            "ashlar_wait_seconds_sum 3.5",
            "ashlar_wait_seconds_count 3",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} not in\n{text}");
        }
    }

    #[test]
    fn a_family_without_samples_is_not_told() {
        let mut exposition = Exposition::default();
        exposition.add(Family::counter("ashlar_things_total", "Things."));
        assert_eq!(exposition.to_string(), "");
    }
}
