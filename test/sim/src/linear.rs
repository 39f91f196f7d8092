//! Is a history linearizable, sector by sector, across owners, with losses only where allowed?
//!
//! Knows nothing of replication: it searches for an order of the writes that explains all reads.
//! A configuration is where one such order may have got to: the present value, and which pending
//! operations have already taken effect. Rules beyond plain linearizability:
//!
//! - A write that never returned may take effect until the next owner serves, not after.
//! - Where caches were lost, the next owner may find any write since the last flush.
//! - A snapshot is a read at some moment between its request and the word that it is ready; a rollback
//!   writes what it shows to all sectors at once.
//! - An acknowledgement that an owner gets after it was replaced must stand before the new owner's
//!   writes. What it reads, whenever that returns, must be explained like any other read.

use std::collections::BTreeSet;

use crate::history::{Ending, Flush, History, Moment, Op, OpId, OpKind, Serve};

/// Configurations that a check may hold at once before it gives up on the history.
const CONFIGURATIONS_MAX: usize = 200_000;

/// Operations on a sector that are told, before the one that cannot be explained and from it on.
const LINES_BEFORE: usize = 20;
const LINES_AFTER: usize = 6;

/// No order explains what one sector showed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("sector {sector}: {what}")]
pub struct Violation {
    /// The sector.
    pub sector: u64,
    /// What could not be explained, with the operations around it.
    pub what: String,
}

/// What happens to a sector, in order.
#[derive(Clone, Copy, Debug)]
enum Step {
    Invoke(OpId),
    Return(OpId),
    Serve(Serve),
    Flush(Flush),
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Configuration {
    /// What this life began with, until a flush covers something newer; 0 is the beginning.
    base: Option<OpId>,
    /// The last write.
    current: OpId,
    /// Pending operations that have taken effect.
    effected: BTreeSet<OpId>,
}

struct Search<'a> {
    history: &'a History,
    sector: u64,
    pending: BTreeSet<OpId>,
    configurations: BTreeSet<Configuration>,
    /// Writes of this life that no flush has certainly put under a later one.
    losable: BTreeSet<OpId>,
}

/// The values that reads of a sector saw.
fn observed_values(history: &History, sector: u64, ids: &[OpId]) -> BTreeSet<u32> {
    let reads = ids.iter().filter_map(|&id| {
        let op = history.op(id);
        let OpKind::Read(values) = &op.kind else {
            return None;
        };
        values
            .get(usize::try_from(sector - op.sectors.start).ok()?)
            .copied()
    });
    reads.collect()
}

/// Checks each of the first `sectors` sectors.
///
/// # Errors
/// The first [`Violation`].
pub fn check(history: &History, sectors: u64) -> Result<(), Violation> {
    let mut touching: Vec<Vec<OpId>> = vec![Vec::new(); usize::try_from(sectors).unwrap_or(0)];
    for (id, op) in history.ops() {
        for sector in op.sectors.clone() {
            if let Some(ids) = usize::try_from(sector)
                .ok()
                .and_then(|at| touching.get_mut(at))
            {
                ids.push(id);
            }
        }
    }
    let common = common_steps(history);
    let mut last: (&[OpId], Vec<Option<u32>>) = (&[], Vec::new());
    for (sector, ids) in (0..).zip(&touching) {
        // Sectors of one block mostly have the same story: told once, it is told for all of them.
        let seen: Vec<Option<u32>> = ids.iter().map(|&id| told(history, sector, id)).collect();
        if (ids.as_slice(), &seen) != (last.0, &last.1) {
            check_sector(history, sector, ids, &common)?;
            last = (ids, seen);
        }
    }
    Ok(())
}

/// What a read saw of a sector; `None` for writes.
fn seen(history: &History, sector: u64, id: OpId) -> Option<u32> {
    let op = history.op(id);
    match &op.kind {
        OpKind::Read(values) => {
            let at = usize::try_from(sector - op.sectors.start).unwrap_or(usize::MAX);
            values.get(at).copied()
        }
        OpKind::Write | OpKind::Zero | OpKind::Restore(_) => None,
    }
}

