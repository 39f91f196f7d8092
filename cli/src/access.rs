//! `ashlar user`, `key`, `token`, `project`, `audit`, `whoami`, and `volume key`: who may do what.

use std::collections::BTreeMap;
use std::time::Duration;

use ashlar_proto::ByteCount;
use ashlar_proto::api::{
    AuditEntry, AuditOutcome, CreateKey, CreateProject, CreateToken, CreateUser, Project, SetQuota,
    SetUserRole, User,
};

use crate::admin::ask;
use crate::args::{
    AuditCommand, KeyCommand, ProjectCommand, TokenCommand, UserCommand, VolumeKeyCommand,
};
use crate::output::{bytes, print_json, print_table, print_text};

/// The end of the last year that has four digits.
const YEAR_10000_MS: u64 = 253_402_300_800_000;

/// How long one call waits for the next entry.
const FOLLOW_WAIT: Duration = Duration::from_secs(30);

/// `ashlar user …`.
pub fn user(api: &str, command: UserCommand, json: bool) -> anyhow::Result<()> {
    let user = match command {
        UserCommand::List => {
            let users = ask(api, async |client| client.users().await)?.items;
            if json {
                return print_json(&users);
            }
            let header = ["name", "role", "projects", "denied"];
            return print_table(&header, users.iter().map(user_row).collect());
        }
        UserCommand::Delete { name } => {
            ask(api, async |client| client.delete_user(&name).await)?;
            return print_done("deleted", &name, json);
        }
        UserCommand::Create { name, role } => {
            let request = CreateUser {
                name,
                role: role.role.into(),
                projects: role.projects(),
            };
            ask(api, async |client| client.create_user(&request).await)?
        }
        UserCommand::Role { name, role } => {
            let request = SetUserRole {
                role: role.role.into(),
                projects: role.projects(),
            };
            ask(api, async |client| {
                client.set_user_role(&name, &request).await
            })?
        }
        UserCommand::Deny { name } => ask(api, async |client| client.deny_user(&name, true).await)?,
        UserCommand::Allow { name } => {
            ask(api, async |client| client.deny_user(&name, false).await)?
        }
    };
    if json {
        return print_json(&user);
    }
    let state = if user.denied { ", denied" } else { "" };
    print_text(&format!(
        "{} is {} in {}{state}",
        user.name,
        user.role.name(),
        projects(user.projects.as_deref())
    ))
}

fn user_row(user: &User) -> Vec<String> {
    vec![
        user.name.clone(),
        user.role.name().to_owned(),
        projects(user.projects.as_deref()),
        if user.denied { "yes" } else { "no" }.to_owned(),
    ]
}

fn projects(projects: Option<&[String]>) -> String {
    projects.map_or_else(|| "all projects".to_owned(), |list| list.join(", "))
}

fn print_done(what: &str, name: &str, json: bool) -> anyhow::Result<()> {
    if json {
        return print_json(&BTreeMap::from([(what, name)]));
    }
    print_text(&format!("{what} {name}"))
}

/// `ashlar key …`.
pub fn key(api: &str, command: KeyCommand, json: bool) -> anyhow::Result<()> {
    match command {
        KeyCommand::Create { user, ttl, note } => {
            let ttl_seconds = ttl.map(|ttl| ttl.as_secs());
            let request = CreateKey { note, ttl_seconds };
            let made = ask(api, async |client| client.create_key(&user, &request).await)?;
            if json {
                return print_json(&made);
            }
            eprintln!("key {} of {}: shown this once only", made.key.id, user);
            print_text(made.secret.reveal())
        }
        KeyCommand::List { user } => {
            let keys = ask(api, async |client| client.keys(user.as_deref()).await)?.items;
            if json {
                return print_json(&keys);
            }
            let time = |at: Option<u64>| at.map_or_else(|| "-".to_owned(), time);
            let row = |key: &ashlar_proto::api::ApiKey| {
                vec![
                    key.id.clone(),
                    key.user.clone(),
                    time(Some(key.created_ms)),
                    time(key.expires_ms),
                    time(key.revoked_ms),
                    key.note.clone().unwrap_or_else(|| "-".to_owned()),
                ]
            };
            let header = ["id", "user", "created", "ends", "revoked", "note"];
            print_table(&header, keys.iter().map(row).collect())
        }
        KeyCommand::Revoke { id } => {
            ask(api, async |client| client.revoke_key(&id).await)?;
            print_done("revoked", &id, json)
        }
    }
}

