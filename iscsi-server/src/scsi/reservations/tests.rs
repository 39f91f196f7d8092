//! The state machine of reservations, case by case, and its invariants in random runs.

use super::actions::{Action, Effects, Register};
use super::*;
use crate::scsi::sense::{Refusal, Sense, code};
use crate::scsi::{Nexus, NexusId};
use proptest::prelude::*;

fn nexus(number: u8) -> Nexus {
    Nexus {
        id: NexusId(number.into()),
        initiator: format!("iqn.host{number}"),
        isid: [0, 0, 0, 0, 0, number],
        target: "iqn.t".into(),
        portal_group: 1,
    }
}

fn port(number: u8) -> InitiatorPort {
    let nexus = nexus(number);
    InitiatorPort {
        name: nexus.initiator,
        isid: nexus.isid,
    }
}

fn nexuses() -> Vec<Nexus> {
    (1..=3).map(nexus).collect()
}

fn register(key: Option<u64>, new_key: u64) -> Action {
    Action::Register(Register {
        key,
        new_key,
        persist: false,
        all_ports: false,
        others: Vec::new(),
    })
}

fn act(state: &mut Registrations, by: u8, action: &Action) -> Result<Effects, Refusal> {
    let (after, effects) = apply(state, &nexus(by), &nexuses(), action)?;
    *state = after;
    Ok(effects)
}

/// Three hosts that are registered with their number.
fn registered() -> Registrations {
    let mut state = Registrations::default();
    for host in 1..=3 {
        act(&mut state, host, &register(Some(0), host.into())).unwrap();
    }
    state
}

const WRITE_EXCLUSIVE: ReservationType = ReservationType::WriteExclusive;
const ALL: ReservationType = ReservationType::ExclusiveAccessAllRegistrants;

fn reserve(key: u64, kind: ReservationType) -> Action {
    Action::Reserve { key, kind }
}

fn preempt(key: u64, victim: u64, kind: ReservationType) -> Action {
    Action::Preempt {
        key,
        victim,
        kind,
        abort: true,
    }
}

#[test]
fn a_reservation_of_all_registrants_goes_with_the_last() {
    let mut state = registered();
    act(&mut state, 1, &reserve(1, ALL)).unwrap();
    act(&mut state, 2, &reserve(2, ALL)).unwrap();
    for host in 1..=2 {
        let effects = act(&mut state, host, &register(Some(host.into()), 0)).unwrap();
        assert_eq!(effects, Effects::default());
        assert!(state.reservation.is_some());
    }
    act(&mut state, 3, &register(Some(3), 0)).unwrap();
    assert_eq!(state.reservation, None);
}

#[test]
fn the_holder_stays_the_holder_when_others_go() {
    let mut state = registered();
    act(&mut state, 3, &reserve(3, WRITE_EXCLUSIVE)).unwrap();
    act(&mut state, 1, &register(None, 0)).unwrap();
    assert!(permits(&state, &nexus(3)).write);
    assert!(!permits(&state, &nexus(2)).write);
    act(&mut state, 3, &register(Some(3), 0)).unwrap();
    assert_eq!(state.reservation, None);
}

#[test]
fn preempting_all_registrants_with_key_0_leaves_only_who_preempts() {
    let mut state = registered();
    act(&mut state, 1, &reserve(1, ALL)).unwrap();
    let effects = act(&mut state, 2, &preempt(2, 0, WRITE_EXCLUSIVE)).unwrap();
    assert_eq!(state.registrants.len(), 1);
    assert_eq!(state.registrants[0].initiator, port(2));
    let told = [NexusId(1), NexusId(3)].map(|id| (id, code::REGISTRATIONS_PREEMPTED));
    assert_eq!(effects.attentions, told);
    assert_eq!(effects.aborts, [NexusId(1), NexusId(3)]);
    assert!(permits(&state, &nexus(2)).write);
    assert!(!permits(&state, &nexus(1)).write);
}

#[test]
fn preempting_a_registrant_leaves_the_reservation() {
    let mut state = registered();
    act(&mut state, 1, &reserve(1, WRITE_EXCLUSIVE)).unwrap();
    let effects = act(&mut state, 2, &preempt(2, 3, ALL)).unwrap();
    assert_eq!(effects.aborts, [NexusId(3)]);
    assert!(permits(&state, &nexus(1)).write);
    assert!(!permits(&state, &nexus(2)).write);
    assert_eq!(
        act(&mut state, 2, &preempt(2, 3, ALL)),
        Err(Refusal::Conflict)
    );
    let none = Refusal::Check(Sense::list(8));
    assert_eq!(act(&mut state, 2, &preempt(2, 0, ALL)), Err(none));
}

#[test]
fn preempting_the_holder_with_another_type_is_told_to_the_rest() {
    let mut state = registered();
    act(&mut state, 1, &reserve(1, WRITE_EXCLUSIVE)).unwrap();
    let kind = ReservationType::ExclusiveAccess;
    let effects = act(&mut state, 2, &preempt(2, 1, kind)).unwrap();
    let expected = [
        (NexusId(1), code::REGISTRATIONS_PREEMPTED),
        (NexusId(3), code::RESERVATIONS_RELEASED),
    ];
    assert_eq!(effects.attentions, expected);
    assert!(!permits(&state, &nexus(3)).read);
}

