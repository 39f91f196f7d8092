//! What a device server tells of itself by MAINTENANCE IN, and its empty lists of defects
//! (SPC-4 sections 6.34 to 6.37, SBC-3 sections 5.17 and 5.18).

use super::cdb::ReportOpcodes;
use super::fields::Reply;
use super::opcodes::{ROWS, Row, of};
use super::sense::Sense;

/// Bytes of a timeouts descriptor after its length field.
const TIMEOUTS_BYTES: u16 = 10;
/// Seconds after which to give up on a command: time for a take-over.
const TIMEOUT_SECONDS: u32 = 60;

/// REPORT SUPPORTED OPERATION CODES.
pub(crate) fn opcodes(asked: &ReportOpcodes) -> Result<Vec<u8>, Sense> {
    if asked.options == 0 {
        return Ok(all_opcodes(asked.timeouts));
    }
    let rows = of(asked.opcode);
    let has_actions = rows.iter().any(|row| row.action.is_some());
    let named = rows.iter().find(|row| {
        row.action.map_or(asked.action == 0, |action| {
            u16::from(action) == asked.action
        })
    });
    let found = match asked.options {
        1 if has_actions => return Err(Sense::cdb(2)),
        1 => rows.first(),
        2 if !rows.is_empty() && !has_actions => return Err(Sense::cdb(2)),
        _ => named,
    };
    Ok(one_opcode(found, asked.timeouts))
}

fn all_opcodes(timeouts: bool) -> Vec<u8> {
    let mut reply = Reply::new();
    reply.u32(0);
    for row in ROWS {
        let has_action = u8::from(row.action.is_some());
        let has_timeouts = if timeouts { 2 } else { 0 };
        reply.u8(row.opcode).u8(0);
        reply.u16(row.action.unwrap_or(0).into());
        reply.u8(0).u8(has_timeouts | has_action);
        reply.u16(cdb_bytes(row));
        if timeouts {
            add_timeouts(&mut reply);
        }
    }
    reply.set_len32(0).finish()
}

/// SUPPORT 1: not there; 3: there, as the standard has it.
fn one_opcode(found: Option<&Row>, timeouts: bool) -> Vec<u8> {
    let mut reply = Reply::new();
    let Some(row) = found else {
        return reply.u8(0).u8(1).u16(0).finish();
    };
    let has_timeouts = if timeouts { 0x80 } else { 0 };
    reply.u8(0).u8(has_timeouts | 3).u16(cdb_bytes(row));
    reply.bytes(row.usage);
    if timeouts {
        add_timeouts(&mut reply);
    }
    reply.finish()
}

fn cdb_bytes(row: &Row) -> u16 {
    u16::try_from(row.usage.len()).unwrap_or(0)
}

fn add_timeouts(reply: &mut Reply) {
    reply.u16(TIMEOUTS_BYTES).u16(0).u32(0).u32(TIMEOUT_SECONDS);
}

/// REPORT SUPPORTED TASK MANAGEMENT FUNCTIONS: ABORT TASK, ABORT TASK SET, CLEAR TASK SET, LOGICAL
/// UNIT RESET; all that iSCSI carries but ACA.
pub(crate) fn task_management(extended: bool) -> Vec<u8> {
    let mut reply = Reply::new();
    reply.u8(0xd8).u8(0).u8(0).u8(if extended { 12 } else { 0 });
    if extended {
        reply.zeroes_up_to(16);
    }
    reply.finish()
}

/// REPORT IDENTIFYING INFORMATION: there is none, of any type.
pub(crate) fn identifying(kind: u8) -> Vec<u8> {
    let mut reply = Reply::new();
    if kind == 0x7f {
        // The types there are, with their longest: both may be read, neither set.
        return reply.u32(8).bytes(&[0, 0, 0, 0, 4, 0, 0, 0]).finish();
    }
    reply.u32(0).finish()
}

/// REPORT TIMESTAMP: milliseconds since 1970, by another than SET TIMESTAMP.
pub(crate) fn timestamp(wall_clock_ms: u64) -> Vec<u8> {
    let mut reply = Reply::new();
    reply.u16(10).u8(0x03).u8(0);
    reply
        .bytes(&wall_clock_ms.to_be_bytes()[2..])
        .u16(0)
        .finish()
}

/// READ DEFECT DATA: lists without an entry, in the format asked for.
pub(crate) fn defects(long: bool, lists: u8) -> Vec<u8> {
    let mut reply = Reply::new();
    reply.u8(0).u8(lists & 0x1f);
    reply.zeroes(if long { 6 } else { 2 }).finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(options: u8, opcode: u8, action: u16) -> ReportOpcodes {
        ReportOpcodes {
            timeouts: false,
            options,
            opcode,
            action,
            allocation: u32::MAX,
        }
    }

    #[test]
    fn list_of_all_names_each_command() {
        let all = opcodes(&asked(0, 0, 0)).unwrap();
        assert_eq!(all.len(), 4 + 8 * ROWS.len());
        assert_eq!(all[4..12], [0, 0, 0, 0, 0, 0, 0, 6]);
        let mut with_timeouts = asked(0, 0, 0);
        with_timeouts.timeouts = true;
        let all = opcodes(&with_timeouts).unwrap();
        assert_eq!(all.len(), 4 + 20 * ROWS.len());
        assert_eq!(
            all[4..24],
            [0, 0, 0, 0, 0, 2, 0, 6, 0, 10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 60]
        );
    }

    #[test]
    fn one_command_is_told_with_its_usage() {
        let told = opcodes(&asked(1, 0x28, 0)).unwrap();
        let expected = [
            0, 3, 0, 10, 0x28, 0x18, 0xff, 0xff, 0xff, 0xff, 0, 0xff, 0xff, 0,
        ];
        assert_eq!(told, expected);
        assert_eq!(opcodes(&asked(1, 0x01, 0)), Ok(vec![0, 1, 0, 0]));
        assert_eq!(opcodes(&asked(1, 0x9e, 0)), Err(Sense::cdb(2)));
        assert_eq!(opcodes(&asked(2, 0x28, 0)), Err(Sense::cdb(2)));
        assert_eq!(opcodes(&asked(2, 0x9e, 0x10)).unwrap()[1], 3);
        assert_eq!(opcodes(&asked(2, 0x9e, 0x1f)), Ok(vec![0, 1, 0, 0]));
        assert_eq!(opcodes(&asked(3, 0x9e, 0x12)).unwrap()[1], 3);
    }

    #[test]
    fn short_replies_are_as_laid_out() {
        assert_eq!(task_management(false), [0xd8, 0, 0, 0]);
        assert_eq!(defects(false, 0x18), [0, 0x18, 0, 0]);
        assert_eq!(defects(true, 0x1d), [0, 0x1d, 0, 0, 0, 0, 0, 0]);
        let told = timestamp(0x0102_0304_0506);
        assert_eq!(told, [0, 10, 3, 0, 1, 2, 3, 4, 5, 6, 0, 0]);
    }
}
