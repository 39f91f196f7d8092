//! Handshakes between the two sides, in memory.

use std::time::{Duration, SystemTime};

use ashlar_proto::ClusterId;
use ashlar_proto::api::{IdentitySubject, NodeRole};
use rustls::{AlertDescription, CertificateError, ClientConnection, Error, ServerConnection};

use super::*;
use crate::authority::{Authority, Subject};
use crate::denied::Denied;
use crate::name::Identity;
use crate::token::TokenText;

const ID: ClusterId = ClusterId::new(5);
const HOUR: Duration = Duration::from_secs(3600);

struct World {
    authority: Authority,
    denied: Denied,
}

impl World {
    fn new() -> Self {
        Self {
            authority: Authority::create(ID, SystemTime::now()).unwrap().0,
            denied: Denied::nobody(),
        }
    }

    fn pem(&self) -> &str {
        self.authority.certificate_pem()
    }

    fn credentials_from(&self, role: NodeRole, name: &str, from: SystemTime) -> Credentials {
        let subject = Subject {
            identity: Identity {
                cluster: ID,
                role,
                name: name.to_owned(),
            },
            hosts: Vec::new(),
            ttl: HOUR,
        };
        let (key, certificate) = self.authority.issue(&subject, from).unwrap();
        Credentials::load(&certificate, &key, self.pem()).unwrap()
    }

    fn credentials(&self, role: NodeRole, name: &str) -> Credentials {
        self.credentials_from(role, name, SystemTime::now())
    }

    fn admission(&self, roles: &[NodeRole]) -> Admission {
        Admission {
            cluster: Some(ID),
            roles: roles.to_vec(),
            denied: self.denied.clone(),
        }
    }

    /// A store that lets owners in.
    fn store(&self, name: &str) -> Arc<ServerConfig> {
        let owners = self.admission(&[NodeRole::Store, NodeRole::FrontEnd]);
        let shown = self.credentials(NodeRole::Store, name);
        server_config(&shown, self.pem(), owners, true).unwrap()
    }

    /// An owner that shows these.
    fn owner(&self, credentials: Option<&Credentials>) -> Arc<ClientConfig> {
        let stores = self.admission(&[NodeRole::Store]);
        Arc::new(client_config(credentials, self.pem(), stores).unwrap())
    }
}

/// What each side came to.
fn shake(
    server: &Arc<ServerConfig>,
    client: &Arc<ClientConfig>,
) -> (Result<(), Error>, Result<(), Error>) {
    let mut server = ServerConnection::new(Arc::clone(server)).unwrap();
    let name = "node.invalid".try_into().unwrap();
    let mut client = ClientConnection::new(Arc::clone(client), name).unwrap();
    let (mut at_server, mut at_client) = (Ok(()), Ok(()));
    for _ in 0..6 {
        let mut bytes = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut bytes).unwrap();
        }
        let mut bytes = &bytes[..];
        while !bytes.is_empty() && server.read_tls(&mut bytes).is_ok_and(|n| n > 0) {
            let outcome = server.process_new_packets().map(drop);
            at_server = at_server.and(outcome);
        }
        let mut bytes = Vec::new();
        while server.wants_write() {
            server.write_tls(&mut bytes).unwrap();
        }
        let mut bytes = &bytes[..];
        while !bytes.is_empty() && client.read_tls(&mut bytes).is_ok_and(|n| n > 0) {
            let outcome = client.process_new_packets().map(drop);
            at_client = at_client.and(outcome);
        }
    }
    let is_over = !server.is_handshaking() && !client.is_handshaking();
    if at_server.is_ok() && at_client.is_ok() {
        assert!(is_over, "neither failed, and it is not over");
    }
    (at_server, at_client)
}

#[test]
fn nodes_of_the_right_role_get_in() {
    let world = World::new();
    for role in [NodeRole::Store, NodeRole::FrontEnd] {
        let owner = world.owner(Some(&world.credentials(role, "o")));
        assert_eq!(shake(&world.store("s"), &owner), (Ok(()), Ok(())));
    }
}

#[test]
fn who_shows_nothing_is_refused() {
    let world = World::new();
    let (server, client) = shake(&world.store("s"), &world.owner(None));
    assert_eq!(server, Err(Error::NoCertificatesPresented));
    let alert = AlertDescription::CertificateRequired;
    assert_eq!(client, Err(Error::AlertReceived(alert)));
}

#[test]
fn another_role_is_refused() {
    let world = World::new();
    for role in [NodeRole::Client, NodeRole::Conductor] {
        let owner = world.owner(Some(&world.credentials(role, "o")));
        let (server, client) = shake(&world.store("s"), &owner);
        let why = CertificateError::ApplicationVerificationFailure;
        assert_eq!(server, Err(why.into()));
        let alert = AlertDescription::AccessDenied;
        assert_eq!(client, Err(Error::AlertReceived(alert)));
    }
}

