//! Ranges in messages: those that touch are one, and none is told before it is known to end.

use super::ByteRange;
use crate::protocol::BlockMetadata;

/// See the module.
#[derive(Debug)]
pub(super) struct Batches {
    most: usize,
    pending: Vec<ByteRange>,
}

impl Batches {
    /// Messages of at most so many ranges, one at least.
    pub fn of(most: usize) -> Self {
        Self {
            most: most.max(1),
            pending: Vec::new(),
        }
    }

    /// Adds a range that lies behind all others; gives a message once it is full.
    pub fn add(&mut self, range: ByteRange) -> Option<Vec<BlockMetadata>> {
        if let Some(last) = self.pending.last_mut()
            && last.offset + last.len == range.offset
        {
            last.len += range.len;
            return None;
        }
        let full = self.pending.len() == self.most;
        let told = full.then(|| self.rest());
        self.pending.push(range);
        told
    }

    /// What no message had yet.
    pub fn rest(&mut self) -> Vec<BlockMetadata> {
        let wire = |bytes: u64| i64::try_from(bytes).unwrap_or(i64::MAX);
        let told = self.pending.drain(..).map(|range| BlockMetadata {
            byte_offset: wire(range.offset),
            size_bytes: wire(range.len),
        });
        told.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(messages: &[Vec<BlockMetadata>]) -> Vec<Vec<(i64, i64)>> {
        let pairs = |message: &Vec<BlockMetadata>| {
            let pair = |one: &BlockMetadata| (one.byte_offset, one.size_bytes);
            message.iter().map(pair).collect()
        };
        messages.iter().map(pairs).collect()
    }

    #[test]
    fn ranges_that_touch_are_one_and_messages_are_full() {
        let mut batches = Batches::of(2);
        let ranges = [(0, 4), (4, 4), (12, 4), (16, 4), (24, 4), (28, 8)];
        let ranges = ranges.map(|(offset, len)| ByteRange { offset, len });
        let mut messages: Vec<_> = ranges
            .into_iter()
            .filter_map(|range| batches.add(range))
            .collect();
        messages.push(batches.rest());
        assert_eq!(told(&messages), [vec![(0, 8), (12, 8)], vec![(24, 12)]]);
        assert!(batches.rest().is_empty());
    }
}