/// `ashlar token …`.
pub fn token(api: &str, command: TokenCommand, json: bool) -> anyhow::Result<()> {
    match command {
        TokenCommand::Create { ttl, user } => {
            let ttl_seconds = ttl.as_secs();
            let request = CreateToken { user, ttl_seconds };
            let made = ask(api, async |client| client.create_token(&request).await)?;
            if json {
                return print_json(&made);
            }
            let end = time(made.expires_ms);
            eprintln!("token {} of {}: good until {end}", made.id, made.user);
            print_text(made.token.reveal())
        }
        TokenCommand::Revoke { id } => {
            ask(api, async |client| client.revoke_token(&id).await)?;
            print_done("revoked", &id, json)
        }
        TokenCommand::Revoked => {
            let revoked = ask(api, async |client| client.revoked_tokens().await)?.items;
            if json {
                return print_json(&revoked);
            }
            let rows = revoked
                .into_iter()
                .map(|token| vec![token.id, time(token.until_ms)]);
            print_table(&["id", "kept until"], rows.collect())
        }
        TokenCommand::Rotate { forget } => {
            ask(api, async |client| client.rotate_signing_key(forget).await)?;
            print_done("rotated", "the key that tokens are signed with", json)
        }
    }
}

/// `ashlar project …`.
pub fn project(api: &str, command: ProjectCommand, json: bool) -> anyhow::Result<()> {
    let project = match command {
        ProjectCommand::List => {
            let projects = ask(api, async |client| client.projects().await)?.items;
            if json {
                return print_json(&projects);
            }
            let header = ["name", "volumes", "of", "bytes", "of"];
            return print_table(&header, projects.iter().map(project_row).collect());
        }
        ProjectCommand::Delete { name } => {
            ask(api, async |client| client.delete_project(&name).await)?;
            return print_done("deleted", &name, json);
        }
        ProjectCommand::Create { name, quota } => {
            let request = CreateProject {
                name,
                quota_bytes: quota.bytes.map(ByteCount::new),
                quota_volumes: quota.volumes,
            };
            ask(api, async |client| client.create_project(&request).await)?
        }
        ProjectCommand::Quota { name, quota } => {
            let request = SetQuota {
                quota_bytes: quota.bytes.map(ByteCount::new),
                quota_volumes: quota.volumes,
            };
            ask(api, async |client| client.set_quota(&name, &request).await)?
        }
    };
    if json {
        return print_json(&project);
    }
    let row = project_row(&project);
    print_text(&format!(
        "{}: {} volumes of {}, {} of {}",
        row[0], row[1], row[2], row[3], row[4]
    ))
}

fn project_row(project: &Project) -> Vec<String> {
    let unbounded = || "any".to_owned();
    let most = project.quota_volumes;
    let quota = project.quota_bytes;
    vec![
        project.name.clone(),
        project.volumes.to_string(),
        most.map_or_else(unbounded, |most| most.to_string()),
        bytes(project.bytes.get()),
        quota.map_or_else(unbounded, |quota| bytes(quota.get())),
    ]
}

/// `ashlar audit …`.
pub fn audit(api: &str, command: &AuditCommand, json: bool) -> anyhow::Result<()> {
    match command {
        AuditCommand::List { last } => {
            let entries = ask(api, async |client| client.audit_last(*last).await)?.items;
            if json {
                return print_json(&entries);
            }
            let text: Vec<String> = entries.iter().map(line).collect();
            if text.is_empty() {
                return Ok(());
            }
            print_text(&text.join("\n"))
        }
        AuditCommand::Follow => {
            let last = ask(api, async |client| client.audit_last(1).await)?.items;
            let mut after = last.last().map_or(0, |entry| entry.id);
            loop {
                let next = async |client: ashlar_api_client::ApiClient| {
                    client.audit_after(after, FOLLOW_WAIT).await
                };
                for entry in ask(api, next)?.items {
                    after = entry.id;
                    let text = match json {
                        true => serde_json::to_string(&entry)?,
                        false => line(&entry),
                    };
                    print_text(&text)?;
                }
            }
        }
    }
}

