//! The parameter data of PERSISTENT RESERVE IN (SPC-4 section 6.15).

use super::state::Registrations;
use super::transport_id;
use crate::scsi::fields::Reply;
use crate::scsi::sense::Sense;

/// What a service action gives.
pub(crate) fn report(registrations: &Registrations, action: u8) -> Result<Vec<u8>, Sense> {
    match action {
        0 => Ok(keys(registrations)),
        1 => Ok(reservation(registrations)),
        2 => Ok(capabilities(registrations)),
        3 => Ok(full_status(registrations)),
        _ => Err(Sense::cdb_bit(1, 4)),
    }
}

fn keys(registrations: &Registrations) -> Vec<u8> {
    let mut reply = Reply::new();
    reply.u32(registrations.generation).u32(0);
    for registrant in &registrations.registrants {
        reply.u64(registrant.key);
    }
    reply.set_len32(4).finish()
}

fn reservation(registrations: &Registrations) -> Vec<u8> {
    let mut reply = Reply::new();
    reply.u32(registrations.generation).u32(0);
    if let Some(reservation) = &registrations.reservation {
        let holder = reservation.holder;
        let key = holder.and_then(|holder| registrations.registrants.get(holder));
        reply.u64(key.map_or(0, |registrant| registrant.key));
        reply.zeroes(5).u8(reservation.kind.code()).zeroes(2);
    }
    reply.set_len32(4).finish()
}

/// SIP_C, ATP_C, PTPL_C; TMV, PTPL_A; all six types.
fn capabilities(registrations: &Registrations) -> Vec<u8> {
    let active = u8::from(registrations.persist);
    let mut reply = Reply::new();
    reply.u16(8).u8(0x0d).u8(0x80 | active);
    reply.u8(0xea).u8(0x01).u16(0).finish()
}

fn full_status(registrations: &Registrations) -> Vec<u8> {
    let mut reply = Reply::new();
    reply.u32(registrations.generation).u32(0);
    for (position, registrant) in registrations.registrants.iter().enumerate() {
        let holds = registrations.holds(position);
        let kind = registrations.reservation.as_ref().map(|held| held.kind);
        let kind = kind.filter(|_| holds).map_or(0, |kind| kind.code());
        let all_ports = if registrant.target.is_none() { 2 } else { 0 };
        let port = registrant.target.as_ref().map(|port| port.portal_group);
        let id = transport_id::encode(&registrant.initiator);
        reply.u64(registrant.key).zeroes(4);
        reply.u8(all_ports | u8::from(holds)).u8(kind).zeroes(4);
        reply.u16(port.unwrap_or(0));
        reply.u32(u32::try_from(id.len()).unwrap_or(u32::MAX));
        reply.bytes(&id);
    }
    reply.set_len32(4).finish()
}
