//! Both directions of CHAP, by hashes computed elsewhere, and the ways to cheat.

use super::exchange::{ChapError, ChapStep, Exchange};
use super::*;
use crate::catalog::{Authentication, ChapSecret};
use crate::text::Text;

fn secret(name: &str, secret: &str) -> ChapSecret {
    ChapSecret {
        name: name.into(),
        secret: secret.into(),
    }
}

fn secrets() -> Authentication {
    Authentication {
        initiator: vec![
            secret("alice", "first secret"),
            secret("alice", "second secret"),
        ],
        target: Some(secret("disk", "target secret")),
    }
}

fn exchange() -> Exchange {
    Exchange::new(secrets(), 7, vec![9; CHALLENGE_BYTES])
}

fn challenged() -> Exchange {
    let mut exchange = exchange();
    exchange.step(&[("CHAP_A", "7")]).unwrap();
    exchange
}

fn hex(bytes: &[u8]) -> String {
    super::binary::encode(bytes)
}

/// Each hash of the byte 1, `secret` and four bytes, as other tools compute it.
#[test]
fn responses_are_the_hashes_of_the_algorithms() {
    let of = |algorithm: Algorithm| hex(&algorithm.response(1, b"secret", &[1, 2, 3, 4]));
    assert_eq!(of(Algorithm::Md5), "0xafd81c66f2d5f7fc733e1b2d88bb2630");
    assert_eq!(
        of(Algorithm::Sha1),
        "0x0379e7fe2fa17c3dc13251f557c9a0a1679ab694"
    );
    assert_eq!(
        of(Algorithm::Sha256),
        "0xd68824541fe054d379d797b837c0d8efca8617cc4f5d964e8c9b5c5df2f059e2"
    );
    assert_eq!(
        of(Algorithm::Sha3),
        "0x5cf29d1768b5fb7d6aaf3e40ddaedee612c4dfd0d0cbc276d88e17dd23aad329"
    );
}

#[test]
fn the_first_algorithm_that_is_known_is_taken() {
    let ChapStep::More(answer) = exchange().step(&[("CHAP_A", "99,6,7")]).unwrap() else {
        panic!("a challenge follows");
    };
    let expected = format!("CHAP_A=6\0CHAP_I=7\0CHAP_C={}\0", hex(&[9; 32]));
    assert_eq!(answer.into_bytes(), expected.into_bytes());
    assert_eq!(
        exchange().step(&[("CHAP_A", "99")]),
        Err(ChapError::NoAlgorithm)
    );
    assert_eq!(exchange().step(&[]), Err(ChapError::Malformed));
}

#[test]
fn any_secret_of_the_name_proves_it_and_no_other() {
    for known in ["first secret", "second secret"] {
        let response = hex(&Algorithm::Sha256.response(7, known.as_bytes(), &[9; 32]));
        let keys = [("CHAP_N", "alice"), ("CHAP_R", response.as_str())];
        let proven = ChapStep::Proven(Text::default());
        assert_eq!(challenged().step(&keys), Ok(proven));
        let keys = [("CHAP_N", "bob"), ("CHAP_R", response.as_str())];
        assert_eq!(challenged().step(&keys), Err(ChapError::NotProven));
    }
    let response = hex(&Algorithm::Sha256.response(7, b"no secret", &[9; 32]));
    let keys = [("CHAP_N", "alice"), ("CHAP_R", response.as_str())];
    assert_eq!(challenged().step(&keys), Err(ChapError::NotProven));
    let mut exchange = challenged();
    assert!(exchange.step(&keys).is_err());
    assert_eq!(
        exchange.step(&keys),
        Err(ChapError::Malformed),
        "there is one attempt"
    );
}

#[test]
fn the_target_proves_itself_when_asked() {
    let response = hex(&Algorithm::Sha256.response(7, b"first secret", &[9; 32]));
    let challenge = hex(&[4; 16]);
    let keys = [
        ("CHAP_N", "alice"),
        ("CHAP_R", response.as_str()),
        ("CHAP_I", "200"),
        ("CHAP_C", challenge.as_str()),
    ];
    let Ok(ChapStep::Proven(answer)) = challenged().step(&keys) else {
        panic!("both know their secrets");
    };
    let proof = hex(&Algorithm::Sha256.response(200, b"target secret", &[4; 16]));
    let expected = format!("CHAP_N=disk\0CHAP_R={proof}\0");
    assert_eq!(answer.into_bytes(), expected.into_bytes());
    let mut mute = Exchange::new(
        Authentication {
            target: None,
            ..secrets()
        },
        7,
        vec![9; 32],
    );
    mute.step(&[("CHAP_A", "7")]).unwrap();
    assert_eq!(mute.step(&keys), Err(ChapError::NothingToShow));
    assert_eq!(challenged().step(&keys[..3]), Err(ChapError::Malformed));
}

#[test]
fn reflected_challenges_and_shared_secrets_are_refused() {
    let response = hex(&Algorithm::Sha256.response(7, b"first secret", &[9; 32]));
    let reflected = hex(&[9; 32]);
    let keys = |challenge| {
        [
            ("CHAP_N", "alice"),
            ("CHAP_R", response.as_str()),
            ("CHAP_I", "8"),
            ("CHAP_C", challenge),
        ]
    };
    assert_eq!(
        challenged().step(&keys(&reflected)),
        Err(ChapError::Reflection)
    );
    let shared = Authentication {
        target: Some(secret("disk", "first secret")),
        ..secrets()
    };
    let mut exchange = Exchange::new(shared, 7, vec![9; 32]);
    exchange.step(&[("CHAP_A", "7")]).unwrap();
    let challenge = hex(&[4; 16]);
    assert_eq!(exchange.step(&keys(&challenge)), Err(ChapError::Reflection));
}
