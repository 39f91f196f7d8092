//! Metadata contexts: what an export offers, what a client selected of it, and what a request asks
//! of that. All pure.
//!
//! `base:allocation` tells holes from data. `qemu:dirty-bitmap:NAME` tells which blocks were written
//! since the moment that the catalog calls NAME, as qemu's docs/interop/nbd.txt has it. The ids of
//! selected contexts count from 1, in the order in which they were selected.

use crate::wire::{STATE_DIRTY, STATE_HOLE_ZERO};
use ashlar_proto::message::BlockKind;
use std::collections::BTreeSet;
use std::rc::Rc;

/// Most contexts that a client may select: a set of them is a `u8`.
pub(crate) const CONTEXTS_MAX: usize = 8;

const _: () = assert!(CONTEXTS_MAX <= u8::BITS as usize);

const BASE: &str = "base:";
const BASE_ALLOCATION: &str = "base:allocation";
const QEMU: &str = "qemu:";
const DIRTY_BITMAP: &str = "qemu:dirty-bitmap:";

/// A metadata context.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Context {
    /// `base:allocation`.
    Allocation,
    /// `qemu:dirty-bitmap:NAME`, with that name.
    Bitmap(Rc<str>),
}

impl Context {
    /// Its name in the handshake.
    pub(crate) fn name(&self) -> String {
        match self {
            Self::Allocation => BASE_ALLOCATION.to_owned(),
            Self::Bitmap(name) => format!("{DIRTY_BITMAP}{name}"),
        }
    }

    /// The state flags of blocks of that kind.
    pub(crate) const fn state(&self, kind: BlockKind) -> u32 {
        match (self, kind) {
            (Self::Allocation, BlockKind::Absent | BlockKind::Zero) => STATE_HOLE_ZERO,
            (Self::Bitmap(_), BlockKind::Data | BlockKind::Zero) => STATE_DIRTY,
            (Self::Allocation, BlockKind::Data) | (Self::Bitmap(_), BlockKind::Absent) => 0,
        }
    }

    /// The state flags of blocks that nothing is known of: never wrong, at worst too much is copied.
    pub(crate) const fn state_unknown(&self) -> u32 {
        self.state(BlockKind::Data)
    }
}

/// Whether a query may name a bitmap, or all of them.
fn is_of_bitmaps(query: &str) -> bool {
    query == QEMU || query.starts_with(DIRTY_BITMAP)
}

/// Whether any of `queries` takes the export's bitmaps to be answered.
pub(crate) fn names_bitmaps(queries: &[&str]) -> bool {
    queries.iter().any(|query| is_of_bitmaps(query))
}

/// The contexts to be listed for `queries`, of an export with these bitmaps.
pub(crate) fn listed(queries: &[&str], bitmaps: Vec<String>) -> Vec<Context> {
    let all = queries.is_empty();
    // A client may ask thousands of queries about thousands of bitmaps.
    let queries: BTreeSet<&str> = queries.iter().copied().collect();
    let has = |name: &str| queries.contains(name);
    let mut contexts = Vec::new();
    if all || has(BASE) || has(BASE_ALLOCATION) {
        contexts.push(Context::Allocation);
    }
    let all_bitmaps = all || has(QEMU) || has(DIRTY_BITMAP);
    for bitmap in bitmaps {
        let context = Context::Bitmap(bitmap.into());
        if all_bitmaps || has(&context.name()) {
            contexts.push(context);
        }
    }
    contexts
}

/// More contexts than [`CONTEXTS_MAX`] would be selected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("too many metadata contexts: select at most {CONTEXTS_MAX}")]
pub(crate) struct TooManyContexts;

/// The contexts that a client selected, in that order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Contexts(Rc<[Context]>);

impl Contexts {
    /// Those that `queries` select by their exact names, of an export with these bitmaps.
    pub(crate) fn select(queries: &[&str], bitmaps: &[String]) -> Result<Self, TooManyContexts> {
        let bitmaps: BTreeSet<&str> = bitmaps.iter().map(String::as_str).collect();
        let mut selected = Vec::new();
        for query in queries {
            let context = if *query == BASE_ALLOCATION {
                Context::Allocation
            } else {
                let name = query.strip_prefix(DIRTY_BITMAP);
                match name.filter(|name| bitmaps.contains(name)) {
                    Some(name) => Context::Bitmap(name.into()),
                    None => continue,
                }
            };
            if selected.contains(&context) {
                continue;
            }
            if selected.len() == CONTEXTS_MAX {
                return Err(TooManyContexts);
            }
            selected.push(context);
        }
        Ok(Self(selected.into()))
    }

    /// The ids of all.
    pub(crate) fn ids(&self) -> ContextIds {
        ContextIds::first(self.0.len())
    }

    /// Those of these ids, with their ids.
    pub(crate) fn of(&self, ids: ContextIds) -> impl Iterator<Item = (u32, &Context)> {
        let all = (1..).zip(self.0.iter());
        all.filter(move |(id, _)| ids.contains(*id))
    }
}

/// A set of ids of selected contexts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct ContextIds(u8);

