//! Tokens of other issuers.

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use jsonwebtoken::{EncodingKey, decode_header, encode, get_current_timestamp};
use serde_json::{Value, json};

use jsonwebtoken::Algorithm;

use super::*;

/// Base64 without padding (RFC 4648 section 5).
pub(in crate::access) fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let mut group = [0; 3];
        group[..chunk.len()].copy_from_slice(chunk);
        let bits = u32::from_be_bytes([0, group[0], group[1], group[2]]);
        for index in 0..=chunk.len() {
            let digit = (bits >> (18 - 6 * index)) & 63;
            text.push(char::from(DIGITS[digit as usize]));
        }
    }
    text
}

struct Foreign {
    private: Vec<u8>,
    issuer: Issuer,
}

fn foreign() -> Foreign {
    let private = Ed25519KeyPair::generate_pkcs8(&aws_lc_rs::rand::SystemRandom::new()).unwrap();
    let pair = Ed25519KeyPair::from_pkcs8(private.as_ref()).unwrap();
    let x = base64(pair.public_key().as_ref());
    let set = json!({"keys": [{"kty": "OKP", "crv": "Ed25519", "kid": "k", "x": x}]});
    let issuer = Issuer::new("https://id", "ashlar", set.to_string().as_bytes()).unwrap();
    let private = private.as_ref().to_vec();
    Foreign { private, issuer }
}

fn claims() -> Value {
    json!({
        "iss": "https://id", "aud": "ashlar", "sub": "grace", "exp": get_current_timestamp() + 60,
        "ashlar_role": "operator", "ashlar_projects": ["p"],
    })
}

impl Foreign {
    fn told(&self, claims: &Value) -> Option<Result<ForeignClaims, AccessRefusal>> {
        let header = Header {
            kid: Some("k".to_owned()),
            ..Header::new(Algorithm::EdDSA)
        };
        let token = encode(&header, claims, &EncodingKey::from_ed_der(&self.private)).unwrap();
        self.issuer.verify(&decode_header(&token).unwrap(), &token)
    }

    fn refused(&self, change: impl FnOnce(&mut Value)) -> AccessRefusal {
        let mut claims = claims();
        change(&mut claims);
        self.told(&claims).unwrap().unwrap_err()
    }
}

#[test]
fn a_token_of_another_issuer_says_what_its_user_may_do() {
    let claims = foreign().told(&claims()).unwrap().unwrap();
    assert_eq!(
        (claims.sub.as_str(), claims.role),
        ("grace", Role::Operator)
    );
    assert_eq!(claims.projects, Some(vec!["p".to_owned()]));
}

#[test]
fn a_token_for_others_or_without_an_end_is_wrong() {
    let foreign = foreign();
    let wrong = AccessRefusal::Wrong;
    assert_eq!(foreign.refused(|c| c["aud"] = json!("else")), wrong);
    assert_eq!(foreign.refused(|c| c["iss"] = json!("https://evil")), wrong);
    assert_eq!(foreign.refused(|c| c["ashlar_role"] = json!("root")), wrong);
    let without = |field: &'static str| {
        move |claims: &mut Value| drop(claims.as_object_mut().unwrap().remove(field))
    };
    for field in ["exp", "aud", "iss", "sub", "ashlar_role"] {
        assert_eq!(foreign.refused(without(field)), wrong, "{field}");
    }
    let past = get_current_timestamp() - 100;
    assert_eq!(
        foreign.refused(|c| c["exp"] = json!(past)),
        AccessRefusal::Expired
    );
}

#[test]
fn no_secret_verifies() {
    let secret = base64(b"a secret that a set should not have");
    let set = json!({"keys": [{"kty": "oct", "kid": "k", "alg": "HS256", "k": secret}]});
    let refused = Issuer::new("i", "a", set.to_string().as_bytes()).unwrap_err();
    assert!(matches!(refused, IssuerError::Keys));
    let empty = Issuer::new("i", "a", b"{\"keys\":[]}").unwrap_err();
    assert!(matches!(empty, IssuerError::Keys));
    assert!(matches!(
        Issuer::new("i", "a", b"{"),
        Err(IssuerError::Malformed(_))
    ));
}

#[test]
fn a_key_that_is_not_named_verifies_nothing() {
    let (one, other) = (foreign(), foreign());
    let header = Header::new(Algorithm::EdDSA);
    let token = encode(&header, &claims(), &EncodingKey::from_ed_der(&one.private)).unwrap();
    assert!(one.issuer.verify(&header, &token).is_none());
    let named = Header {
        kid: Some("k".to_owned()),
        ..header
    };
    let token = encode(&named, &claims(), &EncodingKey::from_ed_der(&one.private)).unwrap();
    let told = other.issuer.verify(&named, &token).unwrap();
    assert_eq!(told.unwrap_err(), AccessRefusal::Wrong);
}
