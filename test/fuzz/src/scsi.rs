//! SCSI commands and their parameter lists, as an initiator sends them.

use ashlar_iscsi_server::fuzz_scsi;

/// Every opcode, with nothing else set.
pub(crate) fn seeds() -> Vec<Vec<u8>> {
    let cdb = |opcode: u8| {
        let mut bytes = vec![0; 64];
        bytes[0] = opcode;
        bytes
    };
    (0..=u8::MAX).map(cdb).collect()
}

/// Runs one; behaviours are told apart by opcode and service action.
pub(crate) fn run(input: &[u8]) -> u64 {
    fuzz_scsi(input);
    let byte = |at: usize| u64::from(input.get(at).copied().unwrap_or(0));
    byte(0) << 8 | byte(1) & 0x1f
}
