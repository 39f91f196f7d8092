//! Lists in pages, narrowed by labels and the beginning of names.
//!
//! A token names the last item that was given and the revision of the first page. What is made or deleted
//! between two pages moves no other item into or out of them, and a watch from that revision tells of
//! all that has changed meanwhile.

use std::fmt::Write;

use ashlar_proto::api::{List, Revision};
use ashlar_proto::volume_name::canonical;
use axum::Json;
use schemars::JsonSchema;
use serde::Deserialize;

use super::Api;
use super::problem::{Answer, Refused};
use super::watched::Watched;
use crate::access::caller::Caller;
use crate::meta::MetaStore;
use crate::refusal::AccessRefusal;
use crate::selector::LabelSelector;

/// Items of one page unless told otherwise.
const LIMIT_DEFAULT: u32 = 500;

/// Most items of one page.
const LIMIT_MAX: u32 = 5000;

/// A list of what has labels.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct LabelledQuery {
    /// Goes on with what changes, see `text/event-stream` and `application/x-ndjson`.
    #[serde(default)]
    watch: bool,
    /// With `watch`: begins after this revision, not with all there are.
    after: Option<Revision>,
    /// Most items of a page: 500 unless told otherwise.
    #[schemars(range(min = 1, max = 5000))]
    limit: Option<u32>,
    /// The next page: what `continue` of the last one said.
    #[serde(rename = "continue")]
    token: Option<String>,
    /// Those alone whose names begin so.
    prefix: Option<String>,
    /// Those alone whose labels are so: NAME=VALUE, NAME!=VALUE, NAME or !NAME, with commas between.
    labels: Option<String>,
}

/// A list of what has names.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct NamedQuery {
    /// Goes on with what changes, see `text/event-stream` and `application/x-ndjson`.
    #[serde(default)]
    watch: bool,
    /// With `watch`: begins after this revision, not with all there are.
    after: Option<Revision>,
    /// Most items of a page: 500 unless told otherwise.
    #[schemars(range(min = 1, max = 5000))]
    limit: Option<u32>,
    /// The next page: what `continue` of the last one said.
    #[serde(rename = "continue")]
    token: Option<String>,
    /// Those alone whose names begin so.
    prefix: Option<String>,
}

/// A list of snapshots.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct SnapshotsQuery {
    /// Goes on with what changes, see `text/event-stream` and `application/x-ndjson`.
    #[serde(default)]
    watch: bool,
    /// With `watch`: begins after this revision, not with all there are.
    after: Option<Revision>,
    /// Most items of a page: 500 unless told otherwise.
    #[schemars(range(min = 1, max = 5000))]
    limit: Option<u32>,
    /// The next page: what `continue` of the last one said.
    #[serde(rename = "continue")]
    token: Option<String>,
    /// Those alone whose names begin so.
    prefix: Option<String>,
    /// Those too that are deleted and wait for their clones to go.
    #[serde(default)]
    deleted: bool,
    /// Those of the volume of this name alone.
    volume: Option<String>,
}

/// A list of tasks.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct TasksQuery {
    /// Most items of a page: 500 unless told otherwise.
    #[schemars(range(min = 1, max = 5000))]
    limit: Option<u32>,
    /// The next page: what `continue` of the last one said.
    #[serde(rename = "continue")]
    token: Option<String>,
    /// Those alone whose ids begin so, hence with a kind.
    prefix: Option<String>,
}

impl TasksQuery {
    /// What it asks for.
    pub(super) fn selection(self) -> Selection {
        Selection {
            watch: false,
            after: None,
            limit: self.limit,
            token: self.token,
            filter: Filter {
                prefix: self.prefix,
                ..Filter::default()
            },
        }
    }
}

/// Which items are asked for.
#[derive(Clone, Debug, Default)]
pub(super) struct Filter {
    pub(super) prefix: Option<String>,
    pub(super) labels: Option<LabelSelector>,
    pub(super) volume: Option<String>,
    pub(super) deleted: bool,
    /// Who asks, where only some items are that one's business.
    pub(super) caller: Option<Caller>,
}

impl Filter {
    /// Whether volumes of that name are the business of who asks.
    pub(super) fn sees(&self, volume: &str) -> bool {
        let caller = self.caller.as_ref();
        // A volume that is gone with its name was of nobody knows which project.
        caller.is_none_or(|caller| {
            caller.projects.is_none() || !volume.is_empty() && caller.sees(volume)
        })
    }
}

/// What is asked of a list.
pub(super) struct Selection {
    pub(super) watch: bool,
    pub(super) after: Option<Revision>,
    pub(super) filter: Filter,
    limit: Option<u32>,
    token: Option<String>,
}

impl Selection {
    /// Refuses a volume that is none of the business of who asks, whether it is there or not.
    ///
    /// # Errors
    /// [`AccessRefusal::OtherProject`].
    pub(super) fn require_volume(&self) -> Result<(), AccessRefusal> {
        match (&self.filter.caller, &self.filter.volume) {
            (Some(caller), Some(volume)) => caller.require_volume(volume),
            _ => Ok(()),
        }
    }

