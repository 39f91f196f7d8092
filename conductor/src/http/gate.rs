//! Which certificate a request needs where the API lets not everybody in.
//!
//! Invariant: what is not named here needs a `client`, who administers; so a route that is forgotten is
//! closed rather than open.

use ashlar_proto::api::NodeRole;
use axum::http::Method;

/// What a peer has to show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Need {
    /// Nothing.
    Nothing,
    /// A certificate of any role.
    Certificate,
    /// A certificate of one of these.
    Roles(&'static [NodeRole]),
}

impl Need {
    /// Whether a good key or token stands in for the certificate: it does for that of a `client`.
    pub(super) fn is_met_by_credentials(self) -> bool {
        match self {
            Self::Nothing | Self::Certificate => true,
            Self::Roles(roles) => roles.contains(&NodeRole::Client),
        }
    }
}

const STORES: Need = Need::Roles(&[NodeRole::Store]);
const OWNERS: Need = Need::Roles(&[NodeRole::FrontEnd, NodeRole::Store]);
const FRONT_ENDS: Need = Need::Roles(&[NodeRole::FrontEnd]);
const CLIENTS: Need = Need::Roles(&[NodeRole::Client]);

/// What a request needs.
pub(super) fn need(method: &Method, path: &str) -> Need {
    let Some(rest) = path.strip_prefix("/v1/") else {
        let is_look = matches!(path, "/healthz" | "/readyz") && *method == Method::GET;
        return if is_look { Need::Nothing } else { CLIENTS };
    };
    let parts: Vec<&str> = rest.split('/').collect();
    let is_read = matches!(*method, Method::GET | Method::HEAD);
    match (method.as_str(), parts.as_slice()) {
        ("POST", ["enrol"]) => Need::Nothing,
        // Where to ask, and how: that tells nothing of what there is.
        ("GET" | "HEAD", ["leader"] | ["openapi.json"]) => Need::Nothing,
        ("POST", ["enrol", "renew"]) => Need::Certificate,
        ("POST", ["nodes", "register"] | ["nodes", _, "heartbeat" | "inventory"]) => STORES,
        ("GET", ["nodes", _, "assignments"]) => STORES,
        ("POST", ["owners", "heartbeat"] | ["maps"]) => OWNERS,
        (
            "POST",
            [
                "volumes",
                _,
                "attach" | "detach" | "in-sync" | "layers" | "hold" | "flattened",
            ],
        ) => OWNERS,
        ("POST", ["iscsi", "servers"] | ["iscsi", "servers", _, "heartbeat"]) => FRONT_ENDS,
        ("POST", ["volumes", _, "hand-over"] | ["volumes", _, "reservations", "confirm"]) => {
            FRONT_ENDS
        }
        ("PUT", ["volumes", _, "reservations"]) => FRONT_ENDS,
        // The secrets of CHAP are in there.
        ("GET" | "HEAD", ["iscsi", "targets"]) => FRONT_ENDS,
        // So are secrets and hashes, or what others did.
        (
            "GET" | "HEAD",
            [
                "join-tokens" | "metadata" | "users" | "keys" | "tokens" | "audit",
                ..,
            ],
        ) => CLIENTS,
        _ if is_read => Need::Certificate,
        _ => CLIENTS,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn post(path: &str) -> Need {
        need(&Method::POST, path)
    }

    fn get(path: &str) -> Need {
        need(&Method::GET, path)
    }

    #[test]
    fn only_health_where_to_ask_and_the_first_certificate_need_nothing() {
        for path in ["/healthz", "/v1/leader", "/v1/openapi.json"] {
            assert_eq!(get(path), Need::Nothing, "{path}");
        }
        assert_eq!(post("/v1/leader"), CLIENTS);
        assert_eq!(post("/v1/enrol"), Need::Nothing);
        assert_eq!(get("/v1/enrol"), Need::Certificate);
        assert_eq!(post("/v1/enrol/renew"), Need::Certificate);
        assert_eq!(post("/healthz"), CLIENTS);
        assert_eq!(get("/"), CLIENTS);
    }

    #[test]
    fn nodes_do_what_is_theirs() {
        assert_eq!(post("/v1/nodes/register"), STORES);
        assert_eq!(post("/v1/nodes/7/heartbeat"), STORES);
        assert_eq!(post("/v1/nodes/7/inventory"), STORES);
        assert_eq!(get("/v1/nodes/7/assignments"), STORES);
        assert_eq!(post("/v1/volumes/v/attach"), OWNERS);
        assert_eq!(post("/v1/maps"), OWNERS);
        assert_eq!(post("/v1/iscsi/servers"), FRONT_ENDS);
        assert_eq!(get("/v1/iscsi/targets"), FRONT_ENDS);
        assert_eq!(need(&Method::PUT, "/v1/volumes/v/reservations"), FRONT_ENDS);
    }

    #[test]
    fn what_is_not_named_is_for_those_who_administer() {
        for path in [
            "/v1/volumes",
            "/v1/volumes/v/resize",
            "/v1/nodes/n/drain",
            "/v1/join-tokens",
            "/v1/metadata/check",
            "/v1/identities/deny",
            "/v1/what/there/is/not",
            "/v1/volumes/v/attach/more",
            "/v1//enrol",
            "/v1/enrol/",
        ] {
            assert_eq!(post(path), CLIENTS, "{path}");
        }
        assert_eq!(need(&Method::DELETE, "/v1/volumes/v"), CLIENTS);
        assert_eq!(need(&Method::DELETE, "/v1/iscsi/servers/s"), CLIENTS);
        assert_eq!(get("/v1/volumes"), Need::Certificate);
        for path in ["join-tokens", "metadata/backup", "users", "keys", "audit"] {
            assert_eq!(get(&format!("/v1/{path}")), CLIENTS, "{path}");
        }
    }

    #[test]
    fn keys_and_tokens_stand_in_for_clients_only() {
        assert!(post("/v1/volumes").is_met_by_credentials());
        assert!(get("/v1/volumes").is_met_by_credentials());
        assert!(!post("/v1/nodes/register").is_met_by_credentials());
        assert!(!get("/v1/iscsi/targets").is_met_by_credentials());
    }
}
