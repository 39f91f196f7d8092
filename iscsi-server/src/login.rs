//! The login phase of one connection (RFC 7143 sections 6.3 and 11.12): who it is, proof of that,
//! and the negotiation, up to the full feature phase.
//!
//! ```text
//! first request ─▶ identity ─▶ security stage ─▶ operational stage ─▶ session, or its addition
//!                    catalog      CHAP              negotiation         reinstatement
//! ```
//!
//! Invariants: an initiator has a fixed time for all of it, our own time not counted; it can make
//! the server hold no more than one text of [`TEXT_BYTES_MAX`]; nobody gets past the security stage
//! who has not proven what the catalog asks for.

mod identity;
pub(crate) mod negotiation;
mod security;
mod status;
mod wire;

pub(crate) use identity::{Claim, normal_name};
pub(crate) use status::LoginStatus;

use crate::catalog::ServerIdentity;
use crate::catalog::TargetCatalog;
use crate::connection::LoggedIn;
use crate::discovery::PORTAL_GROUP;
use crate::link::{Close, Link};
use crate::parameters::ConnectionParameters;
use crate::pdu::LoginRequest;
use crate::session::Session;
use crate::sessions::{Newcomer, Registry};
use crate::text::{Pair, Text, parse};
use ashlar_front_end::{Input, TransportError};
use ashlar_reactor::Instant;
use identity::Identity;
use negotiation::{Negotiation, Scene};
use security::Security;
use std::future::Future;
use std::rc::Rc;
use std::time::Duration;

/// Longest text of one request, over all its PDUs.
const TEXT_BYTES_MAX: usize = 64 << 10;
/// Requests of one login, beyond which nothing sensible is to come.
const REQUESTS_MAX: usize = 64;

/// How long commands of a session that is reinstated may take to end: after that the initiator is
/// told to come again.
const ENDING_MAX: Duration = Duration::from_secs(30);

const SECURITY: u8 = 0;
const OPERATIONAL: u8 = 1;
const FULL_FEATURE: u8 = 3;

/// Why a login came to nothing.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LoginError {
    /// The connection failed.
    #[error(transparent)]
    Transport(#[from] TransportError),
    /// The initiator took too long.
    #[error("initiator did not finish its login in time")]
    TimedOut,
    /// It sent something that is no login request.
    #[error("initiator sent something that is no login request")]
    NoLogin,
    /// It sent more than a login takes.
    #[error("initiator sent more than a login takes")]
    TooMuch,
    /// It was told so.
    #[error("login refused: {0}")]
    Refused(#[from] LoginStatus),
}

/// What a login leads to.
pub(crate) enum Admitted<C: TargetCatalog> {
    Normal(LoggedIn<C>),
    Discovery {
        parameters: ConnectionParameters,
        stat_sn: u32,
        /// The first number of its commands.
        cmd_sn: u32,
    },
}

/// A login under way.
pub(crate) struct Login<'a, C: TargetCatalog> {
    registry: &'a Rc<Registry<C>>,
    input: &'a mut Input,
    portal: &'a str,
    deadline: Instant,
    stat_sn: u32,
    requests: usize,
    stage: u8,
    first: Option<LoginRequest>,
    /// Of the server, once it is known.
    portal_group: u16,
    /// For the log, as soon as it is known.
    pub(crate) claim: Claim,
}

/// What a request leads to.
struct Step {
    answer: Text,
    /// The stage to go to.
    next: Option<u8>,
}

impl<'a, C: TargetCatalog> Login<'a, C> {
    pub(crate) fn new(
        registry: &'a Rc<Registry<C>>,
        input: &'a mut Input,
        portal: &'a str,
    ) -> Self {
        Self {
            deadline: registry.reactor.now() + registry.options.limits.handshake,
            registry,
            input,
            portal,
            stat_sn: 0,
            requests: 0,
            stage: SECURITY,
            first: None,
            portal_group: PORTAL_GROUP,
            claim: Claim::default(),
        }
    }