/// What an operation says of a sector that it does not say of all.
fn told(history: &History, sector: u64, id: OpId) -> Option<u32> {
    restored(history, sector, id).or_else(|| seen(history, sector, id))
}

/// What a rollback made of a sector; `None` for all else.
fn restored(history: &History, sector: u64, id: OpId) -> Option<u32> {
    let OpKind::Restore(values) = &history.op(id).kind else {
        return None;
    };
    values.get(usize::try_from(sector).ok()?).copied()
}

/// What happens to all sectors, in order.
fn common_steps(history: &History) -> Vec<(Moment, Step)> {
    let serves = history.serves.iter();
    let mut steps: Vec<_> = serves
        .map(|serve| (serve.at, Step::Serve(*serve)))
        .collect();
    let flushes = history.flushes.iter();
    steps.extend(flushes.map(|flush| (flush.done, Step::Flush(*flush))));
    steps.sort_by_key(|&(moment, _)| moment);
    steps
}

fn check_sector(
    history: &History,
    sector: u64,
    ids: &[OpId],
    common: &[(Moment, Step)],
) -> Result<(), Violation> {
    let mut steps: Vec<(Moment, Step)> = Vec::new();
    let observed = observed_values(history, sector, ids);
    for &id in ids {
        let op = history.op(id);
        // A write that may not have happened and that nobody saw explains nothing.
        let finished = matches!(op.ending, Ending::Done(_) | Ending::Refused(_));
        let seen_as = match op.kind {
            OpKind::Zero => 0,
            OpKind::Restore(_) => restored(history, sector, id).unwrap_or(0),
            OpKind::Write | OpKind::Read(_) => id,
        };
        if !finished && !observed.contains(&seen_as) {
            continue;
        }
        if matches!(op.kind, OpKind::Read(_)) && !finished {
            continue;
        }
        steps.push((op.invoked, Step::Invoke(id)));
        if let Ending::Done(at) | Ending::Refused(at) = op.ending {
            steps.push((at, Step::Return(id)));
        }
    }
    if steps.is_empty() {
        return Ok(());
    }
    steps.extend_from_slice(common);
    steps.sort_by_key(|&(moment, _)| moment);
    let start = Configuration {
        base: Some(0),
        current: 0,
        effected: BTreeSet::new(),
    };
    let mut search = Search {
        history,
        sector,
        pending: BTreeSet::new(),
        configurations: BTreeSet::from([start]),
        losable: BTreeSet::new(),
    };
    steps
        .into_iter()
        .try_for_each(|(_, step)| search.step(step))
}

