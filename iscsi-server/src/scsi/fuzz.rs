//! An entry for fuzzers: whatever an initiator sends, the parsers give a command or a refusal.

use super::mode::ModeState;
use super::reservations::{Registrations, apply, parameters};
use super::{Nexus, NexusId, alua, copy, mode, target};

/// Reads `bytes` as a CDB, and what follows it as the parameter list of each command that has one.
#[doc(hidden)]
pub fn fuzz_scsi(bytes: &[u8]) {
    let (cdb, list) = bytes.split_at(bytes.len().min(super::CDB_BYTES_MAX));
    let planned = target::plan([0; 8], cdb);
    assert!(planned.command.is_ok() || planned.data_out_bytes == 0);
    assert!(planned.data_out_bytes <= 32 << 20 && planned.data_in_bytes <= 32 << 20);
    let _ = mode::select(list, cdb.first() == Some(&0x55), ModeState::default(), 2048);
    let _ = alua::parse_set(list, 1, &[(1, alua::AccessState::Standby)]);
    let _ = copy::parse(list);
    let nexus = Nexus {
        id: NexusId(1),
        initiator: "iqn.i".into(),
        isid: [0; 6],
        target: "iqn.t".into(),
        portal_group: 1,
    };
    let nexuses = [nexus.clone()];
    let action = cdb.get(1).copied().unwrap_or(0) & 0x1f;
    let kind = cdb.get(2).copied().unwrap_or(0);
    if let Ok(action) = parameters::parse(action, kind, list, &nexus, &nexuses) {
        let _ = apply(&Registrations::default(), &nexus, &nexuses, &action);
    }
}
