//! Which labels have which leaves: so that a lookup asks those that have a leaf and no others.
//!
//! One row for each root page: 48 bytes beside its 4 KiB. A volume with hundreds of snapshots has
//! as many root pages at each index, and at most of them nothing of a given leaf.

use std::cell::RefCell;
use std::rc::Rc;

use ashlar_proto::Layer;

use crate::lane::overlay::KeyMap;
use crate::lane::page::{PAGE_ENTRIES_U32, Page, PageEntry};

/// The entries of a root page, found by label and by leaf.
pub(crate) type SharedPage = Rc<RefCell<Page>>;

const WORDS: usize = 4;
const _: () = assert!(WORDS * 64 == PAGE_ENTRIES_U32 as usize);

/// The leaves that a root page names.
#[derive(Debug)]
struct Row {
    label: Layer,
    leaves: [u64; WORDS],
    page: SharedPage,
}

/// The word and the bit of a leaf.
fn place(leaf: u32) -> (usize, u64) {
    let at = leaf % PAGE_ENTRIES_U32;
    ((at / 64) as usize, 1 << (at % 64))
}

/// See the module: for each index of root pages, the labels that have one, ascending.
#[derive(Debug, Default)]
pub(crate) struct LeafIndex(KeyMap<u32, Vec<Row>>);

impl LeafIndex {
    /// Notes whether a label has a leaf, as its root page says.
    pub(crate) fn note(&mut self, label: Layer, leaf: u32, is_there: bool, page: &SharedPage) {
        let index = leaf / PAGE_ENTRIES_U32;
        let (word, bit) = place(leaf);
        let rows = self.0.entry(index).or_default();
        match rows.binary_search_by_key(&label, |row| row.label) {
            Ok(at) if is_there => {
                rows[at].leaves[word] |= bit;
                rows[at].page = page.clone();
            }
            Ok(at) => {
                rows[at].leaves[word] &= !bit;
                if rows[at].leaves == [0; WORDS] {
                    rows.remove(at);
                }
            }
            Err(at) if is_there => {
                if rows.is_empty() {
                    rows.reserve_exact(1);
                }
                let mut leaves = [0; WORDS];
                leaves[word] = bit;
                let page = page.clone();
                rows.insert(
                    at,
                    Row {
                        label,
                        leaves,
                        page,
                    },
                );
            }
            Err(_) => {}
        }
        if rows.is_empty() {
            self.0.remove(&index);
        }
    }

    /// Notes the leaves of a root page.
    pub(crate) fn note_page(&mut self, label: Layer, index: u32, page: &SharedPage) {
        for (leaf, entry) in (index * PAGE_ENTRIES_U32..).zip(page.borrow().iter()) {
            self.note(label, leaf, !entry.is_absent(), page);
        }
    }

    /// The labels between two that have a leaf, from the top, and the entries of their root pages.
    pub(crate) fn entries(
        &self,
        leaf: u32,
        (low, high): (Layer, Layer),
    ) -> impl Iterator<Item = (Layer, PageEntry)> + '_ {
        let rows = self.0.get(&(leaf / PAGE_ENTRIES_U32));
        let rows = rows.map_or(&[][..], Vec::as_slice);
        let start = rows.partition_point(|row| row.label < low);
        let end = rows.partition_point(|row| row.label <= high).max(start);
        let (word, bit) = place(leaf);
        let at = (leaf % PAGE_ENTRIES_U32) as usize;
        let has = move |row: &&Row| row.leaves[word] & bit != 0;
        let rows = rows[start..end].iter().rev().filter(has);
        rows.map(move |row| (row.label, row.page.borrow().get(at)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lane::page::PageEntry;
    use ashlar_proto::Seq;

    fn labels(index: &LeafIndex, leaf: u32, low: u32, high: u32) -> Vec<u32> {
        let bounds = (Layer::new(low), Layer::new(high));
        let entries = index.entries(leaf, bounds);
        entries.map(|(label, _)| label.get()).collect()
    }

    #[test]
    fn labels_are_given_from_the_top_while_they_have_the_leaf() {
        let (mut index, page) = (LeafIndex::default(), SharedPage::default());
        for label in [5, 1, 9] {
            index.note(Layer::new(label), 300, true, &page);
        }
        index.note(Layer::new(7), 301, true, &page);
        assert_eq!(labels(&index, 300, 0, u32::MAX), [9, 5, 1]);
        assert_eq!(labels(&index, 300, 2, 8), [5]);
        assert_eq!(labels(&index, 300, 8, 2), [0; 0]);
        assert_eq!(labels(&index, 300 + 256, 0, u32::MAX), [0; 0]);
        index.note(Layer::new(5), 300, false, &page);
        index.note(Layer::new(6), 300, false, &page);
        assert_eq!(labels(&index, 300, 0, u32::MAX), [9, 1]);
        for (label, leaf) in [(1, 300), (9, 300), (7, 301)] {
            index.note(Layer::new(label), leaf, false, &page);
        }
        assert!(index.0.is_empty());
    }

    #[test]
    fn a_page_tells_all_its_leaves() {
        let mut page = Page::default();
        let zero = PageEntry::zero(Seq::from_raw(1).unwrap(), 0);
        page.set(0, zero);
        page.set(255, zero);
        let mut index = LeafIndex::default();
        let page = Rc::new(RefCell::new(page));
        index.note_page(Layer::new(3), 2, &page);
        assert_eq!(
            index
                .entries(767, (Layer::new(3), Layer::new(3)))
                .next()
                .unwrap()
                .1,
            zero
        );
        let has = |leaf| !labels(&index, leaf, 0, 9).is_empty();
        let found: Vec<u32> = (0..1024).filter(|&leaf| has(leaf)).collect();
        assert_eq!(found, [512, 767]);
    }
}
