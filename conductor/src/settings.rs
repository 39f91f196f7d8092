//! Every setting that lives in the metadata: one table of names, types, ranges, defaults and effects.
//!
//! Pure. Invariants: a value that is stored was checked and is written the way this module writes it; what
//! this build does not know is kept, and does nothing.

use std::collections::BTreeMap;
use std::time::Duration;

use ashlar_proto::ByteCount;
use ashlar_proto::api::{SettingScope, SettingSource, VolumeSettings};

mod value;

use crate::placement::Rules;
use value::selector;
pub(crate) use value::{Kind, Malformed, Value};

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
pub(crate) const TABLE: [Definition; 12] = [
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
        name: "near",
        scope: SettingScope::Volume,
        kind: Kind::Selector,
        default: Some("any"),
        effect: "Labels of the place that one replica of each shard is to be in, where there is room, as \
                 zone=a: that of who uses the volume. `spread` goes before it. For every place that is \
                 chosen from then on, at once; replicas that lie elsewhere stay.",
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
                 every place that is chosen from then on, at once; replicas that lie elsewhere stay. What is \
                 set for the pool of these labels holds for the volume, at once.",
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

impl Definition {
    /// Whether it can be set for a pool: all that a volume has, but for which pool that is in.
    pub(crate) fn is_of_pools(&self) -> bool {
        self.scope == SettingScope::Volume && self.name != POOL
    }
}

/// The setting that says which pool a volume is in.
pub(crate) const POOL: &str = "pool";

/// What bounds the requests of a volume's clients.
pub(crate) const LIMITS: [&str; 2] = ["bandwidth-max", "iops-max"];

/// Whether it says where replicas lie.
pub(crate) fn is_of_place(name: &str) -> bool {
    matches!(name, "near" | "pool" | "spread" | "spread-rule")
}

/// What is shown where the default is up to each process.
pub(crate) const UP_TO_THE_PROCESS: &str = "as the process was started";

/// Values by name, as they are stored.
pub(crate) type Values = BTreeMap<String, String>;

/// What a text says as the value of a setting, if this build knows how to read it.
fn read(name: &str, text: &str) -> Option<Value> {
    definition(name)?.kind.read(text).ok()
}

/// A time that is set.
pub(crate) fn time_of(values: &Values, name: &str) -> Option<Duration> {
    read(name, values.get(name)?)?.time()
}

/// A number that is set; none where it is unlimited.
pub(crate) fn number_of(values: &Values, name: &str) -> Option<u64> {
    read(name, values.get(name)?)?.number()
}

/// The values that hold for a volume, the nearest first: what is set for it, for its pool, for the cluster.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Applying<'a> {
    pub(crate) volume: Option<&'a Values>,
    pub(crate) pool: Option<&'a Values>,
    pub(crate) cluster: &'a Values,
}

impl<'a> Applying<'a> {
    /// The text that holds, and where it is set; nothing where nobody has set it.
    pub(crate) fn find(self, name: &str) -> Option<(&'a str, SettingSource)> {
        let places = [
            (self.volume, SettingSource::Volume),
            (self.pool, SettingSource::Pool),
            (Some(self.cluster), SettingSource::Cluster),
        ];
        let set = |(values, source): (Option<&'a Values>, SettingSource)| {
            values?.get(name).map(|text| (text.as_str(), source))
        };
        places.into_iter().find_map(set)
    }

    fn value(self, name: &str) -> Option<Value> {
        read(name, self.find(name)?.0)
    }

    /// What an owner does by them.
    pub(crate) fn of_volume(self) -> VolumeSettings {
        let number = |name| self.value(name).and_then(Value::number);
        let interval = self.value("scrub-interval").and_then(Value::time);
        VolumeSettings {
            requests_per_second: number("iops-max"),
            bytes_per_second: number("bandwidth-max").map(ByteCount::new),
            scrub_interval_ms: interval
                .map(|time| u64::try_from(time.as_millis()).unwrap_or(u64::MAX)),
            scrub_bytes_per_second: number("scrub-rate").map(ByteCount::new),
        }
    }

