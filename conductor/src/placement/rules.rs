//! The rules that a volume has for its places: the pool of disks that may hold it, and what its replicas
//! are spread over.
//!
//! Pure. A hard rule is kept by whoever chooses a place, for a new volume, a replica that is replaced or
//! one that moves: rather no place than a wrong one. A soft rule comes before all other preferences.

use std::collections::BTreeMap;

use super::overlap;

type Labels = BTreeMap<String, String>;

/// See the module.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rules {
    /// The label whose values replicas of a shard are to differ in.
    pub spread: Option<String>,
    /// They must.
    pub is_hard: bool,
    /// Labels that each disk must have, its own or its node's.
    pub pool: Labels,
    /// Labels of the place that one replica of each shard is to be in, where there is room; none: anywhere.
    pub near: Labels,
}

/// Why a place is out of the question.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Broken {
    /// It is not of the pool.
    #[error("it is not of the pool: neither it nor its node has the label {name}={value}")]
    NotOfPool {
        /// The label that it should have.
        name: String,
        /// With this value.
        value: String,
    },
    /// Replicas must be spread over a label that it does not have.
    #[error("neither it nor its node has a label {label}, and replicas must differ in that")]
    NoLabel {
        /// The label.
        label: String,
    },
    /// Another replica lies there.
    #[error("another replica lies in {label} {value}, and no two may")]
    SameDomain {
        /// The label.
        label: String,
        /// Its value.
        value: String,
    },
}

impl Rules {
    /// Whether a disk of these labels may hold a replica at all.
    ///
    /// # Errors
    /// The rule that it would break.
    pub fn check_node(&self, labels: &Labels) -> Result<(), Broken> {
        let lacks = |(name, value): &(&String, &String)| labels.get(*name) != Some(value);
        if let Some((name, value)) = self.pool.iter().find(lacks) {
            let (name, value) = (name.clone(), value.clone());
            return Err(Broken::NotOfPool { name, value });
        }
        match &self.spread {
            Some(label) if self.is_hard && !labels.contains_key(label) => Err(Broken::NoLabel {
                label: label.clone(),
            }),
            _ => Ok(()),
        }
    }

    /// Whether it may beside replicas on disks of those labels.
    ///
    /// # Errors
    /// The rule that it would break.
    pub fn check(&self, labels: &Labels, others: &[&Labels]) -> Result<(), Broken> {
        self.check_node(labels)?;
        let Some(label) = self.spread.as_ref().filter(|_| self.is_hard) else {
            return Ok(());
        };
        let own = labels.get(label);
        match own.filter(|_| others.iter().any(|other| other.get(label) == own)) {
            Some(value) => Err(Broken::SameDomain {
                label: label.clone(),
                value: value.clone(),
            }),
            None => Ok(()),
        }
    }

    /// How much a place has in common with others: less is better.
    #[must_use]
    pub fn overlap(&self, labels: &Labels, others: &[&Labels]) -> u32 {
        let far = if self.is_far(labels, others) {
            1 << 8
        } else {
            0
        };
        let wide = overlap(labels, others) + far;
        let Some(label) = &self.spread else {
            return wide;
        };
        let own = labels.get(label);
        // Who does not say where it is may be anywhere.
        let shares = own.is_none() || others.iter().any(|other| other.get(label) == own);
        let is_met = shares && !others.is_empty();
        wide + if is_met { 1 << 16 } else { 0 }
    }

    /// Whether no replica would be near: this place is not, and none of the others. It counts less than what
    /// replicas are spread over, and more than all other labels.
    fn is_far(&self, labels: &Labels, others: &[&Labels]) -> bool {
        let is_near = |labels: &Labels| {
            let mut near = self.near.iter();
            near.all(|(name, value)| labels.get(name) == Some(value))
        };
        !is_near(labels) && !others.iter().any(|other| is_near(other))
    }
}

#[cfg(test)]
mod tests {
    use super::super::*;
    use super::*;
    use ashlar_proto::ByteCount;
    use proptest::prelude::*;

