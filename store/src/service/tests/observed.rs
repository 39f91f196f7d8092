//! What a store tells of owners and of other stores.

use super::*;
use ashlar_proto::NodeId;
use ashlar_proto::api::PeerSeen;

use crate::peers::Peers;

fn target(node: u64, disk: u128, address: &str) -> PeerTarget {
    PeerTarget {
        node: NodeId::new(node),
        node_name: None,
        address: address.parse().unwrap(),
        disk: disk_id(disk),
    }
}

fn seen(node: u64, reached: bool) -> PeerSeen {
    PeerSeen {
        node: NodeId::new(node),
        reached,
    }
}

#[test]
fn owners_are_told_with_their_generation_and_idle_time() {
    let site = Site::new(31, 2, DiskSpec::new);
    let control = site.control();
    let early = site.run(async move { control.observe(None).await.unwrap() });
    assert_eq!(early.owners, None, "they may be on their way back");
    site.world.run_for(OWNERS_RETURN_WITHIN);
    let observe = |site: &Site| {
        let control = site.control();
        let observed = site.run(async move { control.observe(Some(Vec::new())).await.unwrap() });
        observed.owners.unwrap()
    };
    assert_eq!(observe(&site), []);
    let process = site.world.process("owner", OWNER);
    let reactor = process.reactor().clone();
    let owner = site.run(process.reactor().spawn(async move {
        let early = Owner::attach(&reactor, 0).await;
        let late = Owner::connect(&reactor, 1).await;
        late.generation.set(2);
        late.open().await.unwrap();
        (early, late)
    }));
    site.world.run_for(Duration::from_secs(20));
    let told = observe(&site);
    let [told] = told[..] else {
        panic!("one volume: {told:?}")
    };
    assert_eq!(
        (told.volume, told.generation),
        (VOLUME, Generation::new(2)),
        "of two sessions the newer generation's"
    );
    assert!((20_000..21_000).contains(&told.idle_ms), "{told:?}");
    // Whatever is asked shows that the owner lives.
    let late = owner.1;
    let ping = async move {
        let ping = late.request(FrameKind::Ping);
        let ping = FrameHeader::request(FrameKind::Ping, ping.tag);
        late.call(ping, vec![], vec![]).await;
        late
    };
    let late = site.run(process.reactor().spawn(ping));
    assert!(observe(&site)[0].idle_ms < 1000);
    drop((owner.0, late));
    process.crash();
    site.world.run_for(Duration::from_secs(1));
    assert_eq!(observe(&site), []);
}

#[test]
fn a_peer_is_reached_while_it_answers_anything() {
    let mut site = Site::new(32, 1, DiskSpec::new);
    let process = site.world.process("watcher", OWNER);
    let peers = Peers::new(process.reactor());
    let all = [
        target(1, 0, "10.0.0.1:7000"),
        // Another store has taken its address, or it does not know its cluster yet: nothing can be said.
        target(2, 9, "10.0.0.1:7000"),
        target(3, 0, "10.0.0.9:7000"),
    ];
    peers.watch(CLUSTER, &all);
    assert_eq!(peers.seen(), []);
    site.world.run_for(Duration::from_secs(4));
    let expected = [seen(1, true), seen(3, false)];
    assert_eq!(peers.seen(), expected);
    site.world.run_for(Duration::from_secs(60));
    assert_eq!(peers.seen(), expected);
    site.world.partition(OWNER, STORE);
    site.world.run_for(Duration::from_secs(20));
    assert_eq!(
        peers.seen(),
        [seen(1, false), seen(2, false), seen(3, false)]
    );
    site.world.heal();
    site.world.run_for(Duration::from_secs(20));
    assert_eq!(peers.seen(), expected);
    site.crash();
    site.world.run_for(Duration::from_secs(8));
    assert_eq!(peers.seen()[0], seen(1, false));
    site.start();
    site.world.run_for(Duration::from_secs(8));
    assert_eq!(peers.seen()[0], seen(1, true));
    // What is watched no more is forgotten.
    peers.watch(CLUSTER, &all[2..]);
    assert_eq!(peers.seen(), [seen(3, false)]);
}
