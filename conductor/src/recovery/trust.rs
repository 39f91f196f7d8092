//! Which replicas of a shard are members of its in-sync set, by what their disks know.
//!
//! A disk does not know who is in the set. It knows the highest generation and epoch that an owner has
//! shown the replica, the horizon up to which it holds every write, and the highest write that it has.
//!
//! - A replica that was replaced or left out hears no newer generation, nor epoch once somebody writes: it
//!   is below the highest of these that any disk has seen.
//! - A replica that is being brought up hears both; but its horizon moves only when it is a member, so it
//!   lies below the highest write, unless there was nothing that it lacks.
//! - An owner that leaves cleanly puts the horizon of every member at the end.
//!
//! So a member is who has the highest generation and epoch, and holds every write up to the highest one
//! that any replica of the shard has, members or not.
//!
//! That much is told by all replicas together, so every disk that the metadata know has to be looked at. There
//! may be others, which were added since. They matter as long as fewer members are found than the volume has
//! replicas, or than two: sets change one replica at a time, and each change is heard by those who stay. Then
//! somebody has to say that there are no others.
//!
//! A replica that holds no write is complete only among those who hold none either. It may also be one that
//! was just made to replace who is gone. So where that matters somebody has to say that nothing was written.
//!
//! After a crash the horizons lag, and a member looks like one that is being brought up. Then nobody is
//! trusted, unless somebody who knows that none was vouches for replicas that agree in all three.

use std::collections::BTreeSet;

use ashlar_proto::Generation;
use ashlar_proto::api::FoundReplica;
use ashlar_proto::limits::REPLICAS_MAX;

use super::code::Code;

/// What is known beside the replicas.
#[derive(Clone, Copy, Debug)]
pub(super) struct Around {
    /// How many replicas the volume has, if that is known.
    pub(super) wanted: Option<usize>,
    /// Every disk that the metadata know was looked at.
    pub(super) all_heard: bool,
    /// That, and there are no others.
    pub(super) complete: bool,
    /// The volume's owner is connected to a store.
    pub(super) owned: bool,
    /// Somebody vouches for replicas that agree.
    pub(super) accepted: bool,
}

/// The members, in the order of their disks: as many as the volume has replicas, at most.
///
/// # Errors
/// Why that cannot be told.
pub(super) fn members<'a>(
    found: &[&'a FoundReplica],
    around: Around,
) -> Result<Vec<&'a FoundReplica>, Code> {
    if around.owned {
        return Err(Code::Owned);
    }
    let newest = newest(found);
    let highest = found.iter().map(|it| it.highest).max().unwrap_or(0);
    let complete = newest.iter().copied().filter(|it| it.stable >= highest);
    let mut members: Vec<&FoundReplica> = complete.collect();
    if members.is_empty() && around.accepted {
        members = agreeing(found, &newest, around.wanted).unwrap_or_default();
    }
    if members.is_empty() {
        let found = found.len();
        return Err(Code::Unclean { found });
    }
    // Of a replica that was moved its old place knows nothing.
    let wanted = around.wanted.unwrap_or(REPLICAS_MAX);
    let is_whole = members.len() >= wanted.max(2);
    if !around.all_heard || !(is_whole || around.complete) {
        let members = members.len();
        return Err(Code::TooFew { members, wanted });
    }
    let was_owned = members
        .iter()
        .any(|it| it.generation > Generation::default());
    if highest == 0 && was_owned && !is_whole && !around.accepted {
        let found = members.len();
        return Err(Code::Empty { found });
    }
    members.sort_by_key(|it| it.disk);
    members.truncate(around.wanted.unwrap_or(REPLICAS_MAX));
    Ok(members)
}

/// Those of the highest generation and epoch of which nothing was lost.
fn newest<'a>(found: &[&'a FoundReplica]) -> Vec<&'a FoundReplica> {
    let generation = found.iter().map(|it| it.generation).max();
    let epoch = found.iter().map(|it| it.epoch).max();
    let is_newest = |it: &&&FoundReplica| {
        Some(it.generation) == generation && Some(it.epoch) == epoch && !it.doubtful
    };
    found.iter().filter(is_newest).copied().collect()
}

/// The newest if they have one horizon, and are as many as the volume has replicas, or all there are.
fn agreeing<'a>(
    found: &[&FoundReplica],
    newest: &[&'a FoundReplica],
    wanted: Option<usize>,
) -> Option<Vec<&'a FoundReplica>> {
    let horizons: BTreeSet<u64> = newest.iter().map(|it| it.stable).collect();
    let is_whole = newest.len() == wanted.unwrap_or(found.len());
    (horizons.len() == 1 && is_whole).then(|| newest.to_vec())
}
