//! Holds for groups of snapshots: what waits, for how long, and what is said of it afterwards.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use ashlar_proto::api::{AckRule, HoldOutcome, HoldWord, VolumeHold};
use ashlar_proto::{GroupId, Layer};
use ashlar_reactor::Reactor;

use super::cluster::Cluster;
use super::scenarios::{holds, write};
use crate::{BlockDevice, BlockError, Durability, Volume, ZeroMode, map};

const GROUP: GroupId = GroupId::new(5);

fn asked(group: GroupId) -> Option<VolumeHold> {
    let sealed = None;
    Some(VolumeHold { group, sealed })
}

fn sealed(group: GroupId, layer: u32) -> Option<VolumeHold> {
    let sealed = Some(Layer::new(layer));
    Some(VolumeHold { group, sealed })
}

/// The conductor's map comes in.
fn tell(cluster: &Cluster, volume: &Volume, head: u32, hold: Option<VolumeHold>) {
    map::take_note(&volume.core, cluster.conductor.told(head, hold));
}

/// Begins a write, a trim and zeroes; counts those that are done.
fn change(reactor: &Reactor, volume: &Volume) -> Rc<Cell<u32>> {
    let done = Rc::new(Cell::new(0));
    for kind in 0..3 {
        let (volume, done, here) = (volume.clone(), Rc::clone(&done), reactor.clone());
        drop(reactor.spawn(async move {
            let (at, durability) = (kind * 64 * 4096, Durability::Accepted);
            let changed = match kind {
                0 => write(&here, &volume, 0, 7).await,
                1 => volume.trim(at, 8192, durability).await,
                _ => {
                    let mode = ZeroMode::Unmap;
                    volume.write_zeroes(at, 8192, mode, durability).await
                }
            };
            changed.unwrap();
            done.set(done.get() + 1);
        }));
    }
    done
}

async fn pause(reactor: &Reactor, ms: u64) {
    reactor.sleep(Duration::from_millis(ms)).await;
}

#[test]
fn changes_wait_for_the_seal_and_carry_the_next_layer() {
    for is_told_by_map in [false, true] {
        let cluster = Cluster::new(300, 3, AckRule::Majority, true);
        let owner = cluster.owner();
        let reactor = owner.reactor().clone();
        cluster.run(async {
            let volume = cluster.attach(&reactor).await.unwrap();
            write(&reactor, &volume, 1, 1).await.unwrap();
            tell(&cluster, &volume, 1, asked(GROUP));
            let before = volume.core.seqs.borrow().last();
            let done = change(&reactor, &volume);
            pause(&reactor, 300).await;
            assert_eq!(done.get(), 0, "a change goes through");
            assert_eq!(volume.core.seqs.borrow().last(), before);
            assert_eq!(cluster.conductor.words(), [HoldWord::Held]);
            // All else goes on.
            assert!(holds(&volume, 1, 1).await);
            volume.flush().await.unwrap();
            if is_told_by_map {
                tell(&cluster, &volume, 2, sealed(GROUP, 1));
            } else {
                cluster.conductor.answer_hold(HoldOutcome::Sealed, 2);
            }
            pause(&reactor, 100).await;
            assert_eq!(done.get(), 3);
            assert_eq!(volume.head_layer(), Layer::new(2));
            cluster.conductor.answer_hold(HoldOutcome::Sealed, 2);
            let expected = [HoldWord::Held, HoldWord::Kept];
            assert_eq!(cluster.conductor.words(), expected);
            // Neither the same news nor older ones begin another hold.
            for hold in [asked(GROUP), sealed(GROUP, 1), asked(GroupId::new(4)), None] {
                tell(&cluster, &volume, 2, hold);
            }
            write(&reactor, &volume, 2, 2).await.unwrap();
            pause(&reactor, 100).await;
            assert_eq!(cluster.conductor.words(), expected);
        });
    }
}

#[test]
fn a_hold_ends_by_itself_and_is_broken_then() {
    for is_sealed_later in [false, true] {
        let cluster = Cluster::new(301, 3, AckRule::Majority, true);
        let owner = cluster.owner();
        let reactor = owner.reactor().clone();
        cluster.run(async {
            let volume = cluster.attach(&reactor).await.unwrap();
            let began = reactor.now();
            tell(&cluster, &volume, 1, asked(GROUP));
            write(&reactor, &volume, 1, 1).await.unwrap();
            let waited = reactor.now() - began;
            let expected = volume.core.options.hold_max;
            assert!(waited >= expected && waited < expected * 2, "{waited:?}");
            assert_eq!(volume.head_layer(), Layer::new(1));
            if is_sealed_later {
                tell(&cluster, &volume, 2, sealed(GROUP, 1));
            }
            cluster.conductor.answer_hold(HoldOutcome::Sealed, 2);
            pause(&reactor, 100).await;
            let words = cluster.conductor.words();
            assert_eq!(words, [HoldWord::Held, HoldWord::Broken]);
        });
    }
}

