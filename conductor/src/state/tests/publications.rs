//! Volumes of nodes: one at a time, attached by who shows the publication, and lost with it.

use ashlar_proto::PublicationId;
use ashlar_proto::api::{Publication, PublishVolume, UnpublishVolume, repair_owner};

use super::*;

impl Bench {
    fn named(&self, name: &str) -> &VolumeRow {
        self.state.volume_named(name).unwrap()
    }

    fn publication(&self, name: &str) -> Option<PublicationId> {
        self.named(name).publication.as_ref().map(|known| known.id)
    }

    fn publish(&mut self, name: &str, node: &str, read_only: bool, id: u64) -> Result<(), Refusal> {
        let request = PublishVolume {
            volume: self.named(name).id,
            node: node.to_owned(),
            read_only,
        };
        let id = PublicationId::new(id);
        let plan = self.state.plan_publish(name, &request, id)?;
        self.commit(plan);
        Ok(())
    }

    fn unpublish(&mut self, name: &str, node: Option<&str>) {
        let request = UnpublishVolume {
            volume: self.named(name).id,
            node: node.map(str::to_owned),
        };
        let plan = self.state.plan_unpublish(name, &request).unwrap();
        self.commit(plan);
        assert!(!self.state.is_used_there(name, &request));
    }

    fn try_attach(&mut self, name: &str, request: &AttachRequest) -> Result<Generation, Refusal> {
        let plan = self
            .state
            .plan_attach(&self.live, self.now, name, request)?;
        Ok(self.commit(plan).volume.generation)
    }
}

fn under(owner: &str, publication: Option<u64>) -> AttachRequest {
    AttachRequest {
        publication: publication.map(PublicationId::new),
        ..by(owner, false)
    }
}

fn refused<T: std::fmt::Debug>(result: Result<T, Refusal>) -> VolumeRefusal {
    match result.unwrap_err() {
        Refusal::Volume(refusal) => refusal,
        other => panic!("{other}"),
    }
}

#[test]
fn a_volume_is_one_nodes_at_a_time() {
    let mut bench = Bench::new();
    bench.ready("v", 3);
    bench.publish("v", "a", false, 1).unwrap();
    bench.publish("v", "a", false, 2).unwrap();
    let expected = Publication {
        id: PublicationId::new(1),
        node: "a".to_owned(),
        read_only: false,
    };
    assert_eq!(
        bench.named("v").publication,
        Some(expected),
        "the same again"
    );
    let other = refused(bench.publish("v", "b", false, 3));
    assert!(
        matches!(&other, VolumeRefusal::Published { node, .. } if node == "a"),
        "{other}"
    );
    let otherwise = refused(bench.publish("v", "a", true, 3));
    assert!(
        matches!(otherwise, VolumeRefusal::PublishedOtherwise { .. }),
        "{otherwise}"
    );
    bench.unpublish("v", Some("b"));
    assert_eq!(
        bench.publication("v"),
        Some(PublicationId::new(1)),
        "another node's call"
    );
    bench.state = read_back(&bench.state);
    bench.unpublish("v", Some("a"));
    bench.unpublish("v", Some("a"));
    bench.publish("v", "b", true, 4).unwrap();
    bench.unpublish("v", None);
    assert_eq!(bench.publication("v"), None);
    for node in ["", "a\nb", &"n".repeat(1025)] {
        assert!(bench.publish("v", node, false, 5).is_err(), "{node:?}");
    }
}

#[test]
fn a_published_volume_is_attached_by_who_shows_the_publication() {
    let mut bench = Bench::new();
    bench.ready("v", 3);
    let over = refused(bench.try_attach("v", &under("front-end", Some(1))));
    assert!(over.to_string().contains("was unpublished"), "{over}");
    bench.publish("v", "a", false, 1).unwrap();
    let plain = refused(bench.try_attach("v", &under("front-end", None)));
    assert!(
        matches!(&plain, VolumeRefusal::Published { node, .. } if node == "a"),
        "{plain}"
    );
    let forced = refused(bench.try_attach("v", &by("front-end", true)));
    assert!(
        matches!(forced, VolumeRefusal::Published { .. }),
        "{forced}"
    );
    let over = refused(bench.try_attach("v", &under("front-end", Some(2))));
    assert!(over.to_string().contains("to node `a` anew"), "{over}");

    let first = bench.try_attach("v", &under("front-end", Some(1))).unwrap();
    // The same node's front end, started again: it need not wait until the earlier run is known to be gone.
    let second = bench
        .try_attach("v", &under("front-end again", Some(1)))
        .unwrap();
    assert!(second > first);
    assert!(bench.state.plan_delete("v", false).is_err());
    assert!(bench.state.plan_delete("v", true).is_ok());
}

