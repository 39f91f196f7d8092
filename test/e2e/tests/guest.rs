//! A Linux kernel attaches volumes through its own NBD driver and keeps file systems on them.

use anyhow::{Context, Result, ensure};
use ashlar_e2e::{Cluster, Tool, binary, image};
use std::path::PathBuf;
use std::time::Duration;

/// The guest boots in about 4 s and needs about 15 s; machines under load take longer.
const GUEST_LIMIT: Duration = Duration::from_secs(240);

#[test]
fn a_kernel_keeps_ext4_and_xfs_on_volumes() -> Result<()> {
    let cluster = Cluster::up()?;
    cluster.create_volume("ext", "1GiB", 3)?;
    cluster.create_volume("x", "1GiB", 3)?;

    let scripts = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../guest"));
    let kernel = kernel()?;
    let initramfs = cluster.path().join("initramfs.cpio");
    Tool::new(scripts.join("build-initramfs"))
        .arg(&kernel)
        .arg(&initramfs)
        .check()?;
    let console = Tool::new(scripts.join("boot"))
        .arg(&kernel)
        .arg(&initramfs)
        .arg(format!("ashlar.port={}", cluster.nbd_port()))
        .arg("ashlar.exports=ext:ext4:1,x:xfs:4,ext:xfs:2,x:ext4:2")
        .limit(GUEST_LIMIT)
        .check()?;
    println!("{console}");
    ensure!(
        !console.contains("GUEST FAIL"),
        "the guest failed:\n{console}"
    );
    ensure!(
        console.contains("GUEST DONE"),
        "the guest did not finish:\n{console}"
    );
    let steps = console
        .lines()
        .filter(|line| line.contains("GUEST ok"))
        .count();
    ensure!(steps == 1 + 4 * 5, "{steps} steps:\n{console}");

    // What the guest left is good for the host's tools, too.
    let copy = cluster.path().join("x.image");
    Tool::new("nbdcopy")
        .arg(cluster.uri("x"))
        .arg(&copy)
        .check()?;
    image::check_ext4(&copy)
}

fn kernel() -> Result<PathBuf> {
    let path = std::env::var_os("ASHLAR_GUEST_KERNEL")
        .map_or_else(|| binary::target_dir().join("guest/kernel"), PathBuf::from);
    let boot = path.join("boot");
    std::fs::read_dir(&boot).with_context(|| {
        format!(
            "no guest kernel in {}: run scripts/setup, which unpacks one",
            boot.display()
        )
    })?;
    Ok(path)
}
