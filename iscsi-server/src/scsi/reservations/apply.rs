//! The state machine of PERSISTENT RESERVE OUT (SPC-4 sections 5.13.7 to 5.13.11).

use super::actions::{Action, Effects, Register};
use super::state::{
    InitiatorPort, Registrant, Registrations, Reservation, ReservationType, TargetPort,
};
use crate::scsi::Nexus;
use crate::scsi::sense::{Code, Refusal, Sense, code};

/// Registrations of one logical unit.
const REGISTRANTS_MAX: usize = 256;

/// A change in the making.
struct Change<'a> {
    state: Registrations,
    by: &'a Nexus,
    /// The nexuses that there are, `by` among them.
    nexuses: &'a [Nexus],
    effects: Effects,
}

/// Does what `by` asks for; `nexuses` are those of the logical unit, who may have to be told.
///
/// # Errors
/// RESERVATION CONFLICT, or sense data; nothing has changed then.
pub(crate) fn apply(
    before: &Registrations,
    by: &Nexus,
    nexuses: &[Nexus],
    action: &Action,
) -> Result<(Registrations, Effects), Refusal> {
    let mut change = Change {
        state: before.clone(),
        by,
        nexuses,
        effects: Effects::default(),
    };
    match action {
        Action::Register(register) => change.register(register)?,
        Action::Reserve { key, kind } => change.reserve(*key, *kind)?,
        Action::Release { key, kind } => change.release(*key, *kind)?,
        Action::Clear { key } => change.clear(*key)?,
        Action::Preempt {
            key,
            victim,
            kind,
            abort,
        } => change.preempt(*key, *victim, *kind, *abort)?,
        Action::Move { .. } => change.relocate(action)?,
    }
    Ok((change.state, change.effects))
}