    /// Runs it. Who is refused has been told.
    ///
    /// # Errors
    /// [`LoginError`].
    pub(crate) async fn run(&mut self) -> Result<Admitted<C>, LoginError> {
        let result = self.negotiate().await;
        if let (Err(LoginError::Refused(status)), Some(first)) = (&result, self.first) {
            self.refuse(&first, *status).await?;
        }
        result
    }

    async fn negotiate(&mut self) -> Result<Admitted<C>, LoginError> {
        let (request, text) = self.request().await?;
        let keys = parse(&text).map_err(|_| LoginStatus::InitiatorError)?;
        self.claim = Claim::read(&keys)?;
        let registry = self.registry;
        let looking = Identity::look_up(registry, self.claim.clone(), &request);
        let identity = self.own_time(looking).await?;
        let scene = Scene {
            discovery: identity.target.is_none(),
            leading: identity.session.is_none(),
        };
        let mut security = Security::new(&registry.reactor, identity.secrets.clone());
        let mut negotiation = Negotiation::new(scene);
        let mut answer = Text::default();
        if let Some(target) = &identity.target {
            self.portal_group = self.own_time(portal_group(registry, self.portal)).await?;
            answer.put("TargetPortalGroupTag", &self.portal_group.to_string());
            if let Some(alias) = &target.alias {
                answer.put("TargetAlias", alias);
            }
        }
        self.stage = request.current_stage;
        let mut step = self.step(&request, &keys, answer, (&mut security, &mut negotiation))?;
        let mut request = request;
        loop {
            if step.next == Some(FULL_FEATURE) {
                return self
                    .complete(&request, identity, negotiation, step.answer)
                    .await;
            }
            self.respond(&request, step.next, 0, step.answer).await?;
            self.stage = step.next.unwrap_or(self.stage);
            let text;
            (request, text) = self.request().await?;
            let keys = parse(&text).map_err(|_| LoginStatus::InitiatorError)?;
            let parts = (&mut security, &mut negotiation);
            step = self.step(&request, &keys, Text::default(), parts)?;
        }
    }

    /// Acts on the keys of one request.
    fn step(
        &self,
        request: &LoginRequest,
        keys: &[Pair<'_>],
        mut answer: Text,
        (security, negotiation): (&mut Security, &mut Negotiation),
    ) -> Result<Step, LoginStatus> {
        if request.current_stage != self.stage {
            return Err(LoginStatus::InvalidRequest);
        }
        // What the first request said of these holds; initiators may repeat it.
        let keys: Vec<Pair<'_>> = {
            let others = keys.iter().filter(|(key, _)| !identity::KEYS.contains(key));
            others.copied().collect()
        };
        match self.stage {
            SECURITY => security.take(&keys, &mut answer)?,
            OPERATIONAL if !security.is_passed() => {
                return Err(LoginStatus::AuthenticationFailure);
            }
            OPERATIONAL => {
                for (key, value) in &keys {
                    let taken = negotiation.take(key, value, &mut answer);
                    taken.map_err(|_| LoginStatus::InitiatorError)?;
                }
                negotiation.declare(&mut answer);
            }
            _ => return Err(LoginStatus::InvalidRequest),
        }
        let next = request.transit.then_some(request.next_stage);
        match next {
            None => {}
            Some(OPERATIONAL | FULL_FEATURE) if request.next_stage > self.stage => {}
            Some(_) => return Err(LoginStatus::InvalidRequest),
        }
        let may_go = self.stage != SECURITY || security.may_go_on(next.is_some())?;
        Ok(Step {
            answer,
            next: next.filter(|_| may_go),
        })
    }

