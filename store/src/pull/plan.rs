//! What a replica that catches up makes of its own tail and its source's.
//!
//! Pure. Per (layer, block) and with both tails above the same seq:
//!
//! ```text
//! the source's is higher                        copied, up to what the owner sends itself
//! its own is higher, of an older generation     an orphan: buried under what the source shows
//! else                                          kept
//! ```
//!
//! A damaged version of its own gives way to any that is not lower; a damaged one at the source
//! says nothing: another source must be asked.

use std::collections::BTreeMap;

use ashlar_proto::message::{TailEntry, TailKind};
use ashlar_proto::planted::{Planted, is_planted};
use ashlar_proto::{BlockIndex, Layer, Seq, Window};

/// The source cannot tell what it has of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SourceDamaged(pub(super) BlockIndex);

/// What is to be done about one block of one layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Action {
    /// The source's version of this seq is copied.
    Copy(Seq),
    /// The source's version of this seq is zeroes.
    Zero(Seq),
    /// What the source shows goes over an orphan of this seq.
    Bury(Seq),
}

/// One step, in order of block and layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Step {
    pub(super) block: BlockIndex,
    pub(super) layer: Layer,
    pub(super) action: Action,
}

/// The bounds of a comparison.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    /// Versions above are sent by the owner itself.
    pub(super) upto: Seq,
    /// The first window of the owner's generation.
    pub(super) window: Window,
}

/// The steps that make a replica with the tail `own` equal to its source.
pub(super) fn compare(
    source: &[TailEntry],
    own: &[TailEntry],
    bounds: Bounds,
) -> Result<Vec<Step>, SourceDamaged> {
    type Pair = (Option<TailEntry>, Option<TailEntry>);
    let mut pairs: BTreeMap<(BlockIndex, Layer), Pair> = BTreeMap::new();
    for &entry in source {
        pairs.entry((entry.block, entry.layer)).or_default().0 = Some(entry);
    }
    for &entry in own {
        pairs.entry((entry.block, entry.layer)).or_default().1 = Some(entry);
    }
    let mut steps = Vec::new();
    for ((block, layer), (theirs, mine)) in pairs {
        if theirs.is_some_and(|theirs| theirs.kind == TailKind::Damaged) {
            return Err(SourceDamaged(block));
        }
        if let Some(action) = decide(theirs, mine, bounds) {
            steps.push(Step {
                block,
                layer,
                action,
            });
        }
    }
    Ok(steps)
}

fn decide(theirs: Option<TailEntry>, mine: Option<TailEntry>, bounds: Bounds) -> Option<Action> {
    let is_behind = |theirs: &TailEntry| match mine {
        None => true,
        Some(mine) if mine.kind == TailKind::Damaged => theirs.seq >= mine.seq,
        Some(mine) => theirs.seq > mine.seq,
    };
    if let Some(theirs) = theirs.filter(is_behind) {
        return match theirs.kind {
            _ if theirs.seq > bounds.upto => None,
            TailKind::Zero => Some(Action::Zero(theirs.seq)),
            TailKind::Data | TailKind::Damaged => Some(Action::Copy(theirs.seq)),
        };
    }
    let is_equal = |mine: &TailEntry| theirs.is_some_and(|theirs| theirs.seq == mine.seq);
    if is_planted(Planted::NoBurial) {
        return None;
    }
    let orphan = mine.filter(|mine| !is_equal(mine) && mine.seq.window() < bounds.window)?;
    Some(Action::Bury(orphan.seq))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const BOUNDS: Bounds = Bounds {
        upto: match Seq::from_raw(9 << 24) {
            Some(seq) => seq,
            None => Seq::MAX,
        },
        window: Window::new(5),
    };

    fn seq(window: u64, number: u64) -> Seq {
        Seq::from_raw((window << 24) + number).unwrap()
    }

    fn entry(block: u32, seq: Seq, kind: TailKind) -> TailEntry {
        TailEntry {
            block: BlockIndex::new(block),
            layer: Layer::new(1),
            seq,
            kind,
        }
    }

    fn action(theirs: Option<(Seq, TailKind)>, mine: Option<(Seq, TailKind)>) -> Option<Action> {
        let entry = |(seq, kind)| entry(1, seq, kind);
        decide(theirs.map(entry), mine.map(entry), BOUNDS)
    }

    #[test]
    fn each_row_of_the_table() {
        use TailKind::{Damaged, Data, Zero};
        let (old, newer) = (seq(3, 1), seq(4, 7));
        let (own_window, too_new) = (seq(5, 1), seq(9, 1));
        assert_eq!(action(Some((newer, Data)), None), Some(Action::Copy(newer)));
        assert_eq!(
            action(Some((newer, Zero)), Some((old, Data))),
            Some(Action::Zero(newer))
        );
        assert_eq!(action(Some((too_new, Data)), Some((old, Data))), None);
        assert_eq!(action(Some((old, Data)), Some((old, Data))), None);
        assert_eq!(
            action(Some((old, Data)), Some((old, Damaged))),
            Some(Action::Copy(old))
        );
        assert_eq!(
            action(Some((old, Data)), Some((newer, Data))),
            Some(Action::Bury(newer))
        );
        assert_eq!(
            action(None, Some((newer, Damaged))),
            Some(Action::Bury(newer))
        );
        assert_eq!(action(Some((old, Data)), Some((own_window, Data))), None);
        assert_eq!(action(None, Some((own_window, Data))), None);
    }

    #[test]
    fn a_damaged_source_decides_nothing() {
        let theirs = [entry(7, seq(3, 1), TailKind::Damaged)];
        assert_eq!(
            compare(&theirs, &[], BOUNDS),
            Err(SourceDamaged(BlockIndex::new(7)))
        );
    }

    proptest! {
        /// After the steps the replica has, of every block, the source's version or one that
        /// outranks its own orphan with the source's content.
        #[test]
        fn steps_leave_no_orphan(
            theirs in prop::collection::btree_map(0u32..20, (1u64..5, 1u64..4), 0..20),
            mine in prop::collection::btree_map(0u32..20, (1u64..7, 1u64..4), 0..20),
        ) {
            let entries = |map: &BTreeMap<u32, (u64, u64)>| -> Vec<TailEntry> {
                let entry = |(&block, &(window, number))| entry(block, seq(window, number), TailKind::Data);
                map.iter().map(entry).collect()
            };
            let (theirs, mine) = (entries(&theirs), entries(&mine));
            let steps = compare(&theirs, &mine, BOUNDS).unwrap();
            let find = |list: &[TailEntry], block| list.iter().find(|e| e.block == block).map(|e| e.seq);
            for block in (0..20).map(BlockIndex::new) {
                let (source, own) = (find(&theirs, block), find(&mine, block));
                let step = steps.iter().find(|step| step.block == block).map(|step| step.action);
                let after = match step {
                    Some(Action::Copy(seq) | Action::Zero(seq)) => Some(seq),
                    Some(Action::Bury(orphan)) => Some(orphan.window().burial()),
                    None => own,
                };
                prop_assert!(after >= own && after >= source);
                let kept = after == own && own != source;
                prop_assert!(!kept || own.is_some_and(|own| own.window() >= BOUNDS.window));
            }
        }
    }
}
