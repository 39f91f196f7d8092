//! An owner that is asked nothing.

use std::net::IpAddr;
use std::time::Duration;

use ashlar_proto::NodeId;
use ashlar_proto::api::{AckRule, PeerSeen};

use super::cluster::Cluster;
use super::scenarios::write;

fn reach(cluster: &Cluster) -> Vec<(u64, bool)> {
    let heard = cluster.conductor.heard.borrow();
    let stores = heard.as_ref().map(|beat| beat.stores.clone());
    let of_store = |seen: PeerSeen| (seen.node.get(), seen.reached);
    stores.into_iter().flatten().map(of_store).collect()
}

/// Nothing is written or read, a store falls off the network, and the first write after an hour
/// would find that out.
#[test]
fn an_idle_owner_notices_that_a_store_is_gone_and_tells_the_conductor() {
    let cluster = Cluster::new(50, 3, AckRule::Majority, false);
    let owner = cluster.owner();
    let reactor = owner.reactor().clone();
    // Where the first owner lives.
    let host = IpAddr::from([10, 0, 2, 1]);
    cluster.run(async {
        let volume = cluster.attach(&reactor).await.unwrap();
        write(&reactor, &volume, 1, 1).await.unwrap();
        reactor.sleep(Duration::from_secs(60)).await;
        assert_eq!(reach(&cluster), [(0, true), (1, true), (2, true)]);
        assert_eq!(cluster.conductor.in_sync(0), [0, 1, 2]);
        let gone = cluster.stores[2].host;
        cluster.world.partition(host, gone);
        reactor.sleep(Duration::from_secs(40)).await;
        assert_eq!(reach(&cluster), [(0, true), (1, true), (2, false)]);
        assert_eq!(cluster.conductor.in_sync(0), [0, 1]);
        cluster.world.heal();
        reactor.sleep(Duration::from_secs(30)).await;
        assert_eq!(reach(&cluster), [(0, true), (1, true), (2, true)]);
        let beat = cluster.conductor.heard.borrow().clone().unwrap();
        assert_eq!(beat.owner, "test");
        assert_eq!(beat.volumes[0].generation, volume.generation());
        assert!(beat.stores.iter().all(|s| s.node < NodeId::new(3)));
        volume.detach().await.unwrap();
        cluster.conductor.heard.replace(None);
        reactor.sleep(Duration::from_secs(10)).await;
        assert_eq!(
            reach(&cluster),
            [],
            "one that has detached says nothing more"
        );
    });
}