#[test]
fn another_authority_is_refused_by_either_side() {
    let (world, other) = (World::new(), World::new());
    let foreign = other.credentials(NodeRole::FrontEnd, "o");
    let (server, _) = shake(&world.store("s"), &world.owner(Some(&foreign)));
    let is_foreign = matches!(
        server,
        Err(Error::InvalidCertificate(
            CertificateError::UnknownIssuer | CertificateError::BadSignature
        ))
    );
    assert!(is_foreign, "{server:?}");
    let own = world.credentials(NodeRole::FrontEnd, "o");
    let (_, client) = shake(&other.store("s"), &world.owner(Some(&own)));
    assert!(
        matches!(client, Err(Error::InvalidCertificate(_))),
        "{client:?}"
    );
}

#[test]
fn an_expired_certificate_is_refused() {
    let world = World::new();
    let before = SystemTime::now() - 2 * HOUR;
    let old = world.credentials_from(NodeRole::FrontEnd, "o", before);
    let (server, client) = shake(&world.store("s"), &world.owner(Some(&old)));
    let is_expired = matches!(
        server,
        Err(Error::InvalidCertificate(
            CertificateError::Expired | CertificateError::ExpiredContext { .. }
        ))
    );
    assert!(is_expired, "{server:?}");
    let alert = AlertDescription::CertificateExpired;
    assert_eq!(client, Err(Error::AlertReceived(alert)));
}

#[test]
fn the_denied_are_refused_from_then_on() {
    let world = World::new();
    let credentials = world.credentials(NodeRole::FrontEnd, "o");
    let (store, owner) = (world.store("s"), world.owner(Some(&credentials)));
    assert_eq!(shake(&store, &owner), (Ok(()), Ok(())));
    let serial = IdentitySubject::Serial(credentials.presented().serial);
    for subject in [serial, IdentitySubject::Node("o".to_owned())] {
        world.denied.replace([subject]);
        let (server, client) = shake(&store, &owner);
        assert_eq!(server, Err(CertificateError::Revoked.into()));
        let alert = AlertDescription::CertificateRevoked;
        assert_eq!(client, Err(Error::AlertReceived(alert)));
    }
    world.denied.replace([]);
    assert_eq!(shake(&store, &owner), (Ok(()), Ok(())));
}

#[test]
fn a_replaced_certificate_is_shown_by_the_next_handshake() {
    let world = World::new();
    let before = SystemTime::now() - 2 * HOUR;
    let shown = world.credentials_from(NodeRole::FrontEnd, "o", before);
    let owner = world.owner(Some(&shown));
    assert!(shake(&world.store("s"), &owner).0.is_err());
    let subject = Subject {
        identity: shown.presented().identity,
        hosts: Vec::new(),
        ttl: HOUR,
    };
    let (key, certificate) = world.authority.issue(&subject, SystemTime::now()).unwrap();
    shown.replace(&certificate, &key, world.pem()).unwrap();
    assert_eq!(shake(&world.store("s"), &owner), (Ok(()), Ok(())));
    assert!(shown.replace("", &key, world.pem()).is_err());
}

#[test]
fn an_old_version_of_tls_is_refused() {
    let world = World::new();
    let mut roots = RootCertStore::empty();
    roots
        .add(world.authority.certificate_der().clone())
        .unwrap();
    let old = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS12])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let (server, client) = shake(&world.store("s"), &Arc::new(old));
    assert!(
        matches!(server, Err(Error::PeerIncompatible(_))),
        "{server:?}"
    );
    let alert = AlertDescription::ProtocolVersion;
    assert_eq!(client, Err(Error::AlertReceived(alert)));
}

#[test]
fn a_token_knows_the_authority() {
    let (world, other) = (World::new(), World::new());
    let anybody = world.admission(&NodeRole::ALL);
    let shown = world.credentials(NodeRole::Conductor, "c");
    let conductor = server_config(&shown, world.pem(), anybody, false).unwrap();
    let conductors = Admission {
        cluster: None,
        ..world.admission(&[NodeRole::Conductor])
    };
    let first = |world: &World| {
        let token = TokenText::make(world.authority.certificate_der()).unwrap();
        let config = first_contact_config(&token.fingerprint, conductors.clone());
        Arc::new(config.unwrap())
    };
    assert_eq!(shake(&conductor, &first(&world)), (Ok(()), Ok(())));
    let (_, client) = shake(&conductor, &first(&other));
    let unknown = CertificateError::UnknownIssuer;
    assert_eq!(client, Err(unknown.into()));
    // A store of the cluster is no conductor.
    let (_, client) = shake(&world.store("s"), &first(&world));
    let why = CertificateError::ApplicationVerificationFailure;
    assert_eq!(client, Err(why.into()));
}
