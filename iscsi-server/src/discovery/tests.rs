//! Texts that take several PDUs.

use super::*;

fn request(ttt: u32, continues: bool) -> TextRequest {
    TextRequest {
        is_final: !continues,
        continues,
        lun: [0; 8],
        itt: 5,
        ttt,
    }
}

#[test]
fn a_request_is_gathered_and_its_answer_sent_in_pieces() {
    let mut exchange = TextExchange::default();
    let step = exchange.take(&request(NO_TAG, true), b"Send", 1);
    assert_eq!(step, Ok(TextStep::Ask(1)));
    let step = exchange.take(&request(1, false), b"Targets=All\0", 2);
    assert_eq!(step, Ok(TextStep::Answer(b"SendTargets=All\0".to_vec())));
    exchange.begin(vec![7; 25]);
    let piece = exchange.piece(10, 3);
    assert_eq!((piece.bytes.len(), piece.ttt), (10, 3));
    assert_eq!(
        exchange.take(&request(3, false), b"", 4),
        Ok(TextStep::SendOn)
    );
    assert_eq!(exchange.piece(10, 4).bytes.len(), 10);
    assert_eq!(
        exchange.take(&request(4, false), b"", 5),
        Ok(TextStep::SendOn)
    );
    let piece = exchange.piece(10, 5);
    assert_eq!((piece.bytes.len(), piece.ttt), (5, NO_TAG));
}

#[test]
fn what_was_not_begun_does_not_go_on() {
    let mut exchange = TextExchange::default();
    let step = exchange.take(&request(1, false), b"", 1);
    assert_eq!(step, Err(TextFault::Protocol));
    exchange.take(&request(NO_TAG, true), b"a", 1).unwrap();
    let step = exchange.take(&request(9, false), b"b", 2);
    assert_eq!(step, Err(TextFault::Protocol));
    exchange.take(&request(NO_TAG, true), b"a", 1).unwrap();
    let long = vec![b'a'; GATHERED_BYTES_MAX];
    assert_eq!(
        exchange.take(&request(1, true), &long, 2),
        Err(TextFault::Protocol)
    );
}
