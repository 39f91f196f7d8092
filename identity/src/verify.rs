//! Whether a peer is let in: its certificate's chain, whom it names, and whether that one is denied.
//!
//! A peer is known by the name in its certificate, not by the host that it was reached at: addresses are
//! what the conductor says, and it may say a wrong one. Invariant: TLS 1.3 only.

use std::fmt;
use std::sync::Arc;

use ashlar_proto::ClusterId;
use ashlar_proto::api::NodeRole;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::crypto::{CryptoProvider, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ParsedCertificate, WebPkiClientVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, PeerIncompatible,
    RootCertStore, SignatureScheme,
};

use crate::denied::Denied;
use crate::presented::Presented;
use crate::token::sha256_digits;

/// Who is let in: nodes of one cluster with one of these roles, that are not denied.
#[derive(Clone)]
pub struct Admission {
    /// The cluster; whichever the authority is of, if not known yet.
    pub cluster: Option<ClusterId>,
    /// The roles.
    pub roles: Vec<NodeRole>,
    /// The denied.
    pub denied: Denied,
}

impl fmt::Debug for Admission {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Admission({:?})", self.roles)
    }
}

impl Admission {
    /// Judges a certificate (DER) whose chain has been verified; gives what it says.
    ///
    /// # Errors
    /// [`CertificateError`], which becomes the alert that the peer is sent: revoked where it is denied,
    /// access denied where its role or its cluster is another.
    pub fn judge(&self, certificate: &[u8]) -> Result<Presented, CertificateError> {
        let presented = Presented::read(certificate);
        let presented = presented.map_err(|_| CertificateError::ApplicationVerificationFailure)?;
        if self.denied.denies(&presented) {
            return Err(CertificateError::Revoked);
        }
        let identity = &presented.identity;
        let is_here = self
            .cluster
            .is_none_or(|cluster| cluster == identity.cluster);
        if is_here && self.roles.contains(&identity.role) {
            Ok(presented)
        } else {
            Err(CertificateError::ApplicationVerificationFailure)
        }
    }
}

/// What both verifiers need of TLS itself.
#[derive(Debug)]
struct Signatures(Arc<CryptoProvider>);

impl Signatures {
    fn check(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signed, algorithms)
    }

    fn schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

fn no_tls12() -> Error {
    PeerIncompatible::Tls12NotOffered.into()
}

/// Lets clients in.
#[derive(Debug)]
pub(crate) struct Clients {
    chain: Arc<dyn ClientCertVerifier>,
    admission: Admission,
    mandatory: bool,
    signatures: Signatures,
}

impl Clients {
    /// Those whose certificates an authority of `roots` has signed; without any certificate as well,
    /// unless it is `mandatory`.
    pub(crate) fn new(
        roots: Arc<RootCertStore>,
        admission: Admission,
        mandatory: bool,
        provider: Arc<CryptoProvider>,
    ) -> Result<Self, rustls::server::VerifierBuilderError> {
        let chain = WebPkiClientVerifier::builder_with_provider(roots, Arc::clone(&provider));
        Ok(Self {
            chain: chain.build()?,
            admission,
            mandatory,
            signatures: Signatures(provider),
        })
    }
}

impl ClientCertVerifier for Clients {
    fn client_auth_mandatory(&self) -> bool {
        self.mandatory
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.chain.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let verified = self
            .chain
            .verify_client_cert(end_entity, intermediates, now)?;
        self.admission.judge(end_entity)?;
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(no_tls12())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.signatures.check(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.signatures.schemes()
    }
}

/// What a client trusts.
#[derive(Debug)]
pub(crate) enum Anchor {
    /// This authority.
    Authority(Arc<RootCertStore>),
    /// The authority whose certificate has this SHA-256 (hexadecimal digits): the server shows it behind
    /// its own.
    Fingerprint(String),
}

impl Anchor {
    fn roots(&self, shown: &[CertificateDer<'_>]) -> Result<Arc<RootCertStore>, Error> {
        match self {
            Self::Authority(roots) => Ok(Arc::clone(roots)),
            Self::Fingerprint(fingerprint) => {
                let is_it = |der: &&CertificateDer<'_>| sha256_digits(der) == *fingerprint;
                let authority = shown.iter().find(is_it);
                let authority = authority.ok_or(CertificateError::UnknownIssuer)?;
                let mut roots = RootCertStore::empty();
                roots.add(authority.clone().into_owned())?;
                Ok(Arc::new(roots))
            }
        }
    }
}

/// Accepts servers.
#[derive(Debug)]
pub(crate) struct Servers {
    pub(crate) anchor: Anchor,
    pub(crate) admission: Admission,
    signatures: Signatures,
}

impl Servers {
    pub(crate) fn new(anchor: Anchor, admission: Admission, provider: Arc<CryptoProvider>) -> Self {
        Self {
            anchor,
            admission,
            signatures: Signatures(provider),
        }
    }
}

impl ServerCertVerifier for Servers {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let roots = self.anchor.roots(intermediates)?;
        let certificate = ParsedCertificate::try_from(end_entity)?;
        let algorithms = self.signatures.0.signature_verification_algorithms.all;
        verify_server_cert_signed_by_trust_anchor(
            &certificate,
            &roots,
            intermediates,
            now,
            algorithms,
        )?;
        self.admission.judge(end_entity)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(no_tls12())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.signatures.check(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.signatures.schemes()
    }
}
