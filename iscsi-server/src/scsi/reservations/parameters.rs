//! The parameter lists of PERSISTENT RESERVE OUT (SPC-4 section 6.16.3 and 6.16.4).

use super::actions::{Action, Register};
use super::state::{InitiatorPort, ReservationType, TargetPort};
use super::transport_id::{self, TransportId};
use crate::scsi::Nexus;
use crate::scsi::fields::{byte_at, length, u16_at, u32_at, u64_at};
use crate::scsi::sense::Sense;

/// Bytes of a parameter list without transport identifiers.
const LIST_BYTES: usize = 24;

/// What a service action with this SCOPE and TYPE and parameter list asks for. `nexuses` are those
/// of the logical unit: the ports that an initiator's name may stand for.
pub(crate) fn parse(
    action: u8,
    scope_type: u8,
    list: &[u8],
    by: &Nexus,
    nexuses: &[Nexus],
) -> Result<Action, Sense> {
    if list.len() < LIST_BYTES {
        return Err(Sense::list_length());
    }
    let (key, other_key) = (u64_at(list, 0), u64_at(list, 8));
    match action {
        0 | 6 => parse_register(action, list, nexuses),
        7 => parse_move(list, by),
        _ if list.len() != LIST_BYTES => Err(Sense::list_length()),
        _ if list[20] & 0x08 != 0 => Err(Sense::list(20)),
        1 => {
            let kind = kind_of(scope_type)?;
            Ok(Action::Reserve { key, kind })
        }
        2 => {
            let kind = kind_of(scope_type)?;
            Ok(Action::Release { key, kind })
        }
        3 => Ok(Action::Clear { key }),
        4 | 5 => Ok(Action::Preempt {
            key,
            victim: other_key,
            kind: kind_of(scope_type)?,
            abort: action == 5,
        }),
        _ => Err(Sense::cdb_bit(1, 4)),
    }
}

/// SCOPE must be the logical unit.
fn kind_of(scope_type: u8) -> Result<ReservationType, Sense> {
    if scope_type >> 4 != 0 {
        return Err(Sense::cdb_bit(2, 7));
    }
    ReservationType::from_code(scope_type & 0x0f).ok_or(Sense::cdb_bit(2, 3))
}

fn parse_register(action: u8, list: &[u8], nexuses: &[Nexus]) -> Result<Action, Sense> {
    let flags = list[20];
    let names_ports = flags & 0x08 != 0;
    if names_ports && action == 6 {
        return Err(Sense::list(20));
    }
    if !names_ports && list.len() != LIST_BYTES {
        return Err(Sense::list_length());
    }
    let others = if names_ports {
        parse_ports(list, nexuses)?
    } else {
        Vec::new()
    };
    Ok(Action::Register(Register {
        key: (action == 0).then(|| u64_at(list, 0)),
        new_key: u64_at(list, 8),
        persist: flags & 0x01 != 0,
        all_ports: flags & 0x04 != 0,
        others,
    }))
}

fn parse_ports(list: &[u8], nexuses: &[Nexus]) -> Result<Vec<InitiatorPort>, Sense> {
    let len = length(u32_at(list, 24));
    let ids = list.get(28..).unwrap_or_default();
    if list.len() < 28 || ids.len() != len {
        return Err(Sense::list_length());
    }
    let mut ports = Vec::new();
    let mut at = 0;
    while at < ids.len() {
        let (id, len) = transport_id::decode(&ids[at..]).ok_or(Sense::list(28 + at))?;
        let before = ports.len();
        match id {
            TransportId::Port(port) => ports.push(port),
            TransportId::Device(name) => {
                let known = nexuses.iter().filter(|nexus| nexus.initiator == name);
                ports.extend(known.map(|nexus| InitiatorPort {
                    name: name.clone(),
                    isid: nexus.isid,
                }));
            }
        }
        if ports.len() == before {
            return Err(Sense::list(28 + at));
        }
        at += len;
    }
    Ok(ports)
}

fn parse_move(list: &[u8], by: &Nexus) -> Result<Action, Sense> {
    let ids = list.get(LIST_BYTES..).unwrap_or_default();
    if ids.len() != length(u32_at(list, 20)) {
        return Err(Sense::list_length());
    }
    let Some((TransportId::Port(to), _)) = transport_id::decode(ids) else {
        return Err(Sense::list(LIST_BYTES));
    };
    let portal_group = u16_at(list, 18);
    if portal_group != by.portal_group {
        return Err(Sense::list(18));
    }
    let flags = byte_at(list, 17);
    Ok(Action::Move {
        key: u64_at(list, 0),
        new_key: u64_at(list, 8),
        persist: flags & 0x01 != 0,
        unregister: flags & 0x02 != 0,
        to,
        through: TargetPort {
            name: by.target.clone(),
            portal_group,
        },
    })
}