    /// Where the replicas of the volume may lie.
    pub(crate) fn rules(self) -> Rules {
        let text = |name| self.value(name).and_then(Value::text);
        let labels = |name| text(name).map(|text| selector(&text)).unwrap_or_default();
        Rules {
            spread: text("spread"),
            is_hard: text("spread-rule").is_some_and(|rule| rule == "hard"),
            pool: labels("pool"),
            near: labels("near"),
        }
    }
}

/// The pool that a volume is in by its own settings and those of the cluster, written one way: the one that
/// its replicas are placed in. None where they may lie anywhere.
pub(crate) fn pool_of<'a>(volume: Option<&'a Values>, cluster: &'a Values) -> Option<&'a str> {
    let applying = Applying {
        volume,
        pool: None,
        cluster,
    };
    let (text, _) = applying.find(POOL)?;
    matches!(read(POOL, text), Some(Value::Text(_))).then_some(text)
}

/// A pool as it is written, whatever the order of its labels.
///
/// # Errors
/// [`Malformed`]: these are no labels; `any` is no pool, either.
pub(crate) fn pool_named(text: &str) -> Result<String, Malformed> {
    Kind::Pool.read(text).map(|pool| pool.to_string())
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
    fn what_is_nearer_to_a_volume_goes_before() {
        let values = |pairs: &[(&str, &str)]| -> Values {
            let pairs = pairs
                .iter()
                .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()));
            pairs.collect()
        };
        let cluster = values(&[
            ("iops-max", "100"),
            ("scrub-interval", "1h"),
            ("spread", "zone"),
            ("new-one", "x"),
        ]);
        let pool = values(&[("iops-max", "200"), ("scrub-rate", "1KiB")]);
        let volume = values(&[("iops-max", "unlimited"), ("bandwidth-max", "1MiB")]);
        let applying = |volume, pool| Applying {
            volume,
            pool,
            cluster: &cluster,
        };
        let by_cluster = VolumeSettings {
            requests_per_second: Some(100),
            scrub_interval_ms: Some(3_600_000),
            ..VolumeSettings::default()
        };
        assert_eq!(applying(None, None).of_volume(), by_cluster);
        let by_pool = VolumeSettings {
            requests_per_second: Some(200),
            scrub_bytes_per_second: Some(ByteCount::new(1 << 10)),
            ..by_cluster
        };
        assert_eq!(applying(None, Some(&pool)).of_volume(), by_pool);
        let by_volume = VolumeSettings {
            requests_per_second: None,
            bytes_per_second: Some(ByteCount::new(1 << 20)),
            ..by_pool
        };
        let all = applying(Some(&volume), Some(&pool));
        assert_eq!(all.of_volume(), by_volume);
        assert_eq!(
            all.find("iops-max"),
            Some(("unlimited", SettingSource::Volume))
        );
        assert_eq!(all.find("scrub-rate"), Some(("1KiB", SettingSource::Pool)));
        assert_eq!(all.find("spread"), Some(("zone", SettingSource::Cluster)));
        assert_eq!(all.find("spread-rule"), None);
        let hard = values(&[("spread", "any"), ("spread-rule", "hard")]);
        let rules = applying(None, Some(&hard)).rules();
        assert!(rules.spread.is_none() && rules.is_hard);
        let none = Values::new();
        let nothing = Applying {
            volume: None,
            pool: None,
            cluster: &none,
        };
        assert!(nothing.of_volume().is_empty());
    }

    #[test]
    fn a_volume_is_in_the_pool_that_it_or_the_cluster_names() {
        let values = |pool: &str| Values::from([(POOL.to_owned(), pool.to_owned())]);
        let (none, nvme, any) = (Values::new(), values("media=nvme"), values("any"));
        assert_eq!(pool_of(None, &none), None);
        assert_eq!(pool_of(Some(&none), &nvme), Some("media=nvme"));
        assert_eq!(pool_of(Some(&any), &nvme), None);
        assert_eq!(pool_of(Some(&nvme), &any), Some("media=nvme"));
        assert_eq!(pool_named("b=2, a=1").unwrap(), "a=1,b=2");
        assert_eq!(pool_named("a=1,b=2").unwrap(), "a=1,b=2");
        for wrong in ["any", "", "a", "a=", "a=1,a=2"] {
            let refused = pool_named(wrong).unwrap_err().to_string();
            assert!(
                refused.ends_with("give LABEL=VALUE,…, at most 8"),
                "{refused}"
            );
        }
    }
}
