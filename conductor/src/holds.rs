//! What owners have said of groups in the making, and since when these are known.
//!
//! Invariants: nothing here is a promise to anybody, a group whose answers are lost fails; a hold that
//! was broken once stays broken.

use std::collections::BTreeMap;
use std::time::Duration;

use ashlar_proto::api::HoldWord;
use ashlar_proto::{GroupId, VolumeId};

use crate::membership::Moment;

/// How long a group may be in the making: longer than any conductor that lives takes.
const LIFE_MAX: Duration = Duration::from_secs(15);

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Holds(BTreeMap<GroupId, Said>);

#[derive(Debug, Default)]
struct Said {
    words: BTreeMap<VolumeId, HoldWord>,
    since: Option<Moment>,
}

impl Holds {
    /// The owner of a volume says something.
    pub(crate) fn note(&mut self, group: GroupId, volume: VolumeId, word: HoldWord) {
        let words = &mut self.0.entry(group).or_default().words;
        let known = words.entry(volume).or_insert(word);
        if weight(word) > weight(*known) {
            *known = word;
        }
    }

    /// What it has said last.
    pub(crate) fn word(&self, group: GroupId, volume: VolumeId) -> Option<HoldWord> {
        self.0.get(&group)?.words.get(&volume).copied()
    }

    /// Of the groups that are in the making those that nobody brings to an end: they are of an earlier
    /// conductor, which gave ids below `first`, or have been there for too long. Forgets all others.
    pub(crate) fn left_over(
        &mut self,
        now: Moment,
        groups: impl Iterator<Item = GroupId>,
        first: GroupId,
    ) -> Vec<GroupId> {
        let mut before = std::mem::take(&mut self.0);
        for group in groups {
            let mut said = before.remove(&group).unwrap_or_default();
            said.since.get_or_insert(now);
            self.0.insert(group, said);
        }
        let is_over = |(id, said): &(&GroupId, &Said)| {
            let is_old = |since| now.since(since) >= LIFE_MAX;
            **id < first || said.since.is_some_and(is_old)
        };
        let over = self.0.iter().filter(is_over);
        over.map(|(id, _)| *id).collect()
    }
}

fn weight(word: HoldWord) -> u8 {
    match word {
        HoldWord::Held => 0,
        HoldWord::Kept => 1,
        HoldWord::Broken => 2,
    }
}
