//! Whatever is sent, there is an answer, and the unit goes on.

use super::bench::*;
use crate::scsi::{Status, fuzz_scsi, opcodes};
use proptest::prelude::*;

fn any_cdb() -> impl Strategy<Value = Vec<u8>> {
    let known = (
        0..opcodes::ROWS.len(),
        prop::collection::vec(any::<u8>(), 16),
        0..3u8,
    );
    let known = known.prop_map(|(row, mut bytes, calm)| {
        let row = &opcodes::ROWS[row];
        bytes[0] = row.opcode;
        if let Some(action) = row.action {
            bytes[1] = bytes[1] & 0xe0 | action;
        }
        // Most CDBs are to get past the first checks.
        if calm > 0 {
            for (byte, &used) in bytes.iter_mut().zip(row.usage).skip(1) {
                *byte &= used;
            }
            bytes[1] &= 0x1f;
            bytes[row.usage.len() - 1] = 0;
        }
        if calm > 1 && row.usage.len() == 16 && row.action.is_none() {
            bytes[2..8].fill(0);
            bytes[10..12].fill(0);
        }
        bytes
    });
    prop_oneof![4 => known, 1 => prop::collection::vec(any::<u8>(), 16)]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn every_command_is_answered(
        cdbs in prop::collection::vec(any_cdb(), 1..20),
        data in prop::collection::vec(any::<u8>(), 0..2000),
    ) {
        let bench = Bench::new(1);
        let (host, other) = (bench.connect(), bench.connect());
        bench.run(async move {
            for (at, cdb) in cdbs.iter().enumerate() {
                let from = if at % 3 == 2 { &other } else { &host };
                let lun = u8::try_from(at % 4).unwrap();
                let got = from.send_to(lun, cdb, &data).await;
                match got.status {
                    Status::Good => assert!(got.sense.is_empty()),
                    Status::CheckCondition => {
                        assert!(got.sense.len() >= 8 && got.data.is_empty());
                    }
                    Status::ReservationConflict => assert!(got.data.is_empty()),
                    status => panic!("{status:?} for {cdb:02x?}"),
                }
            }
        });
    }

    #[test]
    fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        fuzz_scsi(&bytes);
    }

    #[test]
    fn no_cdb_of_any_length_panics(cdb in any_cdb(), len in 0usize..17) {
        fuzz_scsi(&cdb[..len]);
    }
}
