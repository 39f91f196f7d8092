//! The table of operation codes: what drives decoding, what reservations and standby leave of a
//! command, and REPORT SUPPORTED OPERATION CODES.

use super::cdb::{Cdb, Command, Decoded, block, primary};
use super::sense::Sense;

/// What a reservation does to a command (SPC-4 table 66, SBC-3 table 13, SPC-2 table 10).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    /// Goes through any reservation.
    Free,
    /// Goes through a persistent reservation, but not through a RESERVE of another nexus.
    Query,
    /// Conflicts with what keeps others from reading.
    Read,
    /// Conflicts with what keeps others from writing.
    Write,
}

/// A command: an operation code, and a service action where it has them.
#[derive(Debug)]
pub(crate) struct Row {
    pub(crate) opcode: u8,
    pub(crate) action: Option<u8>,
    /// For each byte of the CDB the bits that are looked at; the first one, and the service
    /// action, as they are.
    pub(crate) usage: &'static [u8],
    access: Access,
    /// Whether a port in standby carries it out.
    pub(crate) standby: bool,
    /// Whether a bit that is not looked at must be zero.
    pub(crate) strict: bool,
    decode: fn(&Cdb) -> Decoded,
}

impl Row {
    /// What the CDB says, or why it is wrong.
    pub(crate) fn decode(&self, bytes: &[u8]) -> Decoded {
        let mut cdb: Cdb = [0; super::CDB_BYTES_MAX];
        let len = self.usage.len();
        let Some(given) = bytes.get(..len) else {
            return Err(Sense::cdb(u16::try_from(bytes.len()).unwrap_or(0)));
        };
        cdb[..len].copy_from_slice(given);
        if cdb[len - 1] & 0x04 != 0 {
            // NACA.
            return Err(Sense::cdb_bit(u16::try_from(len - 1).unwrap_or(0), 2));
        }
        if self.strict {
            for (at, (&byte, &used)) in given.iter().zip(self.usage).enumerate().skip(1) {
                if byte & !used != 0 {
                    return Err(Sense::cdb(u16::try_from(at).unwrap_or(0)));
                }
            }
        }
        (self.decode)(&cdb)
    }

    /// What a reservation does to it, with these parameters.
    pub(crate) fn access(&self, command: &Command) -> Access {
        match command {
            Command::StartStop { start: true, .. } | Command::PreventAllow { prevent: false } => {
                Access::Query
            }
            _ => self.access,
        }
    }
}

const FREE: Access = Access::Free;
const QUERY: Access = Access::Query;
const READ: Access = Access::Read;
const WRITE: Access = Access::Write;

const fn row(usage: &'static [u8], access: Access, decode: fn(&Cdb) -> Decoded) -> Row {
    Row {
        opcode: usage[0],
        action: None,
        usage,
        access,
        standby: false,
        strict: false,
        decode,
    }
}

/// A command with a service action, the low five bits of its second byte.
const fn act(usage: &'static [u8], access: Access, decode: fn(&Cdb) -> Decoded) -> Row {
    let mut row = row(usage, access, decode);
    row.action = Some(usage[1] & 0x1f);
    row
}

/// One that a port in standby carries out too (SPC-4 section 5.15.2.4.4; and READ CAPACITY, without
/// which hosts take no path).
const fn standby(mut row: Row) -> Row {
    row.standby = true;
    row
}

const fn strict(mut row: Row) -> Row {
    row.strict = true;
    row
}

const F: u8 = 0xff;