/// An entry as a line for people.
fn line(entry: &AuditEntry) -> String {
    let who = if entry.who.is_empty() {
        "somebody".to_owned()
    } else {
        format!("{} ({})", entry.who, entry.means)
    };
    let outcome = match entry.outcome {
        AuditOutcome::Done => "done",
        AuditOutcome::Refused => "refused",
        AuditOutcome::Failed => "failed",
    };
    let code = entry.code.as_deref().map(|code| format!(" {code}"));
    let rows: Vec<&str> = entry
        .changes
        .iter()
        .map(|change| change.row.as_str())
        .collect();
    let more = match (entry.changes_left_out, rows.is_empty()) {
        (0, _) => String::new(),
        (count, true) => format!("{count} rows"),
        (count, false) => format!(" and {count} more"),
    };
    let rows = match rows.join(", ") + &more {
        none if none.is_empty() => none,
        rows => format!(" [{rows}]"),
    };
    let left_out = match entry.left_out {
        0 => String::new(),
        count => format!(" ({count} refusals before it are left out)"),
    };
    format!(
        "{} {who} {} {}: {outcome}{}{rows}{left_out}",
        time(entry.time_ms),
        entry.from,
        entry.what,
        code.unwrap_or_default()
    )
}

/// A time for people; nothing for one that no calendar here has.
fn time(at_ms: u64) -> String {
    if at_ms >= YEAR_10000_MS {
        return String::new();
    }
    let at = std::time::UNIX_EPOCH.checked_add(Duration::from_millis(at_ms));
    at.map_or_else(String::new, |at| {
        humantime::format_rfc3339_seconds(at).to_string()
    })
}

/// `ashlar whoami`.
pub fn whoami(api: &str, json: bool) -> anyhow::Result<()> {
    let who = ask(api, async |client| client.whoami().await)?;
    if json {
        return print_json(&who);
    }
    print_text(&format!(
        "{}, {} in {}, by {}",
        who.name,
        who.role.name(),
        projects(who.projects.as_deref()),
        who.means
    ))
}

/// `ashlar volume key …`.
pub fn volume_key(api: &str, command: &VolumeKeyCommand, json: bool) -> anyhow::Result<()> {
    match command {
        VolumeKeyCommand::Set { volume } => {
            let set = ask(api, async |client| client.set_volume_key(volume).await)?;
            if json {
                return print_json(&set);
            }
            eprintln!("the key of {volume}: shown this once only");
            print_text(set.key.reveal())
        }
        VolumeKeyCommand::Clear { volume } => {
            ask(api, async |client| client.clear_volume_key(volume).await)?;
            print_done("cleared", volume, json)
        }
    }
}

#[cfg(test)]
mod tests {
    use ashlar_proto::api::AuditChange;

    use super::*;

    #[test]
    fn an_entry_tells_who_did_what_and_how_it_ended() {
        let mut entry = AuditEntry {
            id: 7,
            time_ms: 1_000,
            who: "ada".to_owned(),
            means: "key 1".to_owned(),
            from: "127.0.0.1:1".to_owned(),
            what: "POST /v1/volumes".to_owned(),
            request: None,
            outcome: AuditOutcome::Done,
            code: None,
            changes: Vec::new(),
            changes_left_out: 0,
            left_out: 0,
        };
        assert_eq!(
            line(&entry),
            "1970-01-01T00:00:01Z ada (key 1) 127.0.0.1:1 POST /v1/volumes: done"
        );
        let changed = |row: &str| AuditChange {
            row: row.to_owned(),
            before: None,
            after: None,
        };
        entry.changes = ["user/ada", "api-key/1"].map(changed).to_vec();
        assert!(line(&entry).ends_with(": done [user/ada, api-key/1]"));
        entry.changes_left_out = 4;
        assert!(line(&entry).ends_with(": done [user/ada, api-key/1 and 4 more]"));
        entry.changes.clear();
        assert!(line(&entry).ends_with(": done [4 rows]"));
        entry.changes_left_out = 0;
        entry.who = String::new();
        entry.outcome = AuditOutcome::Refused;
        entry.code = Some("not-authenticated".to_owned());
        entry.left_out = 3;
        let text = line(&entry);
        assert!(
            text.contains("somebody") && text.contains("refused not-authenticated (3 refusals")
        );
    }
}
