//! Machines of their own for the processes of a cluster: a network namespace for each, all on one
//! switch, and cuts between them.
//!
//! A cut drops what arrives, in silence, as a broken switch would: connections stay and nobody is told.
//! Needs root.

use crate::tool::Tool;
use anyhow::{Context, Result};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU8, Ordering};

/// The hosts of one cluster; gone when dropped.
#[derive(Debug)]
pub struct Namespaces {
    /// Begins the names of all that is made.
    prefix: String,
    /// The first three parts of every address.
    network: String,
    hosts: BTreeMap<String, u8>,
}

/// Networks made by this process.
static MADE: AtomicU8 = AtomicU8::new(0);

/// The number of this machine on the switch.
const OWN_HOST: u8 = 254;

impl Namespaces {
    /// A switch, to which this machine is connected, too.
    ///
    /// # Errors
    ///
    /// If it cannot be made: no root, no `ip`.
    pub fn new() -> Result<Self> {
        let number = MADE.fetch_add(1, Ordering::Relaxed);
        let process = std::process::id();
        let network = format!(
            "10.{}.{}",
            64 + process % 128,
            process / 128 % 64 * 4 + u32::from(number % 4)
        );
        let made = Self {
            prefix: format!("a{}x{number}", process % 1_000_000),
            network,
            hosts: BTreeMap::new(),
        };
        let switch = made.switch();
        ip(&["link", "add", &switch, "type", "bridge"])?;
        let own = format!("{}.{OWN_HOST}/24", made.network);
        ip(&["addr", "add", &own, "dev", &switch])?;
        ip(&["link", "set", &switch, "up"])?;
        Ok(made)
    }

    fn switch(&self) -> String {
        format!("{}br", self.prefix)
    }

    /// The namespace of a host.
    #[must_use]
    pub fn namespace_of(&self, host: &str) -> String {
        format!("{}-{host}", self.prefix)
    }

    /// Adds a host, if it is not there yet.
    ///
    /// # Errors
    ///
    /// If it cannot be made.
    pub fn add(&mut self, host: &str) -> Result<()> {
        if self.hosts.contains_key(host) {
            return Ok(());
        }
        let number = u8::try_from(self.hosts.len() + 1).context("too many hosts")?;
        let (namespace, switch) = (self.namespace_of(host), self.switch());
        let cable = format!("{}v{number}", self.prefix);
        ip(&["netns", "add", &namespace])?;
        self.hosts.insert(host.to_owned(), number);
        let inside = ["type", "veth", "peer", "name", "eth0", "netns", &namespace];
        ip(&[&["link", "add", &cable], inside.as_slice()].concat())?;
        ip(&["link", "set", &cable, "master", &switch, "up"])?;
        let address = format!("{}/24", self.address_of(host));
        ip(&["-n", &namespace, "addr", "add", &address, "dev", "eth0"])?;
        ip(&["-n", &namespace, "link", "set", "eth0", "up"])?;
        ip(&["-n", &namespace, "link", "set", "lo", "up"])?;
        self.filter(host, "add table inet cut")?;
        self.filter(
            host,
            "add chain inet cut heard { type filter hook input priority 0; }",
        )
    }

    /// The address of a host.
    ///
    /// # Panics
    ///
    /// If there is none of that name.
    #[must_use]
    pub fn address_of(&self, host: &str) -> String {
        format!("{}.{}", self.network, self.hosts[host])
    }

    /// From now on `to` hears nothing of `from`.
    ///
    /// # Errors
    ///
    /// If the filter cannot be set.
    pub fn cut(&self, from: &str, to: &str) -> Result<()> {
        let rule = format!(
            "add rule inet cut heard ip saddr {} drop",
            self.address_of(from)
        );
        self.filter(to, &rule)
    }

    /// From now on neither hears of the other.
    ///
    /// # Errors
    ///
    /// If a filter cannot be set.
    pub fn part(&self, one: &str, other: &str) -> Result<()> {
        self.cut(one, other)?;
        self.cut(other, one)
    }

    /// All hear each other again.
    ///
    /// # Errors
    ///
    /// If a filter cannot be reset.
    pub fn heal(&self) -> Result<()> {
        self.hosts
            .keys()
            .try_for_each(|host| self.filter(host, "flush chain inet cut heard"))
    }

    /// The program and arguments that come before those of a process on a host.
    #[must_use]
    pub fn inside(&self, host: &str, program: &Path) -> (PathBuf, Vec<String>) {
        let namespace = self.namespace_of(host);
        let arguments = ["netns", "exec", &namespace].map(str::to_owned);
        let mut arguments = Vec::from(arguments);
        arguments.push(program.display().to_string());
        (PathBuf::from("ip"), arguments)
    }

    fn filter(&self, host: &str, command: &str) -> Result<()> {
        let namespace = self.namespace_of(host);
        ip(&["netns", "exec", &namespace, "nft", command])
    }
}

impl Drop for Namespaces {
    fn drop(&mut self) {
        for host in self.hosts.keys() {
            // What is left of a test must not hide how it ended.
            let _ = ip(&["netns", "del", &self.namespace_of(host)]);
        }
        let _ = ip(&["link", "del", &self.switch()]);
    }
}

fn ip(arguments: &[&str]) -> Result<()> {
    Tool::new("ip").args(arguments.iter().copied()).check()?;
    Ok(())
}
