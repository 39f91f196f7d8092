//! `/v1/join-tokens`, `/v1/enrol` and `/v1/identities`: who may join, and who is let in no more.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use ashlar_identity::{Authority, AuthorityError, Identity, Subject, TokenText};
use ashlar_proto::api::{
    AllowIdentity, CreateJoinToken, DeniedIdentities, DenyIdentity, Enrol, Enrolled,
    IdentityDenied, JoinToken, JoinTokenCreated, List, NodeRole, RenewCertificate, Secret,
};
use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;

use super::clients::{DenyQuery, FENCE_WAIT};
use super::extract::{JsonBody, PathPart, QueryOf};
use super::operation::op;
use super::peer::Caller;
use super::problem::{Answer, Code, Refused};
use super::routes::Routes;
use super::{AfterQuery, Api, Shared, unless_stopping};
use crate::audited::Asked;
use crate::meta::MetaStore;
use crate::refusal::{IdentityRefusal, Refusal};
use crate::state::TokenUse;
use crate::tls::ConductorTls;

/// The routes of this file.
pub(super) fn routes<M: MetaStore>() -> Routes<Arc<Api<M>>> {
    Routes::new()
        .get(
            "/v1/join-tokens",
            tokens::<M>,
            op("listJoinTokens", "Lists join tokens, without their secrets")
                .gives::<List<JoinToken>>(),
        )
        .post(
            "/v1/join-tokens",
            create::<M>,
            op(
                "createJoinToken",
                "Makes a token with which a node may join; it is shown this once",
            )
            .body::<CreateJoinToken>()
            .gives::<JoinTokenCreated>()
            .refuses(&[Code::NoAuthority]),
        )
        .delete(
            "/v1/join-tokens/{id}",
            revoke::<M>,
            op("revokeJoinToken", "Makes a join token good no more")
                .done("it is gone")
                .refuses(&[Code::JoinTokenNotFound]),
        )
        .post(
            "/v1/enrol",
            enrol::<M>,
            op(
                "enrol",
                "Gives a node its first certificate, for a join token",
            )
            .body::<Enrol>()
            .gives::<Enrolled>()
            .refuses(&[
                Code::NoAuthority,
                Code::JoinTokenUnknown,
                Code::JoinTokenExpired,
                Code::JoinTokenUsed,
                Code::JoinTokenOfOther,
            ]),
        )
        .post(
            "/v1/enrol/renew",
            renew::<M>,
            op("renewCertificate", "Gives a node its next certificate")
                .body::<RenewCertificate>()
                .gives::<Enrolled>()
                .refuses(&[Code::NoAuthority]),
        )
        .get(
            "/v1/identities/denied",
            denied::<M>,
            op(
                "listDeniedIdentities",
                "Lists the nodes and certificates that are let in no more",
            )
            .query::<AfterQuery>()
            .gives::<DeniedIdentities>(),
        )
        .post(
            "/v1/identities/deny",
            deny::<M>,
            op(
                "denyIdentity",
                "Lets a node or a certificate in no more, and takes the volumes that it has from it",
            )
            .query::<DenyQuery>()
            .body::<DenyIdentity>()
            .gives::<IdentityDenied>(),
        )
        .post(
            "/v1/identities/allow",
            allow::<M>,
            op("allowIdentity", "Takes that back")
                .body::<AllowIdentity>()
                .done("it is let in")
                .refuses(&[Code::IdentityNotDenied]),
        )
}

fn tls<M>(api: &Api<M>) -> Answer<&ConductorTls> {
    api.tls.as_ref().ok_or_else(Refused::no_authority)
}

fn authority<M>(api: &Api<M>) -> Answer<&Authority> {
    let authority = tls(api)?.authority.as_deref();
    authority.ok_or_else(Refused::no_authority)
}

async fn tokens<M: MetaStore>(State(api): Shared<M>) -> Json<List<JoinToken>> {
    api.cluster
        .read(|view| super::list(view.state.revision(), view.state.join_tokens()))
}

async fn create<M: MetaStore>(
    State(api): Shared<M>,
    JsonBody(request): JsonBody<CreateJoinToken>,
) -> Answer<Json<JoinTokenCreated>> {
    let token = TokenText::make(authority(&api)?.certificate_der());
    let token = token.ok_or_else(Refused::no_randomness)?;
    let (id, hash) = (token.id.clone(), token.secret.hash());
    let described = api.cluster.create_join_token(request, id, hash).await?;
    tracing::info!(id = described.id, role = %described.role, "join token made");
    Ok(Json(JoinTokenCreated {
        described,
        token: Secret::new(token.reveal()),
    }))
}

async fn revoke<M: MetaStore>(
    State(api): Shared<M>,
    PathPart(id): PathPart<String>,
) -> Answer<StatusCode> {
    api.cluster.revoke_join_token(id.clone()).await?;
    tracing::info!(id, "join token revoked");
    Ok(StatusCode::NO_CONTENT)
}