impl Change<'_> {
    /// Where the registration of the asking nexus is, whose key must be this.
    fn own(&self, key: u64) -> Result<usize, Refusal> {
        let position = self.state.position(self.by).ok_or(Refusal::Conflict)?;
        if self.state.registrants[position].key == key {
            Ok(position)
        } else {
            Err(Refusal::Conflict)
        }
    }

    fn count(&mut self) {
        self.state.generation = self.state.generation.wrapping_add(1);
    }

    /// Raises an attention for all other nexuses that are registered so.
    fn tell(&mut self, registrants: &[Registrant], code: Code) {
        for nexus in self.nexuses {
            let concerned = registrants.iter().any(|registrant| registrant.is(nexus));
            if concerned && nexus.id != self.by.id {
                self.effects.attentions.push((nexus.id, code));
            }
        }
    }

    fn register(&mut self, asked: &Register) -> Result<(), Refusal> {
        let position = self.state.position(self.by);
        match (position, asked.key) {
            (None, Some(key)) if key != 0 => return Err(Refusal::Conflict),
            (Some(position), Some(key)) if self.state.registrants[position].key != key => {
                return Err(Refusal::Conflict);
            }
            (Some(_), _) if !asked.others.is_empty() => return Err(Sense::list(20).into()),
            _ => {}
        }
        match position {
            None if asked.new_key == 0 => return Ok(()),
            None => self.add_all(asked)?,
            Some(position) if asked.new_key == 0 => self.unregister(position),
            Some(position) => self.state.registrants[position].key = asked.new_key,
        }
        self.state.persist = asked.persist;
        self.count();
        Ok(())
    }

    fn add_all(&mut self, asked: &Register) -> Result<(), Refusal> {
        let target = (!asked.all_ports).then(|| TargetPort {
            name: self.by.target.clone(),
            portal_group: self.by.portal_group,
        });
        let own = InitiatorPort {
            name: self.by.initiator.clone(),
            isid: self.by.isid,
        };
        for initiator in std::iter::once(&own).chain(&asked.others) {
            let registrant = Registrant {
                initiator: initiator.clone(),
                target: target.clone(),
                key: asked.new_key,
            };
            let twice = self.state.registrants.iter().any(|other| {
                other.initiator == registrant.initiator && other.target == registrant.target
            });
            if twice {
                return Err(Refusal::Conflict);
            }
            if self.state.registrants.len() >= REGISTRANTS_MAX {
                return Err(Sense::illegal(code::INSUFFICIENT_RESOURCES).into());
            }
            self.state.registrants.push(registrant);
        }
        Ok(())
    }

    /// Takes a registration out, and with it a reservation that has no holder any more.
    fn unregister(&mut self, position: usize) {
        let held = self.remove(|at, _| at == position);
        if let Some(kind) = held
            && kind.favours_registrants()
        {
            let rest = self.state.registrants.clone();
            self.tell(&rest, code::RESERVATIONS_RELEASED);
        }
    }

    /// Takes registrations out; gives the type of the reservation where it went with them.
    fn remove(
        &mut self,
        mut which: impl FnMut(usize, &Registrant) -> bool,
    ) -> Option<ReservationType> {
        let holder = self.state.reservation.as_ref().and_then(|held| held.holder);
        let mut kept_holder = None;
        let mut kept = Vec::with_capacity(self.state.registrants.len());
        let before = std::mem::take(&mut self.state.registrants);
        for (at, registrant) in before.into_iter().enumerate() {
            if which(at, &registrant) {
                continue;
            }
            if holder == Some(at) {
                kept_holder = Some(kept.len());
            }
            kept.push(registrant);
        }
        self.state.registrants = kept;
        let reservation = self.state.reservation.as_mut()?;
        let gone = match holder {
            Some(_) => kept_holder.is_none(),
            None => self.state.registrants.is_empty(),
        };
        reservation.holder = kept_holder;
        let kind = reservation.kind;
        gone.then(|| {
            self.state.reservation = None;
            kind
        })
    }

    fn reserve(&mut self, key: u64, kind: ReservationType) -> Result<(), Refusal> {
        let position = self.own(key)?;
        if let Some(held) = &self.state.reservation {
            let same = self.state.holds(position) && held.kind == kind;
            return if same { Ok(()) } else { Err(Refusal::Conflict) };
        }
        self.take(position, kind);
        Ok(())
    }

    fn take(&mut self, position: usize, kind: ReservationType) {
        let holder = (!kind.is_all_registrants()).then_some(position);
        self.state.reservation = Some(Reservation { kind, holder });
    }

    fn release(&mut self, key: u64, kind: ReservationType) -> Result<(), Refusal> {
        let position = self.own(key)?;
        let Some(held) = &self.state.reservation else {
            return Ok(());
        };
        if !self.state.holds(position) {
            return Ok(());
        }
        if held.kind != kind {
            return Err(Sense::illegal(code::INVALID_RELEASE).into());
        }
        self.state.reservation = None;
        if kind.favours_registrants() {
            let registrants = self.state.registrants.clone();
            self.tell(&registrants, code::RESERVATIONS_RELEASED);
        }
        Ok(())
    }

    fn clear(&mut self, key: u64) -> Result<(), Refusal> {
        self.own(key)?;
        let registrants = std::mem::take(&mut self.state.registrants);
        self.state.reservation = None;
        self.tell(&registrants, code::RESERVATIONS_PREEMPTED);
        self.count();
        Ok(())
    }

    /// SPC-4 section 5.13.11.2: of registrations alone, or of the reservation with them.
    fn preempt(
        &mut self,
        key: u64,
        victim: u64,
        kind: ReservationType,
        abort: bool,
    ) -> Result<(), Refusal> {
        let own = self.own(key)?;
        let held = self.state.reservation.as_ref();
        let takes_over = match held.map(|held| held.holder) {
            None => false,
            Some(None) => victim == 0,
            Some(Some(holder)) => {
                let holder = self.state.registrants.get(holder);
                holder.is_some_and(|holder| holder.key == victim)
            }
        };
        if victim == 0 && !takes_over {
            return Err(Sense::list(8).into());
        }
        let old_kind = held.map(|held| held.kind);
        let goes = |at: usize, registrant: &Registrant| {
            let named = victim == 0 || registrant.key == victim;
            named && !(takes_over && at == own)
        };
        let registrants = self.state.registrants.iter().enumerate();
        let gone = registrants.filter(|&(at, registrant)| goes(at, registrant));
        let gone: Vec<_> = gone.map(|(_, registrant)| registrant.clone()).collect();
        if gone.is_empty() && !takes_over {
            return Err(Refusal::Conflict);
        }
        self.remove(goes);
        self.tell(&gone, code::REGISTRATIONS_PREEMPTED);
        if takes_over {
            self.take_over(old_kind, kind)?;
        }
        if abort {
            self.abort(&gone);
            self.state.aborts = self.state.aborts.wrapping_add(1);
        }
        self.count();
        Ok(())
    }

    /// The reservation is that of who preempts; a new type is told to the rest.
    fn take_over(
        &mut self,
        before: Option<ReservationType>,
        kind: ReservationType,
    ) -> Result<(), Refusal> {
        let own = self.state.position(self.by).ok_or(Refusal::Conflict)?;
        self.take(own, kind);
        if before.is_some_and(|before| before != kind) {
            let rest = self.state.registrants.clone();
            self.tell(&rest, code::RESERVATIONS_RELEASED);
        }
        Ok(())
    }

    fn abort(&mut self, registrants: &[Registrant]) {
        for nexus in self.nexuses {
            let gone = registrants.iter().any(|registrant| registrant.is(nexus));
            if gone && nexus.id != self.by.id {
                self.effects.aborts.push(nexus.id);
            }
        }
    }

    /// REGISTER AND MOVE (SPC-4 section 5.13.8).
    fn relocate(&mut self, action: &Action) -> Result<(), Refusal> {
        let Action::Move {
            key,
            new_key,
            persist,
            unregister,
            to,
            through,
        } = action
        else {
            return Ok(());
        };
        let own = self.own(*key)?;
        let Some(held) = &self.state.reservation else {
            return Err(Refusal::Conflict);
        };
        let kind = held.kind;
        if kind.is_all_registrants() || !self.state.holds(own) {
            return Err(Refusal::Conflict);
        }
        if *new_key == 0 {
            return Err(Sense::list(8).into());
        }
        if to.name == self.by.initiator && to.isid == self.by.isid {
            return Err(Sense::list(24).into());
        }
        let holder = self.settle(to, through, *new_key)?;
        self.take(holder, kind);
        self.state.persist = *persist;
        if *unregister {
            self.remove(|at, _| at == own);
        }
        self.count();
        Ok(())
    }

    /// Registers a port, or gives it a new key; gives its place.
    fn settle(
        &mut self,
        to: &InitiatorPort,
        through: &TargetPort,
        key: u64,
    ) -> Result<usize, Refusal> {
        let mut registrants = self.state.registrants.iter();
        let known = registrants.position(|other| {
            let any = other.target.as_ref().is_none_or(|port| port == through);
            any && other.initiator == *to
        });
        if let Some(known) = known {
            self.state.registrants[known].key = key;
            return Ok(known);
        }
        if self.state.registrants.len() >= REGISTRANTS_MAX {
            return Err(Sense::illegal(code::INSUFFICIENT_RESOURCES).into());
        }
        self.state.registrants.push(Registrant {
            initiator: to.clone(),
            target: Some(through.clone()),
            key,
        });
        Ok(self.state.registrants.len() - 1)
    }
}
