//! Mode pages, byte by byte.

use super::*;
use proptest::prelude::*;

fn asked(page: u8, subpage: u8) -> ModeSense {
    ModeSense {
        long: false,
        no_block: true,
        long_lba: false,
        control: 0,
        page,
        subpage,
        allocation: 255,
    }
}

fn told(asked: &ModeSense) -> Result<Vec<u8>, Sense> {
    sense(asked, ModeState::default(), 2048, false)
}

#[test]
fn caching_page_says_that_writes_are_cached() {
    let mut expected = vec![23, 0, 0x10, 0, 0x08, 18, 0x04];
    expected.resize(24, 0);
    assert_eq!(told(&asked(0x08, 0)), Ok(expected));
}

#[test]
fn control_page_tells_current_and_changeable_values() {
    let current = [15, 0, 0x10, 0, 0x0a, 10, 0, 0x10, 0, 0, 0, 0, 2, 0x58, 0, 0];
    assert_eq!(told(&asked(0x0a, 0)), Ok(current.to_vec()));
    let mut changeable = asked(0x0a, 0);
    changeable.control = 1;
    let expected = [15, 0, 0x10, 0, 0x0a, 10, 4, 0, 8, 0, 0, 0, 0, 0, 0, 0];
    assert_eq!(told(&changeable), Ok(expected.to_vec()));
}

#[test]
fn all_pages_fit_a_short_reply_and_are_in_order() {
    let all = told(&asked(0x3f, 0xff)).unwrap();
    assert_eq!(usize::from(all[0]), all.len() - 1);
    let mut at = 4;
    let mut codes = Vec::new();
    while at < all.len() {
        codes.push(all[at]);
        at += if all[at] & 0x40 == 0 {
            usize::from(all[at + 1]) + 2
        } else {
            usize::from(u16::from_be_bytes([all[at + 2], all[at + 3]])) + 4
        };
    }
    assert_eq!(codes, [0x01, 0x08, 0x0a, 0x4a, 0x1c]);
}

#[test]
fn block_descriptors_tell_the_capacity() {
    let mut asked = asked(0x0a, 0);
    asked.no_block = false;
    let short = told(&asked).unwrap();
    assert_eq!(short[3..12], [8, 0, 0, 8, 0, 0, 0, 2, 0]);
    asked.long = true;
    asked.long_lba = true;
    let long = told(&asked).unwrap();
    let header = [0, 34, 0, 0x10, 1, 0, 0, 16];
    assert_eq!(long[..8], header);
    assert_eq!(
        long[8..24],
        [0, 0, 0, 0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0, 2, 0]
    );
}

#[test]
fn unknown_pages_are_refused() {
    assert_eq!(told(&asked(0x05, 0)), Err(Sense::cdb_bit(2, 5)));
    assert_eq!(told(&asked(0x0a, 7)), Err(Sense::cdb(3)));
}

#[test]
fn what_may_change_changes_and_the_rest_is_refused() {
    let state = ModeState::default();
    let mut list = vec![0, 0, 0, 0, 0x0a, 10, 4, 0x10, 8, 0, 0, 0, 2, 0x58, 0, 0];
    let changed = select(&list, false, state, 2048).unwrap();
    assert!(changed.descriptor_sense && changed.write_protect && changed.write_cache);
    list[7] = 0;
    assert_eq!(select(&list, false, state, 2048), Err(Sense::list(7)));
    list[7] = 0x10;
    list[5] = 11;
    assert_eq!(select(&list, false, state, 2048), Err(Sense::list(5)));
    list[5] = 10;
    list.pop();
    assert_eq!(select(&list, false, state, 2048), Err(Sense::list_length()));
    list.clear();
    assert_eq!(select(&list, false, state, 2048), Ok(state));
}

#[test]
fn what_was_told_can_be_given_back() {
    let state = ModeState {
        descriptor_sense: true,
        ..ModeState::default()
    };
    let mut all = asked(0x3f, 0xff);
    all.no_block = false;
    let mut list = sense(&all, state, 2048, false).unwrap();
    list[0] = 0;
    assert_eq!(select(&list, false, state, 2048), Ok(state));
    list[5] = 1;
    assert_eq!(select(&list, false, state, 2048), Err(Sense::list(4)));
}

proptest! {
    #[test]
    fn no_parameter_list_panics(list: Vec<u8>, long: bool) {
        let _ = select(&list, long, ModeState::default(), 2048);
    }

    #[test]
    fn lists_near_right_ones_do_not_panic(at in 0usize..60, byte: u8, cut in 0usize..120) {
        let mut list = told(&asked(0x3f, 0xff)).unwrap();
        list[0] = 0;
        if let Some(target) = list.get_mut(at) {
            *target = byte;
        }
        list.truncate(cut);
        let _ = select(&list, false, ModeState::default(), 2048);
    }
}
