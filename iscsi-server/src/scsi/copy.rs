//! EXTENDED COPY (LID1) and RECEIVE COPY RESULTS (SPC-4 sections 5.17, 6.4 and 6.24 to 6.27):
//! blocks go from unit to unit of the target without passing through the host.
//!
//! Pure here: parameter lists, the limits, the results that are kept. `run` does it.

mod run;

use super::NexusId;
use super::capacity::BLOCK_BYTES;
use super::fields::{Reply, byte_at, length, u16_at, u24_at, u32_at, u64_at};
use super::sense::{Code, Sense, code};

/// Most CSCD descriptors of a parameter list.
const TARGETS_MAX: u16 = 16;
/// Most segment descriptors of a parameter list.
const SEGMENTS_MAX: u16 = 16;
/// Most bytes of descriptors: one more of each than may be, so that these can be told apart from a
/// list that is too long.
const DESCRIPTOR_BYTES_MAX: u32 = 1088;
/// Most bytes that a segment copies.
const SEGMENT_BYTES_MAX: u32 = 64 << 20;
/// Copy operations whose results are kept, of one unit.
const RESULTS_MAX: usize = 16;

const HEADER_BYTES: usize = 16;
const TARGET_BYTES: usize = 32;
/// Longest parameter list.
pub(crate) const LIST_BYTES_MAX: u32 = 16 + DESCRIPTOR_BYTES_MAX;

/// Identification descriptor CSCD descriptor, block → block, block → block with offset.
const DESCRIPTOR_TYPES: [u8; 3] = [0x02, 0x0a, 0xe4];
/// The CSCD id of the unit that the command came to.
const THIS_UNIT: u16 = 0xffff;

const _: () = assert!(DESCRIPTOR_BYTES_MAX >= (TARGETS_MAX as u32 + 1) * 32 + 17 * 32);
const _: () = assert!(u16::MAX as u64 * BLOCK_BYTES <= SEGMENT_BYTES_MAX as u64);

const INLINE_DATA_LENGTH: Code = Code(0x26, 0x0b);

/// Whom a CSCD descriptor names: a designator of the device identification page.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Designator {
    code_set: u8,
    kind: u8,
    bytes: Vec<u8>,
}

/// What a segment descriptor asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Segment {
    source: u16,
    target: u16,
    blocks: u64,
    source_lba: u64,
    target_lba: u64,
}

/// A parameter list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Copy {
    list: u8,
    /// Whether results are kept under the list identifier.
    keeps: bool,
    targets: Vec<Designator>,
    segments: Vec<Segment>,
}

/// Reads a parameter list that is not empty.
pub(crate) fn parse(list: &[u8]) -> Result<Copy, Sense> {
    if list.len() < HEADER_BYTES {
        return Err(Sense::list_length());
    }
    let (targets, segments) = (u32::from(u16_at(list, 2)), u32_at(list, 8));
    let total = segments.saturating_add(targets);
    if total > DESCRIPTOR_BYTES_MAX || HEADER_BYTES + length(total) > list.len() {
        return Err(Sense::list_length());
    }
    if u32_at(list, 12) != 0 {
        return Err(Sense::illegal(INLINE_DATA_LENGTH));
    }
    let usage = (byte_at(list, 1) >> 3) & 3;
    if usage == 1 || (usage == 3 && list[0] != 0) {
        return Err(Sense::list(1));
    }
    let first_segment = HEADER_BYTES + length(targets);
    let end = HEADER_BYTES + length(total);
    Ok(Copy {
        list: list[0],
        keeps: usage != 3,
        targets: parse_targets(&list[..first_segment])?,
        segments: parse_segments(&list[..end], first_segment)?,
    })
}

fn parse_targets(list: &[u8]) -> Result<Vec<Designator>, Sense> {
    let bytes = list.len() - HEADER_BYTES;
    if bytes / TARGET_BYTES > usize::from(TARGETS_MAX) {
        return Err(Sense::illegal(code::TOO_MANY_TARGETS));
    }
    if !bytes.is_multiple_of(TARGET_BYTES) {
        return Err(Sense::list(2));
    }
    let mut targets = Vec::new();
    for at in (HEADER_BYTES..list.len()).step_by(TARGET_BYTES) {
        let target = &list[at..at + TARGET_BYTES];
        if target[0] != 0xe4 {
            return Err(Sense::illegal(code::UNSUPPORTED_TARGET));
        }
        if target[1] & 0x1f != 0 {
            return Err(Sense::list(at + 1));
        }
        if u64::from(u24_at(target, 29)) != BLOCK_BYTES {
            return Err(Sense::list(at + 29));
        }
        let len = usize::from(target[7]);
        let bytes = target[8..28].get(..len).ok_or(Sense::list(at + 7))?;
        targets.push(Designator {
            code_set: target[4] & 0x0f,
            kind: target[5] & 0x3f,
            bytes: bytes.to_vec(),
        });
    }
    Ok(targets)
}

fn parse_segments(list: &[u8], first: usize) -> Result<Vec<Segment>, Sense> {
    let mut segments = Vec::new();
    let mut at = first;
    while at < list.len() {
        if segments.len() >= usize::from(SEGMENTS_MAX) {
            return Err(Sense::illegal(code::TOO_MANY_SEGMENTS));
        }
        let expected = match list[at] {
            0x02 => 28,
            0x0a => 32,
            _ => return Err(Sense::illegal(code::UNSUPPORTED_SEGMENT)),
        };
        let segment = list.get(at..at + expected).ok_or(Sense::list_length())?;
        if usize::from(u16_at(segment, 2)) + 4 != expected {
            return Err(Sense::list(at + 2));
        }
        segments.push(parse_segment(segment).map_err(|byte| Sense::list(at + byte))?);
        at += expected;
    }
    Ok(segments)
}

