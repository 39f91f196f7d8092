//! Asymmetric logical unit access: the states of the target port groups through which a unit is reached
//! (SPC-4 section 5.15), REPORT and SET TARGET PORT GROUPS. Each server is a group of one port.

use super::fields::{Reply, byte_at, u16_at};
use super::sense::Sense;
use crate::standing::{Standing, UnitOwner};

/// Seconds that a change of state may take.
const TRANSITION_SECONDS: u8 = 60;

/// The state of a target port group (SPC-4 table 306).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum AccessState {
    ActiveOptimized = 0x0,
    ActiveNonOptimized = 0x1,
    Standby = 0x2,
    Unavailable = 0x3,
}

impl AccessState {
    /// Whether blocks can be read and written.
    pub(crate) fn is_active(self) -> bool {
        matches!(self, Self::ActiveOptimized | Self::ActiveNonOptimized)
    }
}

/// How the state came about (SPC-4 table 308).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum StateCause {
    #[default]
    None = 0,
    SetTargetPortGroups = 1,
    Implicit = 2,
}

/// T_SUP, U_SUP, S_SUP, AN_SUP, AO_SUP.
const STATES_SUPPORTED: u8 = 0x8f;

/// The states of all groups, one for each server: that of who serves the unit is active, others are on
/// standby. While nobody serves it, any that is heard will, and hosts are shown to one of them. `serves`:
/// the server that is asked, which has group `own`, does.
pub(crate) fn states(
    standing: &Standing,
    own: u16,
    id: u128,
    serves: bool,
) -> Vec<(u16, AccessState)> {
    let active = if serves && standing.owner != UnitOwner::Each {
        Some(own)
    } else {
        standing.active()
    };
    let preferred = standing.preferred(id);
    let state = |group: u16| match (standing.owner, active) {
        _ if group != own && !standing.is_up(group) => AccessState::Unavailable,
        (UnitOwner::Each, _) => AccessState::ActiveOptimized,
        (_, Some(active)) if active == group => AccessState::ActiveOptimized,
        (_, Some(_)) | (UnitOwner::Other, None) => AccessState::Standby,
        (_, None) if preferred == Some(group) => AccessState::ActiveOptimized,
        (_, None) => AccessState::ActiveNonOptimized,
    };
    let mut groups: Vec<u16> = standing.servers.iter().map(|server| server.group).collect();
    if !groups.contains(&own) {
        groups.push(own);
    }
    groups
        .into_iter()
        .map(|group| (group, state(group)))
        .collect()
}

/// The parameter data of REPORT TARGET PORT GROUPS. A group and its one port have the number of the portal
/// group.
pub(crate) fn report(groups: &[(u16, AccessState)], cause: StateCause, extended: bool) -> Vec<u8> {
    let mut reply = Reply::new();
    reply.u32(0);
    if extended {
        reply.u8(0x10).u8(TRANSITION_SECONDS).zeroes(2);
    }
    for &(group, state) in groups {
        reply.u8(state as u8).u8(STATES_SUPPORTED);
        reply.u16(group).u8(0).u8(cause as u8);
        reply.u8(0).u8(1).u16(0).u16(group);
    }
    reply.set_len32(0).finish()
}

/// Whether a parameter list of SET TARGET PORT GROUPS asks for the group `own` to be active. Others may be
/// asked to be on standby, which they are then; nothing else can be asked for, as somebody has to serve
/// the unit.
pub(crate) fn parse_set(
    list: &[u8],
    own: u16,
    groups: &[(u16, AccessState)],
) -> Result<bool, Sense> {
    if list.is_empty() {
        return Ok(false);
    }
    if list.len() < 4 || !list.len().is_multiple_of(4) {
        return Err(Sense::list_length());
    }
    let mut named = Vec::new();
    let mut asked = false;
    for at in (4..list.len()).step_by(4) {
        let group = u16_at(list, at + 2);
        let is_known = groups.iter().any(|(known, _)| *known == group);
        if !is_known || named.contains(&group) {
            return Err(Sense::list(at + 2));
        }
        named.push(group);
        match byte_at(list, at) & 0x0f {
            0x0 | 0x1 if group == own => asked = true,
            0x2 if group != own => {}
            _ => return Err(Sense::list(at)),
        }
    }
    Ok(asked)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::standing::ServerPort;

    fn standing(owner: UnitOwner) -> Standing {
        let port = |group, up| ServerPort { group, up };
        Standing {
            own: 1,
            servers: vec![port(1, true), port(2, true), port(3, false)],
            owner,
            ..Standing::alone()
        }
    }

    #[test]
    fn a_group_is_reported_with_its_port() {
        let alone = states(&Standing::alone(), 1, 7, false);
        let expected = [0, 0, 0, 12, 0, 0x8f, 0, 1, 0, 0, 0, 1, 0, 0, 0, 1];
        assert_eq!(report(&alone, StateCause::None, false), expected);
        let expected = [
            0, 0, 0, 16, 0x10, 60, 0, 0, 0, 0x8f, 0, 1, 0, 0, 0, 1, 0, 0, 0, 1,
        ];
        assert_eq!(report(&alone, StateCause::None, true), expected);
    }

    #[test]
    fn who_serves_is_active_and_others_wait_or_are_away() {
        use AccessState as S;
        let of = |owner, serves| states(&standing(owner), 1, 0, serves);
        let by = |group, alive| UnitOwner::Server { group, alive };
        let there = [
            (1, S::Standby),
            (2, S::ActiveOptimized),
            (3, S::Unavailable),
        ];
        assert_eq!(of(by(2, true), false), there);
        let here = [
            (1, S::ActiveOptimized),
            (2, S::Standby),
            (3, S::Unavailable),
        ];
        assert_eq!(of(by(1, true), true), here);
        let open = [
            (1, S::ActiveOptimized),
            (2, S::ActiveNonOptimized),
            (3, S::Unavailable),
        ];
        assert_eq!(of(UnitOwner::Nobody, false), open);
        assert_eq!(of(by(3, false), false), open);
        let each = of(UnitOwner::Each, true);
        assert_eq!(
            each[..2],
            [(1, S::ActiveOptimized), (2, S::ActiveOptimized)]
        );
        assert_eq!(of(UnitOwner::Other, false)[0], (1, S::Standby));
    }

    #[test]
    fn set_makes_the_own_group_active_and_nothing_else() {
        let groups = states(&standing(UnitOwner::Nobody), 1, 0, false);
        let set = |list: &[u8]| parse_set(list, 1, &groups);
        assert_eq!(set(&[0, 0, 0, 0, 0, 0, 0, 1]), Ok(true));
        assert_eq!(set(&[0, 0, 0, 0, 0, 0, 0, 1, 2, 0, 0, 2]), Ok(true));
        assert_eq!(set(&[0, 0, 0, 0, 2, 0, 0, 1]), Err(Sense::list(4)));
        assert_eq!(set(&[0, 0, 0, 0, 0, 0, 0, 2]), Err(Sense::list(4)));
        assert_eq!(set(&[0, 0, 0, 0, 0, 0, 0, 9]), Err(Sense::list(6)));
        let twice = [0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1];
        assert_eq!(set(&twice), Err(Sense::list(10)));
        assert_eq!(set(&[0; 6]), Err(Sense::list_length()));
        assert_eq!(set(&[]), Ok(false));
    }
}