    fn labels(pairs: &[(&str, &str)]) -> Labels {
        let pairs = pairs
            .iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()));
        pairs.collect()
    }

    fn rules(spread: Option<&str>, is_hard: bool, pool: &[(&str, &str)]) -> Rules {
        Rules {
            spread: spread.map(str::to_owned),
            is_hard,
            pool: labels(pool),
            near: Labels::new(),
        }
    }

    #[test]
    fn what_breaks_a_rule_is_named() {
        let hard = rules(Some("zone"), true, &[("media", "nvme")]);
        let (a, b) = (
            labels(&[("media", "nvme"), ("zone", "a")]),
            labels(&[("media", "nvme"), ("zone", "b")]),
        );
        assert_eq!(hard.check(&a, &[&b]), Ok(()));
        let same = hard.check(&a, &[&b, &a]).unwrap_err().to_string();
        assert_eq!(same, "another replica lies in zone a, and no two may");
        let nowhere = hard.check_node(&labels(&[("media", "nvme")]));
        assert!(matches!(nowhere, Err(Broken::NoLabel { .. })));
        let disk = hard.check_node(&labels(&[("media", "hdd"), ("zone", "a")]));
        assert!(matches!(disk, Err(Broken::NotOfPool { .. })));
        assert_eq!(rules(Some("zone"), false, &[]).check(&a, &[&a]), Ok(()));
    }

    #[test]
    fn a_soft_rule_goes_before_all_other_labels() {
        let soft = rules(Some("row"), false, &[]);
        let other = labels(&[("zone", "a"), ("row", "1")]);
        let same_row = labels(&[("zone", "b"), ("row", "1")]);
        let same_zone = labels(&[("zone", "a"), ("row", "2")]);
        assert!(soft.overlap(&same_zone, &[&other]) < soft.overlap(&same_row, &[&other]));
        assert!(soft.overlap(&labels(&[]), &[&other]) > soft.overlap(&same_zone, &[&other]));
    }

    #[test]
    fn one_replica_is_near_and_the_others_as_if_nobody_had_asked() {
        let near = Rules {
            near: labels(&[("zone", "a")]),
            ..Rules::default()
        };
        let at = |zone: &str, rack: &str| labels(&[("zone", zone), ("rack", rack)]);
        let (a, b) = (at("a", "1"), at("b", "2"));
        assert!(near.overlap(&a, &[]) < near.overlap(&b, &[]));
        // Where one is near, another zone is better than the same.
        assert!(near.overlap(&b, &[&a]) < near.overlap(&at("a", "3"), &[&a]));
        // Where none is, one that comes is.
        assert!(near.overlap(&a, &[&b]) < near.overlap(&at("c", "4"), &[&b]));
        // What replicas are spread over counts more.
        let spread = Rules {
            spread: Some("row".to_owned()),
            ..near
        };
        let (other, same) = (
            labels(&[("row", "2")]),
            labels(&[("row", "1"), ("zone", "a")]),
        );
        let there = labels(&[("row", "1")]);
        assert!(spread.overlap(&other, &[&there]) < spread.overlap(&same, &[&there]));
        assert_eq!(spread.check(&other, &[]), Ok(()), "it is a wish");
    }

    fn node() -> impl Strategy<Value = Labels> {
        let zone = proptest::option::of(0..4_u8);
        (zone, 0..2_u8).prop_map(|(zone, media)| {
            let mut all = labels(&[("media", if media == 0 { "nvme" } else { "hdd" })]);
            if let Some(zone) = zone {
                all.insert("zone".to_owned(), zone.to_string());
            }
            all
        })
    }

    proptest! {
        /// Whatever nodes there are: a placement that is made keeps the rules, and a replica that is
        /// chosen beside the others of its shard does, too.
        #[test]
        fn no_place_that_is_chosen_breaks_a_rule(
            nodes in proptest::collection::vec(node(), 1..10),
            replicas in 1..4_usize,
            shards in 1..6_usize,
            is_hard: bool,
            has_pool: bool,
        ) {
            let pool: &[(&str, &str)] = if has_pool { &[("media", "nvme")] } else { &[] };
            let rules = rules(Some("zone"), is_hard, pool);
            let candidates: Vec<Candidate> = (1_u64..).zip(&nodes).map(|(id, labels)| Candidate {
                disk: DiskId::new(u128::from(id)),
                node: NodeId::new(id),
                labels: labels.clone(),
                load: Load { usable: ByteCount::new(1 << 40), ..Load::default() },
            }).collect();
            let wants = vec![Want { bytes: ByteCount::new(1 << 30), ..Want::default() }; shards];
            let volume = VolumeId::new(7);
            let first = ShardIndex::new(0);
            let Ok(placed) = place_by(&rules, volume, replicas, first, &wants, &candidates) else {
                return Ok(());
            };
            let labels_of = |node: NodeId| {
                &candidates.iter().find(|c| c.node == node).unwrap().labels
            };
            for shard in placed {
                prop_assert_eq!(shard.len(), replicas);
                for (at, (node, _)) in shard.iter().enumerate() {
                    let rest = shard.iter().enumerate().filter(|(other, _)| *other != at);
                    let others: Vec<&Labels> = rest.map(|(_, (node, _))| labels_of(*node)).collect();
                    prop_assert_eq!(rules.check(labels_of(*node), &others), Ok(()));
                }
                let others: Vec<Neighbour> = shard[1..].iter().map(|(node, _)| Neighbour {
                    node: *node,
                    labels: labels_of(*node).clone(),
                }).collect();
                let all: Vec<&Candidate> = candidates.iter().collect();
                let found = place_beside(&rules, volume, first, wants[0], &others, &all);
                let (node, _) = found.expect("the first one can lie where it does");
                let others: Vec<&Labels> = others.iter().map(|other| &other.labels).collect();
                prop_assert_eq!(rules.check(labels_of(node), &others), Ok(()));
            }
        }
    }
}
