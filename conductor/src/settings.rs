//! Every setting that lives in the metadata: one table of names, types, ranges, defaults and effects.
//!
//! Pure. Invariants: a value that is stored was checked and is written the way this module writes it; what
//! this build does not know is kept, and does nothing.

use std::collections::BTreeMap;
use std::time::Duration;

use ashlar_proto::ByteCount;
use ashlar_proto::api::{SettingScope, VolumeSettings};

mod value;

use crate::placement::Rules;
use value::selector;
pub(crate) use value::{Kind, Value};

/// A setting.
#[derive(Debug)]
pub(crate) struct Definition {
    /// Its name.
    pub(crate) name: &'static str,
    /// What it is of.
    pub(crate) scope: SettingScope,
    /// What its values are, and within which bounds.
    pub(crate) kind: Kind,
    /// The value where nobody sets one; nothing where that is up to each process.
    pub(crate) default: Option<&'static str>,
    /// What it does, and when.
    pub(crate) effect: &'static str,
}

/// Seconds of a day.
const DAY: u64 = 24 * 3600;

/// All settings, by name.
pub(crate) const TABLE: [Definition; 11] = [
    Definition {
        name: "bandwidth-max",
        scope: SettingScope::Volume,
        kind: Kind::Rate {
            min: 64 << 10,
            max: 1 << 40,
        },
        default: Some("unlimited"),
        effect: "Bytes a second that a volume's owner takes from clients at most, reads and writes \
                 together; more waits. At once, also where the volume is attached.",
    },
    Definition {
        name: "iops-max",
        scope: SettingScope::Volume,
        kind: Kind::Number {
            min: 1,
            max: 100_000_000,
            unit: "requests per second",
        },
        default: Some("unlimited"),
        effect: "Requests a second that a volume's owner takes from clients at most, flushes apart; more \
                 waits. At once, also where the volume is attached.",
    },
    Definition {
        name: "owner-silence",
        scope: SettingScope::Cluster,
        kind: Kind::Time {
            min: Duration::from_secs(8),
            max: Duration::from_secs(3600),
        },
        default: None,
        effect: "How long an owner may be silent, to the conductor and to the stores, before its volumes \
                 are repaired without it and may be attached elsewhere without force. At once.",
    },
    Definition {
        name: "pool",
        scope: SettingScope::Volume,
        kind: Kind::Selector,
        default: Some("any"),
        effect: "Labels of the disks, or of their nodes, that may hold replicas, as media=nvme,region=eu. For \
                 every place that is chosen from then on, at once; replicas that lie elsewhere stay.",
    },
    Definition {
        name: "rebuild-after",
        scope: SettingScope::Cluster,
        kind: Kind::Time {
            min: Duration::from_secs(0),
            max: Duration::from_secs(30 * DAY),
        },
        default: None,
        effect: "How long a disk that does not serve is waited for before its replicas are made \
                 elsewhere. At once, also for disks that are away.",
    },
    Definition {
        name: "rebuilds-per-disk",
        scope: SettingScope::Cluster,
        kind: Kind::Number {
            min: 1,
            max: 16,
            unit: "replicas",
        },
        default: Some("2"),
        effect: "New replicas that are filled on one disk at a time, for healing and to even out disks. \
                 At once; those under way go on.",
    },
    Definition {
        name: "rebuilds-per-node",
        scope: SettingScope::Cluster,
        kind: Kind::Number {
            min: 1,
            max: 64,
            unit: "replicas",
        },
        default: Some("4"),
        effect: "New replicas that are filled at a time in the cluster, times the nodes that are up. At \
                 once; those under way go on.",
    },
    Definition {
        name: "scrub-interval",
        scope: SettingScope::Volume,
        kind: Kind::Time {
            min: Duration::from_secs(0),
            max: Duration::from_secs(365 * DAY),
        },
        default: None,
        effect: "Pause before each scrub of an attached volume; 0s for none. From the next pause on, and \
                 at once where none runs.",
    },
    Definition {
        name: "scrub-rate",
        scope: SettingScope::Volume,
        kind: Kind::Rate {
            min: 0,
            max: 1 << 40,
        },
        default: None,
        effect: "Bytes of a volume that each of its replicas reads and checks a second while it is \
                 scrubbed; with 0B only maps are compared. From the next shard on.",
    },
    Definition {
        name: "spread",
        scope: SettingScope::Volume,
        kind: Kind::Label,
        default: Some("any"),
        effect: "The label of nodes, as zone or rack, whose values replicas of a shard differ in. For every \
                 place that is chosen from then on, at once; replicas that lie otherwise stay.",
    },
    Definition {
        name: "spread-rule",
        scope: SettingScope::Volume,
        kind: Kind::Choice(&["soft", "hard"]),
        default: Some("soft"),
        effect: "Whether `spread` is a wish, or rather no replica is placed than one beside another. For \
                 every place that is chosen from then on, at once.",
    },
];

