//! Start-up is bounded by what came after the last checkpoint, not by what is stored.

use anyhow::{Result, ensure};
use ashlar_e2e::ledger::{BLOCK, Content, Random, pattern, recognise};
use ashlar_e2e::nbd::{Command, NbdClient};
use ashlar_e2e::{Cluster, ClusterOptions};
use std::time::{Duration, Instant};

/// Blocks of the 64 GiB volume; a leaf of the map stands for 256.
const BLOCKS: u64 = 64 << 18;
/// Every 64th block is written: each of the 65,536 leaves is there.
const STRIDE: u64 = 64;
const DEPTH: u64 = 64;

#[test]
fn a_volume_with_64_gib_of_map_serves_5_s_after_sigkill() -> Result<()> {
    let mut cluster = Cluster::start(ClusterOptions {
        stores: 1,
        disk_size: "8GiB".to_owned(),
        ..ClusterOptions::default()
    })?;
    cluster.create_volume("v", "64GiB", 1)?;
    let mut client = NbdClient::connect(cluster.nbd_port(), "v")?;
    let length = u32::try_from(BLOCK)?;
    let mut in_flight = 0;
    // Out of order, so that the log knows nothing of the map's order. The factor is odd, so that
    // every position comes up once.
    let positions = BLOCKS / STRIDE;
    for index in 0..positions {
        let block = index.wrapping_mul(0x9e37_79b1) % positions * STRIDE;
        let data = pattern(block, Content::Version(1));
        client.submit(Command::Write, block, block * BLOCK as u64, length, &data)?;
        in_flight += 1;
        while in_flight > if index + 1 == positions { 0 } else { DEPTH - 1 } {
            let (reply, _) = client.reply(|_| 0)?;
            ensure!(
                reply.error == 0,
                "write at block {}: error {}",
                reply.cookie,
                reply.error
            );
            in_flight -= 1;
        }
    }
    ensure!(client.call(Command::Flush, 0, 0, &[])? == 0, "flush failed");
    cluster.kill();

    let start = Instant::now();
    cluster.start_service("up")?;
    let mut client = loop {
        match NbdClient::connect(cluster.nbd_port(), "v") {
            Ok(client) => break client,
            Err(error) => {
                ensure!(
                    start.elapsed() < Duration::from_secs(60),
                    "no service: {error:#}"
                );
                std::thread::sleep(Duration::from_millis(10));
            }
        }
    };
    let first = client.read(0, BLOCK)?;
    let elapsed = start.elapsed();
    println!("serving {elapsed:.2?} after the start");
    ensure!(
        recognise(0, &first)? == Content::Version(1),
        "block 0 is lost"
    );

    let mut random = Random(5);
    for _ in 0..4000 {
        let block = random.below(positions) * STRIDE + random.below(2);
        let found = recognise(block, &client.read(block * BLOCK as u64, BLOCK)?)?;
        let written = block.is_multiple_of(STRIDE);
        let expected = if written {
            Content::Version(1)
        } else {
            Content::Zero
        };
        ensure!(
            found == expected,
            "block {block} holds {found:?}, expected {expected:?}"
        );
    }
    ensure!(
        elapsed < Duration::from_secs(5),
        "serving only after {elapsed:.2?}"
    );
    Ok(())
}
