//! Values of settings: times, rates and numbers, as people write them and as they are stored.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use ashlar_proto::limits::NAME_BYTES_MAX;

/// What stands for no rule.
const ANY: &str = "any";

/// Labels of a selector.
const LABELS_MAX: usize = 8;

/// What stands for no limit.
const UNLIMITED: &str = "unlimited";

/// What the values of a setting are. Bounds are part of what is possible.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A time, as `90s`, `5m`, `12h` or `7d`.
    Time {
        /// The least.
        min: Duration,
        /// The most.
        max: Duration,
    },
    /// Bytes a second, as `8MiB`, or `unlimited`.
    Rate {
        /// The least.
        min: u64,
        /// The most.
        max: u64,
    },
    /// A number of something, or `unlimited`.
    Number {
        /// The least.
        min: u64,
        /// The most.
        max: u64,
        /// Of what.
        unit: &'static str,
    },
    /// The name of a label, or `any`.
    Label,
    /// Labels with their values, as `media=nvme,zone=a`, or `any`.
    Selector,
    /// The same, but not `any`.
    Pool,
    /// One of these words.
    Choice(&'static [&'static str]),
}

/// A value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Value {
    /// Written in the largest unit that leaves no rest.
    Time(Duration),
    /// Of whatever the setting counts.
    Number(u64),
    /// Written in the largest unit that leaves no rest.
    Bytes(u64),
    /// No limit.
    Unlimited,
    /// A word, a label or a selector.
    Text(String),
    /// No rule.
    Any,
}

impl Value {
    /// The time that it is, if it is one.
    pub(crate) fn time(self) -> Option<Duration> {
        match self {
            Self::Time(time) => Some(time),
            _ => None,
        }
    }

    /// The number that it is; none where it is no limit.
    pub(crate) fn number(self) -> Option<u64> {
        match self {
            Self::Number(number) | Self::Bytes(number) => Some(number),
            _ => None,
        }
    }

    /// The text that it is; none where it is no rule.
    pub(crate) fn text(self) -> Option<String> {
        match self {
            Self::Text(text) => Some(text),
            _ => None,
        }
    }
}

/// A text is no value of its setting.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not possible: give {range}")]
pub(crate) struct Malformed {
    /// What was given.
    pub(crate) text: String,
    /// What is possible.
    pub(crate) range: String,
}

const TIMES: [(&str, u64); 5] = [
    ("d", 86_400_000),
    ("h", 3_600_000),
    ("m", 60_000),
    ("s", 1000),
    ("ms", 1),
];

const SIZES: [(&str, u64); 5] = [
    ("TiB", 1 << 40),
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("B", 1),
];

impl Kind {
    /// The value that a text says.
    ///
    /// # Errors
    /// [`Malformed`], with what is possible.
    pub(crate) fn read(self, text: &str) -> Result<Value, Malformed> {
        let text = text.trim();
        let value = match self {
            Self::Time { min, max } => scaled(text, &TIMES)
                .map(Duration::from_millis)
                .filter(|time| (min..=max).contains(time))
                .map(Value::Time),
            Self::Rate { .. } | Self::Number { .. } if text == UNLIMITED => Some(Value::Unlimited),
            Self::Rate { min, max } => scaled(text, &SIZES)
                .filter(|bytes| (min..=max).contains(bytes))
                .map(Value::Bytes),
            Self::Number { min, max, .. } => text
                .parse()
                .ok()
                .filter(|number| (min..=max).contains(number))
                .map(Value::Number),
            Self::Label | Self::Selector if text == ANY => Some(Value::Any),
            Self::Label => is_label(text).then(|| Value::Text(text.to_owned())),
            Self::Selector | Self::Pool => canonical(text).map(Value::Text),
            Self::Choice(words) => {
                let word = words.iter().find(|word| **word == text);
                word.map(|word| Value::Text((*word).to_owned()))
            }
        };
        value.ok_or_else(|| self.malformed(text))
    }

    fn malformed(self, text: &str) -> Malformed {
        Malformed {
            text: text.chars().take(64).collect(),
            range: self.range(),
        }
    }

    /// What is possible, for people.
    pub(crate) fn range(self) -> String {
        match self {
            Self::Time { min, max } => {
                format!("{} to {}", Value::Time(min), Value::Time(max))
            }
            Self::Rate { min, max } => {
                format!(
                    "{} to {}, or {UNLIMITED}",
                    Value::Bytes(min),
                    Value::Bytes(max)
                )
            }
            Self::Number { min, max, .. } => format!("{min} to {max}, or {UNLIMITED}"),
            Self::Label => format!("the name of a label, or {ANY}"),
            Self::Selector => format!("LABEL=VALUE,…, at most {LABELS_MAX}, or {ANY}"),
            Self::Pool => format!("LABEL=VALUE,…, at most {LABELS_MAX}"),
            Self::Choice(words) => words.join(" or "),
        }
    }

    /// What its values are counted in.
    pub(crate) fn unit(self) -> &'static str {
        match self {
            Self::Time { .. } => "time",
            Self::Rate { .. } => "bytes per second",
            Self::Number { unit, .. } => unit,
            Self::Label => "label",
            Self::Selector | Self::Pool => "labels",
            Self::Choice(_) => "word",
        }
    }
}

