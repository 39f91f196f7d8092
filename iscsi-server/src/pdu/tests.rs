//! Byte-exact headers, by the figures of RFC 7143 section 11, and bytes that nobody should send.

use super::request::{cmd_sn, is_immediate};
use super::*;
use proptest::prelude::*;

fn sequence() -> Sequence {
    Sequence {
        stat_sn: 0x0102_0304,
        exp_cmd_sn: 0x1112_1314,
        max_cmd_sn: 0x2122_2324,
    }
}

#[test]
fn a_scsi_command_is_read_field_by_field() {
    let mut bhs = [0; BHS_BYTES];
    bhs[0] = 0x41;
    bhs[1] = 0x80 | 0x20 | 2;
    bhs[4..8].copy_from_slice(&[5, 1, 2, 3]);
    bhs[8..16].copy_from_slice(&[0, 7, 0, 0, 0, 0, 0, 0]);
    bhs[16..20].copy_from_slice(&[9, 8, 7, 6]);
    bhs[20..24].copy_from_slice(&[0, 0, 2, 0]);
    bhs[24..28].copy_from_slice(&[0, 0, 0, 42]);
    bhs[32] = 0x2a;
    let frame = Frame::of(&bhs);
    assert_eq!((frame.additional_bytes, frame.data_bytes), (20, 0x01_0203));
    assert_eq!((cmd_sn(&bhs), is_immediate(&bhs)), (42, true));
    let Ok(Request::Command(command)) = Request::parse(&bhs) else {
        panic!("it is a command");
    };
    assert!(command.is_final && command.writes && !command.reads);
    assert_eq!(command.attribute, Attribute::Ordered);
    assert_eq!((command.itt, command.expected_bytes), (0x0908_0706, 512));
    assert_eq!((command.lun[1], command.cdb[0]), (7, 0x2a));
}

#[test]
fn flags_that_contradict_each_other_are_refused() {
    let with = |code: u8, flags: u8| {
        let mut bhs = [0; BHS_BYTES];
        (bhs[0], bhs[1]) = (code, flags);
        Request::parse(&bhs)
    };
    assert_eq!(
        with(0x01, 0x40),
        Err(Fault::Field),
        "unsolicited data of a read"
    );
    assert_eq!(with(0x01, 0x85), Err(Fault::Field), "no such attribute");
    assert_eq!(with(0x03, 0xc0), Err(Fault::Field));
    assert_eq!(with(0x04, 0xc0), Err(Fault::Field));
    assert_eq!(with(0x07, 0x80), Err(Fault::Opcode));
    assert_eq!(with(0x25, 0x80), Err(Fault::Opcode), "a target's");
    let mut none = [0xff; BHS_BYTES];
    none[0] = 0x06;
    assert_eq!(Request::parse(&none), Err(Fault::Field), "no task is named");
    none[0] = 0x00;
    assert_eq!(
        Request::parse(&none),
        Err(Fault::Field),
        "no answer, not immediate"
    );
    none[0] = 0x40;
    assert!(Request::parse(&none).is_ok());
}

#[test]
fn responses_have_their_fields_where_the_rfc_has_them() {
    let response = Response::Scsi(ScsiResponse {
        itt: 7,
        status: 2,
        residual: Residual::between(1024, 512),
        exp_data_sn: 3,
    });
    let bhs = response.bhs(sequence());
    assert_eq!(bhs[..4], [0x21, 0x82, 0, 2]);
    assert_eq!(
        bhs[16..36],
        [
            0, 0, 0, 7, 0, 0, 0, 0, 1, 2, 3, 4, 0x11, 0x12, 0x13, 0x14, 0x21, 0x22, 0x23, 0x24
        ]
    );
    assert_eq!(bhs[36..48], [0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 2, 0]);
    let data = Response::DataIn(DataIn {
        is_final: true,
        itt: 7,
        data_sn: 1,
        offset: 512,
        status: Some((0, Residual::between(512, 1024))),
    });
    assert!(data.takes_stat_sn());
    let bhs = data.bhs(sequence());
    assert_eq!(bhs[..4], [0x25, 0x85, 0, 0]);
    assert_eq!(bhs[20..28], [0xff, 0xff, 0xff, 0xff, 1, 2, 3, 4]);
    assert_eq!(bhs[36..48], [0, 0, 0, 1, 0, 0, 2, 0, 0, 0, 2, 0]);
    let r2t = Response::R2t(R2t {
        lun: [1; 8],
        itt: 7,
        ttt: 9,
        r2t_sn: 2,
        offset: 16,
        len: 32,
    });
    assert!(!r2t.takes_stat_sn());
    let bhs = r2t.bhs(sequence());
    assert_eq!((bhs[0], bhs[1], bhs[8]), (0x31, 0x80, 1));
    assert_eq!(bhs[36..48], [0, 0, 0, 2, 0, 0, 0, 16, 0, 0, 0, 32]);
    let bhs = Response::Async(AsyncEvent::LogoutRequested(10)).bhs(sequence());
    assert_eq!((bhs[0], bhs[16], bhs[36]), (0x32, 0xff, 1));
    assert_eq!(bhs[42..44], [0, 10]);
    let bhs = Response::Reject(RejectReason::InvalidField).bhs(sequence());
    assert_eq!((bhs[0], bhs[2], bhs[16]), (0x3f, 9, 0xff));
}

#[test]
fn serial_numbers_go_round() {
    assert!(comes_before(u32::MAX, 0));
    assert!(!comes_before(0, u32::MAX));
    assert!(!comes_before(5, 5));
}

proptest! {
    #[test]
    fn any_header_is_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), BHS_BYTES)) {
        let bhs: Bhs = bytes.try_into().unwrap();
        let frame = Frame::of(&bhs);
        prop_assert!(frame.additional_bytes < 1024 && frame.data_bytes < 1 << 24);
        let _ = Request::parse(&bhs);
    }

    /// The bytes of a Data-Out that were read are those that were written.
    #[test]
    fn a_data_out_is_read_as_it_was_written(
        itt in 0..u32::MAX, ttt: u32, data_sn: u32, offset: u32, is_final: bool, unit: u8
    ) {
        let mut bhs = [0; BHS_BYTES];
        bhs[0] = opcode::DATA_OUT;
        bhs[1] = u8::from(is_final) << 7;
        bhs[9] = unit;
        for (at, value) in [(16, itt), (20, ttt), (36, data_sn), (40, offset)] {
            put32(&mut bhs, at, value);
        }
        let lun = [0, unit, 0, 0, 0, 0, 0, 0];
        let expected = DataOut { is_final, lun, itt, ttt, data_sn, offset };
        prop_assert_eq!(Request::parse(&bhs), Ok(Request::DataOut(expected)));
    }
}
