//! `ashlar client`: who may attach no volume.

use std::collections::BTreeMap;

use ashlar_proto::api::{ClientDenied, DeniedClient, DenyClient};

use crate::admin::ask;
use crate::args::ClientCommand;
use crate::output::{print_json, print_table, print_text};

/// Runs one of its commands.
pub fn run(api: &str, command: ClientCommand, json: bool) -> anyhow::Result<()> {
    match command {
        ClientCommand::List => {
            let denied = ask(api, async |client| client.denied_clients().await)?.items;
            if json {
                return print_json(&denied);
            }
            print_table(&["denied", "reason"], denied.iter().map(row).collect())
        }
        ClientCommand::Deny { client, reason } => {
            let request = DenyClient { client, reason };
            let denied = ask(api, async |client| client.deny_client(&request).await)?;
            if json {
                return print_json(&denied);
            }
            print_text(&told(&denied))
        }
        ClientCommand::Allow { client } => {
            ask(api, async |api| api.allow_client(&client).await)?;
            if json {
                return print_json(&BTreeMap::from([("allowed", &client)]));
            }
            print_text(&format!("{client} may attach volumes again"))
        }
    }
}

fn row(denied: &DeniedClient) -> Vec<String> {
    let reason = denied.reason.clone();
    vec![
        denied.client.clone(),
        reason.unwrap_or_else(|| "-".to_owned()),
    ]
}

fn told(answer: &ClientDenied) -> String {
    let text = format!("{} may attach no volume", answer.denied.client);
    text + &lost(&answer.taken, &answer.unfenced)
}

/// What somebody who was denied has lost, and where that is not yet so.
pub fn lost(taken: &[String], unfenced: &[String]) -> String {
    let mut text = String::new();
    if !taken.is_empty() {
        text += &format!("; taken from it: {}", taken.join(", "));
    }
    if !unfenced.is_empty() {
        text += &format!(
            "\nits writes may still reach {}: stores will see to that as soon as enough replicas \
             answer; see `ashlar volume list`",
            unfenced.join(", ")
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_taken_and_what_is_left_is_told() {
        let mut answer = ClientDenied {
            denied: DeniedClient {
                client: "nbd@a".to_owned(),
                reason: None,
            },
            taken: Vec::new(),
            unfenced: Vec::new(),
        };
        assert_eq!(told(&answer), "nbd@a may attach no volume");
        answer.taken = vec!["v".to_owned(), "w".to_owned()];
        assert_eq!(
            told(&answer),
            "nbd@a may attach no volume; taken from it: v, w"
        );
        answer.unfenced = vec!["w".to_owned()];
        assert!(told(&answer).contains("may still reach w:"));
    }
}
