//! Requests that are carried out once, however often they are sent: each has a key of its own.

use std::fmt::Write;

use reqwest::Method;

/// The header of the key.
pub(super) const HEADER: &str = "idempotency-key";

/// What stores, owners and servers report: no route of these takes a key.
const REPORTS: [&str; 13] = [
    "attach",
    "confirm",
    "detach",
    "flattened",
    "hand-over",
    "heartbeat",
    "hold",
    "in-sync",
    "inventory",
    "layers",
    "maps",
    "register",
    "servers",
];

/// Under these no route takes a key: what is said there may be said twice, or its answer is a secret, which
/// is not kept to be given again.
const ALWAYS_ANEW: [&str; 7] = [
    "enrol",
    "identities",
    "join-tokens",
    "keys",
    "metadata",
    "placement:explain",
    "tokens",
];

fn takes_key(method: &Method, path: &[&str]) -> bool {
    let is_anew = path
        .first()
        .is_some_and(|first| ALWAYS_ANEW.contains(first));
    let is_secret = matches!(path, ["volumes", _, "key", _] | ["users", _, "keys"]);
    let is_report = path.last().is_some_and(|last| REPORTS.contains(last));
    match *method {
        _ if is_anew || is_secret => false,
        Method::POST => !is_report,
        Method::DELETE => true,
        _ => false,
    }
}

/// A new key for a request, if its route takes one; none where the system gives no random numbers.
pub(super) fn key(method: &Method, path: &[&str]) -> Option<String> {
    if !takes_key(method, path) {
        return None;
    }
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).ok()?;
    let mut key = String::with_capacity(32);
    for byte in bytes {
        // Writing to a string fails never.
        let _ = write!(key, "{byte:02x}");
    }
    Some(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether the document says that a request takes a key.
    fn is_told(operation: &serde_json::Value) -> bool {
        let parameters = operation["parameters"].as_array();
        let names = parameters.into_iter().flatten();
        let mut names = names.filter_map(|parameter| parameter["name"].as_str());
        names.any(|name| name.eq_ignore_ascii_case(HEADER))
    }

    #[test]
    fn those_have_a_key_whose_route_takes_one() {
        let document = include_str!("../../../docs/openapi.json");
        let document: serde_json::Value = serde_json::from_str(document).unwrap();
        let mut count = 0;
        for (path, operations) in document["paths"].as_object().unwrap() {
            let Some(path) = path.strip_prefix("/v1/") else {
                continue;
            };
            let path: Vec<&str> = path.split('/').collect();
            for (method, operation) in operations.as_object().unwrap() {
                let method: Method = method.to_uppercase().parse().unwrap();
                // Those who may send a PUT twice do so.
                if method != Method::PUT {
                    let takes = takes_key(&method, &path);
                    assert_eq!(takes, is_told(operation), "{method} {path:?}");
                    count += usize::from(takes);
                }
            }
        }
        assert!(count > 20, "{count}");
    }

    #[test]
    fn what_changes_something_has_a_key_of_its_own() {
        let create = key(&Method::POST, &["volumes"]).unwrap();
        assert_eq!(create.len(), 32);
        assert_ne!(Some(create), key(&Method::POST, &["volumes"]));
        assert!(key(&Method::DELETE, &["volumes", "attach"]).is_some());
        for path in [
            &["maps"][..],
            &["volumes", "v", "attach"],
            &["iscsi", "servers"],
        ] {
            assert_eq!(key(&Method::POST, path), None, "{path:?}");
        }
        assert_eq!(key(&Method::GET, &["volumes"]), None);
        assert_eq!(key(&Method::PUT, &["volumes", "v", "reservations"]), None);
    }
}
