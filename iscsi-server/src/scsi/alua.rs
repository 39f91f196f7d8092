//! Asymmetric logical unit access: the state of the target port group through which a unit is
//! reached (SPC-4 section 5.15), REPORT and SET TARGET PORT GROUPS.

use super::fields::{Reply, byte_at, u16_at};
use super::sense::{Sense, code};

/// The state of a target port group (SPC-4 table 306).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum AccessState {
    #[default]
    ActiveOptimized = 0x0,
    ActiveNonOptimized = 0x1,
    Standby = 0x2,
    #[cfg_attr(
        not(test),
        expect(dead_code, reason = "for a service of several paths")
    )]
    Unavailable = 0x3,
    #[cfg_attr(
        not(test),
        expect(dead_code, reason = "for a service of several paths")
    )]
    Transitioning = 0xf,
}

impl AccessState {
    /// What a command that needs an active port is refused with, if at all.
    pub(crate) fn refusal(self) -> Option<Sense> {
        let code = match self {
            Self::ActiveOptimized | Self::ActiveNonOptimized => return None,
            Self::Standby => code::STANDBY,
            Self::Unavailable => code::UNAVAILABLE,
            Self::Transitioning => code::TRANSITION,
        };
        Some(Sense::not_ready(code))
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

/// The one target port group there is, and what it says of itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct PortGroup {
    pub(crate) state: AccessState,
    pub(crate) cause: StateCause,
}

/// T_SUP, U_SUP, S_SUP, AN_SUP, AO_SUP.
const STATES_SUPPORTED: u8 = 0x8f;

/// The parameter data of REPORT TARGET PORT GROUPS. The group and its one port have the number of
/// the portal group.
pub(crate) fn report(group: PortGroup, portal_group: u16, extended: bool) -> Vec<u8> {
    let mut reply = Reply::new();
    reply.u32(0);
    if extended {
        reply.u8(0x10).zeroes(3);
    }
    reply.u8(group.state as u8).u8(STATES_SUPPORTED);
    reply.u16(portal_group).u8(0).u8(group.cause as u8);
    reply.u8(0).u8(1).u16(0).u16(portal_group);
    reply.set_len32(0).finish()
}

/// The state that a parameter list of SET TARGET PORT GROUPS asks for, if it names the group.
pub(crate) fn parse_set(list: &[u8], portal_group: u16) -> Result<Option<AccessState>, Sense> {
    if list.is_empty() {
        return Ok(None);
    }
    if list.len() < 4 || !list.len().is_multiple_of(4) {
        return Err(Sense::list_length());
    }
    let mut asked = None;
    for at in (4..list.len()).step_by(4) {
        if u16_at(list, at + 2) != portal_group || asked.is_some() {
            return Err(Sense::list(at + 2));
        }
        asked = Some(match byte_at(list, at) & 0x0f {
            0x0 => AccessState::ActiveOptimized,
            0x1 => AccessState::ActiveNonOptimized,
            0x2 => AccessState::Standby,
            _ => return Err(Sense::list(at)),
        });
    }
    Ok(asked)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn group_is_reported_with_its_port() {
        let group = PortGroup::default();
        let expected = [0, 0, 0, 12, 0, 0x8f, 0, 1, 0, 0, 0, 1, 0, 0, 0, 1];
        assert_eq!(report(group, 1, false), expected);
        let expected = [
            0, 0, 0, 16, 0x10, 0, 0, 0, 0, 0x8f, 0, 1, 0, 0, 0, 1, 0, 0, 0, 1,
        ];
        assert_eq!(report(group, 1, true), expected);
    }

    #[test]
    fn set_names_a_known_group_and_state() {
        let standby = [0, 0, 0, 0, 2, 0, 0, 1];
        assert_eq!(parse_set(&standby, 1), Ok(Some(AccessState::Standby)));
        assert_eq!(parse_set(&standby, 2), Err(Sense::list(6)));
        assert_eq!(parse_set(&[0, 0, 0, 0, 9, 0, 0, 1], 1), Err(Sense::list(4)));
        assert_eq!(parse_set(&standby[..6], 1), Err(Sense::list_length()));
        assert_eq!(parse_set(&[], 1), Ok(None));
    }
}
