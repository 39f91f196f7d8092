//! A cluster's certificate authority: a self-signed certificate and its key, ECDSA P-256.
//!
//! Whoever has the key can be anybody in the cluster: it lies with the conductors alone.

use std::fmt;
use std::net::IpAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ashlar_proto::ClusterId;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, SanType, SerialNumber, date_time_ymd,
};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::name::Identity;
use crate::request::{self, KeyAndRequest, RequestError};
use crate::token::random_bytes;

/// How long a node's certificate is good unless told otherwise.
pub const CERTIFICATE_TTL: Duration = Duration::from_secs(24 * 3600);

/// How long the authority's own is.
const AUTHORITY_TTL: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

/// How far the clocks of two machines may be apart.
const CLOCKS_APART: Duration = Duration::from_secs(300);

/// What the name of an authority begins with; the cluster's id follows.
const NAME: &str = "ashlar cluster ";

/// An authority cannot be made or used.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    /// Certificate or key cannot be read or made.
    #[error("the authority's certificate and key cannot be used: {0}")]
    Unusable(#[source] rcgen::Error),
    /// The certificate is none of a cluster's authority.
    #[error("the certificate is none of a cluster's authority: `ashlar cluster init` makes one")]
    Foreign,
    /// What is to be signed cannot be.
    #[error(transparent)]
    Request(#[from] RequestError),
    /// A name for the certificate is neither a DNS name nor an IP address.
    #[error("`{name}` is neither a DNS name nor an IP address")]
    Name {
        /// What was given.
        name: String,
    },
    /// The system gives no random numbers.
    #[error("no randomness for a serial number")]
    Random,
}

/// Whom a certificate is for.
#[derive(Clone, Debug)]
pub struct Subject {
    /// The node.
    pub identity: Identity,
    /// DNS names and IP addresses at which others reach it, for clients that go by these.
    pub hosts: Vec<String>,
    /// How long it is good.
    pub ttl: Duration,
}

/// See the module.
pub struct Authority {
    cluster: ClusterId,
    issuer: Issuer<'static, KeyPair>,
    certificate_pem: String,
    certificate_der: CertificateDer<'static>,
}

impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Authority({})", self.cluster)
    }
}

impl Authority {
    /// A new one for a cluster; gives its private key (PEM), too.
    ///
    /// # Errors
    /// [`AuthorityError::Unusable`], [`AuthorityError::Random`].
    pub fn create(cluster: ClusterId, now: SystemTime) -> Result<(Self, String), AuthorityError> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256);
        let key = key.map_err(AuthorityError::Unusable)?;
        let key_pem = key.serialize_pem();
        let mut params = CertificateParams::default();
        params.distinguished_name = named(&format!("{NAME}{cluster}"));
        params.serial_number = Some(fresh_serial()?);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        bound(&mut params, now, AUTHORITY_TTL);
        let certificate = params.self_signed(&key).map_err(AuthorityError::Unusable)?;
        let authority = Self::load(&certificate.pem(), &key_pem)?;
        Ok((authority, key_pem))
    }

    /// The one of that certificate and key (PEM).
    ///
    /// # Errors
    /// [`AuthorityError::Unusable`], [`AuthorityError::Foreign`].
    pub fn load(certificate_pem: &str, key_pem: &str) -> Result<Self, AuthorityError> {
        let key = KeyPair::from_pem(key_pem).map_err(AuthorityError::Unusable)?;
        let der = CertificateDer::from_pem_slice(certificate_pem.as_bytes());
        let certificate_der = der.map_err(|_| AuthorityError::Foreign)?;
        let cluster = Self::cluster_of(&certificate_der).ok_or(AuthorityError::Foreign)?;
        let issuer = Issuer::from_ca_cert_der(&certificate_der, key);
        Ok(Self {
            cluster,
            issuer: issuer.map_err(AuthorityError::Unusable)?,
            certificate_pem: certificate_pem.to_owned(),
            certificate_der,
        })
    }

    /// The cluster whose authority has that certificate (DER).
    #[must_use]
    pub fn cluster_of(certificate_der: &[u8]) -> Option<ClusterId> {
        let (_, certificate) = X509Certificate::from_der(certificate_der).ok()?;
        let mut names = certificate.subject().iter_common_name();
        let name = names.next()?.as_str().ok()?;
        name.strip_prefix(NAME)?.parse().ok()
    }

    /// The cluster.
    #[must_use]
    pub fn cluster(&self) -> ClusterId {
        self.cluster
    }

    /// Its certificate, PEM.
    #[must_use]
    pub fn certificate_pem(&self) -> &str {
        &self.certificate_pem
    }

    /// Its certificate, DER.
    #[must_use]
    pub fn certificate_der(&self) -> &CertificateDer<'static> {
        &self.certificate_der
    }

    /// A certificate (PEM) for the key of a request, which must be signed with that key. Of the request
    /// nothing else is taken over.
    ///
    /// # Errors
    /// [`AuthorityError`].
    pub fn sign(
        &self,
        request_pem: &str,
        subject: &Subject,
        now: SystemTime,
    ) -> Result<String, AuthorityError> {
        let key = request::read(request_pem)?;
        let mut params = CertificateParams::default();
        let Identity { role, name, .. } = &subject.identity;
        params.distinguished_name = named(&format!("{role} {name}"));
        params.serial_number = Some(fresh_serial()?);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        // Stores are servers for owners and clients of each other; so are conductors.
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        params.use_authority_key_identifier_extension = true;
        params.subject_alt_names = alternative_names(subject)?;
        bound(&mut params, now, subject.ttl);
        let signed = params.signed_by(&key, &self.issuer);
        Ok(signed.map_err(AuthorityError::Unusable)?.pem())
    }

    /// A new key and a certificate for it, both PEM.
    ///
    /// # Errors
    /// [`AuthorityError`].
    pub fn issue(
        &self,
        subject: &Subject,
        now: SystemTime,
    ) -> Result<(String, String), AuthorityError> {
        let made = KeyAndRequest::make()?;
        let certificate = self.sign(&made.request_pem, subject, now)?;
        Ok((made.key_pem, certificate))
    }
}

