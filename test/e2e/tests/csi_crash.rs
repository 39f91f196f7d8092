//! The CSI driver is killed in the middle of each step of a volume's life. The call is repeated, as COs
//! do, and comes to the same end; nothing is left on the host or in the cluster.

use anyhow::{Result, ensure};
use ashlar_e2e::Cluster;
use ashlar_e2e::csi::Driver;
use ashlar_e2e::orchestrator::{Life, STEPS, Step};
use std::path::Path;
use std::time::Duration;

/// How long after the call begins the driver is killed.
const DELAYS_MS: [u64; 5] = [0, 10, 40, 120, 400];

/// A workload that writes where the volume is published.
fn write_mark(target: &Path, mark: &str) -> Result<()> {
    let file = target.join("mark");
    std::fs::write(&file, mark)?;
    std::fs::File::open(&file)?.sync_all()?;
    Ok(())
}

/// One that finds what was written.
fn check_mark(target: &Path, mark: &str) -> Result<()> {
    let found = std::fs::read_to_string(target.join("mark"))?;
    ensure!(found == mark, "{} holds {found:?}", target.display());
    Ok(())
}

#[test]
fn killed_in_any_step_the_driver_comes_to_the_same_end() -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()?;
    let cluster = Cluster::up()?;
    let mut driver = Driver::start(&cluster)?;
    for (round, delay_ms) in DELAYS_MS.into_iter().enumerate() {
        let name = format!("life-{round}");
        let mut life = Life::new(driver.socket(), driver.directory(), &name);
        for step in STEPS {
            if step == Step::NodeUnpublish {
                write_mark(&life.target, &life.name)?;
            }
            let mut first = life.clone();
            let call = runtime.spawn(async move { first.call(step).await });
            std::thread::sleep(Duration::from_millis(delay_ms));
            driver.kill_and_restart()?;
            let _ = runtime.block_on(call);
            life.until_done(&runtime, step)?;
            // Once more changes nothing.
            life.until_done(&runtime, step)?;
            if step == Step::Unstage {
                for again in [Step::Stage, Step::NodePublish] {
                    life.until_done(&runtime, again)?;
                }
                check_mark(&life.target, &life.name)?;
                for again in [Step::NodeUnpublish, Step::Unstage] {
                    life.until_done(&runtime, again)?;
                }
            }
        }
        driver.check_clean()?;
    }
    let volumes = cluster.json(["volume", "list"])?;
    let left = volumes.to_string().contains("life-");
    ensure!(!left, "left in the cluster: {volumes}");
    Ok(())
}