impl ContextIds {
    /// The ids from 1 to `count`.
    pub(crate) fn first(count: usize) -> Self {
        assert!(count <= CONTEXTS_MAX, "no more contexts are ever selected");
        (1..).take(count).fold(Self::default(), Self::with)
    }

    const fn bit(id: u32) -> u8 {
        if id == 0 || id > u8::BITS {
            return 0;
        }
        1 << (id - 1)
    }

    pub(crate) const fn with(self, id: u32) -> Self {
        Self(self.0 | Self::bit(id))
    }

    pub(crate) const fn contains(self, id: u32) -> bool {
        self.0 & Self::bit(id) != 0
    }

    pub(crate) const fn is_empty(self) -> bool {
        self.0 == 0
    }

    pub(crate) const fn len(self) -> u32 {
        self.0.count_ones()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(contexts: &[Context]) -> Vec<String> {
        contexts.iter().map(Context::name).collect()
    }

    fn bitmaps() -> Vec<String> {
        vec!["mon".to_owned(), "tue".to_owned()]
    }

    #[test]
    fn queries_list_by_name_and_by_prefix() {
        const ALL: [&str; 3] = [
            "base:allocation",
            "qemu:dirty-bitmap:mon",
            "qemu:dirty-bitmap:tue",
        ];
        for (queries, expected) in [
            (&[][..], &ALL[..]),
            (&["base:"], &ALL[..1]),
            (&["base:allocation"], &ALL[..1]),
            (&["qemu:"], &ALL[1..]),
            (&["qemu:dirty-bitmap:"], &ALL[1..]),
            (&["qemu:dirty-bitmap:tue"], &ALL[2..]),
            (&["qemu:dirty-bitmap:mon", "qemu:", "base:"], &ALL[..]),
            (&["qemu:dirty-bitmap:mo", "qemu:dirty-bitmap", "qemu"], &[]),
            (&["base", "base:other", "x-y:z", ""], &[]),
        ] {
            assert_eq!(names(&listed(queries, bitmaps())), expected, "{queries:?}");
        }
        assert!(names_bitmaps(&["base:", "qemu:"]) && names_bitmaps(&["qemu:dirty-bitmap:x"]));
        assert!(!names_bitmaps(&["base:", "qemu:allocation-depth"]));
    }

    #[test]
    fn only_exact_names_select_and_their_order_gives_the_ids() {
        let select = |queries: &[&str]| Contexts::select(queries, &bitmaps()).unwrap();
        for queries in [
            &[][..],
            &["base:", "qemu:", "qemu:dirty-bitmap:"],
            &["qemu:dirty-bitmap:wed", "qemu:dirty-bitmap:mo"],
        ] {
            assert!(select(queries).ids().is_empty(), "{queries:?}");
        }
        let contexts = select(&[
            "qemu:dirty-bitmap:tue",
            "qemu:dirty-bitmap:none",
            "base:allocation",
            "qemu:dirty-bitmap:tue",
            "qemu:dirty-bitmap:mon",
        ]);
        let told: Vec<_> = contexts.of(contexts.ids()).collect();
        let expected = [
            (1, &Context::Bitmap("tue".into())),
            (2, &Context::Allocation),
            (3, &Context::Bitmap("mon".into())),
        ];
        assert_eq!(told, expected);
        let two = ContextIds::default().with(3).with(1);
        assert_eq!(
            contexts.of(two).map(|(id, _)| id).collect::<Vec<_>>(),
            [1, 3]
        );
    }

    #[test]
    fn more_than_may_be_are_refused() {
        let bitmaps: Vec<String> = (0..CONTEXTS_MAX).map(|at| at.to_string()).collect();
        let queries: Vec<String> = bitmaps
            .iter()
            .map(|b| format!("{DIRTY_BITMAP}{b}"))
            .collect();
        let mut queries: Vec<&str> = queries.iter().map(String::as_str).collect();
        let contexts = Contexts::select(&queries, &bitmaps).unwrap();
        assert_eq!(contexts.ids(), ContextIds(u8::MAX));
        queries.push(BASE_ALLOCATION);
        assert_eq!(Contexts::select(&queries, &bitmaps), Err(TooManyContexts));
    }

    #[test]
    fn ids_that_were_not_given_are_in_no_set() {
        let ids = ContextIds::first(CONTEXTS_MAX);
        assert_eq!(ids.len(), 8);
        for id in [0, 9, 257, u32::MAX] {
            assert!(!ids.contains(id));
            assert_eq!(ContextIds::default().with(id), ContextIds::default());
        }
    }

    #[test]
    fn zeroes_are_holes_and_changes() {
        let bitmap = Context::Bitmap("mon".into());
        for (kind, allocation, change) in [
            (BlockKind::Absent, 3, 0),
            (BlockKind::Zero, 3, 1),
            (BlockKind::Data, 0, 1),
        ] {
            assert_eq!(Context::Allocation.state(kind), allocation);
            assert_eq!(bitmap.state(kind), change);
        }
        assert_eq!(
            (Context::Allocation.state_unknown(), bitmap.state_unknown()),
            (0, 1)
        );
    }
}
