//! What stores and owners say of each other, weighed against a clock value that the caller passes in.
//!
//! ```text
//!  store ── heartbeat: peers that it reaches, owners with sessions ──┐
//!  owner ── heartbeat: that it lives, stores that it reaches ────────┼──▶ Evidence ──▶ Weight of a node
//!  attach ── a generation was granted ───────────────────────────────┘            └──▶ is an owner gone?
//! ```
//!
//! Pure. Invariants: what was said longer ago than its lifetime says nothing; a witness that reaches
//! nobody tells of itself, not of others; no node judges itself; an owner is gone only on the word of
//! so many replicas that the rest could not acknowledge a write of its, and only when nobody has seen
//! it for its silence, while the conductor was running.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use ashlar_proto::api::{OwnerSeen, PeerSeen};
use ashlar_proto::{Generation, NodeId, VolumeId};

use crate::looks::Looks;
use crate::membership::Moment;

/// Who says something.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Witness {
    /// A store, by its node.
    Node(NodeId),
    /// An owner, by its name: all volumes of a process are one voice.
    Owner(String),
}

/// How many say what of a node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Weight {
    /// Witnesses that reach it.
    pub(crate) reached_by: u32,
    /// Witnesses that reach others, but not it.
    pub(crate) missed_by: u32,
}

impl Weight {
    /// Whether it serves somebody, whatever the conductor hears.
    pub(crate) fn is_reached(self) -> bool {
        self.reached_by > 0
    }

    /// Whether those who should use it mostly cannot: more than one, and more than can.
    pub(crate) fn is_missed(self) -> bool {
        self.missed_by > 1 && self.missed_by > self.reached_by
    }
}

/// What a replica's store says of an owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sighting {
    /// It has heard the owner, or a later one, within the owner's silence.
    Seen,
    /// It has not.
    NotSeen,
    /// It says nothing.
    Unknown,
}

#[derive(Clone, Copy, Debug)]
struct Statement {
    at: Moment,
    reached: bool,
}

/// What one store last said of owners.
#[derive(Clone, Debug)]
struct Sightings {
    at: Moment,
    owners: BTreeMap<VolumeId, (Generation, Duration)>,
}

/// See the module.
#[derive(Clone, Debug)]
pub(crate) struct Evidence {
    /// How long a statement of a store or owner counts.
    lifetime: Duration,
    /// The silence after which an owner may be gone.
    owner_silence: Duration,
    said: BTreeMap<Witness, BTreeMap<NodeId, Statement>>,
    sightings: BTreeMap<NodeId, Sightings>,
    /// The last sign of each volume's owner: its generation's grant, its heartbeat, or a store's
    /// word.
    owners: BTreeMap<VolumeId, (Generation, Moment)>,
    looks: Looks,
    /// The end of the conductor's last pause: no silence counts from before.
    resumed: Moment,
}

impl Evidence {
    /// Nothing said yet.
    pub(crate) fn new(lifetime: Duration, owner_silence: Duration) -> Self {
        Self {
            lifetime,
            owner_silence,
            said: BTreeMap::new(),
            sightings: BTreeMap::new(),
            owners: BTreeMap::new(),
            looks: Looks::new(lifetime, Moment::default()),
            resumed: Moment::default(),
        }
    }

    /// That silence of an owner counts from now on.
    pub(crate) fn set_owner_silence(&mut self, silence: Duration) {
        self.owner_silence = silence;
    }

    /// The clock is looked at: a long gap since the last time is a pause of the conductor itself. Call
    /// it a few times in a lifetime.
    pub(crate) fn look(&mut self, now: Moment) {
        if self.looks.passed(now).is_none() {
            self.resumed = self.resumed.max(now);
        }
    }

    /// A volume is attached with that generation: from now on its owner is expected to be heard.
    pub(crate) fn expect(&mut self, now: Moment, volume: VolumeId, generation: Generation) {
        let known = self.owners.entry(volume).or_insert((generation, now));
        if generation > known.0 {
            *known = (generation, now);
        }
    }

