//! Parts of the network fail while a volume is written: nothing acknowledged is lost, nothing wrong is
//! read, and all heals by itself.
//!
//! `ASHLAR_PARTITION_ROUNDS` rounds of `ASHLAR_PARTITION_SECONDS`; `ASHLAR_SEED` for other ones.

use anyhow::{Result, ensure};
use ashlar_e2e::ledger::Ledger;
use ashlar_e2e::namespaces::Namespaces;
use ashlar_e2e::nbd::NbdClient;
use ashlar_e2e::process::wait_for;
use ashlar_e2e::{Cluster, ClusterOptions};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// How long all may take to heal.
const LIMIT: Duration = Duration::from_secs(120);

/// Numbers as random as a schedule needs.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        // splitmix64
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = self.0;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (word ^ (word >> 31)) % bound
    }

    fn millis(&mut self, from: u64, to: u64) -> Duration {
        Duration::from_millis(from + self.below(to - from))
    }
}

/// One cut, and for how long.
fn cut(network: &Namespaces, random: &mut Random) -> Result<(String, Duration)> {
    let store = format!("store-{}", random.below(3));
    let other = format!("store-{}", random.below(3));
    let long = random.millis(200, 8_000);
    // Where too few replicas are left requests wait: not for longer than a client does.
    let short = random.millis(200, 4_000);
    let (what, pause) = match random.below(8) {
        0 => {
            network.part("nbd", &store)?;
            (format!("nbd and {store} part"), long)
        }
        1 => {
            network.cut("nbd", &store)?;
            (format!("{store} does not hear nbd"), long)
        }
        2 => {
            network.cut(&store, "nbd")?;
            (format!("nbd does not hear {store}"), long)
        }
        3 => {
            for peer in ["nbd", "conductor", "store-0", "store-1", "store-2"] {
                if peer != store {
                    network.part(&store, peer)?;
                }
            }
            (format!("{store} is alone"), long)
        }
        4 => {
            network.part("conductor", "nbd")?;
            ("conductor and nbd part".to_owned(), long)
        }
        5 => {
            for peer in ["nbd", "store-0", "store-1", "store-2"] {
                network.part("conductor", peer)?;
            }
            ("the conductor is alone".to_owned(), long)
        }
        6 => {
            network.part("nbd", &store)?;
            network.cut(&other, "nbd")?;
            (
                format!("nbd and {store} part, it does not hear {other}"),
                short,
            )
        }
        _ => {
            if store != other {
                network.part(&store, &other)?;
            }
            network.part("conductor", &store)?;
            (
                format!("{store} parts from {other} and the conductor"),
                long,
            )
        }
    };
    Ok((what, pause))
}

fn number(name: &str, otherwise: u64) -> u64 {
    std::env::var(name)
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(otherwise)
}

#[test]
fn parts_of_the_network_fail_under_load() -> Result<()> {
    let cluster = Cluster::start(ClusterOptions {
        separate: true,
        isolated: true,
        disk_size: "1GiB".to_owned(),
        ..ClusterOptions::default()
    })?;
    cluster.create_volume("v", "64MiB", 3)?;
    let network = cluster.network();
    let seed = number("ASHLAR_SEED", 1);
    let (rounds, seconds) = (
        number("ASHLAR_PARTITION_ROUNDS", 1),
        number("ASHLAR_PARTITION_SECONDS", 30),
    );
    let mut client = NbdClient::connect_to(&cluster.nbd_address(), "v")?;
    let mut ledger = Ledger::new(0, 64 * 256, seed);
    for round in 0..rounds {
        let mut random = Random(seed.wrapping_mul(1000) + round);
        let done = AtomicBool::new(false);
        let ran = std::thread::scope(|scope| {
            let chaos = scope.spawn(|| -> Result<()> {
                while !done.load(Ordering::Relaxed) {
                    let (what, pause) = cut(network, &mut random)?;
                    eprintln!("round {round}: {what} for {pause:?}");
                    std::thread::sleep(pause);
                    network.heal()?;
                    std::thread::sleep(random.millis(0, 4_000));
                }
                Ok(())
            });
            let ran = ledger.run(&mut client, 16, Duration::from_secs(seconds));
            done.store(true, Ordering::Relaxed);
            chaos.join().expect("the chaos does not panic")?;
            ran
        })?;
        ensure!(ran, "round {round}: the connection was lost");
        wait_for("all to heal", LIMIT, || {
            let status = cluster.json(["status"])?;
            ensure!(status["health"] == "healthy", "{status}");
            Ok(())
        })?;
        ledger.verify(&mut client)?;
        eprintln!("round {round}: {}", std::mem::take(&mut ledger.delays));
    }
    client.disconnect()
}
