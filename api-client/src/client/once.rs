//! Requests that are carried out once, however often they are sent: each has a key of its own.

use std::fmt::Write;

use reqwest::Method;

/// The header of the key.
pub(super) const HEADER: &str = "idempotency-key";

/// What stores, owners and servers report: no route of these takes a key.
const REPORTS: [&str; 12] = [
    "attach",
    "confirm",
    "detach",
    "flattened",
    "hand-over",
    "heartbeat",
    "hold",
    "in-sync",
    "layers",
    "maps",
    "register",
    "servers",
];

/// A new key for a request, if its route takes one; none where the system gives no random numbers.
pub(super) fn key(method: &Method, path: &[&str]) -> Option<String> {
    let is_report = path.last().is_some_and(|last| REPORTS.contains(last));
    let takes_one = match *method {
        Method::POST => !is_report,
        Method::DELETE => true,
        _ => false,
    };
    if !takes_one {
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
