//! `ashlar node token`, `deny`, `allow` and `denied`: who may be in the cluster.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ashlar_proto::api::{
    CreateJoinToken, DeniedIdentity, DenyIdentity, IdentitySubject, JoinToken, Revision,
};

use crate::admin::ask;
use crate::args::{IdentityCommand, JoinTokenCommand, SubjectArgs};
use crate::clients::lost;
use crate::output::{print_json, print_table, print_text};

/// Runs one of its commands.
pub fn run(api: &str, command: &IdentityCommand, json: bool) -> anyhow::Result<()> {
    match command {
        IdentityCommand::Token { command } => token(api, command, json),
        IdentityCommand::Deny { subject, reason } => {
            let (subject, what) = of(subject);
            let reason = reason.clone();
            let request = DenyIdentity { subject, reason };
            let answer = ask(api, async |client| client.deny_identity(&request).await)?;
            if json {
                return print_json(&serde_json::json!({
                    "denied": what, "taken": answer.taken, "unfenced": answer.unfenced,
                }));
            }
            let text = format!("{what} is let in no more");
            print_text(&(text + &lost(&answer.taken, &answer.unfenced)))
        }
        IdentityCommand::Allow { subject } => {
            let (subject, what) = of(subject);
            ask(api, async |client| client.allow_identity(subject).await)?;
            if json {
                return print_json(&BTreeMap::from([("allowed", &what)]));
            }
            print_text(&format!("{what} is let in again"))
        }
        IdentityCommand::Denied => {
            let asked = async |client: ashlar_api_client::ApiClient| {
                client.denied_identities(Revision(0), Duration::ZERO).await
            };
            let denied = ask(api, asked)?.items;
            if json {
                return print_json(&denied);
            }
            print_table(
                &["denied", "reason"],
                denied.iter().map(denied_row).collect(),
            )
        }
    }
}

fn token(api: &str, command: &JoinTokenCommand, json: bool) -> anyhow::Result<()> {
    match command {
        JoinTokenCommand::Create { role, name, ttl } => {
            let request = CreateJoinToken {
                role: *role,
                name: name.clone(),
                ttl_ms: u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX),
            };
            let made = ask(api, async |client| client.create_join_token(&request).await)?;
            if json {
                return print_json(&made);
            }
            // Nothing but the token: it goes into a file.
            print_text(made.token.reveal())
        }
        JoinTokenCommand::List => {
            let tokens = ask(api, async |client| client.join_tokens().await)?.items;
            if json {
                return print_json(&tokens);
            }
            let header = ["id", "role", "name", "good for", "used by"];
            let now = SystemTime::now();
            let rows = tokens.iter().map(|token| token_row(token, now)).collect();
            print_table(&header, rows)
        }
        JoinTokenCommand::Revoke { id } => {
            ask(api, async |client| client.revoke_join_token(id).await)?;
            if json {
                return print_json(&BTreeMap::from([("revoked", id)]));
            }
            print_text(&format!("join token {id} is good no more"))
        }
    }
}

fn of(subject: &SubjectArgs) -> (IdentitySubject, String) {
    match (&subject.node, &subject.serial) {
        (Some(node), _) => (IdentitySubject::Node(node.clone()), format!("node {node}")),
        (None, serial) => {
            let serial = serial.clone().unwrap_or_default();
            let what = format!("certificate {serial}");
            (IdentitySubject::Serial(serial), what)
        }
    }
}

fn denied_row(denied: &DeniedIdentity) -> Vec<String> {
    let who = match &denied.subject {
        IdentitySubject::Node(name) => name.clone(),
        IdentitySubject::Serial(serial) => format!("serial {serial}"),
    };
    vec![who, denied.reason.clone().unwrap_or_else(|| "-".to_owned())]
}

fn token_row(token: &JoinToken, now: SystemTime) -> Vec<String> {
    let dash = || "-".to_owned();
    let expires = UNIX_EPOCH + Duration::from_millis(token.expires_ms);
    let left = expires.duration_since(now).ok();
    let seconds = left.map(|left| Duration::from_secs(left.as_secs()));
    let left = seconds.map(|left| humantime::format_duration(left).to_string());
    vec![
        token.id.clone(),
        token.role.to_string(),
        token.name.clone().unwrap_or_else(dash),
        left.unwrap_or_else(|| "expired".to_owned()),
        token.used_by.clone().unwrap_or_else(dash),
    ]
}

#[cfg(test)]
mod tests {
    use ashlar_proto::api::NodeRole;

    use super::*;

    #[test]
    fn a_token_that_has_expired_is_shown_so() {
        let mut token = JoinToken {
            id: "0123456789abcdef".to_owned(),
            role: NodeRole::Store,
            name: None,
            expires_ms: 61_000,
            used_by: Some("n1".to_owned()),
        };
        let row = token_row(&token, UNIX_EPOCH);
        assert_eq!(row, ["0123456789abcdef", "store", "-", "1m 1s", "n1"]);
        token.name = Some("n1".to_owned());
        let row = token_row(&token, UNIX_EPOCH + Duration::from_secs(62));
        assert_eq!(row[2..4], ["n1", "expired"]);
    }
}
