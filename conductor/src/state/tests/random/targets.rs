//! iSCSI targets and reservations in random sequences: made, mapped, unmapped and replaced, by who
//! has seen their last state and by who has not.

use ashlar_proto::Lun;
use ashlar_proto::api::{
    CreateTarget, MapUnit, PersistentReservations, ReplaceReservations, ServedTargets,
};

use super::*;
use crate::row::ReservationsRow;

const TARGETS: u64 = 3;

/// What was last seen of them, and chances of their own: other sequences stay as they are.
pub(super) struct Targets {
    rng: Rng,
    served: Option<ServedTargets>,
    versions: BTreeMap<VolumeId, u64>,
    pub(super) mapped: u32,
    pub(super) replaced: u32,
}

impl Targets {
    pub(super) fn new(seed: u64) -> Self {
        Self {
            rng: Rng(seed * 4 + 3),
            served: None,
            versions: BTreeMap::new(),
            mapped: 0,
            replaced: 0,
        }
    }
}

fn target(number: u64) -> IscsiName {
    format!("iqn.2026-11.com.example:t{number}")
        .parse()
        .unwrap()
}

impl World {
    /// Somebody changes a target, or reservations, if that is possible.
    pub(super) fn change_targets(&mut self) {
        let rng = &mut self.targets.rng;
        let (name, volume) = (target(rng.below(TARGETS)), rng.below(VOLUMES));
        let lun = Lun::new(u16::try_from(rng.below(4)).unwrap()).unwrap();
        let (deed, is_asked, seen) = (rng.below(9), rng.one_in(2), rng.below(3));
        let state = &self.bench.state;
        let plan = match deed {
            0..=1 => state.plan_target_create(&CreateTarget {
                name,
                alias: None,
                initiators: Vec::new(),
            }),
            2..=4 => state.plan_map_unit(
                &name,
                &MapUnit {
                    volume: format!("v{volume}"),
                    lun: is_asked.then_some(lun),
                    read_only: seen == 0,
                },
            ),
            5 => state.plan_unmap_unit(&name, lun),
            6 if seen == 0 => {
                if let Ok(plan) = state.plan_target_delete(&name) {
                    self.bench.commit(plan);
                }
                return self.check_targets();
            }
            _ => return self.replace_reservations(volume, seen),
        };
        if let Ok(plan) = plan {
            self.targets.mapped += u32::from((2..=4).contains(&deed));
            self.bench.commit(plan);
        }
        self.check_targets();
    }

    fn replace_reservations(&mut self, volume: u64, seen: u64) {
        let name = format!("v{volume}");
        let current = self.bench.state.reservations_of(&name).unwrap();
        let request = ReplaceReservations {
            volume: current.volume,
            seen: current.version.saturating_sub(seen),
            reservations: PersistentReservations {
                generation: current.reservations.generation + 1,
                ..PersistentReservations::default()
            },
        };
        let plan = self.bench.state.plan_reservations(&name, &request);
        assert_eq!(plan.is_ok(), request.seen == current.version);
        if let Ok(plan) = plan {
            self.targets.replaced += 1;
            assert_eq!(self.bench.commit(plan).version, current.version + 1);
        }
        self.check_targets();
    }

    /// What holds of targets and reservations at all times.
    fn check_targets(&mut self) {
        let state = &self.bench.state;
        for row in state.targets.values() {
            assert!(row.units.is_sorted_by(|a, b| a.lun < b.lun), "{row:?}");
            let volumes: BTreeSet<VolumeId> = row.units.iter().map(|u| u.volume).collect();
            assert_eq!(volumes.len(), row.units.len(), "{row:?}");
            assert!(volumes.iter().all(|id| state.has_volume(*id)), "{row:?}");
        }
        let versions = |row: &ReservationsRow| (row.volume, row.version);
        let now: BTreeMap<VolumeId, u64> = state.reservations.values().map(versions).collect();
        for (volume, before) in &self.targets.versions {
            assert!(now[volume] >= *before);
        }
        self.targets.versions = now;
        // Who has the last revision has the last state.
        let served = state.served_targets();
        if let Some(before) = &self.targets.served
            && before.revision == served.revision
        {
            assert_eq!(*before, served);
        }
        self.targets.served = Some(served);
    }
}
