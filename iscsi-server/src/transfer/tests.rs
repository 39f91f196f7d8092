//! Well-behaved initiators get their data across; the others are told what they did.

use super::*;
use proptest::prelude::*;

const BOUNDS: Bounds = Bounds {
    burst_max: 1000,
    first_burst_max: 600,
    outstanding_max: 2,
};

fn data(ttt: u32, data_sn: u32, offset: u32, is_final: bool) -> DataOut {
    DataOut {
        is_final,
        lun: [0; 8],
        itt: 1,
        ttt,
        data_sn,
        offset,
    }
}

#[test]
fn data_comes_with_the_command_after_it_and_when_asked_for() {
    let mut transfer = Transfer::new(BOUNDS, 3000, 3000, 200, false).unwrap();
    assert_eq!(
        transfer.immediate(),
        Placement {
            offset: 0,
            keep: 200
        }
    );
    assert_eq!(transfer.solicit(|| 5), None, "unsolicited data comes first");
    let placed = transfer.data(&data(NO_TAG, 0, 200, false), 100);
    assert_eq!(
        placed,
        Ok(Placement {
            offset: 200,
            keep: 100
        })
    );
    assert!(transfer.data(&data(NO_TAG, 1, 300, true), 300).is_ok());
    let first = Solicitation {
        ttt: 5,
        r2t_sn: 0,
        offset: 600,
        len: 1000,
    };
    assert_eq!(transfer.solicit(|| 5), Some(first));
    assert_eq!(transfer.solicit(|| 6).map(|second| second.len), Some(1000));
    assert_eq!(transfer.solicit(|| 7), None, "two at a time");
    assert_eq!(
        transfer.data(&data(6, 0, 1600, true), 1000),
        Err(TransferError::Tag)
    );
    assert!(transfer.data(&data(5, 0, 600, false), 400).is_ok());
    assert!(transfer.data(&data(5, 1, 1000, true), 600).is_ok());
    let third = Solicitation {
        ttt: 7,
        r2t_sn: 2,
        offset: 2600,
        len: 400,
    };
    assert_eq!(transfer.solicit(|| 7), Some(third));
    assert!(transfer.data(&data(6, 0, 1600, true), 1000).is_ok());
    assert!(!transfer.is_complete());
    assert!(transfer.data(&data(7, 0, 2600, true), 400).is_ok());
    assert!(transfer.is_complete());
    assert_eq!(transfer.solicitations(), 3);
}

#[test]
fn broken_rules_are_told_apart() {
    let solicited = || {
        let mut transfer = Transfer::new(BOUNDS, 800, 800, 0, true).unwrap();
        transfer.solicit(|| 5).unwrap();
        transfer
    };
    let wrong = |data: DataOut, len| solicited().data(&data, len).unwrap_err();
    assert_eq!(
        wrong(data(NO_TAG, 0, 0, true), 100),
        TransferError::Unexpected
    );
    assert_eq!(wrong(data(4, 0, 0, true), 800), TransferError::Tag);
    assert_eq!(wrong(data(5, 1, 0, true), 800), TransferError::Sequence);
    assert_eq!(wrong(data(5, 0, 4, true), 800), TransferError::Offset);
    assert_eq!(wrong(data(5, 0, 0, true), 801), TransferError::TooLong);
    assert_eq!(wrong(data(5, 0, 0, true), 799), TransferError::TooShort);
    assert_eq!(wrong(data(5, 0, 0, false), 800), TransferError::TooLong);
    let long = Transfer::new(BOUNDS, 800, 800, 601, true).map(drop);
    assert_eq!(long, Err(TransferError::TooLong), "beyond the first burst");
    let long = Transfer::new(BOUNDS, 800, 100, 101, true).map(drop);
    assert_eq!(
        long,
        Err(TransferError::TooLong),
        "beyond what was expected"
    );
}

#[test]
fn what_is_not_wanted_is_not_asked_for_and_not_kept() {
    let mut transfer = Transfer::new(BOUNDS, 100, 5000, 50, false).unwrap();
    let placed = transfer.data(&data(NO_TAG, 0, 50, true), 550);
    assert_eq!(
        placed,
        Ok(Placement {
            offset: 50,
            keep: 50
        })
    );
    assert_eq!(transfer.solicit(|| 1), None);
    assert!(transfer.is_complete());
}

proptest! {
    /// An initiator that follows the rules gets all bytes to their places, whatever the bounds.
    #[test]
    fn all_bytes_arrive_in_order(
        wanted in 0u32..20_000, immediate in 0u32..600, segment in 1u32..3000,
        burst_max in 512u32..5000, outstanding_max in 1u16..5, unsolicited: bool
    ) {
        let bounds = Bounds { burst_max, first_burst_max: 600, outstanding_max };
        let immediate = immediate.min(wanted);
        let mut transfer = Transfer::new(bounds, wanted, wanted, immediate, !unsolicited).unwrap();
        let mut at = immediate;
        let mut send = |transfer: &mut Transfer, ttt, mut offset: u32, end: u32| {
            let mut data_sn = 0;
            while offset < end {
                let len = segment.min(end - offset);
                let piece = data(ttt, data_sn, offset, offset + len == end);
                let placed = transfer.data(&piece, len).unwrap();
                assert_eq!((placed.offset, placed.keep), (at as usize, len as usize));
                (offset, at, data_sn) = (offset + len, at + len, data_sn + 1);
            }
        };
        if unsolicited {
            send(&mut transfer, NO_TAG, immediate, wanted.min(600));
        }
        let mut bursts = VecDeque::new();
        let mut tags = 0..;
        loop {
            while let Some(burst) = transfer.solicit(|| tags.next().unwrap()) {
                prop_assert!(burst.len <= burst_max);
                bursts.push_back(burst);
            }
            prop_assert!(bursts.len() <= usize::from(outstanding_max));
            let Some(burst) = bursts.pop_front() else { break };
            send(&mut transfer, burst.ttt, burst.offset, burst.offset + burst.len);
        }
        prop_assert!(transfer.is_complete());
        prop_assert_eq!(at, wanted);
    }

    #[test]
    fn any_data_is_taken_or_refused(
        pieces in proptest::collection::vec((0u32..3, 0u32..3, 0u32..900, any::<bool>(), 0u32..900), 0..20)
    ) {
        let mut transfer = Transfer::new(BOUNDS, 2000, 2500, 100, false).unwrap();
        for (ttt, data_sn, offset, is_final, len) in pieces {
            let ttt = if ttt == 0 { NO_TAG } else { ttt };
            let Ok(placed) = transfer.data(&data(ttt, data_sn, offset, is_final), len) else { break };
            prop_assert!(placed.offset + placed.keep <= 2000 || placed.keep == 0);
            transfer.solicit(|| 1);
        }
    }
}