#[test]
fn who_has_it_attached_otherwise_keeps_it_and_the_node_waits() {
    let mut bench = Bench::new();
    let volume = bench.ready("v", 3);
    let plain = bench.attach("v", "by hand");
    bench.publish("v", "a", false, 1).unwrap();
    let waits = refused(bench.try_attach("v", &under("front-end", Some(1))));
    assert!(matches!(waits, VolumeRefusal::Attached { .. }), "{waits}");
    bench.unpublish("v", Some("a"));
    assert_eq!(
        bench.named("v").generation,
        plain,
        "it is none of the publication"
    );
    assert!(!bench.named("v").unfenced);
    bench.publish("v", "a", false, 2).unwrap();
    let detach = detach(volume, plain.get());
    let plan = bench.state.plan_detach("v", &detach).unwrap();
    bench.commit(plan);
    bench.try_attach("v", &under("front-end", Some(2))).unwrap();
}

#[test]
fn who_has_it_attached_under_a_publication_loses_it_with_that() {
    let mut bench = Bench::new();
    let volume = bench.ready("v", 3);
    bench.publish("v", "a", false, 1).unwrap();
    let zombie = bench
        .try_attach("v", &under("front-end a", Some(1)))
        .unwrap();
    bench.state = read_back(&bench.state);
    bench.unpublish("v", Some("a"));
    let row = bench.named("v");
    assert!(row.generation > zombie && row.attached_by.is_none() && row.unfenced);
    assert!(row.publication.is_none() && row.attached_under.is_none());
    let stale = bench.state.plan_detach("v", &detach(volume, zombie.get()));
    assert!(stale.is_err(), "the zombie's own end changes nothing");
    for request in [
        under("front-end a", Some(1)),
        under("front-end a again", Some(1)),
    ] {
        assert!(bench.try_attach("v", &request).is_err());
    }
    bench.publish("v", "b", false, 2).unwrap();
    assert!(
        bench
            .try_attach("v", &under("front-end a", Some(1)))
            .is_err()
    );
    let heir = bench
        .try_attach("v", &under("front-end b", Some(2)))
        .unwrap();
    assert!(heir > zombie.next());
}

#[test]
fn repair_owners_repair_what_is_published_and_let_go_for_its_node() {
    let mut bench = Bench::new();
    bench.ready("v", 3);
    bench.publish("v", "a", true, 1).unwrap();
    let repair = AttachRequest {
        repair: true,
        ..by(&repair_owner("b"), false)
    };
    let repairing = bench.try_attach("v", &repair).unwrap();
    bench.unpublish("v", Some("a"));
    assert_eq!(bench.named("v").generation, repairing, "it is not the node");
    bench.publish("v", "a", true, 2).unwrap();
    bench.try_attach("v", &under("front-end", Some(2))).unwrap();
    assert!(bench.try_attach("v", &repair).is_err());
}

/// xorshift64*: the same seed gives the same run.
struct Rng(u64);

impl Rng {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % bound
    }
}

/// Nodes attach with whatever publication they were last given, each at any time: none attaches once a later
/// one was given, or its own was ended, and the generation tells any two attaches apart.
#[test]
fn in_any_order_only_the_current_publication_attaches() {
    let nodes = ["a", "b", "c"];
    let mut attached = 0;
    for seed in 1..=200 {
        let mut rng = Rng(seed);
        let mut bench = Bench::new();
        bench.ready("v", 3);
        let mut given: BTreeMap<&str, u64> = BTreeMap::new();
        let mut granted = Generation::new(0);
        let mut drawn = 0;
        for _ in 0..200 {
            let node = nodes[usize::try_from(rng.below(3)).unwrap()];
            match rng.below(6) {
                0 | 1 => {
                    drawn += 1;
                    let before = bench.named("v").publication.clone();
                    let done = bench.publish("v", node, false, drawn);
                    let expected = before.as_ref().is_none_or(|known| known.node == node);
                    assert_eq!(done.is_ok(), expected, "seed {seed}");
                    if done.is_ok() {
                        let id = bench.publication("v").unwrap().get();
                        assert!(id == drawn || before.is_some(), "seed {seed}");
                        given.insert(node, id);
                    }
                }
                2 => bench.unpublish("v", Some(node)),
                3 => bench.wait(Duration::from_secs(rng.below(40))),
                _ => {
                    let shown = given.get(node).copied();
                    let now = bench.publication("v").map(PublicationId::get);
                    let owner = format!("{node} run {}", rng.below(2));
                    let done = bench.try_attach("v", &under(&owner, shown));
                    if now != shown {
                        assert!(done.is_err(), "seed {seed}: {shown:?} of {now:?}");
                    }
                    if let Ok(generation) = done {
                        assert!(generation > granted, "seed {seed}");
                        granted = generation;
                        attached += 1;
                    }
                }
            }
            let row = bench.named("v");
            if let Some(known) = row.attached_under {
                assert_eq!(Some(known), bench.publication("v"), "seed {seed}");
            }
        }
    }
    assert!(attached > 2000, "{attached}");
}