    /// Of that only what is the business of who asks.
    pub(super) fn seen_by(mut self, caller: Caller) -> Self {
        self.filter.caller = Some(caller);
        self
    }
}

impl LabelledQuery {
    /// What it asks for.
    pub(super) fn selection(self) -> Answer<Selection> {
        let labels = self.labels.map(|text| text.parse::<LabelSelector>());
        let labels = labels
            .transpose()
            .map_err(|error| Refused::malformed(error.to_string()))?;
        Ok(Selection {
            watch: self.watch,
            after: self.after,
            limit: self.limit,
            token: self.token,
            filter: Filter {
                prefix: self.prefix,
                labels,
                ..Filter::default()
            },
        })
    }
}

impl NamedQuery {
    /// What it asks for.
    pub(super) fn selection(self) -> Selection {
        Selection {
            watch: self.watch,
            after: self.after,
            limit: self.limit,
            token: self.token,
            filter: Filter {
                prefix: self.prefix,
                ..Filter::default()
            },
        }
    }
}

impl SnapshotsQuery {
    /// What it asks for, of all volumes or of one that the path names.
    pub(super) fn selection(self, volume: Option<String>) -> Selection {
        Selection {
            watch: self.watch,
            after: self.after,
            limit: self.limit,
            token: self.token,
            filter: Filter {
                prefix: self.prefix,
                volume: volume
                    .or(self.volume)
                    .map(|name| canonical(&name).to_owned()),
                deleted: self.deleted,
                ..Filter::default()
            },
        }
    }
}

/// Where a list goes on.
#[derive(Debug, PartialEq, Eq)]
struct Token {
    revision: Revision,
    after: String,
}

impl Token {
    fn text(&self) -> String {
        let mut text = format!("{}.", self.revision.0);
        for byte in self.after.bytes() {
            // Writing to a string fails never.
            let _ = write!(text, "{byte:02x}");
        }
        text
    }

    fn parse(text: &str) -> Option<Self> {
        let (revision, hex) = text.split_once('.')?;
        let pairs = hex.as_bytes().chunks(2).map(|pair| {
            let pair = std::str::from_utf8(pair).ok()?;
            let is_hex = pair.len() == 2 && pair.bytes().all(|b| b.is_ascii_hexdigit());
            u8::from_str_radix(pair, 16).ok().filter(|_| is_hex)
        });
        let bytes: Option<Vec<u8>> = pairs.collect();
        Some(Self {
            revision: Revision(revision.parse().ok()?),
            after: String::from_utf8(bytes?)
                .ok()
                .filter(|after| !after.is_empty())?,
        })
    }
}

/// The page that is asked for.
pub(super) fn page<T: Watched, M: MetaStore>(
    api: &Api<M>,
    selection: &Selection,
) -> Answer<Json<List<T>>> {
    let limit = selection.limit.unwrap_or(LIMIT_DEFAULT);
    if !(1..=LIMIT_MAX).contains(&limit) {
        return Err(Refused::malformed(format!("`limit` is 1 to {LIMIT_MAX}")));
    }
    if selection.after.is_some() {
        return Err(Refused::malformed("`after` stands with `watch=true` only"));
    }
    let token = selection.token.as_deref().map(|text| {
        let unread = || Refused::malformed("`continue` is no token of a list: begin without it");
        Token::parse(text).ok_or_else(unread)
    });
    let token = token.transpose()?;
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    let at = api.cluster.now();
    Ok(api.cluster.read(|view| {
        let after = token.as_ref().map(|token| token.after.as_str());
        let current = view.state.revision();
        // A conductor that follows may be behind the one that gave the first page.
        let revision = token.as_ref().map_or(current, |t| t.revision.min(current));
        let mut items: Vec<T> = T::after(view, at, after, &selection.filter)
            .take(limit + 1)
            .collect();
        let more = items.len() > limit;
        items.truncate(limit);
        let next = items.last().filter(|_| more).map(|last| Token {
            revision,
            after: last.key(),
        });
        Json(List {
            revision,
            items,
            next: next.map(|token| token.text()),
        })
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_survive_their_text() {
        let token = Token {
            revision: Revision(17),
            after: "iqn.2026-11.io.ashlar:ä b".to_owned(),
        };
        assert_eq!(Token::parse(&token.text()), Some(token));
    }

    /// A snapshot that an older build made has no name of its volume any more when it is removed with that.
    #[test]
    fn what_has_lost_its_name_is_of_no_project() {
        use crate::access::caller::Means;
        let bound_to = |project: &str| Caller {
            projects: Some(vec![project.to_owned()]),
            ..Caller::free(Means::Loopback)
        };
        let filter = |caller| Filter {
            caller: Some(caller),
            ..Filter::default()
        };
        let bound = filter(bound_to("default"));
        assert!(bound.sees("a") && !bound.sees("") && !bound.sees("p/a"));
        assert!(filter(Caller::free(Means::Loopback)).sees(""));
    }

    #[test]
    fn what_is_no_token_is_none() {
        for text in [
            "", "1", "1.", "x.61", "1.6", "1.6x", "1.+1", "1.ff", ".61", "-1.61",
        ] {
            assert_eq!(Token::parse(text), None, "{text}");
        }
    }
}
