//! What a certificate says: whose it is, its serial number, from when until when it is good. Nothing here
//! says that it can be trusted; [`crate::Admission`] does.

use std::net::IpAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::name::Identity;

/// Longest serial number that is looked at (RFC 5280 section 4.1.2.2 has 20 bytes at most).
const SERIAL_BYTES_MAX: usize = 20;

/// A certificate, read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Presented {
    /// Whose it is.
    pub identity: Identity,
    /// Its serial number in hexadecimal digits, without leading zeroes.
    pub serial: String,
    /// DNS names and IP addresses at which the node is reached.
    pub hosts: Vec<String>,
    /// From when on it is good.
    pub not_before: SystemTime,
    /// Until when.
    pub not_after: SystemTime,
}

/// A certificate is none of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PresentedError {
    /// It is no X.509 certificate.
    #[error("it is no X.509 certificate")]
    Malformed,
    /// It names no node, or more than one.
    #[error("it names no node of a cluster: one URI ashlar://CLUSTER/ROLE/NAME is expected")]
    NoIdentity,
}

impl Presented {
    /// Reads a certificate (DER).
    ///
    /// # Errors
    /// [`PresentedError`].
    pub fn read(der: &[u8]) -> Result<Self, PresentedError> {
        let (rest, certificate) =
            X509Certificate::from_der(der).map_err(|_| PresentedError::Malformed)?;
        if !rest.is_empty() {
            return Err(PresentedError::Malformed);
        }
        let names = certificate.subject_alternative_name();
        let names = names.map_err(|_| PresentedError::Malformed)?;
        let names = names.ok_or(PresentedError::NoIdentity)?;
        let mut uris = names
            .value
            .general_names
            .iter()
            .filter_map(|name| match name {
                GeneralName::URI(uri) => Some(*uri),
                _ => None,
            });
        let (first, second) = (uris.next(), uris.next());
        let identity = match (first, second) {
            (Some(uri), None) => uri.parse().map_err(|_| PresentedError::NoIdentity)?,
            _ => return Err(PresentedError::NoIdentity),
        };
        let hosts = names.value.general_names.iter().filter_map(host).collect();
        let serial = certificate.raw_serial();
        if serial.len() > SERIAL_BYTES_MAX + 1 {
            return Err(PresentedError::Malformed);
        }
        let validity = certificate.validity();
        Ok(Self {
            identity,
            serial: digits(serial),
            hosts,
            not_before: moment(validity.not_before.timestamp()),
            not_after: moment(validity.not_after.timestamp()),
        })
    }

    /// When it is to be replaced: after two thirds of its life.
    #[must_use]
    pub fn renew_at(&self) -> SystemTime {
        let life = self.not_after.duration_since(self.not_before);
        self.not_before + life.unwrap_or_default() * 2 / 3
    }
}

fn host(name: &GeneralName<'_>) -> Option<String> {
    match name {
        GeneralName::DNSName(name) => Some((*name).to_owned()),
        GeneralName::IPAddress(bytes) => match **bytes {
            [a, b, c, d] => Some(IpAddr::from([a, b, c, d]).to_string()),
            _ => <[u8; 16]>::try_from(*bytes)
                .ok()
                .map(|ip| IpAddr::from(ip).to_string()),
        },
        _ => None,
    }
}

/// Bytes as hexadecimal digits, without leading zeroes.
fn digits(bytes: &[u8]) -> String {
    let digits: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    let plain = digits.trim_start_matches('0');
    if plain.is_empty() { "0" } else { plain }.to_owned()
}

fn moment(seconds: i64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(u64::try_from(seconds).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn garbage_is_no_certificate() {
        for bytes in [&b""[..], b"\x30", b"\x30\x82\xff\xff", &[0x30; 4096]] {
            assert_eq!(Presented::read(bytes), Err(PresentedError::Malformed));
        }
    }

    #[test]
    fn serials_have_no_leading_zeroes() {
        assert_eq!(digits(&[0, 0x0a, 0xff]), "aff");
        assert_eq!(digits(&[0]), "0");
    }
}
