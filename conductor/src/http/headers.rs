//! The headers that requests may have and answers get, for the document.

use axum::http::Method;
use serde_json::{Map, Value, json};

use super::operation::{Operation, Said};

/// Bytes of an idempotency key.
pub(super) const KEY_BYTES_MAX: usize = 255;

/// Those that a request may have.
pub(super) fn of_requests(operation: &Operation) -> Vec<Value> {
    let mut headers = Vec::new();
    if operation.asked.watch {
        headers.push(header(
            "Last-Event-ID",
            false,
            "With `Accept: text/event-stream`: goes on after this event, as `after` does.",
            &json!({"type": "string", "pattern": "^[0-9]+$"}),
        ));
    }
    if operation.asked.keyed {
        headers.push(header(
            "Idempotency-Key",
            false,
            "A text of the caller's own, a new one for each request. Sent again with it, the same \
             request is not carried out again: it is answered as it was, as things then stand. Kept \
             for a day, up to 8192 of them.",
            &json!({"type": "string", "pattern": "^[!-~]+$", "maxLength": KEY_BYTES_MAX}),
        ));
    }
    if operation.asked.tagged && operation.method != Method::GET {
        let about = "The request is for the object as it was at this `ETag`, or one of these; `*`: as \
             it may be.";
        let schema = json!({"type": "string", "pattern": TAGS});
        headers.push(header(
            "If-Match",
            operation.asked.needs_match,
            about,
            &schema,
        ));
    }
    headers
}

/// A list of entity tags (RFC 9110 section 8.8.3), or `*`.
const TAGS: &str = r#"^(\*|"[0-9]{1,19}"( *, *"[0-9]{1,19}")*)$"#;

fn header(name: &str, required: bool, about: &str, schema: &Value) -> Value {
    json!({
        "name": name,
        "in": "header",
        "required": required,
        "description": about,
        "schema": schema,
    })
}

/// Those that an answer gets.
pub(super) fn of_answers(operation: &Operation, _: &Said) -> Map<String, Value> {
    let mut headers = Map::new();
    if operation.asked.keyed {
        let about = "`true` where an earlier request of the same key was carried out.";
        let schema = json!({"type": "string", "const": "true"});
        let header = json!({"description": about, "schema": schema});
        headers.insert("Idempotency-Replayed".to_owned(), header);
    }
    if operation.asked.tagged && operation.method == Method::GET {
        let about = "The revision of the object's own row, for `If-Match`.";
        let header = json!({"description": about, "schema": {"type": "string"}});
        headers.insert("ETag".to_owned(), header);
    }
    headers
}
