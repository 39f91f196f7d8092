//! Which versions a take-over copies where: per (layer, block) the highest seq in the tails, to all
//! who answered and lack it.
//!
//! Pure. Zeroes are versions like any other.

use std::collections::BTreeMap;

use ashlar_proto::limits::{FRAME_DATA_BLOCKS_MAX, ZERO_BLOCKS_MAX};
use ashlar_proto::message::TailEntry;
use ashlar_proto::{BlockCount, BlockIndex, Layer, Seq};

use crate::quorum::{Mask, Slot};
use crate::write_log::Span;

/// One version of a run of blocks, and who has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Copy {
    /// The blocks.
    pub(crate) span: Span,
    /// The layer that wrote them.
    pub(crate) layer: Layer,
    /// Their seq.
    pub(crate) seq: Seq,
    /// Whether they read as zeroes.
    pub(crate) zero: bool,
    /// Who has it.
    pub(crate) sources: Mask,
    /// Who lacks it.
    pub(crate) targets: Mask,
}

/// The highest seq in the tails; [`Seq::NONE`] when all are empty.
pub(crate) fn highest(tails: &[(Slot, Vec<TailEntry>)]) -> Seq {
    let entries = tails.iter().flat_map(|(_, tail)| tail);
    entries.map(|entry| entry.seq).max().unwrap_or(Seq::NONE)
}

/// The copies that make the tails equal, in order of block.
pub(crate) fn plan(tails: &[(Slot, Vec<TailEntry>)]) -> Vec<Copy> {
    let answered: Mask = tails.iter().map(|&(slot, _)| slot).collect();
    let mut best: BTreeMap<(BlockIndex, Layer), (Seq, bool, Mask)> = BTreeMap::new();
    for &(slot, ref tail) in tails {
        for entry in tail {
            let key = (entry.block, entry.layer);
            let found = best
                .entry(key)
                .or_insert((entry.seq, entry.zero, Mask::EMPTY));
            if entry.seq > found.0 {
                *found = (entry.seq, entry.zero, Mask::EMPTY);
            }
            if entry.seq == found.0 {
                found.2 = found.2.with(slot);
            }
        }
    }
    let mut copies: Vec<Copy> = Vec::new();
    let mut open: BTreeMap<Layer, usize> = BTreeMap::new();
    for ((block, layer), (seq, zero, sources)) in best {
        let targets = answered.minus(sources);
        if targets.is_empty() {
            continue;
        }
        let next = Copy {
            span: Span {
                block,
                count: BlockCount::new(1),
            },
            layer,
            seq,
            zero,
            sources,
            targets,
        };
        let last = open.get(&layer).map(|&at| &mut copies[at]);
        match last.filter(|last| continues(last, &next)) {
            Some(last) => last.span.count = last.span.count.next(),
            None => {
                open.insert(layer, copies.len());
                copies.push(next);
            }
        }
    }
    copies
}

fn continues(last: &Copy, next: &Copy) -> bool {
    let blocks_max = if last.zero {
        ZERO_BLOCKS_MAX
    } else {
        u32::from(FRAME_DATA_BLOCKS_MAX)
    };
    last.span.block.checked_add(last.span.count) == Some(next.span.block)
        && last.span.count.get() < blocks_max
        && (last.seq, last.zero) == (next.seq, next.zero)
        && (last.sources, last.targets) == (next.sources, next.targets)
}

#[cfg(test)]
mod tests {
    use super::*;
    use ashlar_proto::Window;
    use proptest::prelude::*;

    fn entry(block: u32, number: u64, zero: bool) -> TailEntry {
        TailEntry {
            block: BlockIndex::new(block),
            layer: Layer::new(1),
            seq: Seq::from_raw(Window::new(2).start().get() + number).unwrap(),
            zero,
        }
    }

    #[test]
    fn the_highest_is_copied_to_who_lacks_it() {
        let a = vec![entry(1, 5, false), entry(2, 5, false), entry(9, 1, false)];
        let b = vec![entry(1, 3, false), entry(9, 7, true)];
        let tails = [(Slot::new(0), a), (Slot::new(2), b)];
        let copies = plan(&tails);
        assert_eq!(copies.len(), 2);
        assert_eq!(
            (copies[0].span.block.get(), copies[0].span.count.get()),
            (1, 2)
        );
        assert_eq!(copies[0].sources, Mask::EMPTY.with(Slot::new(0)));
        assert_eq!(copies[0].targets, Mask::EMPTY.with(Slot::new(2)));
        assert!(copies[1].zero && copies[1].seq == entry(9, 7, true).seq);
        assert_eq!(highest(&tails), entry(9, 7, true).seq);
    }

    #[test]
    fn equal_tails_need_nothing() {
        let tail = vec![entry(1, 5, false)];
        assert_eq!(
            plan(&[(Slot::new(0), tail.clone()), (Slot::new(1), tail)]),
            []
        );
        assert_eq!(highest(&[]), Seq::NONE);
    }

    proptest! {
        /// After the copies every replica shows the same version of every block, and it is the
        /// highest that any of them had.
        #[test]
        fn copies_make_replicas_equal(tails in prop::collection::vec(
            prop::collection::btree_map(0u32..40, (1u64..6, any::<bool>()), 0..30), 1..4)
        ) {
            // A seq has one content: whether it is zeroes depends on block and seq alone.
            let zero = |block: u32, number: u64| (u64::from(block / 8) + number).is_multiple_of(3);
            let tails: Vec<(Slot, Vec<TailEntry>)> = tails.iter().enumerate().map(|(at, tail)| {
                let tail = tail.iter().map(|(&block, &(number, _))| entry(block, number, zero(block, number)));
                (Slot::new(at), tail.collect())
            }).collect();
            let mut replicas: Vec<BTreeMap<u32, Seq>> = tails.iter().map(|(_, tail)| {
                tail.iter().map(|e| (e.block.get(), e.seq)).collect()
            }).collect();
            let mut expected: BTreeMap<u32, Seq> = BTreeMap::new();
            for replica in &replicas {
                for (&block, &seq) in replica {
                    let best = expected.entry(block).or_insert(seq);
                    *best = seq.max(*best);
                }
            }
            for copy in plan(&tails) {
                for block in copy.span.block.get()..copy.span.block.get() + copy.span.count.get() {
                    for source in copy.sources.slots() {
                        prop_assert_eq!(replicas[source.get()].get(&block), Some(&copy.seq));
                    }
                    for target in copy.targets.slots() {
                        let slot = replicas[target.get()].entry(block).or_insert(copy.seq);
                        *slot = copy.seq.max(*slot);
                    }
                }
            }
            for replica in &replicas {
                prop_assert_eq!(replica, &expected);
            }
        }
    }
}
