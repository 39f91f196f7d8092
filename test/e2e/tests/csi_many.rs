//! Many volumes at once, as a CO in trouble handles them: calls are sent twice, given up and sent again, and
//! the driver is killed time and again. Nothing is left of them.

use anyhow::{Context, Result, ensure};
use ashlar_e2e::csi::Driver;
use ashlar_e2e::orchestrator::{Life, STEPS, Step};
use ashlar_e2e::{Cluster, ClusterOptions};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;
use tokio::task::JoinSet;

const VOLUMES: usize = 100;
/// Lives at a time.
const AT_ONCE: usize = 8;
/// One in so many volumes is also used on the node: slow, through nbdfuse.
const USED_ONE_IN: usize = 10;
/// Between two deaths of the driver.
const KILL_EVERY: Duration = Duration::from_millis(250);

/// xorshift64*: the same seed gives the same choices.
struct Rng(u64);

impl Rng {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % bound
    }
}

fn is_on_node(step: Step) -> bool {
    matches!(
        step,
        Step::Stage | Step::NodePublish | Step::NodeUnpublish | Step::Unstage
    )
}

/// A step until it is done; before that it may be given up, or sent twice at a time.
async fn disorderly(life: &mut Life, step: Step, rng: &mut Rng) -> Result<()> {
    match rng.below(4) {
        0 => {
            let mut given_up = life.clone();
            let patience = Duration::from_millis(rng.below(60));
            let _ = tokio::time::timeout(patience, given_up.call(step)).await;
        }
        1 => {
            let mut other = life.clone();
            let (one, _) = tokio::join!(life.repeat(step), other.call(step));
            one?;
        }
        _ => {}
    }
    life.repeat(step).await?;
    if rng.below(4) == 0 {
        life.repeat(step).await?;
    }
    Ok(())
}

async fn live(socket: &Path, directory: &Path, number: usize) -> Result<()> {
    let mut rng = Rng(number as u64 * 7919 + 1);
    let name = format!("many-{number}");
    let mut life = Life::new(socket.to_owned(), directory, &name);
    let is_used = number.is_multiple_of(USED_ONE_IN);
    for step in STEPS {
        if is_on_node(step) && !is_used {
            continue;
        }
        let done = disorderly(&mut life, step, &mut rng).await;
        done.with_context(|| format!("{step:?} of {name}"))?;
    }
    Ok(())
}

#[test]
fn many_volumes_at_once_leave_nothing() -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()?;
    let mut cluster = Cluster::start(ClusterOptions::default())?;
    let mut driver = Driver::start(&cluster)?;
    let (socket, directory) = (driver.socket(), driver.directory().to_owned());
    let (is_over, done) = (
        Arc::new(AtomicBool::new(false)),
        Arc::new(AtomicUsize::new(0)),
    );
    let (told, counted) = (Arc::clone(&is_over), Arc::clone(&done));
    let lives = runtime.spawn(async move {
        let mut under_way = JoinSet::new();
        let mut result = Ok(());
        for number in 0..VOLUMES {
            if under_way.len() >= AT_ONCE
                && let Some(ended) = under_way.join_next().await
            {
                result = result.and(ended.map_err(anyhow::Error::from).flatten());
            }
            let (socket, directory, done) =
                (socket.clone(), directory.clone(), Arc::clone(&counted));
            under_way.spawn(async move {
                live(&socket, &directory, number).await?;
                done.fetch_add(1, Ordering::Relaxed);
                Ok(())
            });
        }
        while let Some(ended) = under_way.join_next().await {
            result = result.and(ended.map_err(anyhow::Error::from).flatten());
        }
        told.store(true, Ordering::Release);
        result
    });
    let mut deaths = 0;
    while !is_over.load(Ordering::Acquire) {
        std::thread::sleep(KILL_EVERY);
        driver.kill_and_restart()?;
        deaths += 1;
    }
    runtime.block_on(lives)??;
    let done = done.load(Ordering::Relaxed);
    println!("{done} volumes came and went, the driver was killed {deaths} times");
    ensure!(done == VOLUMES && deaths >= 3);
    driver.check_clean()?;
    let left = cluster.json(["volume", "list"])?;
    ensure!(left.as_array().is_some_and(Vec::is_empty), "left: {left}");
    // Where the driver keeps marks and mounts.
    let state = driver.directory().join("state");
    let marks: Vec<_> = std::fs::read_dir(state)?.flatten().collect();
    ensure!(
        marks.is_empty(),
        "left in the driver's directory: {marks:?}"
    );
    drop(driver);
    cluster.stop()
}