    /// A witness says which stores it reaches. What it said of others stands until it is too old.
    pub(crate) fn note_reach(&mut self, now: Moment, witness: Witness, stores: &[PeerSeen]) {
        if stores.is_empty() {
            return;
        }
        let said = self.said.entry(witness).or_default();
        for &PeerSeen { node, reached } in stores {
            said.insert(node, Statement { at: now, reached });
        }
    }

    /// A store names the owners that have sessions with it, or cannot.
    pub(crate) fn note_sightings(
        &mut self,
        now: Moment,
        node: NodeId,
        owners: Option<&[OwnerSeen]>,
    ) {
        let Some(owners) = owners else {
            self.sightings.remove(&node);
            return;
        };
        let mut by_volume: BTreeMap<VolumeId, (Generation, Duration)> = BTreeMap::new();
        for owner in owners {
            let seen = (owner.generation, Duration::from_millis(owner.idle_ms));
            let known = by_volume.entry(owner.volume).or_insert(seen);
            if seen.0 > known.0 || seen.0 == known.0 && seen.1 < known.1 {
                *known = seen;
            }
        }
        for (volume, (generation, idle)) in &by_volume {
            // The session may be gone when it is asked about next.
            self.note_owner(now.earlier(*idle), *volume, *generation);
        }
        let owners = by_volume;
        self.sightings.insert(node, Sightings { at: now, owners });
    }

    /// An owner was granted a generation, or says that it lives.
    pub(crate) fn note_owner(&mut self, now: Moment, volume: VolumeId, generation: Generation) {
        let last = self.owners.entry(volume).or_insert((generation, now));
        if generation > last.0 || generation == last.0 && now > last.1 {
            *last = (generation, now);
        }
    }

    /// What is said of each node now, by others than some whose word does not count. Nodes of which
    /// nothing is said are left out.
    pub(crate) fn weights(
        &self,
        now: Moment,
        without: &BTreeSet<NodeId>,
    ) -> BTreeMap<NodeId, Weight> {
        let mut weights: BTreeMap<NodeId, Weight> = BTreeMap::new();
        for (witness, said) in &self.said {
            let is_self = |node: NodeId| *witness == Witness::Node(node);
            if without.iter().any(|node| is_self(*node)) {
                continue;
            }
            let fresh = said
                .iter()
                .filter(|(_, s)| now.since(s.at) <= self.lifetime);
            let reaches_any = fresh.clone().any(|(_, s)| s.reached);
            for (&node, statement) in fresh.filter(|(node, _)| reaches_any && !is_self(**node)) {
                let weight = weights.entry(node).or_default();
                weight.reached_by += u32::from(statement.reached);
                weight.missed_by += u32::from(!statement.reached);
            }
        }
        weights
    }

    /// Whether the owner of that generation has been silent for long, to all.
    pub(crate) fn is_silent(&self, now: Moment, volume: VolumeId, generation: Generation) -> bool {
        let known = self.owners.get(&volume).filter(|(of, _)| *of >= generation);
        // Of one that nobody has spoken of there is nothing to be said.
        let Some((_, last)) = known else {
            return false;
        };
        now.since((*last).max(self.resumed)) >= self.owner_silence
    }

    /// What a store says of the owner of that generation.
    pub(crate) fn sighting(
        &self,
        now: Moment,
        node: NodeId,
        volume: VolumeId,
        generation: Generation,
    ) -> Sighting {
        let fresh = |s: &&Sightings| now.since(s.at) <= self.lifetime;
        let Some(sightings) = self.sightings.get(&node).filter(fresh) else {
            return Sighting::Unknown;
        };
        match sightings.owners.get(&volume) {
            Some((of, idle)) if *of >= generation && *idle < self.owner_silence => Sighting::Seen,
            _ => Sighting::NotSeen,
        }
    }

