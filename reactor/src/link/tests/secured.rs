//! Links over TLS: the same frames, and nobody who may not come in.

use std::time::SystemTime;

use ashlar_identity::{
    Admission, Authority, Credentials, Denied, Identity, Presented, Subject, client_config,
    server_config,
};
use ashlar_proto::ClusterId;
use ashlar_proto::api::{IdentitySubject, NodeRole};
use rustls::CertificateError;

use super::*;

const ID: ClusterId = ClusterId::new(3);

struct Names(Denied);

impl KnowsPeers for Names {
    fn is_of(&self, certificate: &[u8], node: &str) -> bool {
        Presented::read(certificate).is_ok_and(|presented| presented.identity.name == node)
    }

    fn changes(&self) -> u64 {
        self.0.changes()
    }

    fn is_let_in(&self, certificate: &[u8]) -> bool {
        Presented::read(certificate).is_ok_and(|presented| !self.0.denies(&presented))
    }
}

/// How the links of a node are secured.
fn security(authority: &Authority, role: NodeRole, name: &str) -> LinkSecurity {
    security_with(authority, role, name, &Denied::nobody())
}

/// The same, with a list of the denied.
fn security_with(
    authority: &Authority,
    role: NodeRole,
    name: &str,
    denied: &Denied,
) -> LinkSecurity {
    let subject = Subject {
        identity: Identity {
            cluster: ID,
            role,
            name: name.to_owned(),
        },
        hosts: Vec::new(),
        ttl: Duration::from_secs(3600),
    };
    let pem = authority.certificate_pem();
    let (key, certificate) = authority.issue(&subject, SystemTime::now()).unwrap();
    let shown = Credentials::load(&certificate, &key, pem).unwrap();
    let admission = |roles: &[NodeRole]| Admission {
        cluster: Some(ID),
        roles: roles.to_vec(),
        denied: denied.clone(),
    };
    let owners = admission(&[NodeRole::Store, NodeRole::FrontEnd]);
    let stores = admission(&[NodeRole::Store]);
    LinkSecurity {
        server: server_config(&shown, pem, owners, true).unwrap(),
        client: Arc::new(client_config(Some(&shown), pem, stores).unwrap()),
        peers: Arc::new(Names(denied.clone())),
        also_loopback: false,
    }
}

fn authority() -> Authority {
    Authority::create(ID, SystemTime::now()).unwrap().0
}

/// The error with which a secured store ends a link, and the client's.
fn refused(
    store: &Authority,
    client: Option<LinkSecurity>,
    node: Option<&'static str>,
) -> (LinkError, LinkError) {
    let world = World::new(21);
    let (server, other) = (world.process("s", HOST), world.process("c", OTHER));
    server
        .reactor()
        .secure_links(security(store, NodeRole::Store, "s1"));
    if let Some(client) = client {
        other.reactor().secure_links(client);
    }
    let served = serve(server.reactor(), |_, link| async move {
        link.recv().await.unwrap_err()
    });
    world.run_for(Duration::from_millis(1));
    let here = other.reactor().clone();
    let asked = other.reactor().spawn(async move {
        let link = connect_to(&here, &address(), node).await?;
        link.send(frame(&here, 0, b"hello", 0)).await?;
        link.recv().await.map(drop)
    });
    let asked = world.run(LIMIT, asked).unwrap().unwrap_err();
    (world.run(LIMIT, served).unwrap(), asked)
}

#[test]
fn frames_arrive_whole_and_in_order_over_tls() {
    let authority = authority();
    let world = World::new(20);
    let (server, client) = (world.process("s", HOST), world.process("c", OTHER));
    server
        .reactor()
        .secure_links(security(&authority, NodeRole::Store, "s1"));
    client
        .reactor()
        .secure_links(security(&authority, NodeRole::FrontEnd, "o1"));
    // Handed on after the first frame, as a store does with a link whose lane is on another thread.
    let echo = serve(server.reactor(), |reactor, link| async move {
        let first = link.recv().await.unwrap();
        let link = Link::adopt(&reactor, link.detach().unwrap());
        link.send(first).await.unwrap();
        for _ in 1..200 {
            let frame = link.recv().await.unwrap();
            link.send(frame).await.unwrap();
        }
        link.drained().await;
    });
    world.run_for(Duration::from_millis(1));
    let here = client.reactor().clone();
    let exchange = client.reactor().spawn(async move {
        let link = connect_to(&here, &address(), Some("s1")).await.unwrap();
        let (sender, reactor) = (link.clone(), here.clone());
        drop(here.spawn(async move {
            for frame in frames(&reactor) {
                sender.send(frame).await.unwrap();
            }
        }));
        for expected in frames(&here) {
            assert_same(&link.recv().await.unwrap(), &expected);
        }
    });
    world.run(LIMIT, exchange).unwrap();
    world.run(LIMIT, echo).unwrap();
}

