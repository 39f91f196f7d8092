//! A node's key, and the request for a certificate (PKCS #10) that is signed with it.

use ashlar_proto::api::CERTIFICATE_REQUEST_BYTES_MAX;
use rcgen::{CertificateParams, CertificateSigningRequestParams, KeyPair, PKCS_ECDSA_P256_SHA256};

/// A key and a request that was signed with it.
pub struct KeyAndRequest {
    /// The private key, PEM (PKCS #8).
    pub key_pem: String,
    /// The request, PEM.
    pub request_pem: String,
}

/// A request or a key cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    /// The request is longer than any of a node.
    #[error("a certificate request has {CERTIFICATE_REQUEST_BYTES_MAX} bytes at most")]
    TooLong,
    /// The request cannot be read, or was not signed with its own key.
    #[error("the certificate request cannot be used: {0}")]
    Unusable(#[source] rcgen::Error),
    /// Its key is not of the kind that nodes have.
    #[error("the key of a certificate request must be ECDSA P-256")]
    KeyKind,
}

impl KeyAndRequest {
    /// A new key, and a request for it.
    ///
    /// # Errors
    /// [`RequestError::Unusable`]: the system gives no random numbers.
    pub fn make() -> Result<Self, RequestError> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(RequestError::Unusable)?;
        Self::with(key)
    }

    /// A request for a key that is there.
    ///
    /// # Errors
    /// [`RequestError::Unusable`]: it is no private key in PEM.
    pub fn of(key_pem: &str) -> Result<Self, RequestError> {
        Self::with(KeyPair::from_pem(key_pem).map_err(RequestError::Unusable)?)
    }

    fn with(key: KeyPair) -> Result<Self, RequestError> {
        // The authority looks at the key alone: the name is the node's token's, or its certificate's.
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        let request = params.serialize_request(&key);
        let request = request.and_then(|request| request.pem());
        Ok(Self {
            key_pem: key.serialize_pem(),
            request_pem: request.map_err(RequestError::Unusable)?,
        })
    }
}

/// A request that was read and whose signature is that of its key.
pub(crate) fn read(request_pem: &str) -> Result<rcgen::PublicKey, RequestError> {
    use rcgen::PublicKeyData;
    if request_pem.len() > CERTIFICATE_REQUEST_BYTES_MAX {
        return Err(RequestError::TooLong);
    }
    let read = CertificateSigningRequestParams::from_pem(request_pem);
    let key = read.map_err(RequestError::Unusable)?.public_key;
    // The uncompressed point of the curve: one byte, two coordinates (SEC 1 section 2.3.3).
    if key.der_bytes().len() != 65 || *key.algorithm() != PKCS_ECDSA_P256_SHA256 {
        return Err(RequestError::KeyKind);
    }
    Ok(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_shows_that_its_sender_has_the_key() {
        let made = KeyAndRequest::make().unwrap();
        assert!(read(&made.request_pem).is_ok());
        let again = KeyAndRequest::of(&made.key_pem).unwrap();
        assert_eq!(again.key_pem, made.key_pem);
        let body = made.request_pem.lines().nth(2).unwrap();
        let changed: String = body.chars().rev().collect();
        assert!(read(&made.request_pem.replace(body, &changed)).is_err());
        assert!(read("").is_err() && read("-----BEGIN").is_err());
        let long = "x".repeat(CERTIFICATE_REQUEST_BYTES_MAX + 1);
        assert!(matches!(read(&long), Err(RequestError::TooLong)));
    }

    #[test]
    fn keys_of_another_kind_are_refused() {
        let key = KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
        let request = CertificateParams::default()
            .serialize_request(&key)
            .unwrap();
        let refused = read(&request.pem().unwrap());
        assert!(matches!(refused, Err(RequestError::KeyKind)), "{refused:?}");
    }
}
