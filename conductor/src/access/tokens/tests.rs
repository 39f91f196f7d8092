//! Tokens of this cluster: signed, good for a time, of no other cluster.

use super::*;

const CLUSTER: ClusterId = ClusterId::new(7);

/// Seconds since 1970; the library that verifies looks at the same clock.
fn now() -> u64 {
    jsonwebtoken::get_current_timestamp()
}

fn key() -> SigningKeyRow {
    fresh_key(1).unwrap()
}

fn good(key: &SigningKeyRow) -> String {
    made(key, now(), 60)
}

fn made(key: &SigningKeyRow, now_s: u64, ttl_s: u64) -> String {
    sign(
        key,
        &Claims::new(CLUSTER, "ada", None, now_s, ttl_s).unwrap(),
    )
    .unwrap()
}

#[test]
fn a_token_tells_whose_it_is() {
    let key = key();
    let claims = verify(CLUSTER, &key, &good(&key)).unwrap();
    assert_eq!(claims.sub, "ada");
    assert!(claims.exp - claims.iat == 60 && claims.jti.len() == 32);
    assert!(!format!("{key:?}").contains(&key.private_key.0));
}

#[test]
fn a_token_of_another_key_or_cluster_is_wrong() {
    let (one, other) = (key(), key());
    let token = good(&one);
    assert_eq!(
        verify(CLUSTER, &other, &token).unwrap_err(),
        AccessRefusal::Wrong
    );
    let elsewhere = ClusterId::new(8);
    assert_eq!(
        verify(elsewhere, &one, &token).unwrap_err(),
        AccessRefusal::Wrong
    );
}

#[test]
fn a_token_that_has_ended_is_told_so() {
    let key = key();
    let token = made(&key, now() - 100, 50);
    assert_eq!(
        verify(CLUSTER, &key, &token).unwrap_err(),
        AccessRefusal::Expired
    );
}

#[test]
fn a_token_that_was_touched_is_wrong() {
    let key = key();
    let token = good(&key);
    let parts: Vec<&str> = token.split('.').collect();
    let [head, claims, signature] = parts[..] else {
        panic!("three parts")
    };
    // {"alg":"none"} and {"alg":"HS256"}
    let (none, hs256) = ("eyJhbGciOiJub25lIn0", "eyJhbGciOiJIUzI1NiJ9");
    for touched in [
        format!("{none}.{claims}."),
        format!("{none}.{claims}.{signature}"),
        format!("{hs256}.{claims}.{signature}"),
        format!("{head}.{claims}."),
        format!("{head}.{claims}"),
        format!("{head}.{}.{signature}", claims.replacen('e', "f", 1)),
        format!("{head}.{head}.{signature}"),
        "..".to_owned(),
        String::new(),
        "é.é.é".to_owned(),
    ] {
        let refused = verify(CLUSTER, &key, &touched).unwrap_err();
        assert_eq!(refused, AccessRefusal::Wrong, "{touched}");
    }
}

#[test]
fn the_public_key_is_no_secret_to_sign_with() {
    let key = key();
    let claims = verify(CLUSTER, &key, &good(&key)).unwrap();
    let public = unhex(&key.public_key).unwrap();
    let forged = encode(
        &Header::new(Algorithm::HS256),
        &claims,
        &EncodingKey::from_secret(&public),
    );
    let refused = verify(CLUSTER, &key, &forged.unwrap()).unwrap_err();
    assert_eq!(refused, AccessRefusal::Wrong);
}

#[test]
fn a_token_ends_with_the_key_that_makes_it() {
    let hash = crate::access::keys::generate().unwrap().hash;
    let row = ApiKeyRow {
        id: "k".to_owned(),
        user: "ada".to_owned(),
        note: None,
        created_ms: 1,
        expires_ms: Some(5_999),
        revoked_ms: None,
        hash,
    };
    let claims = Claims::new(CLUSTER, "ada", Some(&row), 4, 60).unwrap();
    assert_eq!((claims.exp, claims.key.as_deref()), (5, Some("k")));
    let lasting = ApiKeyRow {
        expires_ms: None,
        ..row
    };
    let claims = Claims::new(CLUSTER, "ada", Some(&lasting), 4, 60).unwrap();
    assert_eq!(claims.exp, 64);
}
