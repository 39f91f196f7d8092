//! Path, query and body of a request, with problems instead of the framework's own refusals.

use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{FromRequest, FromRequestParts, Path, Query, Request};
use axum::http::request::Parts;
use axum::http::{StatusCode, header};
use serde::de::DeserializeOwned;

use super::BODY_BYTES_MAX;
use super::problem::Refused;

/// A JSON body.
pub(super) struct JsonBody<T>(pub(super) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for JsonBody<T> {
    type Rejection = Refused;

    async fn from_request(request: Request, state: &S) -> Result<Self, Refused> {
        let kind = request
            .headers()
            .get(header::CONTENT_TYPE)
            .and_then(|v| v.to_str().ok());
        let essence = kind.and_then(|kind| kind.split(';').next()).map(str::trim);
        if !essence.is_some_and(|essence| essence.eq_ignore_ascii_case("application/json")) {
            return Err(Refused::not_json());
        }
        let body = Bytes::from_request(request, state)
            .await
            .map_err(refuse_body)?;
        let read = serde_json::from_slice(&body).map(Self);
        read.map_err(|error| Refused::malformed(format!("the body cannot be read: {error}")))
    }
}

fn refuse_body(rejection: BytesRejection) -> Refused {
    if rejection.status() == StatusCode::PAYLOAD_TOO_LARGE {
        Refused::too_large(BODY_BYTES_MAX)
    } else {
        Refused::malformed(format!(
            "the body did not arrive: {}",
            rejection.body_text()
        ))
    }
}

/// One part of the path, such as a volume's name or a node's id.
pub(super) struct PathPart<T>(pub(super) T);

impl<S: Send + Sync, T: DeserializeOwned + Send> FromRequestParts<S> for PathPart<T> {
    type Rejection = Refused;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Refused> {
        let Path(part) = Path::from_request_parts(parts, state)
            .await
            .map_err(|rejection| Refused::malformed(rejection.body_text()))?;
        Ok(Self(part))
    }
}

/// The query.
pub(super) struct QueryOf<T>(pub(super) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for QueryOf<T> {
    type Rejection = Refused;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Refused> {
        let Query(query) = Query::from_request_parts(parts, state)
            .await
            .map_err(|rejection| Refused::malformed(rejection.body_text()))?;
        Ok(Self(query))
    }
}