    /// Forgets what is too old to count, and volumes that are gone.
    pub(crate) fn tidy(&mut self, now: Moment, is_volume: impl Fn(VolumeId) -> bool) {
        let lifetime = self.lifetime;
        for said in self.said.values_mut() {
            said.retain(|_, statement| now.since(statement.at) <= lifetime);
        }
        self.said.retain(|_, said| !said.is_empty());
        self.sightings.retain(|_, s| now.since(s.at) <= lifetime);
        self.owners.retain(|volume, _| is_volume(*volume));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIFETIME: Duration = Duration::from_secs(5);
    const SILENCE: Duration = Duration::from_secs(30);

    fn at(seconds: u64) -> Moment {
        Moment::after_start(Duration::from_secs(seconds))
    }

    fn node(id: u64) -> NodeId {
        NodeId::new(id)
    }

    fn seen(id: u64, reached: bool) -> PeerSeen {
        PeerSeen {
            node: node(id),
            reached,
        }
    }

    fn weigh(evidence: &Evidence, second: u64, of: u64) -> Weight {
        let weights = evidence.weights(at(second), &BTreeSet::new());
        weights.get(&node(of)).copied().unwrap_or_default()
    }

    fn evidence() -> Evidence {
        Evidence::new(LIFETIME, SILENCE)
    }

    #[test]
    fn one_who_reaches_a_node_outweighs_no_heartbeat() {
        let mut evidence = evidence();
        assert!(!weigh(&evidence, 1, 3).is_reached());
        evidence.note_reach(at(1), Witness::Node(node(2)), &[seen(3, true)]);
        assert!(weigh(&evidence, 6, 3).is_reached());
        assert!(!weigh(&evidence, 7, 3).is_reached(), "too old");
    }

    #[test]
    fn a_node_is_missed_only_on_the_word_of_more_than_one_who_reach_others() {
        let mut evidence = evidence();
        // Reaches nobody: it is cut off itself.
        evidence.note_reach(
            at(1),
            Witness::Node(node(1)),
            &[seen(2, false), seen(3, false)],
        );
        assert_eq!(weigh(&evidence, 1, 3), Weight::default());
        evidence.note_reach(
            at(1),
            Witness::Node(node(2)),
            &[seen(1, true), seen(3, false)],
        );
        assert!(!weigh(&evidence, 1, 3).is_missed(), "one voice");
        let owner = Witness::Owner("host".into());
        evidence.note_reach(at(1), owner.clone(), &[seen(1, true), seen(3, false)]);
        assert!(weigh(&evidence, 1, 3).is_missed());
        // As many reach it as do not.
        evidence.note_reach(at(1), Witness::Node(node(4)), &[seen(3, true)]);
        evidence.note_reach(at(1), Witness::Node(node(5)), &[seen(3, true)]);
        assert!(!weigh(&evidence, 1, 3).is_missed());
        // Volumes of one owner are one voice, and what it says of one node leaves the others.
        evidence.note_reach(at(2), owner, &[seen(3, true)]);
        assert_eq!(weigh(&evidence, 2, 3).missed_by, 1);
        assert_eq!(weigh(&evidence, 2, 1).reached_by, 2);
    }

    #[test]
    fn no_node_speaks_for_itself() {
        let mut evidence = evidence();
        evidence.note_reach(at(1), Witness::Node(node(3)), &[seen(3, true)]);
        assert_eq!(weigh(&evidence, 1, 3), Weight::default());
    }

    #[test]
    fn an_owner_is_silent_after_its_time_only() {
        let mut evidence = evidence();
        let (volume, first, second) = (VolumeId::new(1), Generation::new(1), Generation::new(2));
        assert!(
            !evidence.is_silent(at(90), volume, first),
            "nothing is known"
        );
        evidence.expect(at(0), volume, first);
        evidence.expect(at(20), volume, first);
        assert!(!evidence.is_silent(at(29), volume, first));
        assert!(evidence.is_silent(at(30), volume, first));
        evidence.note_owner(at(30), volume, second);
        // A beat that was long on its way takes nothing back.
        evidence.note_owner(at(40), volume, first);
        assert!(!evidence.is_silent(at(59), volume, second));
        assert!(evidence.is_silent(at(60), volume, second));
    }

    /// A session ends, the store says so at once, and the owner is on its way back.
    #[test]
    fn what_a_store_saw_of_an_owner_lasts_longer_than_its_session() {
        let mut evidence = evidence();
        let (volume, generation) = (VolumeId::new(1), Generation::new(1));
        evidence.note_owner(at(0), volume, generation);
        let owner = OwnerSeen {
            volume,
            generation,
            idle_ms: 2000,
        };
        evidence.note_sightings(at(40), node(1), Some(&[owner]));
        evidence.note_sightings(at(41), node(1), Some(&[]));
        assert!(!evidence.is_silent(at(67), volume, generation));
        assert!(evidence.is_silent(at(68), volume, generation));
    }

    #[test]
    fn a_pause_of_the_conductor_is_no_silence_of_an_owner() {
        let mut evidence = evidence();
        let (volume, generation) = (VolumeId::new(1), Generation::new(1));
        evidence.look(at(1));
        evidence.note_owner(at(1), volume, generation);
        evidence.look(at(4));
        evidence.look(at(3600));
        assert!(!evidence.is_silent(at(3629), volume, generation));
        assert!(evidence.is_silent(at(3630), volume, generation));
    }

    #[test]
    fn the_word_of_some_can_be_left_out() {
        let mut evidence = evidence();
        let said = [seen(1, true), seen(3, false)];
        evidence.note_reach(at(1), Witness::Node(node(2)), &said);
        let without = BTreeSet::from([node(2)]);
        assert_eq!(weigh(&evidence, 1, 3).missed_by, 1);
        assert_eq!(evidence.weights(at(1), &without), BTreeMap::new());
    }

    #[test]
    fn a_store_sees_an_owner_that_asks_something_now_and_then() {
        let mut evidence = evidence();
        let (volume, generation) = (VolumeId::new(1), Generation::new(5));
        let sighting = |evidence: &Evidence, second| {
            evidence.sighting(at(second), node(1), volume, generation)
        };
        assert_eq!(sighting(&evidence, 1), Sighting::Unknown);
        evidence.note_sightings(at(1), node(1), Some(&[]));
        assert_eq!(sighting(&evidence, 1), Sighting::NotSeen);
        let owner = |generation, idle_ms| OwnerSeen {
            volume,
            generation: Generation::new(generation),
            idle_ms,
        };
        evidence.note_sightings(at(2), node(1), Some(&[owner(5, 60_000), owner(5, 100)]));
        assert_eq!(sighting(&evidence, 2), Sighting::Seen);
        evidence.note_sightings(at(3), node(1), Some(&[owner(5, 30_000), owner(4, 100)]));
        assert_eq!(sighting(&evidence, 3), Sighting::NotSeen);
        assert_eq!(sighting(&evidence, 9), Sighting::Unknown, "too old");
        evidence.note_sightings(at(9), node(1), None);
        assert_eq!(sighting(&evidence, 9), Sighting::Unknown);
    }

    #[test]
    fn what_is_too_old_is_forgotten() {
        let mut evidence = evidence();
        evidence.note_reach(at(1), Witness::Node(node(1)), &[seen(2, true)]);
        evidence.note_sightings(at(1), node(1), Some(&[]));
        evidence.note_owner(at(1), VolumeId::new(1), Generation::new(1));
        evidence.tidy(at(6), |_| true);
        assert_eq!((evidence.said.len(), evidence.sightings.len()), (1, 1));
        evidence.tidy(at(7), |_| false);
        assert!(evidence.said.is_empty() && evidence.sightings.is_empty());
        assert!(evidence.owners.is_empty());
    }
}