/// The byte at fault where it is wrong: what is copied are whole blocks.
fn parse_segment(segment: &[u8]) -> Result<Segment, usize> {
    let blocks = if segment[0] == 0x02 {
        u64::from(u16_at(segment, 10))
    } else {
        let bytes = u32_at(segment, 8);
        if bytes > SEGMENT_BYTES_MAX || !u64::from(bytes).is_multiple_of(BLOCK_BYTES) {
            return Err(8);
        }
        if u32_at(segment, 28) != 0 {
            return Err(28);
        }
        u64::from(bytes) / BLOCK_BYTES
    };
    Ok(Segment {
        source: u16_at(segment, 4),
        target: u16_at(segment, 6),
        blocks,
        source_lba: u64_at(segment, 12),
        target_lba: u64_at(segment, 20),
    })
}

/// The parameter data of RECEIVE COPY OPERATING PARAMETERS (SPC-4 table 276).
pub(crate) fn operating_parameters() -> Vec<u8> {
    let mut reply = Reply::new();
    // SNLID.
    reply.u32(0).u8(1).zeroes(3);
    reply.u16(TARGETS_MAX).u16(SEGMENTS_MAX);
    reply.u32(DESCRIPTOR_BYTES_MAX).u32(SEGMENT_BYTES_MAX);
    // No inline data, no held data, no streams.
    reply.u32(0).u32(0).u32(0).u16(0);
    reply.u16(255).u8(255).u8(granularity()).zeroes(5);
    reply.u8(3).bytes(&DESCRIPTOR_TYPES);
    reply.set_len32(0).finish()
}

/// The power of two of bytes that the data of a segment are a multiple of.
fn granularity() -> u8 {
    u8::try_from(BLOCK_BYTES.trailing_zeros()).unwrap_or(0)
}

/// Fills the third-party copy page (SPC-4 section 7.8.17).
pub(crate) fn third_party_page(reply: &mut Reply) -> &mut Reply {
    // EXTENDED COPY(LID1); RECEIVE COPY STATUS(LID1), RECEIVE COPY OPERATING PARAMETERS.
    descriptor(reply, 0x0001, &[7, 0x83, 1, 0x00, 0x84, 2, 0x00, 0x03]);
    let mut limits = Reply::new();
    limits.u32(0).u16(TARGETS_MAX).u16(SEGMENTS_MAX);
    limits.u32(DESCRIPTOR_BYTES_MAX).u32(0).zeroes(12);
    descriptor(reply, 0x0004, &limits.finish());
    let [block, offset, identification] = DESCRIPTOR_TYPES;
    descriptor(reply, 0x0008, &[3, block, offset, identification]);
    descriptor(reply, 0x000c, &[0, 2, 0xff, 0xff]);
    let mut general = Reply::new();
    general.u32(255).u32(255).u32(SEGMENT_BYTES_MAX);
    general.u8(granularity()).u8(0).zeroes(18);
    descriptor(reply, 0x8001, &general.finish());
    reply
}

fn descriptor(reply: &mut Reply, kind: u16, parameters: &[u8]) {
    let padded = parameters.len().next_multiple_of(4);
    reply.u16(kind).u16(u16::try_from(padded).unwrap_or(0));
    reply.bytes(parameters).zeroes(padded - parameters.len());
}

/// How a copy operation stands (SPC-4 table 271).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
enum Progress {
    Running = 0,
    Completed = 1,
    Failed = 2,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Kept {
    nexus: NexusId,
    list: u8,
    progress: Progress,
    segments: u16,
    bytes: u64,
}

/// The results of copy operations that a unit keeps.
#[derive(Debug, Default)]
pub(crate) struct Copies(Vec<Kept>);

impl Copies {
    /// Forgets those of a nexus that is gone.
    pub(crate) fn forget(&mut self, nexus: NexusId) {
        self.0.retain(|kept| kept.nexus != nexus);
    }

    fn find(&mut self, nexus: NexusId, list: u8) -> Option<&mut Kept> {
        let mut kept = self.0.iter_mut();
        kept.find(|kept| kept.nexus == nexus && kept.list == list)
    }

    /// Begins one; false where one of that identifier is under way.
    fn begin(&mut self, nexus: NexusId, list: u8) -> bool {
        let before = self.find(nexus, list);
        if before.is_some_and(|kept| kept.progress == Progress::Running) {
            return false;
        }
        self.0
            .retain(|kept| kept.nexus != nexus || kept.list != list);
        if self.0.len() >= RESULTS_MAX {
            self.0.remove(0);
        }
        self.0.push(Kept {
            nexus,
            list,
            progress: Progress::Running,
            segments: 0,
            bytes: 0,
        });
        true
    }

    /// The parameter data of RECEIVE COPY STATUS(LID1) (SPC-4 table 270).
    fn status(&mut self, nexus: NexusId, list: u8) -> Option<Vec<u8>> {
        let kept = self.find(nexus, list)?;
        let mut reply = Reply::new();
        reply.u32(8).u8(kept.progress as u8).u16(kept.segments);
        // In bytes.
        reply
            .u8(0)
            .u32(u32::try_from(kept.bytes).unwrap_or(u32::MAX));
        Some(reply.finish())
    }
}

#[cfg(test)]
pub(crate) mod tests;
