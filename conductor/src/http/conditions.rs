//! `Idempotency-Key`, `If-Match` and `ETag`: what a request says of when it is to be carried out.
//!
//! Invariants: a header that a route does not go by is refused, never passed over; an `ETag` is read
//! before the object is, so that it is never newer than what it comes with.

use std::fmt::Write;
use std::sync::Arc;

use ashlar_proto::api::Revision;
use aws_lc_rs::digest;
use axum::body::{Body, to_bytes};
use axum::extract::rejection::RawPathParamsRejection;
use axum::extract::{MatchedPath, RawPathParams, Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::headers::KEY_BYTES_MAX;
use super::operation::{Asked, Operation};
use super::problem::{Answer, Refused};
use super::{Api, BODY_BYTES_MAX};
use crate::access::caller::{Caller, Means};
use crate::asking::{Asking, Expected, Keyed};
use crate::meta::MetaStore;
use crate::refusal::Refusal;
use crate::settings::pool_named;
use crate::state::Object;

const KEY: &str = "idempotency-key";
const REPLAYED: &str = "idempotency-replayed";

/// Most revisions that one request names.
const TAGS_MAX: usize = 64;

/// By which headers each route goes.
pub(super) struct Conditions<M> {
    api: Arc<Api<M>>,
    routes: Vec<(Method, &'static str, Asked)>,
}

impl<M: MetaStore> Conditions<M> {
    /// As the routes say.
    pub(super) fn new(api: Arc<Api<M>>, operations: &[Operation]) -> Arc<Self> {
        let routes = operations.iter();
        let routes = routes.map(|one| (one.method.clone(), one.path, one.asked));
        Arc::new(Self {
            api,
            routes: routes.collect(),
        })
    }

    fn asked(&self, method: &Method, path: &str) -> Asked {
        let mut routes = self.routes.iter();
        let found = routes.find(|(of, at, _)| of == method && *at == path);
        found.map(|(_, _, asked)| *asked).unwrap_or_default()
    }
}

/// Serves a request as its headers say.
pub(super) async fn apply<M: MetaStore>(
    State(conditions): State<Arc<Conditions<M>>>,
    path: MatchedPath,
    parts: Result<RawPathParams, RawPathParamsRejection>,
    request: Request,
    next: Next,
) -> Response {
    let parts = match parts {
        Ok(parts) => parts,
        Err(rejection) => return Refused::malformed(rejection.body_text()).into_response(),
    };
    let asked = conditions.asked(request.method(), path.as_str());
    let object = asked
        .tagged
        .then(|| object(path.as_str(), &parts))
        .flatten();
    if *request.method() == Method::GET {
        return tagged(&conditions, object, request, next).await;
    }
    match condition(asked, object, request).await {
        Ok((asking, request)) => {
            let used = conditions.api.cluster.read(|view| {
                let done = asking.done(&view.state);
                done.map(|_| ()).map_err(Refusal::from)
            });
            if let Err(refusal) = used {
                return Refused::from(refusal).into_response();
            }
            let mut response = Arc::clone(&asking).scope(next.run(request)).await;
            if asking.is_replayed() && response.status().is_success() {
                let yes = HeaderValue::from_static("true");
                response.headers_mut().insert(REPLAYED, yes);
            }
            response
        }
        Err(refused) => refused.into_response(),
    }
}

/// Answers a question with the `ETag` of its object.
async fn tagged<M: MetaStore>(
    conditions: &Conditions<M>,
    object: Option<Object>,
    request: Request,
    next: Next,
) -> Response {
    let cluster = &conditions.api.cluster;
    let revision = object.and_then(|of| cluster.read(|view| view.state.revision_of(&of)));
    let mut response = next.run(request).await;
    if let Some(revision) = revision.filter(|_| response.status() == StatusCode::OK)
        && let Ok(tag) = HeaderValue::try_from(format!("\"{}\"", revision.0))
    {
        response.headers_mut().insert(header::ETAG, tag);
    }
    response
}

/// The object that a path names.
fn object(path: &str, parts: &RawPathParams) -> Option<Object> {
    let part = |name: &str| {
        let mut parts = parts.iter();
        let found = parts.find(|(key, _)| *key == name);
        found.map(|(_, value)| value.to_owned())
    };
    let mut segments = path.trim_start_matches("/v1/").split('/');
    match (segments.next()?, segments.next()) {
        ("volumes", Some(_)) if path.ends_with("/{snapshot}") => {
            Some(Object::Snapshot(part("name")?, part("snapshot")?))
        }
        ("volumes", Some(_)) => Some(Object::Volume(part("name")?)),
        ("targets", Some(_)) => Some(Object::Target(part("name")?.parse().ok()?)),
        ("nodes", Some(_)) => Some(Object::Node(part("id")?)),
        ("disks", Some(_)) => Some(Object::Disk(part("id")?.parse().ok()?)),
        ("space", None) => Some(Object::Space),
        ("iscsi", Some("discovery")) => Some(Object::Discovery),
        ("config", Some("pools")) => Some(Object::Pool(pool_named(&part("pool")?).ok()?)),
        _ => None,
    }
}

/// What the headers say, and the request with the body that was read for that.
async fn condition(
    asked: Asked,
    object: Option<Object>,
    request: Request,
) -> Answer<(Arc<Asking>, Request)> {
    let expected = expected(asked, object, request.headers())?;
    let Some(key) = single(request.headers(), KEY)? else {
        return Ok((Asking::new(None, expected), request));
    };
    if !asked.keyed {
        return Err(Refused::malformed("this route takes no `Idempotency-Key`"));
    }
    let fits =
        (1..=KEY_BYTES_MAX).contains(&key.len()) && key.bytes().all(|b| b.is_ascii_graphic());
    if !fits {
        return Err(Refused::malformed(format!(
            "`Idempotency-Key` is 1 to {KEY_BYTES_MAX} visible ASCII characters"
        )));
    }
    let (parts, body) = request.into_parts();
    let body = to_bytes(body, BODY_BYTES_MAX).await;
    let body = body.map_err(|_| Refused::too_large(BODY_BYTES_MAX))?;
    let target = parts
        .uri
        .path_and_query()
        .map_or("", |target| target.as_str());
    let request = hash(&[
        parts.method.as_str().as_bytes(),
        b" ",
        target.as_bytes(),
        b"\n",
        &body,
    ]);
    let key = key_of(parts.extensions.get::<Caller>(), &key);
    let keyed = Some(Keyed { key, request });
    let request = Request::from_parts(parts, Body::from(body));
    Ok((Asking::new(keyed, expected), request))
}

fn expected(asked: Asked, object: Option<Object>, headers: &HeaderMap) -> Answer<Option<Expected>> {
    let Some(tags) = single(headers, header::IF_MATCH.as_str())? else {
        return if asked.needs_match {
            Err(Refused::no_match())
        } else {
            Ok(None)
        };
    };
    if !asked.tagged {
        return Err(Refused::malformed("this route takes no `If-Match`"));
    }
    let unread = || {
        Refused::malformed(
            "`If-Match` cannot be read: send the `ETag` that came with the object, or `*`",
        )
    };
    let revisions = match tags.trim() {
        "*" => None,
        tags => Some(revisions(tags).ok_or_else(unread)?),
    };
    // What a path names that is no name is not found by whoever reads it.
    Ok(object.map(|object| Expected { object, revisions }))
}

fn revisions(tags: &str) -> Option<Vec<Revision>> {
    let tags = tags.split(',').take(TAGS_MAX).map(|tag| {
        let digits = tag.trim().strip_prefix('"')?.strip_suffix('"')?;
        let is_number = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
        digits.parse().ok().filter(|_| is_number).map(Revision)
    });
    tags.collect()
}

/// A header that may be there once.
fn single(headers: &HeaderMap, name: &str) -> Answer<Option<String>> {
    let mut values = headers.get_all(name).iter();
    let (first, second) = (values.next(), values.next());
    match (first, second) {
        (None, _) => Ok(None),
        (Some(value), None) => match value.to_str() {
            Ok(text) => Ok(Some(text.to_owned())),
            Err(_) => Err(Refused::malformed(format!("`{name}` is no ASCII text"))),
        },
        (Some(_), Some(_)) => Err(Refused::malformed(format!("`{name}` is there twice"))),
    }
}

/// By what the key of a caller is known: keys of others are other keys. Who shows another credential of the
/// same name is the same caller.
fn key_of(caller: Option<&Caller>, key: &str) -> String {
    let (kind, name): (&[u8], &str) = match caller {
        None => (b"nobody", ""),
        Some(caller) if caller.means == Means::Certificate => (b"node", &caller.name),
        Some(caller) => (b"user", &caller.name),
    };
    let length = u64::try_from(name.len()).unwrap_or(u64::MAX);
    hash(&[
        kind,
        b" ",
        &length.to_le_bytes(),
        name.as_bytes(),
        key.as_bytes(),
    ])
}

/// By what a request, or who asks, is known to be the same.
fn hash(parts: &[&[u8]]) -> String {
    let mut context = digest::Context::new(&digest::SHA256);
    for part in parts {
        context.update(part);
    }
    let mut text = String::with_capacity(digest::SHA256_OUTPUT_LEN * 2);
    for byte in context.finish().as_ref() {
        // Writing to a string fails never.
        let _ = write!(text, "{byte:02x}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_are_revisions() {
        assert_eq!(revisions("\"17\""), Some(vec![Revision(17)]));
        let two = Some(vec![Revision(1), Revision(2)]);
        assert_eq!(revisions("\"1\", \"2\""), two);
        for tags in ["17", "\"\"", "\"x\"", "W/\"1\"", "\"+1\"", "\"1\",", "\""] {
            assert_eq!(revisions(tags), None, "{tags}");
        }
    }

    #[test]
    fn requests_that_differ_have_other_hashes() {
        let of = |target: &str, body: &str| hash(&[target.as_bytes(), b"\n", body.as_bytes()]);
        let first = of("/v1/volumes", "{}");
        assert_eq!(first.len(), 64);
        assert_eq!(first, of("/v1/volumes", "{}"));
        assert_ne!(first, of("/v1/volumes", "{ }"));
        assert_ne!(first, of("/v1/volumes?wait_ms=1", "{}"));
    }

    #[test]
    fn keys_of_others_are_other_keys() {
        let caller = |name: &str, means| Caller {
            means,
            ..Caller::node(name.to_owned(), ashlar_proto::api::Role::Store)
        };
        let by_key = caller("ada", Means::Key("1".to_owned()));
        let by_token = caller("ada", Means::Token("2".to_owned()));
        let (other, node) = (
            caller("eve", Means::Open),
            caller("ada", Means::Certificate),
        );
        let own = key_of(Some(&by_key), "k");
        assert_eq!(own, key_of(Some(&by_token), "k"));
        assert_ne!(own, key_of(Some(&other), "k"));
        assert_ne!(own, key_of(Some(&node), "k"));
        assert_ne!(own, key_of(Some(&by_key), "l"));
        assert_ne!(own, key_of(None, "k"));
    }
}