#[test]
fn nothing_is_taken_any_more_from_a_peer_that_comes_to_be_denied() {
    let (ours, denied) = (authority(), Denied::nobody());
    let world = World::new(23);
    let (server, client) = (world.process("s", HOST), world.process("c", OTHER));
    server
        .reactor()
        .secure_links(security_with(&ours, NodeRole::Store, "s1", &denied));
    client
        .reactor()
        .secure_links(security(&ours, NodeRole::FrontEnd, "o1"));
    let served = serve(server.reactor(), |_, link| async move {
        let mut frames = 0;
        loop {
            match link.recv().await {
                Ok(frame) => link.send(frame).await.unwrap(),
                Err(error) => return (frames, error),
            }
            frames += 1;
        }
    });
    world.run_for(Duration::from_millis(1));
    let here = client.reactor().clone();
    let asked = client.reactor().spawn(async move {
        let link = connect_to(&here, &address(), Some("s1")).await.unwrap();
        // A change of the list that does not concern it changes nothing.
        for others in [["o2"], ["o1"]] {
            link.send(frame(&here, 0, b"hello", 0)).await.unwrap();
            link.recv().await.unwrap();
            denied.replace(others.map(|name| IdentitySubject::Node(name.to_owned())));
        }
        link.send(frame(&here, 0, b"hello", 0)).await.unwrap();
        link.recv().await.unwrap_err()
    });
    world.run(LIMIT, asked).unwrap();
    let revoked = LinkError::Tls(CertificateError::Revoked.into());
    assert_eq!(world.run(LIMIT, served).unwrap(), (2, revoked));
}

#[test]
fn a_plain_client_is_refused() {
    let (store, _) = refused(&authority(), None, None);
    assert!(matches!(store, LinkError::Tls(_)), "{store:?}");
}

#[test]
fn a_client_of_another_authority_is_refused() {
    let foreign = security(&authority(), NodeRole::FrontEnd, "o1");
    let (_, client) = refused(&authority(), Some(foreign), None);
    assert!(matches!(client, LinkError::Tls(_)), "{client:?}");
}

#[test]
fn a_client_of_another_role_is_refused() {
    let ours = authority();
    let admin = security(&ours, NodeRole::Client, "alice");
    let (store, client) = refused(&ours, Some(admin), None);
    let why = CertificateError::ApplicationVerificationFailure;
    assert_eq!(store, LinkError::Tls(why.into()));
    assert!(matches!(client, LinkError::Tls(_)), "{client:?}");
}

#[test]
fn a_store_that_is_another_is_not_spoken_with() {
    let ours = authority();
    let owner = security(&ours, NodeRole::FrontEnd, "o1");
    let (_, client) = refused(&ours, Some(owner), Some("s2"));
    let why = CertificateError::NotValidForName;
    assert_eq!(client, LinkError::Tls(why.into()));
}

#[test]
fn a_plain_store_is_not_spoken_with() {
    let world = World::new(22);
    let (server, other) = (world.process("s", HOST), world.process("c", OTHER));
    let owner = security(&authority(), NodeRole::FrontEnd, "o1");
    other.reactor().secure_links(owner);
    let served = serve(server.reactor(), |_, link| async move {
        link.recv().await.unwrap_err()
    });
    world.run_for(Duration::from_millis(1));
    let here = other.reactor().clone();
    let asked = other
        .reactor()
        .spawn(async move { connect(&here, &address()).await.map(drop) });
    let store = world.run(LIMIT, served).unwrap();
    assert!(
        matches!(store, LinkError::Frame(FrameError::Magic { .. })),
        "{store:?}"
    );
    assert!(world.run(LIMIT, asked).unwrap().is_err());
}