/// All commands, by operation code and service action.
#[rustfmt::skip]
pub(crate) static ROWS: &[Row] = &[
    row(&[0x00, 0, 0, 0, 0, 0], QUERY, primary::test_unit_ready),
    standby(row(&[0x03, 1, 0, 0, F, 0], FREE, primary::request_sense)),
    row(&[0x08, 0x1f, F, F, F, 0], READ, block::read),
    row(&[0x0a, 0x1f, F, F, F, 0], WRITE, block::write),
    standby(row(&[0x12, 1, F, F, F, 0], FREE, primary::inquiry)),
    standby(row(&[0x15, 0x11, 0, 0, F, 0], WRITE, primary::mode_select)),
    row(&[0x16, 0, 0, 0, 0, 0], QUERY, primary::reserve),
    row(&[0x17, 0, 0, 0, 0, 0], FREE, primary::reserve),
    standby(row(&[0x1a, 0x08, F, F, F, 0], WRITE, primary::mode_sense)),
    row(&[0x1b, 1, 0, 0, 0xf7, 0], WRITE, block::start_stop),
    standby(row(&[0x1d, 0x04, 0, F, F, 0], WRITE, primary::send_diagnostic)),
    row(&[0x1e, 0, 0, 0, 0x03, 0], WRITE, block::prevent_allow),
    standby(row(&[0x25, 0, 0, 0, 0, 0, 0, 0, 0, 0], FREE, block::read_capacity_10)),
    row(&[0x28, 0x18, F, F, F, F, 0, F, F, 0], READ, block::read),
    row(&[0x2a, 0x18, F, F, F, F, 0, F, F, 0], WRITE, block::write),
    row(&[0x2e, 0x12, F, F, F, F, 0, F, F, 0], WRITE, block::write_and_verify),
    row(&[0x2f, 0x16, F, F, F, F, 0, F, F, 0], READ, block::verify),
    row(&[0x34, 0x02, F, F, F, F, 0, F, F, 0], READ, block::pre_fetch),
    row(&[0x35, 0x02, F, F, F, F, 0, F, F, 0], WRITE, block::synchronize_cache),
    row(&[0x37, 0, 0x1f, 0, 0, 0, 0, F, F, 0], READ, block::read_defect_data),
    row(&[0x41, 0x08, F, F, F, F, 0, F, F, 0], WRITE, block::write_same),
    row(&[0x42, 0, 0, 0, 0, 0, 0, F, F, 0], WRITE, block::unmap),
    strict(act(&[0x48, 0xa1, 0, 0, 0, 0, 0, F, F, 0], WRITE, block::sanitize)),
    strict(act(&[0x48, 0xa2, 0, 0, 0, 0, 0, F, F, 0], WRITE, block::sanitize)),
    strict(act(&[0x48, 0xbf, 0, 0, 0, 0, 0, F, F, 0], WRITE, block::sanitize)),
    standby(row(&[0x4d, 0, F, F, 0, F, F, F, F, 0], QUERY, primary::log_sense)),
    standby(row(&[0x55, 0x11, 0, 0, 0, 0, 0, F, F, 0], WRITE, primary::mode_select)),
    row(&[0x56, 0, 0, 0, 0, 0, 0, 0, 0, 0], QUERY, primary::reserve),
    row(&[0x57, 0, 0, 0, 0, 0, 0, 0, 0, 0], FREE, primary::reserve),
    standby(row(&[0x5a, 0x18, F, F, 0, 0, 0, F, F, 0], WRITE, primary::mode_sense)),
    standby(act(&[0x5e, 0, 0, 0, 0, 0, 0, F, F, 0], QUERY, primary::persistent_in)),
    standby(act(&[0x5e, 1, 0, 0, 0, 0, 0, F, F, 0], QUERY, primary::persistent_in)),
    standby(act(&[0x5e, 2, 0, 0, 0, 0, 0, F, F, 0], QUERY, primary::persistent_in)),
    standby(act(&[0x5e, 3, 0, 0, 0, 0, 0, F, F, 0], QUERY, primary::persistent_in)),
    standby(act(&[0x5f, 0, F, 0, 0, F, F, F, F, 0], QUERY, primary::persistent_out)),
    standby(act(&[0x5f, 1, F, 0, 0, F, F, F, F, 0], QUERY, primary::persistent_out)),
    standby(act(&[0x5f, 2, F, 0, 0, F, F, F, F, 0], QUERY, primary::persistent_out)),
    standby(act(&[0x5f, 3, F, 0, 0, F, F, F, F, 0], QUERY, primary::persistent_out)),
    standby(act(&[0x5f, 4, F, 0, 0, F, F, F, F, 0], QUERY, primary::persistent_out)),
    standby(act(&[0x5f, 5, F, 0, 0, F, F, F, F, 0], QUERY, primary::persistent_out)),
    standby(act(&[0x5f, 6, F, 0, 0, F, F, F, F, 0], QUERY, primary::persistent_out)),
    standby(act(&[0x5f, 7, F, 0, 0, F, F, F, F, 0], QUERY, primary::persistent_out)),
    act(&[0x83, 0, 0, 0, 0, 0, 0, 0, 0, 0, F, F, F, F, 0, 0], WRITE, primary::extended_copy),
    act(&[0x84, 0, F, 0, 0, 0, 0, 0, 0, 0, F, F, F, F, 0, 0], QUERY, primary::receive_copy),
    act(&[0x84, 3, 0, 0, 0, 0, 0, 0, 0, 0, F, F, F, F, 0, 0], QUERY, primary::receive_copy),
    row(&[0x88, 0x18, F, F, F, F, F, F, F, F, F, F, F, F, 0, 0], READ, block::read),
    row(&[0x89, 0x18, F, F, F, F, F, F, F, F, 0, 0, 0, F, 0, 0], WRITE, block::compare_and_write),
    row(&[0x8a, 0x18, F, F, F, F, F, F, F, F, F, F, F, F, 0, 0], WRITE, block::write),
    row(&[0x8b, 0x18, F, F, F, F, F, F, F, F, F, F, F, F, 0, 0], WRITE, block::or_write),
    row(&[0x8e, 0x12, F, F, F, F, F, F, F, F, F, F, F, F, 0, 0], WRITE, block::write_and_verify),
    row(&[0x8f, 0x16, F, F, F, F, F, F, F, F, F, F, F, F, 0, 0], READ, block::verify),
    row(&[0x90, 0x02, F, F, F, F, F, F, F, F, F, F, F, F, 0, 0], READ, block::pre_fetch),
    row(&[0x91, 0x02, F, F, F, F, F, F, F, F, F, F, F, F, 0, 0], WRITE, block::synchronize_cache),
    row(&[0x93, 0x09, F, F, F, F, F, F, F, F, F, F, F, F, 0, 0], WRITE, block::write_same),
    standby(act(&[0x9e, 0x10, 0, 0, 0, 0, 0, 0, 0, 0, F, F, F, F, 0, 0], FREE, block::read_capacity_16)),
    act(&[0x9e, 0x12, F, F, F, F, F, F, F, F, F, F, F, F, 0, 0], READ, block::get_lba_status),
    standby(row(&[0xa0, 0, F, 0, 0, 0, F, F, F, F, 0, 0], FREE, primary::report_luns)),
    standby(act(&[0xa3, 0x05, 0, 0, 0, 0, F, F, F, F, 0xfe, 0], QUERY, primary::report_identifying)),
    standby(act(&[0xa3, 0x2a, 0, 0, 0, 0, F, F, F, F, 0, 0], FREE, primary::report_groups)),
    standby(act(&[0xa3, 0x0c, 0x87, F, F, F, F, F, F, F, 0, 0], FREE, primary::report_opcodes)),
    standby(act(&[0xa3, 0x0d, 0x80, 0, 0, 0, F, F, F, F, 0, 0], FREE, primary::report_task_management)),
    standby(act(&[0xa3, 0x0f, 0, 0, 0, 0, F, F, F, F, 0, 0], QUERY, primary::report_timestamp)),
    standby(act(&[0xa4, 0x0a, 0, 0, 0, 0, F, F, F, F, 0, 0], WRITE, primary::set_groups)),
    row(&[0xa8, 0x18, F, F, F, F, F, F, F, F, 0, 0], READ, block::read),
    row(&[0xaa, 0x18, F, F, F, F, F, F, F, F, 0, 0], WRITE, block::write),
    row(&[0xae, 0x12, F, F, F, F, F, F, F, F, 0, 0], WRITE, block::write_and_verify),
    row(&[0xaf, 0x16, F, F, F, F, F, F, F, F, 0, 0], READ, block::verify),
    row(&[0xb7, 0x1f, 0, 0, 0, 0, F, F, F, F, 0, 0], READ, block::read_defect_data),
];

