//! What an answer does not tell those who are bound to projects: of which snapshot a clone was made, where that
//! is one of another project, and which clones of other projects keep a snapshot.
//!
//! A refusal comes with its answer ([`Naming`]) and is told anew. Of other answers it goes by the JSON of the answer, so that it holds for every route that shows a volume or a snapshot, and for
//! every line of a watch. Invariant: the ids and sizes of an origin stay: without them a clone would pass for a
//! volume of zeroes.

use axum::body::{Body, to_bytes};
use axum::http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde_json::Value;

use super::problem::{Naming, Refused};
use crate::access::caller::Caller;

/// The answer as that caller gets it.
pub(super) async fn answer(caller: &Caller, mut response: Response) -> Response {
    if let Some(Naming(refusal)) = response.extensions_mut().remove::<Naming>()
        && caller.projects.is_some()
    {
        let told = refusal.seen_by(|volume| caller.sees(volume));
        return Refused::from(told).into_response();
    }
    let kind = response.headers().get(CONTENT_TYPE);
    let is_json = kind.is_some_and(|kind| kind.as_bytes().starts_with(b"application/json"));
    if caller.projects.is_none() || !is_json {
        return response;
    }
    let (mut parts, body) = response.into_parts();
    // It is our own answer, which lies in memory as a whole already.
    let Ok(bytes) = to_bytes(body, usize::MAX).await else {
        return Refused::malformed("the answer cannot be read").into_response();
    };
    let told = serde_json::from_slice::<Value>(&bytes).ok();
    let veiled = told.and_then(|mut told| veil(caller, &mut told).then(|| told.to_string()));
    let body = match veiled {
        Some(text) => {
            parts.headers.remove(CONTENT_LENGTH);
            Body::from(text)
        }
        None => Body::from(bytes),
    };
    Response::from_parts(parts, body)
}

/// As JSON, as that caller gets it.
pub(super) fn text(caller: Option<&Caller>, told: &impl Serialize) -> Option<String> {
    let Some(caller) = caller.filter(|caller| caller.projects.is_some()) else {
        return serde_json::to_string(told).ok();
    };
    let mut told = serde_json::to_value(told).ok()?;
    veil(caller, &mut told);
    Some(told.to_string())
}

/// Blanks the names of origins that are not the caller's to see; whether there were any.
fn veil(caller: &Caller, told: &mut Value) -> bool {
    match told {
        Value::Array(items) => {
            let veiled = items.iter_mut().map(|item| veil(caller, item));
            veiled.fold(false, |any, one| any | one)
        }
        Value::Object(fields) => {
            let veiled = fields.iter_mut().map(|(name, value)| {
                (name == "origin" && blank(caller, value)) | veil(caller, value)
            });
            veiled.fold(false, |any, one| any | one)
        }
        _ => false,
    }
}

fn blank(caller: &Caller, origin: &mut Value) -> bool {
    let name = origin.get("volume_name").and_then(Value::as_str);
    if name.is_none_or(|name| caller.sees(name)) {
        return false;
    }
    for field in ["volume_name", "snapshot"] {
        if let Some(value) = origin.get_mut(field) {
            *value = Value::String(String::new());
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use axum::Json;
    use serde_json::json;

    use super::*;
    use crate::access::caller::Means;
    use crate::refusal::{Refusal, SnapshotRefusal};

    fn bound(projects: Option<&[&str]>) -> Caller {
        let owned = |projects: &[&str]| projects.iter().map(|&one| one.to_owned()).collect();
        Caller {
            projects: projects.map(owned),
            ..Caller::free(Means::Loopback)
        }
    }

    fn clone_of(volume: &str, snapshot: &str) -> Value {
        json!({"name": "shop/c", "origin": {
            "volume": "01", "volume_name": volume, "layer": 3, "snapshot": snapshot, "bytes": 4096,
        }})
    }

    async fn shown(caller: &Caller, told: Value) -> Value {
        let response = answer(caller, Json(told).into_response()).await;
        let bytes = to_bytes(response.into_body(), usize::MAX).await.unwrap();
        serde_json::from_slice(&bytes).unwrap()
    }

    #[tokio::test]
    async fn clones_of_other_projects_are_counted_and_not_named() {
        let refusal = |clones: &[&str]| SnapshotRefusal::HasClones {
            volume: "shop/v".to_owned(),
            snapshot: "s".to_owned(),
            clones: clones.iter().map(|&one| one.to_owned()).collect(),
            count: clones.len(),
        };
        let told = async |caller: &Caller, clones: &[&str]| {
            let refused = Refused::from(Refusal::from(refusal(clones)));
            let response = answer(caller, refused.into_response()).await;
            let bytes = to_bytes(response.into_body(), usize::MAX).await.unwrap();
            let problem: Value = serde_json::from_slice(&bytes).unwrap();
            assert_eq!(problem["code"], "snapshot-has-clones");
            problem["detail"].as_str().unwrap().to_owned()
        };
        let many = [
            "bank/1", "bank/2", "bank/3", "bank/4", "bank/5", "shop/a@t", "bank/6",
        ];
        let shop = bound(Some(&["shop"]));
        let text = told(&shop, &many).await;
        assert!(
            text.contains("`shop/a@t` and 6 others") && !text.contains("bank"),
            "{text}"
        );
        let text = told(&shop, &many[..2]).await;
        assert!(
            text.contains("2 clones of other projects show") && !text.contains("bank"),
            "{text}"
        );
        let text = told(&shop, &["a"]).await;
        assert!(text.contains("a clone of another project shows"), "{text}");
        let text = told(&bound(None), &many).await;
        assert!(text.contains("`bank/5` and 2 others"), "{text}");
    }

    #[tokio::test]
    async fn names_of_origins_of_other_projects_are_blank() {
        let shop = bound(Some(&["shop"]));
        let list =
            |volume, snapshot| json!({"items": [clone_of(volume, snapshot), {"origin": null}]});
        assert_eq!(shown(&shop, list("bank/a", "s")).await, list("", ""));
        assert_eq!(shown(&shop, list("a", "s")).await, list("", ""));
        for (caller, volume) in [
            (&shop, "shop/a"),
            (&bound(Some(&["shop", "bank"])), "bank/a"),
            (&bound(None), "bank/a"),
        ] {
            assert_eq!(shown(caller, list(volume, "s")).await, list(volume, "s"));
        }
        let line = text(Some(&shop), &clone_of("bank/a", "s")).unwrap();
        assert!(!line.contains("bank") && line.contains("4096"), "{line}");
        assert!(
            text(None, &clone_of("bank/a", "s"))
                .unwrap()
                .contains("bank/a")
        );
    }
}