    /// Makes the session, or adds the connection to it, and says so.
    async fn complete(
        &mut self,
        request: &LoginRequest,
        identity: Identity<C>,
        negotiation: Negotiation,
        answer: Text,
    ) -> Result<Admitted<C>, LoginError> {
        let (session_parameters, parameters) = negotiation.finish();
        let Some(target) = &identity.target else {
            self.respond(request, Some(FULL_FEATURE), DISCOVERY_TSIH, answer)
                .await?;
            return Ok(Admitted::Discovery {
                parameters,
                stat_sn: self.stat_sn,
                cmd_sn: request.cmd_sn,
            });
        };
        let (session, link) = match &identity.session {
            Some(session) => self.add(session, request.cid).await?,
            None => {
                let newcomer = Newcomer {
                    initiator: &identity.claim.initiator,
                    isid: request.isid,
                    portal_group: self.portal_group,
                    first_cmd_sn: request.cmd_sn,
                    parameters: session_parameters,
                    cid: request.cid,
                };
                let catalog = Rc::clone(&self.registry.catalog);
                let ready = self.own_time(catalog.ready(target)).await;
                ready.map_err(identity::status)?;
                self.reinstate(&newcomer, &target.name).await?;
                self.registry.begin(target, &newcomer)
            }
        };
        if let Err(error) = self
            .respond(request, Some(FULL_FEATURE), session.tsih, answer)
            .await
        {
            session.leave(&link);
            return Err(error);
        }
        Ok(Admitted::Normal(LoggedIn {
            session,
            link,
            parameters,
            stat_sn: self.stat_sn,
            portal: self.portal.to_owned(),
        }))
    }

    /// Ends the session that the same initiator port has (section 6.3.5), and its tasks with it.
    async fn reinstate(
        &mut self,
        newcomer: &Newcomer<'_>,
        target: &str,
    ) -> Result<(), LoginStatus> {
        let registry = self.registry;
        while let Some(old) = registry.session(target, newcomer.initiator, newcomer.isid) {
            old.close(Close::Reinstated);
            self.ending(old.gone()).await?;
        }
        Ok(())
    }

    /// Waits for the end of what the login takes the place of, as long as that makes sense.
    async fn ending(&mut self, gone: impl Future<Output = ()>) -> Result<(), LoginStatus> {
        let reactor = self.registry.reactor.clone();
        let ended = self.own_time(reactor.timeout(ENDING_MAX, gone)).await;
        ended.map_err(|_| LoginStatus::Unavailable)
    }

    /// Adds a connection to a session; one of the same CID is replaced (section 6.3.4).
    async fn add(
        &mut self,
        session: &Rc<Session<C>>,
        cid: u16,
    ) -> Result<(Rc<Session<C>>, Rc<Link>), LoginStatus> {
        let links = session.links();
        if links.is_empty() {
            return Err(LoginStatus::NoSession);
        }
        let old = session.link(cid);
        let connections_max = usize::from(session.parameters.connections_max);
        if old.is_none() && links.len() >= connections_max {
            return Err(LoginStatus::TooManyConnections);
        }
        let link = Link::new(cid);
        // The session must not end with the old connection.
        session.join(&link);
        if let Some(old) = old {
            old.close(Close::Reinstated);
            if let Err(status) = self.ending(old.gone()).await {
                session.leave(&link);
                return Err(status);
            }
        }
        Ok((Rc::clone(session), link))
    }

    /// Awaits something of ours: its time is not the initiator's.
    async fn own_time<T>(&mut self, future: impl Future<Output = T>) -> T {
        let began = self.registry.reactor.now();
        let output = future.await;
        self.deadline += self.registry.reactor.now() - began;
        output
    }
}

/// What discovery sessions are called: they are never joined.
const DISCOVERY_TSIH: u16 = 1;

/// The portal group of the server, which initiators come to at `portal`.
async fn portal_group<C: TargetCatalog>(
    registry: &Registry<C>,
    portal: &str,
) -> Result<u16, LoginStatus> {
    let server = registry.catalog.server(portal).await;
    match server.map_err(|_| LoginStatus::Unavailable)? {
        ServerIdentity::Member { group, .. } => Ok(group),
        ServerIdentity::Alone => {
            let portals = &registry.options.portals;
            let own = portals.iter().find(|known| known.address == portal);
            let known = own.or(portals.first());
            Ok(known.map_or(PORTAL_GROUP, |portal| portal.group))
        }
    }
}