#[test]
fn who_preempts_itself_keeps_its_registration() {
    let mut state = registered();
    act(&mut state, 1, &reserve(1, WRITE_EXCLUSIVE)).unwrap();
    let effects = act(&mut state, 1, &preempt(1, 1, ALL)).unwrap();
    assert_eq!(effects.aborts, []);
    assert_eq!(state.registrants.len(), 3);
    assert!(permits(&state, &nexus(2)).write, "all registrants hold it");
}

#[test]
fn a_reservation_is_moved_with_its_registration() {
    let mut state = Registrations::default();
    act(&mut state, 1, &register(Some(0), 1)).unwrap();
    act(&mut state, 1, &reserve(1, WRITE_EXCLUSIVE)).unwrap();
    let relocate = |to| Action::Move {
        key: 1,
        new_key: 9,
        persist: true,
        unregister: true,
        to: port(to),
        through: TargetPort {
            name: "iqn.t".into(),
            portal_group: 1,
        },
    };
    let to_itself = act(&mut state, 1, &relocate(1));
    assert_eq!(to_itself, Err(Refusal::Check(Sense::list(24))));
    act(&mut state, 1, &relocate(2)).unwrap();
    assert_eq!(state.registrants.len(), 1);
    assert_eq!(state.registrants[0].key, 9);
    assert!(permits(&state, &nexus(2)).write && !permits(&state, &nexus(1)).write);
    assert!(state.persist);
}

#[test]
fn all_target_ports_are_one_registration() {
    let mut state = Registrations::default();
    let action = Action::Register(Register {
        key: Some(0),
        new_key: 5,
        persist: false,
        all_ports: true,
        others: vec![port(2)],
    });
    act(&mut state, 1, &action).unwrap();
    assert_eq!(state.registrants.len(), 2);
    let mut elsewhere = nexus(1);
    elsewhere.portal_group = 7;
    elsewhere.target = "iqn.u".into();
    assert_eq!(state.position(&elsewhere), Some(0));
    assert_eq!(state.position(&nexus(2)), Some(1));
    assert_eq!(state.position(&nexus(3)), None);
}

#[test]
fn other_ports_are_read_from_parameter_lists() {
    let ids = transport_id::encode(&port(3));
    let mut list = vec![0; 24];
    list[15] = 5;
    list[20] = 0x08;
    list.extend(u32::try_from(ids.len()).unwrap().to_be_bytes());
    list.extend(&ids);
    let parsed = parameters::parse(0, 0, &list, &nexus(1), &nexuses()).unwrap();
    let expected = Register {
        key: Some(0),
        new_key: 5,
        persist: false,
        all_ports: false,
        others: vec![port(3)],
    };
    assert_eq!(parsed, Action::Register(expected));
    let ignoring = parameters::parse(6, 0, &list, &nexus(1), &nexuses());
    assert_eq!(ignoring, Err(Sense::list(20)));
    list.pop();
    let short = parameters::parse(0, 0, &list, &nexus(1), &nexuses());
    assert_eq!(short, Err(Sense::list_length()));
}

fn any_action() -> impl Strategy<Value = Action> {
    let key = 0u64..4;
    let kind = prop::sample::select(vec![1u8, 3, 5, 6, 7, 8]);
    let parts = (0u8..7, key.clone(), key, kind, any::<bool>(), 1u8..4);
    parts.prop_map(|(action, key, other, kind, flag, to)| {
        let kind = ReservationType::from_code(kind).unwrap();
        match action {
            0 => register(flag.then_some(key), other),
            1 => reserve(key, kind),
            2 => Action::Release { key, kind },
            3 => Action::Clear { key },
            4 | 5 => preempt(key, other, kind),
            _ => Action::Move {
                key,
                new_key: other,
                persist: flag,
                unregister: flag,
                to: port(to),
                through: TargetPort {
                    name: "iqn.t".into(),
                    portal_group: 1,
                },
            },
        }
    })
}

proptest! {
    #[test]
    fn invariants_hold_whatever_is_done(
        actions in prop::collection::vec((1u8..4, any_action()), 0..60),
    ) {
        let mut state = Registrations::default();
        for (by, action) in actions {
            let before = state.clone();
            let result = act(&mut state, by, &action);
            prop_assert!(result.is_ok() || state == before);
            if let Ok(effects) = result {
                let own = NexusId(by.into());
                prop_assert!(effects.attentions.iter().all(|told| told.0 != own));
                prop_assert!(!effects.aborts.contains(&own));
            }
            for (at, registrant) in state.registrants.iter().enumerate() {
                prop_assert!(registrant.key != 0);
                let twice = state.registrants[at + 1..].iter();
                prop_assert!(twice.clone().all(|other| other.initiator != registrant.initiator));
            }
            if let Some(held) = &state.reservation {
                prop_assert!(!state.registrants.is_empty());
                prop_assert_eq!(held.holder.is_none(), held.kind.is_all_registrants());
                prop_assert!(held.holder.is_none_or(|at| at < state.registrants.len()));
                let served = (1..=3).any(|host| permits(&state, &nexus(host)).write);
                prop_assert!(served, "somebody may write");
            }
        }
    }
}
