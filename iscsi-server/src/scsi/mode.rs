//! Mode pages: MODE SENSE and MODE SELECT (SPC-4 sections 6.13, 6.11 and 7.5, SBC-3 section 6.4).
//!
//! What may change: the sense format, software write protect, and whether a write is durable when
//! it completes. Nothing is saved; a reset brings the defaults back.

use super::capacity::BLOCK_BYTES;
use super::cdb::ModeSense;
use super::fields::{Reply, byte_at, u16_at, u32_at, u64_at};
use super::sense::Sense;

/// What initiators have set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ModeState {
    /// D_SENSE: sense data in descriptor format.
    pub(crate) descriptor_sense: bool,
    /// SWP: writes are refused.
    pub(crate) write_protect: bool,
    /// WCE: a write may be durable only after SYNCHRONIZE CACHE.
    pub(crate) write_cache: bool,
}

impl Default for ModeState {
    fn default() -> Self {
        Self {
            descriptor_sense: false,
            write_protect: false,
            write_cache: true,
        }
    }
}

/// The values of a page: PAGE CONTROL (SPC-4 table 159).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Values {
    Of(ModeState),
    /// A bit is set where it may change.
    Changeable,
}

impl Values {
    /// `bit` if it is set, or may be.
    fn bit(self, get: impl Fn(&ModeState) -> bool, bit: u8) -> u8 {
        let set = match self {
            Self::Of(state) => get(&state),
            Self::Changeable => true,
        };
        if set { bit } else { 0 }
    }

    /// A value that does not change.
    fn fixed<const N: usize>(self, bytes: [u8; N]) -> [u8; N] {
        match self {
            Self::Of(_) => bytes,
            Self::Changeable => [0; N],
        }
    }
}

/// Page codes and subpage codes, in order.
const PAGES: [(u8, u8); 5] = [
    (0x01, 0x00),
    (0x08, 0x00),
    (0x0a, 0x00),
    (0x0a, 0x01),
    (0x1c, 0x00),
];

/// The bytes of a page, from its code on.
fn page_bytes(page: (u8, u8), values: Values) -> Vec<u8> {
    let mut reply = Reply::new();
    match page {
        // AWRE, ARRE.
        (0x01, _) => reply
            .u8(0x01)
            .u8(10)
            .bytes(&values.fixed([0xc0]))
            .zeroes_up_to(12),
        (0x08, _) => {
            let cache = values.bit(|state| state.write_cache, 0x04);
            reply.u8(0x08).u8(18).u8(cache).zeroes_up_to(20)
        }
        (0x0a, 0x00) => {
            let sense = values.bit(|state| state.descriptor_sense, 0x04);
            let protect = values.bit(|state| state.write_protect, 0x08);
            // Unrestricted reordering; BUSY for a minute at most.
            let [reorder, high, low] = values.fixed([0x10, 0x02, 0x58]);
            reply.u8(0x0a).u8(10).u8(sense).u8(reorder).u8(protect);
            reply.zeroes(3).u8(high).u8(low).zeroes_up_to(12)
        }
        // IALUAE.
        (0x0a, _) => {
            reply.u8(0x4a).u8(0x01).u16(28);
            reply.bytes(&values.fixed([0x01])).zeroes_up_to(32)
        }
        // DEXCPT: no informational exceptions are raised.
        _ => reply
            .u8(0x1c)
            .u8(10)
            .bytes(&values.fixed([0x08]))
            .zeroes_up_to(12),
    };
    reply.finish()
}

fn is_asked(page: (u8, u8), asked: &ModeSense) -> bool {
    let code = asked.page == 0x3f || asked.page == page.0;
    code && (asked.subpage == 0xff || asked.subpage == page.1)
}

/// The parameter data of MODE SENSE. `blocks` is the capacity where it is known, else 0.
pub(crate) fn sense(
    asked: &ModeSense,
    state: ModeState,
    blocks: u64,
    protected: bool,
) -> Result<Vec<u8>, Sense> {
    let values = match asked.control {
        1 => Values::Changeable,
        2 => Values::Of(ModeState::default()),
        _ => Values::Of(state),
    };
    let mut pages = PAGES
        .into_iter()
        .filter(|&page| is_asked(page, asked))
        .peekable();
    if pages.peek().is_none() {
        let code_known = asked.page == 0x3f || PAGES.iter().any(|page| page.0 == asked.page);
        return Err(if code_known {
            Sense::cdb(3)
        } else {
            Sense::cdb_bit(2, 5)
        });
    }
    // WP; DPOFUA.
    let specific = if protected { 0x90 } else { 0x10 };
    let descriptor = block_descriptor(asked, blocks);
    let mut reply = Reply::new();
    if asked.long {
        let long_lba = u8::from(descriptor.len() == 16);
        let len = u16::try_from(descriptor.len()).unwrap_or(0);
        reply.u16(0).u8(0).u8(specific).u8(long_lba).u8(0).u16(len);
    } else {
        let len = u8::try_from(descriptor.len()).unwrap_or(0);
        reply.u8(0).u8(0).u8(specific).u8(len);
    }
    reply.bytes(&descriptor);
    for page in pages {
        reply.bytes(&page_bytes(page, values));
    }
    if asked.long {
        reply.set_len16(0);
    } else {
        let len = u8::try_from(reply.len() - 1).unwrap_or(u8::MAX);
        reply.set(0, &[len]);
    }
    Ok(reply.finish())
}