/// The setting of a name.
pub(crate) fn definition(name: &str) -> Option<&'static Definition> {
    TABLE.iter().find(|definition| definition.name == name)
}

/// What bounds the requests of a volume's clients.
pub(crate) const LIMITS: [&str; 2] = ["bandwidth-max", "iops-max"];

/// Whether it says where replicas lie.
pub(crate) fn is_of_place(name: &str) -> bool {
    matches!(name, "pool" | "spread" | "spread-rule")
}

/// What is shown where the default is up to each process.
pub(crate) const UP_TO_THE_PROCESS: &str = "as the process was started";

/// Values by name, as they are stored.
pub(crate) type Values = BTreeMap<String, String>;

/// The value that is set, if any is, and if this build knows how to read it.
pub(crate) fn value_of(values: &Values, name: &str) -> Option<Value> {
    let definition = definition(name)?;
    definition.kind.read(values.get(name)?).ok()
}

/// A time that is set.
pub(crate) fn time_of(values: &Values, name: &str) -> Option<Duration> {
    match value_of(values, name)? {
        Value::Time(time) => Some(time),
        _ => None,
    }
}

/// A number that is set; none where it is unlimited.
pub(crate) fn number_of(values: &Values, name: &str) -> Option<u64> {
    match value_of(values, name)? {
        Value::Number(number) | Value::Bytes(number) => Some(number),
        _ => None,
    }
}

/// What an owner does by the settings of its volume, and by those of the cluster where that has none.
pub(crate) fn of_volume(volume: Option<&Values>, cluster: &Values) -> VolumeSettings {
    let none = Values::new();
    let volume = volume.unwrap_or(&none);
    let from = |name: &str| {
        let is_set = volume.contains_key(name);
        if is_set { volume } else { cluster }
    };
    let number = |name| number_of(from(name), name);
    let interval = time_of(from("scrub-interval"), "scrub-interval");
    VolumeSettings {
        requests_per_second: number("iops-max"),
        bytes_per_second: number("bandwidth-max").map(ByteCount::new),
        scrub_interval_ms: interval.map(|time| u64::try_from(time.as_millis()).unwrap_or(u64::MAX)),
        scrub_bytes_per_second: number("scrub-rate").map(ByteCount::new),
    }
}

/// Where the replicas of a volume may lie, by its settings and those of the cluster.
pub(crate) fn rules_of(volume: Option<&Values>, cluster: &Values) -> Rules {
    let text = |name: &str| {
        let of_volume = volume.and_then(|values| values.get(name));
        let text = of_volume.or_else(|| cluster.get(name))?;
        match definition(name)?.kind.read(text).ok()? {
            Value::Text(text) => Some(text),
            _ => None,
        }
    };
    Rules {
        spread: text("spread"),
        is_hard: text("spread-rule").is_some_and(|rule| rule == "hard"),
        pool: text("pool").map(|text| selector(&text)).unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_in_order_and_its_defaults_can_be_read() {
        assert!(TABLE.is_sorted_by(|a, b| a.name < b.name));
        for definition in &TABLE {
            if let Some(default) = definition.default {
                let value = definition.kind.read(default).unwrap();
                assert_eq!(value.to_string(), default, "{}", definition.name);
            }
            assert!(definition.effect.ends_with('.'), "{}", definition.name);
            assert!(
                definition.effect.contains(" once") || definition.effect.contains("From the next")
            );
        }
    }

    #[test]
    fn a_volume_has_its_own_values_and_the_clusters_where_it_has_none() {
        let values = |pairs: &[(&str, &str)]| -> Values {
            let pairs = pairs
                .iter()
                .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()));
            pairs.collect()
        };
        let cluster = values(&[
            ("iops-max", "100"),
            ("scrub-interval", "1h"),
            ("new-one", "x"),
        ]);
        let volume = values(&[("iops-max", "unlimited"), ("bandwidth-max", "1MiB")]);
        let expected = VolumeSettings {
            requests_per_second: Some(100),
            scrub_interval_ms: Some(3_600_000),
            ..VolumeSettings::default()
        };
        assert_eq!(of_volume(None, &cluster), expected);
        let expected = VolumeSettings {
            requests_per_second: None,
            bytes_per_second: Some(ByteCount::new(1 << 20)),
            ..expected
        };
        assert_eq!(of_volume(Some(&volume), &cluster), expected);
        assert!(of_volume(None, &Values::new()).is_empty());
    }
}
