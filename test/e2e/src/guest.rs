//! A guest that runs: QEMU with Debian's kernel and the `init` of `test/guest`, whose console tells how
//! far it is.

use crate::binary;
use crate::process::{Service, wait_for};
use crate::tool::Tool;
use anyhow::{Context, Result, ensure};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A guest; gone when dropped.
#[derive(Debug)]
pub struct Guest {
    service: Service,
}

impl Guest {
    /// Boots one with orders for its `init`. Its initramfs and its console are kept in `directory`.
    ///
    /// # Errors
    ///
    /// If `scripts/setup` has not been run, or QEMU cannot be started.
    pub fn boot(directory: &Path, orders: &str) -> Result<Self> {
        Self::start(directory, "initramfs.cpio", &[], orders)
    }

    /// Boots one that can join paths, and has `writer` as `checked-writer`.
    ///
    /// # Errors
    ///
    /// As [`Guest::boot`].
    pub fn boot_with_multipath(directory: &Path, writer: &Path, orders: &str) -> Result<Self> {
        let more = [unpacked("multipath")?, writer.to_owned()];
        Self::start(directory, "multipath.cpio", &more, orders)
    }

    fn start(directory: &Path, initramfs: &str, more: &[PathBuf], orders: &str) -> Result<Self> {
        let scripts = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../guest"));
        let (kernel, iscsi) = (unpacked("kernel")?, unpacked("iscsi")?);
        let initramfs = directory.join(initramfs);
        if !initramfs.exists() {
            let tool = Tool::new(scripts.join("build-initramfs")).arg(&kernel);
            tool.arg(iscsi).arg(&initramfs).args(more).check()?;
        }
        let console = directory.join("console.log");
        let _ = std::fs::remove_file(&console);
        let arguments = [kernel.as_os_str(), initramfs.as_os_str(), orders.as_ref()];
        let service = Service::start("guest", &console, &scripts.join("boot"), arguments)?;
        Ok(Self { service })
    }

    /// What it printed so far.
    #[must_use]
    pub fn console(&self) -> String {
        self.service.log()
    }

    /// Waits for a whole line that begins with `GUEST ok ` and `step`; gives the rest of it.
    ///
    /// # Errors
    ///
    /// If the guest fails, ends, or takes longer.
    pub fn step(&mut self, step: &str, limit: Duration) -> Result<String> {
        let begin = format!("GUEST ok {step}");
        let rest = wait_for(step, limit, || {
            let is_running = self.service.is_running();
            let console = self.console();
            let whole = console.rsplit_once('\n').map_or("", |(lines, _)| lines);
            let rest = whole.lines().find_map(|line| line.strip_prefix(&begin));
            let is_over = !is_running || console.contains("GUEST FAIL");
            match rest {
                Some(rest) => Ok(Some(rest.trim().to_owned())),
                None if is_over => Ok(None),
                None => anyhow::bail!("the guest is not there yet:\n{console}"),
            }
        })?;
        rest.with_context(|| format!("the guest ended before `{step}`:\n{}", self.console()))
    }

    /// Waits until it has done all that it was told; gives what it printed.
    ///
    /// # Errors
    ///
    /// If something failed, or it takes longer.
    pub fn done(mut self, limit: Duration) -> Result<String> {
        let status = self.service.wait(limit)?;
        let console = self.console();
        ensure!(status.success(), "QEMU ended with {status}:\n{console}");
        ensure!(
            !console.contains("GUEST FAIL"),
            "the guest failed:\n{console}"
        );
        ensure!(
            console.contains("GUEST DONE"),
            "the guest did not finish:\n{console}"
        );
        Ok(console)
    }
}

/// What `scripts/setup` has unpacked for guests.
fn unpacked(what: &str) -> Result<PathBuf> {
    let variable = format!("ASHLAR_GUEST_{}", what.to_uppercase());
    let own = || binary::target_dir().join("guest").join(what);
    let path = std::env::var_os(variable).map_or_else(own, PathBuf::from);
    std::fs::read_dir(&path).with_context(|| {
        format!(
            "no {what} for guests in {}: run scripts/setup, which unpacks one",
            path.display()
        )
    })?;
    Ok(path)
}