async fn enrol<M: MetaStore>(
    State(api): Shared<M>,
    JsonBody(request): JsonBody<Enrol>,
) -> Answer<Json<Enrolled>> {
    let enrolled = enrol_node(&api, &request).await;
    match &enrolled {
        Ok(answer) => tracing::info!(name = request.name, role = %answer.role, "node enrolled"),
        Err(refused) => tracing::warn!(code = refused.code(), "enrolment refused: {refused:?}"),
    }
    enrolled.map(Json)
}

async fn enrol_node<M: MetaStore>(api: &Api<M>, request: &Enrol) -> Answer<Enrolled> {
    let (tls, authority) = (tls(api)?, authority(api)?);
    let token = request.token.reveal().parse::<TokenText>();
    let token = token.map_err(|_| Refusal::from(IdentityRefusal::TokenUnknown))?;
    let shown = TokenUse {
        id: token.id,
        hash: token.secret.hash(),
        name: request.name.clone(),
        request: ashlar_identity::fingerprint(request.request.as_bytes()),
    };
    if api.cluster.knows_join_token(&shown)
        && let Some(asked) = Asked::current()
    {
        asked.name(format!("join-token {}", shown.id), "join-token");
    }
    // A request that cannot be signed uses up no token; signing is looked at only by who has one.
    let role = api.cluster.look_at_join_token(&shown)?;
    let enrolled = sign(tls, authority, role, &request.name, &request.request)?;
    api.cluster.use_join_token(shown).await?;
    Ok(enrolled)
}

async fn renew<M: MetaStore>(
    State(api): Shared<M>,
    caller: Caller,
    JsonBody(request): JsonBody<RenewCertificate>,
) -> Answer<Json<Enrolled>> {
    let identity = &caller.node()?.identity;
    let refusal = |view: &crate::cluster::View| view.state.refuse_denied_node(&identity.name);
    api.cluster.read(refusal).map_err(Refusal::from)?;
    let (tls, authority) = (tls(&api)?, authority(&api)?);
    let renewed = sign(
        tls,
        authority,
        identity.role,
        &identity.name,
        &request.request,
    )?;
    tracing::info!(name = identity.name, role = %identity.role, "certificate renewed");
    Ok(Json(renewed))
}

fn sign(
    tls: &ConductorTls,
    authority: &Authority,
    role: NodeRole,
    name: &str,
    request: &str,
) -> Answer<Enrolled> {
    let subject = Subject {
        identity: Identity {
            cluster: tls.cluster,
            role,
            name: name.to_owned(),
        },
        hosts: Vec::new(),
        ttl: tls.certificate_ttl,
    };
    let signed = authority.sign(request, &subject, SystemTime::now());
    let certificate = signed.map_err(|error| match error {
        AuthorityError::Request(error) => Refused::malformed(error.to_string()),
        error => {
            tracing::error!(%error, "no certificate could be issued");
            Refused::no_authority()
        }
    })?;
    Ok(Enrolled {
        role,
        certificate,
        authority: tls.authority_pem.clone(),
    })
}

async fn denied<M: MetaStore>(
    State(api): Shared<M>,
    QueryOf(query): QueryOf<AfterQuery>,
) -> Answer<Json<DeniedIdentities>> {
    let wait = super::wait(query.wait_ms, Duration::ZERO);
    let work = async { Ok(api.cluster.denied_identities(query.after, wait).await) };
    unless_stopping(&api, work).await.map(Json)
}

async fn deny<M: MetaStore>(
    State(api): Shared<M>,
    QueryOf(query): QueryOf<DenyQuery>,
    JsonBody(request): JsonBody<DenyIdentity>,
) -> Answer<Json<IdentityDenied>> {
    let wait = super::wait(query.wait_ms, FENCE_WAIT);
    let subject = request.subject.clone();
    let on_denied = || {
        tracing::warn!(?subject, "an identity is denied");
        take_over_denials(&api);
    };
    let work = async { Ok(api.cluster.deny_identity(request, wait, on_denied).await?) };
    unless_stopping(&api, work).await.map(Json)
}

async fn allow<M: MetaStore>(
    State(api): Shared<M>,
    JsonBody(request): JsonBody<AllowIdentity>,
) -> Answer<StatusCode> {
    let subject = request.subject.clone();
    api.cluster.allow_identity(request).await?;
    tracing::info!(?subject, "an identity is allowed again");
    take_over_denials(&api);
    Ok(StatusCode::NO_CONTENT)
}

/// Lets in and keeps out as the metadata say now.
pub(crate) fn take_over_denials<M: MetaStore>(api: &Api<M>) {
    if let Some(tls) = &api.tls {
        let list = api.cluster.read(|view| view.state.denied_identities());
        tls.denied
            .replace(list.items.into_iter().map(|one| one.subject));
    }
}

/// Keeps the denials as the metadata say, until the conductor stops.
pub(crate) async fn follow_denials<M: MetaStore>(api: Arc<Api<M>>) {
    let mut revisions = api.cluster.revisions();
    let mut stopping = api.stopping.clone();
    loop {
        take_over_denials(&api);
        tokio::select! {
            changed = revisions.changed() => if changed.is_err() { return },
            _ = stopping.wait_for(|stopping| *stopping) => return,
        }
    }
}
