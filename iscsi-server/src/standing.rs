//! How a logical unit stands among the servers that offer it: who serves it, and who could.
//!
//! One server at a time serves a unit to which anything is written: its volume has one owner. To the
//! others the unit is on standby.

/// What number of its changes something was seen at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Mark {
    /// Of the unit itself.
    pub unit: u64,
    /// Of the servers.
    pub servers: u64,
}

/// A server, as its port appears to hosts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServerPort {
    /// Its portal group, which no other server has.
    pub group: u16,
    /// Whether it is heard.
    pub up: bool,
}

/// Who serves a unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UnitOwner {
    /// All servers at once: nothing is written to it, or there is but one.
    Each,
    /// Nobody: who is asked first will.
    Nobody,
    /// A server.
    Server {
        /// Its portal group.
        group: u16,
        /// Whether it is heard, and is the run that began to serve the unit.
        alive: bool,
    },
    /// Somebody who is no server of this kind.
    Other,
}

/// How a unit stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    /// When it was seen.
    pub mark: Mark,
    /// The portal group of the server that is asked; 0 where it is the only one.
    pub own: u16,
    /// All servers, by group.
    pub servers: Vec<ServerPort>,
    /// Who serves it.
    pub owner: UnitOwner,
    /// The generation of that owner.
    pub generation: u64,
    /// The server that is to serve it next: others leave it to that one, if it is heard.
    pub wanted_by: Option<u16>,
    /// Its size in bytes.
    pub size_bytes: u64,
    /// The version of its persistent reservations.
    pub reservations: u64,
}

/// Takes a unit from who serves it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Taking {
    /// From the owner of this generation, and no other.
    pub generation: u64,
    /// An initiator asked for it: from a server that is heard, too.
    pub asked: bool,
}

/// What a server does to have a unit's device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Approach {
    Open,
    /// From an owner that is gone.
    Take(Taking),
    /// Another server serves it.
    Leave,
}

impl Standing {
    /// Of a unit that one server alone offers.
    #[must_use]
    pub const fn alone() -> Self {
        Self {
            mark: Mark {
                unit: 1,
                servers: 1,
            },
            own: 0,
            servers: Vec::new(),
            owner: UnitOwner::Each,
            generation: 0,
            wanted_by: None,
            size_bytes: 0,
            reservations: 0,
        }
    }

    /// Whether a server is heard. The one that is asked is.
    pub(crate) fn is_up(&self, group: u16) -> bool {
        let mut servers = self.servers.iter();
        group == self.own || servers.any(|server| server.group == group && server.up)
    }

    /// The server that serves the unit now, or is to.
    pub(crate) fn active(&self) -> Option<u16> {
        if self.owner == UnitOwner::Each {
            return None;
        }
        let wanted = self.wanted_by.filter(|group| self.is_up(*group));
        wanted.or(match self.owner {
            UnitOwner::Server { group, alive: true } => Some(group),
            _ => None,
        })
    }

    /// The server that hosts should go to while nobody serves the unit: units spread over servers by
    /// their identifiers.
    pub(crate) fn preferred(&self, id: u128) -> Option<u16> {
        let servers = self.servers.iter().map(|server| server.group);
        let up: Vec<u16> = servers.filter(|group| self.is_up(*group)).collect();
        let count = u128::try_from(up.len()).ok().filter(|count| *count > 0)?;
        up.get(usize::try_from(id % count).ok()?).copied()
    }

    /// What the server that is asked does for a command that needs the device.
    pub(crate) fn approach(&self) -> Approach {
        if self.active().is_some_and(|group| group != self.own) {
            return Approach::Leave;
        }
        match self.owner {
            UnitOwner::Server {
                group,
                alive: false,
            } if group != self.own => Approach::Take(Taking {
                generation: self.generation,
                asked: false,
            }),
            _ => Approach::Open,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn standing(owner: UnitOwner) -> Standing {
        let port = |group, up| ServerPort { group, up };
        Standing {
            own: 2,
            servers: vec![port(1, true), port(2, true), port(7, false)],
            owner,
            generation: 9,
            ..Standing::alone()
        }
    }

    #[test]
    fn a_unit_that_another_server_serves_is_left_to_it() {
        let by = |group, alive| standing(UnitOwner::Server { group, alive });
        assert_eq!(by(1, true).approach(), Approach::Leave);
        assert_eq!(by(1, true).active(), Some(1));
        assert_eq!(by(2, true).approach(), Approach::Open);
        // A run of its own that has ended.
        assert_eq!(by(2, false).approach(), Approach::Open);
        assert_eq!(standing(UnitOwner::Nobody).approach(), Approach::Open);
        assert_eq!(standing(UnitOwner::Other).approach(), Approach::Open);
    }

    #[test]
    fn a_unit_is_taken_from_a_server_that_is_gone_and_only_from_that_one() {
        let gone = UnitOwner::Server {
            group: 7,
            alive: false,
        };
        let taking = Taking {
            generation: 9,
            asked: false,
        };
        assert_eq!(standing(gone).approach(), Approach::Take(taking));
        assert_eq!(standing(gone).active(), None);
    }

    #[test]
    fn who_is_to_have_a_unit_next_is_waited_for_while_it_is_heard() {
        let mut wanted = standing(UnitOwner::Nobody);
        wanted.wanted_by = Some(1);
        assert_eq!(wanted.approach(), Approach::Leave);
        wanted.wanted_by = Some(2);
        assert_eq!(wanted.approach(), Approach::Open);
        wanted.wanted_by = Some(7);
        assert_eq!(wanted.approach(), Approach::Open);
    }

    #[test]
    fn units_that_nobody_serves_spread_over_those_who_are_heard() {
        let standing = standing(UnitOwner::Nobody);
        assert_eq!(standing.preferred(4), Some(1));
        assert_eq!(standing.preferred(5), Some(2));
        assert_eq!(Standing::alone().preferred(5), None);
    }
}