impl Search<'_> {
    fn op(&self, id: OpId) -> &Op {
        self.history.op(id)
    }

    /// What a sector shows after this write.
    fn value(&self, id: OpId) -> u32 {
        match id.checked_sub(1).map(|_| &self.op(id).kind) {
            Some(OpKind::Write) => id,
            Some(OpKind::Restore(_)) => restored(self.history, self.sector, id).unwrap_or(0),
            _ => 0,
        }
    }

    /// What a read saw of this sector; `None` for writes.
    fn seen(&self, id: OpId) -> Option<u32> {
        seen(self.history, self.sector, id)
    }

    fn step(&mut self, step: Step) -> Result<(), Violation> {
        match step {
            Step::Invoke(id) => {
                self.pending.insert(id);
                if self.seen(id).is_none() {
                    self.losable.insert(id);
                    return Ok(());
                }
                let all = std::mem::take(&mut self.configurations);
                self.configurations = all.into_iter().map(|c| self.with_reads(c)).collect();
            }
            Step::Return(id) => self.returned(id)?,
            Step::Serve(serve) => self.served(serve)?,
            Step::Flush(_) if self.losable.is_empty() => {}
            Step::Flush(flush) => {
                self.harden(|op| matches!(op.ending, Ending::Done(at) if at < flush.invoked))
            }
        }
        Ok(())
    }

    fn returned(&mut self, id: OpId) -> Result<(), Violation> {
        if !self.pending.contains(&id) {
            return Ok(()); // its owner was replaced: decided when the next one served
        }
        if let Ending::Refused(_) = self.op(id).ending {
            self.configurations.retain(|c| !c.effected.contains(&id));
        } else if self.pending.len() > 1 || self.configurations.len() > 1 {
            self.configurations = self.reach(|c| c.effected.contains(&id))?;
        } else {
            self.returned_alone(id);
        }
        self.pending.remove(&id);
        if self.configurations.is_empty() {
            return Err(self.violation(id));
        }
        let all = std::mem::take(&mut self.configurations);
        self.configurations = all
            .into_iter()
            .map(|mut c| {
                c.effected.remove(&id);
                c
            })
            .collect();
        if self.op(id).durable && self.seen(id).is_none() {
            let invoked = self.op(id).invoked;
            self.harden(|op| op.invoked == invoked);
        }
        Ok(())
    }

    /// What [`Search::reach`] finds where nothing else is pending: nearly always.
    fn returned_alone(&mut self, id: OpId) {
        let Some(mut only) = self.configurations.pop_first() else {
            return;
        };
        if !only.effected.contains(&id) {
            if self.seen(id).is_some() {
                return;
            }
            only.current = id;
            only.effected.insert(id);
        }
        self.configurations.insert(only);
    }

    /// A new owner serves: older writes have taken effect by now, or never will.
    fn served(&mut self, serve: Serve) -> Result<(), Violation> {
        if self.pending.is_empty() && !serve.lossy {
            self.losable.clear();
            let all = std::mem::take(&mut self.configurations);
            self.configurations = all
                .into_iter()
                .map(|c| Configuration {
                    base: Some(c.current),
                    ..c
                })
                .collect();
            return Ok(());
        }
        let older: Vec<OpId> = self
            .pending
            .iter()
            .copied()
            .filter(|&id| self.op(id).life < serve.life && self.seen(id).is_none())
            .collect();
        let mut all = self.explore()?;
        if serve.lossy {
            let forks = all.iter().flat_map(|c| {
                let found = self
                    .losable
                    .iter()
                    .copied()
                    .chain(c.base)
                    .chain([c.current]);
                found.map(|current| Configuration {
                    current,
                    ..c.clone()
                })
            });
            all = forks.collect();
        }
        self.losable.clear();
        for &id in &older {
            // One that is acknowledged later still has to stand before this moment.
            if !matches!(self.op(id).ending, Ending::Done(_)) {
                self.pending.remove(&id);
            }
        }
        let forgotten = |id: &OpId| !older.contains(id) || self.pending.contains(id);
        self.configurations = all
            .into_iter()
            .map(|c| Configuration {
                base: Some(c.current),
                current: c.current,
                effected: c.effected.into_iter().filter(forgotten).collect(),
            })
            .collect();
        // An acknowledgement that an old owner gets later counts only for what stands already.
        for &id in &older {
            if self.pending.remove(&id) {
                let lost = serve.lossy;
                self.configurations
                    .retain(|c| lost || c.effected.contains(&id));
            }
        }
        let all = std::mem::take(&mut self.configurations);
        self.configurations = all
            .into_iter()
            .map(|mut c| {
                c.effected.retain(|id| !older.contains(id));
                self.with_reads(c)
            })
            .collect();
        if self.configurations.is_empty() {
            let what = format!("no order lets life {} begin as it did", serve.life);
            return Err(Violation {
                sector: self.sector,
                what,
            });
        }
        Ok(())
    }

    /// Some writes are durable: what certainly lies under one of them is not found again.
    fn harden(&mut self, durable: impl Fn(&Op) -> bool) {
        let durable: Vec<Moment> = {
            let ops = self.losable.iter().map(|&id| self.op(id));
            ops.filter(|op| durable(op)).map(|op| op.invoked).collect()
        };
        let Some(&last) = durable.iter().max() else {
            return;
        };
        let history = self.history;
        let under = |id: &OpId| matches!(history.op(*id).ending, Ending::Done(at) if at < last);
        self.losable.retain(|id| !under(id));
        if self.configurations.iter().all(|c| c.base.is_none()) {
            return;
        }
        let all = std::mem::take(&mut self.configurations);
        self.configurations = all
            .into_iter()
            .map(|c| Configuration { base: None, ..c })
            .collect();
    }

    /// All configurations that pending writes can lead to.
    fn explore(&self) -> Result<BTreeSet<Configuration>, Violation> {
        self.grow(|_| false, |_| true)
    }

    /// The configurations that satisfy `goal`, reached by as few pending writes as it takes.
    fn reach(
        &self,
        goal: impl Fn(&Configuration) -> bool,
    ) -> Result<BTreeSet<Configuration>, Violation> {
        self.grow(&goal, &goal)
    }

    fn grow(
        &self,
        stop: impl Fn(&Configuration) -> bool,
        keep: impl Fn(&Configuration) -> bool,
    ) -> Result<BTreeSet<Configuration>, Violation> {
        let mut visited = self.configurations.clone();
        let mut frontier: Vec<Configuration> = visited.iter().cloned().collect();
        while let Some(configuration) = frontier.pop() {
            if stop(&configuration) {
                continue;
            }
            let mut zeroed = self.value(configuration.current) == 0;
            for &id in &self.pending {
                let is_refused = matches!(self.op(id).ending, Ending::Refused(_));
                if is_refused || self.seen(id).is_some() || configuration.effected.contains(&id) {
                    continue;
                }
                // Zeroes that never return are all alike: the first of them will do, once.
                if self.value(id) == 0 && !matches!(self.op(id).ending, Ending::Done(_)) {
                    if zeroed {
                        continue;
                    }
                    zeroed = true;
                }
                let mut next = configuration.clone();
                next.current = id;
                next.effected.insert(id);
                let next = self.with_reads(next);
                if visited.insert(next.clone()) {
                    frontier.push(next);
                }
            }
            if visited.len() > CONFIGURATIONS_MAX {
                let what = format!(
                    "too many concurrent operations to check: {:?}",
                    self.pending
                );
                return Err(Violation {
                    sector: self.sector,
                    what,
                });
            }
        }
        Ok(visited.into_iter().filter(keep).collect())
    }

    /// Lets each pending read that sees the present value take effect: it costs nothing.
    fn with_reads(&self, mut configuration: Configuration) -> Configuration {
        let value = self.value(configuration.current);
        let matching = self
            .pending
            .iter()
            .filter(|&&id| self.seen(id) == Some(value));
        configuration.effected.extend(matching);
        configuration
    }

    fn violation(&self, id: OpId) -> Violation {
        let ops = self.history.ops();
        let near = ops.filter(|(_, op)| op.sectors.contains(&self.sector));
        let mut near: Vec<_> = near.collect();
        let at = near.iter().position(|&(other, _)| other == id).unwrap_or(0);
        near.truncate(at + LINES_AFTER);
        let near = near.split_off(at.saturating_sub(LINES_BEFORE));
        let lines: Vec<String> = near
            .into_iter()
            .map(|(id, op)| {
                let what = match &op.kind {
                    OpKind::Read(_) => format!("read of {:?}", self.seen(id)),
                    OpKind::Write => "write".to_owned(),
                    OpKind::Zero => "zero".to_owned(),
                    OpKind::Restore(_) => format!("restore of {:?}", self.value(id)),
                };
                format!(
                    "  op {id} life {} {what} from {} to {:?}",
                    op.life, op.invoked, op.ending
                )
            })
            .collect();
        Violation {
            sector: self.sector,
            what: format!(
                "op {id} cannot be explained; what lies around it:\n{}",
                lines.join("\n")
            ),
        }
    }
}

#[cfg(test)]
#[path = "linear/tests.rs"]
mod tests;