fn alternative_names(subject: &Subject) -> Result<Vec<SanType>, AuthorityError> {
    let ia5 = |text: &str| {
        let wrong = |_| AuthorityError::Name {
            name: text.to_owned(),
        };
        text.to_owned().try_into().map_err(wrong)
    };
    let mut names = vec![SanType::URI(ia5(&subject.identity.to_string())?)];
    for host in &subject.hosts {
        names.push(match host.parse::<IpAddr>() {
            Ok(ip) => SanType::IpAddress(ip),
            Err(_) if is_dns_name(host) => SanType::DnsName(ia5(host)?),
            Err(_) => return Err(AuthorityError::Name { name: host.clone() }),
        });
    }
    Ok(names)
}

fn is_dns_name(text: &str) -> bool {
    rustls::pki_types::DnsName::try_from(text).is_ok()
}

fn named(name: &str) -> DistinguishedName {
    let mut names = DistinguishedName::new();
    names.push(DnType::CommonName, name);
    names
}

fn bound(params: &mut CertificateParams, now: SystemTime, ttl: Duration) {
    let since_1970 = now.duration_since(UNIX_EPOCH).unwrap_or_default();
    let epoch = date_time_ymd(1970, 1, 1);
    // A short life is not mostly over when it begins.
    let before = CLOCKS_APART.min(ttl / 2);
    params.not_before = epoch + since_1970.saturating_sub(before);
    params.not_after = epoch + since_1970 + ttl;
}

/// 127 random bits: positive, and not 0 in any life of this universe.
fn fresh_serial() -> Result<SerialNumber, AuthorityError> {
    let mut bytes = random_bytes::<16>().ok_or(AuthorityError::Random)?;
    bytes[0] &= 0x7f;
    Ok(SerialNumber::from_slice(&bytes))
}

#[cfg(test)]
mod tests {
    use ashlar_proto::api::NodeRole;

    use super::*;
    use crate::presented::Presented;

    const ID: ClusterId = ClusterId::new(0xabc);

    fn subject(name: &str) -> Subject {
        Subject {
            identity: Identity {
                cluster: ID,
                role: NodeRole::Store,
                name: name.to_owned(),
            },
            hosts: vec!["127.0.0.1".to_owned(), "node.example".to_owned()],
            ttl: Duration::from_secs(3600),
        }
    }

    #[test]
    fn an_authority_survives_its_files() {
        let (made, key) = Authority::create(ID, SystemTime::now()).unwrap();
        let read = Authority::load(made.certificate_pem(), &key).unwrap();
        assert_eq!(read.cluster(), ID);
        assert_eq!(read.certificate_der(), made.certificate_der());
        let (_, certificate) = read.issue(&subject("a"), SystemTime::now()).unwrap();
        let leaf = Authority::load(&certificate, &key);
        assert!(matches!(leaf, Err(AuthorityError::Foreign)));
    }

    #[test]
    fn a_certificate_says_whose_it_is_and_how_long() {
        let now = UNIX_EPOCH + Duration::from_secs(1_800_000_000);
        let (authority, _) = Authority::create(ID, now).unwrap();
        let (_, pem) = authority.issue(&subject("n1"), now).unwrap();
        let der = CertificateDer::from_pem_slice(pem.as_bytes()).unwrap();
        let read = Presented::read(&der).unwrap();
        assert_eq!(read.identity, subject("n1").identity);
        assert_eq!(read.hosts, subject("n1").hosts);
        assert_eq!(read.not_after, now + Duration::from_secs(3600));
        assert_eq!(read.not_before, now - CLOCKS_APART);
        assert_eq!(read.renew_at(), now + Duration::from_secs(2600 - 300));
        assert!(read.serial.len() > 20, "{}", read.serial);
    }

    #[test]
    fn what_a_request_asks_for_is_not_granted() {
        let (authority, _) = Authority::create(ID, SystemTime::now()).unwrap();
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let other = format!("ashlar://{ID}/conductor/evil");
        params.subject_alt_names = vec![SanType::URI(other.try_into().unwrap())];
        let request = params.serialize_request(&key).unwrap().pem().unwrap();
        let pem = authority.sign(&request, &subject("a"), SystemTime::now());
        let der = CertificateDer::from_pem_slice(pem.unwrap().as_bytes()).unwrap();
        assert_eq!(Presented::read(&der).unwrap().identity.name, "a");
        let (_, read) = X509Certificate::from_der(&der).unwrap();
        assert!(!read.is_ca());
    }

    #[test]
    fn names_that_are_none_are_refused() {
        let (authority, _) = Authority::create(ID, SystemTime::now()).unwrap();
        for host in ["a b", "", "http://x", "ä"] {
            let mut wrong = subject("a");
            wrong.hosts = vec![host.to_owned()];
            let refused = authority.issue(&wrong, SystemTime::now());
            assert!(
                matches!(refused, Err(AuthorityError::Name { .. })),
                "{host}"
            );
        }
    }
}