/// SBC-3 section 6.4.2.
fn block_descriptor(asked: &ModeSense, blocks: u64) -> Vec<u8> {
    let mut reply = Reply::new();
    let block_bytes = u32::try_from(BLOCK_BYTES).unwrap_or(0);
    if asked.no_block {
        return Vec::new();
    }
    if asked.long_lba {
        return reply.u64(blocks).u32(0).u32(block_bytes).finish();
    }
    let blocks = u32::try_from(blocks).unwrap_or(u32::MAX);
    reply.u32(blocks).u32(block_bytes).finish()
}

/// The state that a parameter list of MODE SELECT makes of `state`.
pub(crate) fn select(
    list: &[u8],
    long: bool,
    mut state: ModeState,
    blocks: u64,
) -> Result<ModeState, Sense> {
    let header = if long { 8 } else { 4 };
    if list.is_empty() {
        return Ok(state);
    }
    if list.len() < header {
        return Err(Sense::list_length());
    }
    let (descriptor, long_lba) = if long {
        (usize::from(u16_at(list, 6)), byte_at(list, 4) & 1 != 0)
    } else {
        (usize::from(byte_at(list, 3)), false)
    };
    if list.len() < header + descriptor {
        return Err(Sense::list_length());
    }
    check_block_descriptor(list, header, descriptor, long_lba, blocks)?;
    let mut at = header + descriptor;
    while at < list.len() {
        let page = page_at(list, at)?;
        let current = page_bytes(page, Values::Of(state));
        let given = list
            .get(at..at + current.len())
            .ok_or(Sense::list_length())?;
        state = change(page, given, state).map_err(|byte| Sense::list(at + byte))?;
        at += current.len();
    }
    Ok(state)
}

/// The capacity and the length of blocks cannot be changed.
fn check_block_descriptor(
    list: &[u8],
    at: usize,
    len: usize,
    long_lba: bool,
    blocks: u64,
) -> Result<(), Sense> {
    let (given, given_bytes) = match (len, long_lba) {
        (0, _) => return Ok(()),
        (8, false) => {
            let given = match u32_at(list, at) {
                u32::MAX => u64::MAX,
                given => given.into(),
            };
            (given, u32_at(list, at + 4) & 0xff_ffff)
        }
        (16, true) => (u64_at(list, at), u32_at(list, at + 12)),
        _ => return Err(Sense::list(at - 1)),
    };
    if given != 0 && given != u64::MAX && given != blocks {
        return Err(Sense::list(at));
    }
    if u64::from(given_bytes) != BLOCK_BYTES {
        return Err(Sense::list(at + len - 3));
    }
    Ok(())
}

/// The page that begins at `at`, if it is one of ours, of its length.
fn page_at(list: &[u8], at: usize) -> Result<(u8, u8), Sense> {
    let first = byte_at(list, at);
    let has_subpage = first & 0x40 != 0;
    let subpage = if has_subpage {
        byte_at(list, at + 1)
    } else {
        0
    };
    let page = (first & 0x3f, subpage);
    if first & 0x80 != 0 || !PAGES.contains(&page) || has_subpage != (subpage != 0) {
        return Err(Sense::list(at));
    }
    let expected = page_bytes(page, Values::Changeable).len();
    let (given, header) = if has_subpage {
        (usize::from(u16_at(list, at + 2)), 4)
    } else {
        (usize::from(byte_at(list, at + 1)), 2)
    };
    if given + header != expected {
        return Err(Sense::list(at + header - 1));
    }
    Ok(page)
}

/// The state with a page as given; the byte at fault where it changes what may not.
fn change(page: (u8, u8), given: &[u8], mut state: ModeState) -> Result<ModeState, usize> {
    let current = page_bytes(page, Values::Of(state));
    let changeable = page_bytes(page, Values::Changeable);
    let header = if page.1 == 0 { 2 } else { 4 };
    for at in header..current.len() {
        if (given[at] ^ current[at]) & !changeable[at] != 0 {
            return Err(at);
        }
    }
    match page {
        (0x08, _) => state.write_cache = given[2] & 0x04 != 0,
        (0x0a, 0x00) => {
            state.descriptor_sense = given[2] & 0x04 != 0;
            state.write_protect = given[4] & 0x08 != 0;
        }
        _ => {}
    }
    Ok(state)
}

#[cfg(test)]
mod tests;