/// The rows of an operation code, as a range of [`ROWS`], by code.
static INDEX: [(u8, u8); 256] = index();

const fn index() -> [(u8, u8); 256] {
    let mut index = [(0, 0); 256];
    let mut at = 0;
    while at < ROWS_LEN {
        let entry = &mut index[ROWS[at].opcode as usize];
        if entry.1 == 0 {
            #[expect(clippy::cast_possible_truncation, reason = "the table is short")]
            {
                entry.0 = at as u8;
            }
        }
        entry.1 += 1;
        at += 1;
    }
    index
}

const ROWS_LEN: usize = ROWS.len();
const _: () = assert!(ROWS_LEN < 256);

/// The commands of an operation code.
pub(crate) fn of(opcode: u8) -> &'static [Row] {
    let (first, count) = INDEX[usize::from(opcode)];
    let first = usize::from(first);
    &ROWS[first..first + usize::from(count)]
}

/// The command that a CDB begins.
pub(crate) fn find(bytes: &[u8]) -> Result<&'static Row, Sense> {
    let Some(&opcode) = bytes.first() else {
        return Err(primary::unknown(false));
    };
    let rows = of(opcode);
    match rows {
        [] => Err(primary::unknown(false)),
        [row] if row.action.is_none() => Ok(row),
        rows => {
            let action = bytes.get(1).map(|byte| byte & 0x1f);
            let found = rows.iter().find(|row| row.action == action);
            found.ok_or_else(|| primary::unknown(true))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_in_order_and_of_their_length() {
        for row in ROWS {
            let expected = match row.opcode >> 5 {
                0 => 6,
                1 | 2 => 10,
                4 => 16,
                5 => 12,
                group => panic!("no CDB of group {group}"),
            };
            assert_eq!(row.usage.len(), expected, "{:#04x}", row.opcode);
        }
        for pair in ROWS.windows(2) {
            assert!(pair[0].opcode <= pair[1].opcode);
            if pair[0].opcode == pair[1].opcode {
                assert!(pair[0].action.is_some() && pair[1].action.is_some());
                assert_ne!(pair[0].action, pair[1].action);
            }
        }
    }

    #[test]
    fn every_row_is_found_by_its_own_usage() {
        for row in ROWS {
            let found = find(row.usage).unwrap();
            assert_eq!((found.opcode, found.action), (row.opcode, row.action));
        }
        assert!(find(&[0x01]).is_err());
        assert!(find(&[0x9e, 0x1f]).is_err());
        assert!(find(&[]).is_err());
    }

    #[test]
    fn reserved_bits_of_sanitize_are_refused() {
        let cdb = [0x48, 0x02 | 0x40, 0, 0, 0, 0, 0, 0, 0, 0];
        assert_eq!(find(&cdb).unwrap().decode(&cdb), Err(Sense::cdb(1)));
        let cdb = [0x48, 0x02, 0, 0, 5, 0, 0, 0, 0, 0];
        assert_eq!(find(&cdb).unwrap().decode(&cdb), Err(Sense::cdb(4)));
    }

    #[test]
    fn short_cdbs_and_naca_are_refused() {
        let cdb = [0x28, 0, 0, 0, 0, 0, 0, 0, 1];
        assert_eq!(find(&cdb).unwrap().decode(&cdb), Err(Sense::cdb(9)));
        let cdb = [0x28, 0, 0, 0, 0, 0, 0, 0, 1, 4];
        assert_eq!(find(&cdb).unwrap().decode(&cdb), Err(Sense::cdb_bit(9, 2)));
    }
}
