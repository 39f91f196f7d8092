//! Which versions a take-over copies where: per (layer, block) the highest seq in the tails, to all
//! who answered and lack it.
//!
//! Pure. Zeroes are versions like any other.

use std::collections::BTreeMap;

use ashlar_proto::limits::{FRAME_DATA_BLOCKS_MAX, ZERO_BLOCKS_MAX};
use ashlar_proto::message::{TailEntry, TailKind};
use ashlar_proto::planted::{Planted, is_planted};
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

/// What makes some tails equal.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Plan {
    /// The copies, in order of block.
    pub(crate) copies: Vec<Copy>,
    /// Who may have a version above all that can be read, damaged: it might show again once the
    /// others have gone on without it.
    pub(crate) doubtful: Mask,
}

/// The highest seq in the tails; [`Seq::NONE`] when all are empty.
pub(crate) fn highest(tails: &[(Slot, Vec<TailEntry>)]) -> Seq {
    let entries = tails.iter().flat_map(|(_, tail)| tail);
    entries.map(|entry| entry.seq).max().unwrap_or(Seq::NONE)
}

/// The highest readable version of a block.
#[derive(Clone, Copy, Debug)]
struct Best {
    seq: Seq,
    zero: bool,
    sources: Mask,
}

/// What makes the tails equal. Up to `settled`, the highest horizon, whoever has that horizon holds
/// every version: a damaged one is above none of them.
pub(crate) fn plan(tails: &[(Slot, Vec<TailEntry>)], settled: Seq) -> Plan {
    let answered: Mask = tails.iter().map(|&(slot, _)| slot).collect();
    let best = best_versions(tails);
    let mut plan = Plan::default();
    for &(slot, ref tail) in tails {
        let is_doubtful = |entry: &TailEntry| {
            let best = best.get(&(entry.block, entry.layer));
            entry.kind == TailKind::Damaged
                && entry.seq > settled
                && best.is_none_or(|best| best.seq < entry.seq)
        };
        if tail.iter().any(is_doubtful) {
            plan.doubtful = plan.doubtful.with(slot);
        }
    }
    let mut open: BTreeMap<Layer, usize> = BTreeMap::new();
    for ((block, layer), Best { seq, zero, sources }) in best {
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
        let last = open.get(&layer).map(|&at| &mut plan.copies[at]);
        match last.filter(|last| continues(last, &next)) {
            Some(last) => last.span.count = last.span.count.next(),
            None => {
                open.insert(layer, plan.copies.len());
                plan.copies.push(next);
            }
        }
    }
    plan
}

fn best_versions(tails: &[(Slot, Vec<TailEntry>)]) -> BTreeMap<(BlockIndex, Layer), Best> {
    let mut best: BTreeMap<(BlockIndex, Layer), Best> = BTreeMap::new();
    for &(slot, ref tail) in tails {
        for entry in tail.iter().filter(|e| e.kind != TailKind::Damaged) {
            let this = Best {
                seq: entry.seq,
                zero: entry.kind == TailKind::Zero,
                sources: Mask::EMPTY,
            };
            let found = best.entry((entry.block, entry.layer)).or_insert(this);
            let is_better = if is_planted(Planted::ReconcileLower) {
                entry.seq < found.seq
            } else {
                entry.seq > found.seq
            };
            if is_better {
                *found = this;
            }
            if entry.seq == found.seq {
                found.sources = found.sources.with(slot);
            }
        }
    }
    best
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
            kind: if zero { TailKind::Zero } else { TailKind::Data },
        }
    }

    fn damaged(block: u32, number: u64) -> TailEntry {
        TailEntry {
            kind: TailKind::Damaged,
            ..entry(block, number, false)
        }
    }

    #[test]
    fn the_highest_is_copied_to_who_lacks_it() {
        let a = vec![entry(1, 5, false), entry(2, 5, false), entry(9, 1, false)];
        let b = vec![entry(1, 3, false), entry(9, 7, true)];
        let tails = [(Slot::new(0), a), (Slot::new(2), b)];
        let copies = plan(&tails, Seq::NONE).copies;
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
            plan(
                &[(Slot::new(0), tail.clone()), (Slot::new(1), tail)],
                Seq::NONE
            ),
            Plan::default()
        );
        assert_eq!(highest(&[]), Seq::NONE);
    }

    /// A leaf of replica 0 is damaged, so all its blocks may have seq 9 there: that must not hide
    /// what replica 1 has and replica 2 lacks.
    #[test]
    fn damage_hides_no_version_that_can_be_read() {
        let tails = [
            (Slot::new(0), vec![damaged(1, 9), damaged(2, 9)]),
            (Slot::new(1), vec![entry(1, 5, false), entry(2, 9, false)]),
            (Slot::new(2), vec![entry(1, 3, false)]),
        ];
        let plan = plan(&tails, Seq::NONE);
        let copies = plan
            .copies
            .iter()
            .map(|c| (c.span.block.get(), c.sources, c.targets));
        let from_1 = Mask::EMPTY.with(Slot::new(1));
        let to_others = Mask::EMPTY.with(Slot::new(0)).with(Slot::new(2));
        assert_eq!(
            copies.collect::<Vec<_>>(),
            [(1, from_1, to_others), (2, from_1, to_others)]
        );
        assert_eq!(plan.doubtful, Mask::EMPTY.with(Slot::new(0)));
    }

    /// Whoever has the highest horizon holds all up to it, whether its tail is asked for that or not.
    #[test]
    fn damage_up_to_the_highest_horizon_is_not_doubtful() {
        let tails = [
            (Slot::new(0), vec![damaged(1, 9)]),
            (Slot::new(1), vec![entry(2, 12, false)]),
        ];
        let seq = |number| entry(1, number, false).seq;
        assert_eq!(plan(&tails, seq(9)).doubtful, Mask::EMPTY);
        let doubtful = plan(&tails, seq(8)).doubtful;
        assert_eq!(doubtful, Mask::EMPTY.with(Slot::new(0)));
    }

    #[test]
    fn damage_below_what_can_be_read_is_written_anew() {
        let tails = [
            (Slot::new(0), vec![damaged(1, 5)]),
            (Slot::new(1), vec![entry(1, 5, true)]),
        ];
        let plan = plan(&tails, Seq::NONE);
        assert_eq!(plan.doubtful, Mask::EMPTY);
        assert_eq!(plan.copies.len(), 1);
        assert_eq!(plan.copies[0].targets, Mask::EMPTY.with(Slot::new(0)));
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
            for copy in plan(&tails, Seq::NONE).copies {
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
