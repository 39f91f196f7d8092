//! Is a snapshot the volume at one moment?
//!
//! [`crate::linear`] sees to each sector for itself: that it shows what it held at some moment between
//! the request and the word that the snapshot is ready. Here all of them are held against each other: a
//! snapshot that shows a write must show every write that had completed before that one began.
//!
//! Knows nothing of layers. Says nothing where the order is not certain: of writes that may have been
//! lost or rolled back, and of what never completed.

use crate::history::{Ending, History, Moment, Op, OpId, OpKind, Picture};

/// What a snapshot shows that no moment explains.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the snapshot asked for at {requested} shows op {shown}, which began at {began}, and not op \
     {lacking}, which was done at {done}"
)]
pub struct Torn {
    requested: Moment,
    shown: OpId,
    began: Moment,
    lacking: OpId,
    done: Moment,
}

/// Checks every snapshot that was read.
///
/// # Errors
/// The first that is [`Torn`].
pub fn check(history: &History) -> Result<(), Torn> {
    history
        .pictures
        .iter()
        .try_for_each(|picture| check_one(history, picture))
}

fn is_write(op: &Op) -> bool {
    matches!(op.kind, OpKind::Write | OpKind::Zero)
}

fn check_one(history: &History, picture: &Picture) -> Result<(), Torn> {
    let mut since = 0;
    for (_, op) in history.ops() {
        if !matches!(op.kind, OpKind::Restore(_)) || op.invoked >= picture.ready {
            continue;
        }
        match op.ending {
            Ending::Done(at) if at <= picture.requested => since = since.max(at),
            Ending::Refused(_) => {}
            // It may have come before or after.
            _ => return Ok(()),
        }
    }
    let lossy = history.serves.iter().filter(|serve| serve.lossy);
    let lossy = lossy.filter(|serve| serve.at <= picture.ready);
    // What had completed before may be gone.
    let since = lossy.map(|serve| serve.at).fold(since, Moment::max);
    let mut shown: Option<(Moment, OpId)> = None;
    let mut lacking: Option<(Moment, OpId)> = None;
    for (id, op) in history.ops().filter(|(_, op)| is_write(op)) {
        if op.invoked <= since || op.invoked >= picture.ready {
            continue;
        }
        if matches!(op.kind, OpKind::Write) && shows(picture, op, id) {
            shown = shown.max(Some((op.invoked, id)));
        }
        if let Ending::Done(done) = op.ending
            && done < picture.ready
            && is_lacking(history, picture, op, id)
        {
            let earliest = lacking.is_none_or(|(at, _)| done < at);
            lacking = if earliest { Some((done, id)) } else { lacking };
        }
    }
    match (shown, lacking) {
        (Some((began, shown)), Some((done, lacking))) if done < began => Err(Torn {
            requested: picture.requested,
            shown,
            began,
            lacking,
            done,
        }),
        _ => Ok(()),
    }
}

fn values<'a>(picture: &'a Picture, op: &Op) -> impl Iterator<Item = u32> + 'a {
    let at = |sector: u64| usize::try_from(sector).unwrap_or(usize::MAX);
    // The volume may have grown since.
    let range = at(op.sectors.start)..at(op.sectors.end).min(picture.values.len());
    picture.values.get(range).into_iter().flatten().copied()
}

fn shows(picture: &Picture, op: &Op, id: OpId) -> bool {
    values(picture, op).any(|value| value == id)
}

/// Whether some sector of a write shows an older one, that had completed when this one began.
fn is_lacking(history: &History, picture: &Picture, op: &Op, id: OpId) -> bool {
    values(picture, op).any(|value| {
        if value == 0 {
            // Zeroes of the beginning, or some other zeroes: not certain.
            return false;
        }
        let older = history.op(value);
        let was_done = matches!(older.ending, Ending::Done(at) if at < op.invoked);
        value != id && was_done
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two writes to different sectors, one after the other.
    fn two_writes() -> (History, OpId, OpId) {
        let mut history = History::default();
        let life = history.serve(false);
        let mut write = |sectors| {
            let id = history.begin(life, OpKind::Write, sectors, false);
            history.end(id, Ending::Done);
            id
        };
        let (base, first, second) = (write(0..2), write(0..1), write(1..2));
        assert_eq!(base, 1);
        (history, first, second)
    }

    fn picture(history: &mut History, values: Vec<u32>) -> Result<(), Torn> {
        let (requested, ready) = (history.tick(), history.tick());
        history.show(Picture {
            requested,
            ready,
            values,
        });
        check(history)
    }

    #[test]
    fn a_snapshot_lacks_nothing_that_came_before_what_it_shows() {
        let (mut history, first, second) = two_writes();
        assert_eq!(picture(&mut history, vec![first, second]), Ok(()));
        assert_eq!(picture(&mut history, vec![first, 1]), Ok(()));
        let torn = picture(&mut history, vec![1, second]).unwrap_err();
        assert_eq!((torn.shown, torn.lacking), (second, first));
    }

    #[test]
    fn what_may_have_been_lost_is_not_missed() {
        let (mut history, _, second) = two_writes();
        history.serve(true);
        assert_eq!(picture(&mut history, vec![1, second]), Ok(()));
    }
}