/// Whether that can be the name or the value of a label here.
fn is_label(text: &str) -> bool {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "._-/".contains(c);
    (1..=NAME_BYTES_MAX).contains(&text.len()) && text.chars().all(is_plain)
}

/// The labels of a selector that was read before.
pub(crate) fn selector(text: &str) -> BTreeMap<String, String> {
    let pairs = text
        .split(',')
        .filter_map(|pair| pair.trim().split_once('='));
    pairs
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect()
}

/// A selector, written one way.
fn canonical(text: &str) -> Option<String> {
    let labels = selector(text);
    let count = text.split(',').count();
    let is_right = |(name, value): (&String, &String)| is_label(name) && is_label(value);
    if labels.len() != count || count > LABELS_MAX || !labels.iter().all(is_right) {
        return None;
    }
    let pairs: Vec<String> = labels.iter().map(|(k, v)| format!("{k}={v}")).collect();
    Some(pairs.join(","))
}

/// A whole number with one of these units behind it.
fn scaled(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let digits = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().ok()?;
    let unit = unit.trim();
    let (_, scale) = units.iter().find(|(name, _)| *name == unit)?;
    number.checked_mul(*scale)
}

/// In the largest unit that leaves no rest.
fn write(
    f: &mut fmt::Formatter<'_>,
    number: u64,
    units: &[(&str, u64)],
    zero: &str,
) -> fmt::Result {
    let fits = |(_, scale): &&(&str, u64)| number != 0 && number.is_multiple_of(*scale);
    match units.iter().find(fits) {
        Some((unit, scale)) => write!(f, "{}{unit}", number / scale),
        None => f.write_str(zero),
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Time(time) => {
                let ms = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
                write(f, ms, &TIMES, "0s")
            }
            Self::Bytes(bytes) => write(f, *bytes, &SIZES, "0B"),
            Self::Number(number) => number.fmt(f),
            Self::Unlimited => f.write_str(UNLIMITED),
            Self::Text(text) => f.write_str(text),
            Self::Any => f.write_str(ANY),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const TIME: Kind = Kind::Time {
        min: Duration::ZERO,
        max: Duration::from_secs(1 << 30),
    };
    const RATE: Kind = Kind::Rate {
        min: 1,
        max: 1 << 40,
    };
    const NUMBER: Kind = Kind::Number {
        min: 1,
        max: 10,
        unit: "things",
    };

    #[test]
    fn values_are_written_one_way() {
        let written = |kind: Kind, text: &str| kind.read(text).map(|value| value.to_string());
        assert_eq!(written(TIME, "300s").unwrap(), "5m");
        assert_eq!(written(TIME, "1500ms").unwrap(), "1500ms");
        assert_eq!(written(TIME, " 0h ").unwrap(), "0s");
        assert_eq!(written(RATE, "2048 KiB").unwrap(), "2MiB");
        assert_eq!(written(RATE, "unlimited").unwrap(), "unlimited");
        assert_eq!(written(NUMBER, "7").unwrap(), "7");
    }

    #[test]
    fn selectors_and_labels_are_written_one_way() {
        let read = |kind: Kind, text: &str| kind.read(text).map(|value| value.to_string()).ok();
        let selector = |text| read(Kind::Selector, text);
        assert_eq!(selector("zone=b, media=nvme").unwrap(), "media=nvme,zone=b");
        assert_eq!(selector("any").unwrap(), "any");
        for wrong in ["", "zone", "zone=", "=a", "a=1,a=2", "a=1,", "a=b c"] {
            assert_eq!(selector(wrong), None, "{wrong}");
        }
        assert_eq!(read(Kind::Label, "rack").unwrap(), "rack");
        assert_eq!(read(Kind::Label, "zo ne"), None);
        assert_eq!(
            read(Kind::Choice(&["soft", "hard"]), "hard").unwrap(),
            "hard"
        );
        assert_eq!(read(Kind::Choice(&["soft", "hard"]), "firm"), None);
    }

    #[test]
    fn what_is_not_possible_is_refused_with_what_is() {
        for (kind, text) in [
            (TIME, "5"),
            (TIME, "unlimited"),
            (TIME, "-5s"),
            (TIME, "99999999999999999999s"),
            (RATE, "0B"),
            (RATE, "2TiB"),
            (RATE, "8 MB"),
            (NUMBER, "11"),
            (NUMBER, ""),
            (NUMBER, "1.5"),
        ] {
            assert!(kind.read(text).is_err(), "{text}");
        }
        let refused = NUMBER.read("11").unwrap_err().to_string();
        assert_eq!(refused, "`11` is not possible: give 1 to 10, or unlimited");
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_again(ms in 0..1_u64 << 39, bytes in 1..1_u64 << 40) {
            for (kind, value) in [
                (TIME, Value::Time(Duration::from_millis(ms))),
                (RATE, Value::Bytes(bytes)),
            ] {
                prop_assert_eq!(kind.read(&value.to_string()).unwrap(), value);
            }
        }

        #[test]
        fn any_text_is_read_or_refused(text in ".{0,40}") {
            for kind in [TIME, RATE, NUMBER] {
                let _ = kind.read(&text);
            }
        }
    }
}
