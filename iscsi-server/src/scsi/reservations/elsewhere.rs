//! What a change of registrations that another server made means to the nexuses of this one.

use super::actions::Effects;
use super::state::Registrations;
use crate::scsi::sense::code;
use crate::scsi::{Nexus, NexusId};

/// What becomes of nexuses when `before` has become `after`, in `versions` changes.
///
/// Who has lost its registration is told (SPC-4 sections 5.13.11.2.4 and 5.13.11.3), and who is still
/// registered that a reservation was released which let it in (section 5.13.11.2.3). Where tasks were to
/// end, those of who has lost its registration do; what came in between cannot be told from several
/// changes at once, and the tasks of all end.
pub(crate) fn told_elsewhere(
    before: &Registrations,
    after: &Registrations,
    versions: u64,
    nexuses: &[Nexus],
) -> Effects {
    let mut effects = Effects::default();
    let is_lost =
        |nexus: &&Nexus| before.position(nexus).is_some() && after.position(nexus).is_none();
    let lost: Vec<NexusId> = nexuses.iter().filter(is_lost).map(|n| n.id).collect();
    // Only CLEAR leaves nobody, or who unregistered last, and needs not be told.
    let word = if after.registrants.is_empty() {
        code::RESERVATIONS_PREEMPTED
    } else {
        code::REGISTRATIONS_PREEMPTED
    };
    effects
        .attentions
        .extend(lost.iter().map(|nexus| (*nexus, word)));
    let kind = |of: &Registrations| of.reservation.as_ref().map(|held| held.kind);
    let (old, new) = (kind(before), kind(after));
    if old.is_some_and(|old| old.favours_registrants()) && new != old {
        let registered = nexuses.iter().filter(|n| after.position(n).is_some());
        let told = registered.map(|nexus| (nexus.id, code::RESERVATIONS_RELEASED));
        effects.attentions.extend(told);
    }
    if after.aborts != before.aborts {
        effects.aborts = match versions {
            0 | 1 => lost,
            _ => nexuses.iter().map(|nexus| nexus.id).collect(),
        };
    }
    effects
}

#[cfg(test)]
mod tests {
    use super::super::state::{InitiatorPort, Registrant, Reservation, ReservationType};
    use super::*;

    fn nexus(id: u64) -> Nexus {
        Nexus {
            id: NexusId(id),
            initiator: format!("iqn.host{id}"),
            isid: [0; 6],
            target: "iqn.t".into(),
            portal_group: 2,
        }
    }

    fn registered(hosts: &[u64], kind: Option<ReservationType>) -> Registrations {
        let registrant = |id: &u64| Registrant {
            initiator: InitiatorPort {
                name: format!("iqn.host{id}"),
                isid: [0; 6],
            },
            target: None,
            key: *id,
        };
        Registrations {
            registrants: hosts.iter().map(registrant).collect(),
            reservation: kind.map(|kind| Reservation {
                kind,
                holder: Some(0),
            }),
            ..Registrations::default()
        }
    }

    #[test]
    fn who_loses_its_registration_is_told_and_its_tasks_end_if_that_was_asked_for() {
        let nexuses = [nexus(1), nexus(2), nexus(3)];
        let before = registered(&[1, 2], None);
        let mut after = registered(&[1], None);
        let effects = told_elsewhere(&before, &after, 1, &nexuses);
        assert_eq!(
            effects.attentions,
            [(NexusId(2), code::REGISTRATIONS_PREEMPTED)]
        );
        assert_eq!(effects.aborts, []);
        after.aborts = 1;
        let effects = told_elsewhere(&before, &after, 1, &nexuses);
        assert_eq!(effects.aborts, [NexusId(2)]);
        let effects = told_elsewhere(&before, &after, 2, &nexuses);
        assert_eq!(effects.aborts.len(), 3);
        let effects = told_elsewhere(&before, &registered(&[], None), 1, &nexuses);
        let word = code::RESERVATIONS_PREEMPTED;
        assert_eq!(effects.attentions, [(NexusId(1), word), (NexusId(2), word)]);
    }

    #[test]
    fn who_is_let_in_by_a_reservation_is_told_that_it_is_released() {
        let nexuses = [nexus(1), nexus(2), nexus(3)];
        let kind = ReservationType::WriteExclusiveRegistrantsOnly;
        let (before, after) = (registered(&[1, 2], Some(kind)), registered(&[1, 2], None));
        let effects = told_elsewhere(&before, &after, 1, &nexuses);
        let word = code::RESERVATIONS_RELEASED;
        assert_eq!(effects.attentions, [(NexusId(1), word), (NexusId(2), word)]);
        let before = registered(&[1, 2], Some(ReservationType::WriteExclusive));
        let effects = told_elsewhere(&before, &after, 1, &nexuses);
        assert_eq!(effects.attentions, []);
    }
}
