//! What nobody reads is compared all the same.

use std::rc::Rc;
use std::time::Duration;

use ashlar_proto::api::AckRule;
use ashlar_proto::{BlockIndex, ShardIndex};

use super::cluster::{Cluster, options};
use crate::conformance::{buffer_of, pattern};
use crate::{BlockDevice, Durability, Volume, VolumeOptions};

#[test]
fn a_settled_write_that_one_replica_lost_is_written_again() {
    let cluster = Cluster::new(61, 3, AckRule::Majority, false);
    let owner = cluster.owner();
    let reactor = owner.reactor().clone();
    cluster.run(async {
        let options = VolumeOptions {
            scrub_interval: Duration::from_secs(2),
            ..options()
        };
        let conductor = Rc::clone(&cluster.conductor);
        let volume = Volume::attach(&reactor, conductor, "v", options);
        let volume = volume.await.unwrap();
        for block in 0..50u64 {
            let buffer = buffer_of(&reactor, &pattern(block, 4096));
            let written = volume.write(block * 4096, buffer, Durability::Durable);
            written.await.unwrap();
        }
        volume
            .trim(10 * 4096, 4096, Durability::Durable)
            .await
            .unwrap();
        // Settled everywhere before anything is lost.
        reactor.sleep(Duration::from_secs(6)).await;
        let before = cluster.stores[0].contents();
        for block in [3, 10, 40] {
            cluster.stores[1].lose(ShardIndex::new(0), BlockIndex::new(block));
        }
        reactor.sleep(Duration::from_secs(5)).await;
        let health = volume.health();
        // Zeroes, too: in a clone they hide what its origin has there.
        assert_eq!((health.blocks_repaired, health.shards_degraded), (3, 0));
        assert_eq!(cluster.stores[1].contents(), before);
        assert_eq!(cluster.stores[0].contents(), before);
        volume.detach().await.unwrap();
    });
}