#[test]
fn a_hold_that_is_called_off_ends_at_once() {
    for is_told_by_map in [false, true] {
        let cluster = Cluster::new(302, 3, AckRule::Majority, true);
        let owner = cluster.owner();
        let reactor = owner.reactor().clone();
        cluster.run(async {
            let volume = cluster.attach(&reactor).await.unwrap();
            tell(&cluster, &volume, 1, asked(GROUP));
            let done = change(&reactor, &volume);
            pause(&reactor, 50).await;
            if is_told_by_map {
                // An ordinary snapshot is no seal of the group.
                tell(&cluster, &volume, 2, None);
            } else {
                cluster.conductor.answer_hold(HoldOutcome::Over, 1);
            }
            pause(&reactor, 100).await;
            assert_eq!(done.get(), 3);
            cluster.conductor.answer_hold(HoldOutcome::Over, 1);
            pause(&reactor, 50).await;
            assert!(!cluster.conductor.words().contains(&HoldWord::Kept));
        });
    }
}

#[test]
fn the_next_group_is_held_for_while_the_last_is_still_told_of() {
    let cluster = Cluster::new(303, 3, AckRule::Majority, true);
    let owner = cluster.owner();
    let reactor = owner.reactor().clone();
    cluster.run(async {
        let volume = cluster.attach(&reactor).await.unwrap();
        tell(&cluster, &volume, 1, asked(GROUP));
        pause(&reactor, 10).await;
        tell(&cluster, &volume, 2, sealed(GROUP, 1));
        pause(&reactor, 10).await;
        // Nobody has answered that yet.
        let next = GROUP.next();
        tell(&cluster, &volume, 2, asked(next));
        let done = change(&reactor, &volume);
        pause(&reactor, 10).await;
        assert_eq!(done.get(), 0);
        let said = cluster.conductor.holds.borrow().last().copied().unwrap();
        assert_eq!((said.group, said.word), (next, HoldWord::Held));
        tell(&cluster, &volume, 3, sealed(next, 2));
        pause(&reactor, 100).await;
        assert_eq!((done.get(), volume.head_layer()), (3, Layer::new(3)));
    });
}

#[test]
fn an_owner_that_is_fenced_holds_nobody() {
    let cluster = Cluster::new(304, 3, AckRule::Majority, true);
    let owner = cluster.owner();
    let reactor = owner.reactor().clone();
    cluster.run(async {
        let volume = cluster.attach(&reactor).await.unwrap();
        tell(&cluster, &volume, 1, asked(GROUP));
        let (here, writer) = (reactor.clone(), volume.clone());
        let written = reactor.spawn(async move { write(&here, &writer, 0, 7).await });
        pause(&reactor, 10).await;
        volume.core.fence();
        assert_eq!(written.await, Err(BlockError::Fenced));
    });
}

#[test]
fn a_conductor_that_is_away_is_told_again() {
    let cluster = Cluster::new(305, 3, AckRule::Majority, true);
    let owner = cluster.owner();
    let reactor = owner.reactor().clone();
    cluster.run(async {
        let volume = cluster.attach(&reactor).await.unwrap();
        cluster.conductor.down.set(true);
        tell(&cluster, &volume, 1, asked(GROUP));
        pause(&reactor, 200).await;
        assert_eq!(cluster.conductor.words(), []);
        cluster.conductor.down.set(false);
        pause(&reactor, 100).await;
        assert_eq!(cluster.conductor.words(), [HoldWord::Held]);
        cluster.conductor.down.set(true);
        tell(&cluster, &volume, 2, sealed(GROUP, 1));
        pause(&reactor, 200).await;
        cluster.conductor.answer_hold(HoldOutcome::Sealed, 2);
        cluster.conductor.down.set(false);
        pause(&reactor, 100).await;
        let expected = [HoldWord::Held, HoldWord::Kept];
        assert_eq!(cluster.conductor.words(), expected);
    });
}
