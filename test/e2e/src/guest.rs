//! A guest that runs: QEMU with Debian's kernel and the `init` of `test/guest`, whose console tells how
//! far it is.

use crate::binary;
use crate::cluster::free_port;
use crate::process::{Service, wait_for};
use crate::tool::Tool;
use anyhow::{Context, Result, ensure};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Where the guest's agent takes scripts, and connections for the CSI driver.
const AGENT_PORTS: [u16; 2] = [7001, 7002];
/// How long a guest may take until its agent answers; machines under load take longer.
const BOOT_LIMIT: Duration = Duration::from_secs(120);
/// How long a script may take.
const SCRIPT_LIMIT: Duration = Duration::from_secs(120);

/// A guest; gone when dropped.
#[derive(Debug)]
pub struct Guest {
    service: Service,
    /// This machine's ports that lead to its agent.
    agent: [u16; 2],
}

impl Guest {
    /// Boots one with orders for its `init`. Its initramfs and its console are kept in `directory`.
    ///
    /// # Errors
    ///
    /// If `scripts/setup` has not been run, or QEMU cannot be started.
    pub fn boot(directory: &Path, orders: &str) -> Result<Self> {
        Self::start(directory, "initramfs.cpio", &[], orders, [0; 2])
    }

    /// Boots one that can join paths, and has `writer` as `checked-writer`.
    ///
    /// # Errors
    ///
    /// As [`Guest::boot`].
    pub fn boot_with_multipath(directory: &Path, writer: &Path, orders: &str) -> Result<Self> {
        let more = [unpacked("multipath")?, writer.to_owned()];
        Self::start(directory, "multipath.cpio", &more, orders, [0; 2])
    }

    /// Boots one that has `ashlar` and does what it is asked to, by `agent`, a program.
    ///
    /// # Errors
    ///
    /// As [`Guest::boot`], or if its agent does not answer.
    pub fn boot_with_agent(directory: &Path, agent: &Path) -> Result<Self> {
        let ports = [free_port()?, free_port()?];
        let [scripts, csi] = ports;
        let orders = format!(
            "ashlar.agent=yes ashlar.initiator=yes forward={scripts}:{} forward={csi}:{}",
            AGENT_PORTS[0], AGENT_PORTS[1]
        );
        let more = ["--driver".into(), binary::ashlar().into(), agent.into()];
        let mut guest = Self::start(directory, "driver.cpio", &more, &orders, ports)?;
        guest.step("the agent listens", BOOT_LIMIT)?;
        wait_for("the guest's agent", BOOT_LIMIT, || guest.sh("true"))?;
        Ok(guest)
    }

    /// This machine's port that leads to the CSI driver in it.
    #[must_use]
    pub fn csi_port(&self) -> u16 {
        self.agent[1]
    }

    /// Runs a script in it, which must succeed; gives what it printed.
    ///
    /// # Errors
    ///
    /// If it fails, or the guest does not answer.
    pub fn sh(&self, script: &str) -> Result<String> {
        let printed = self.send(script)?;
        let (printed, code) = printed.rsplit_once("EXIT ").context("the guest hung up")?;
        ensure!(
            code.trim() == "0",
            "in the guest: {script}\n{printed}(exit {code})"
        );
        Ok(printed.to_owned())
    }

    /// Has its agent end, and waits until it has checked what its kernel says.
    ///
    /// # Errors
    ///
    /// As [`Guest::done`].
    pub fn finish(self) -> Result<String> {
        let _ = self.send("")?;
        self.done(SCRIPT_LIMIT)
    }

    fn send(&self, script: &str) -> Result<String> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.agent[0]))?;
        stream.set_read_timeout(Some(SCRIPT_LIMIT))?;
        stream.write_all(format!("{}\n{script}", script.len()).as_bytes())?;
        let mut printed = Vec::new();
        stream.read_to_end(&mut printed)?;
        Ok(String::from_utf8_lossy(&printed).into_owned())
    }

    /// Its process.
    pub fn service(&mut self) -> &mut Service {
        &mut self.service
    }

    fn start(
        directory: &Path,
        initramfs: &str,
        more: &[PathBuf],
        orders: &str,
        agent: [u16; 2],
    ) -> Result<Self> {
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
        Ok(Self { service, agent })
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
