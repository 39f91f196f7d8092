//! The service manager that has started this process, by the protocol of sd_notify(3).
//!
//! Where no `NOTIFY_SOCKET` is given nobody is told. What is told is lost where the socket is full or
//! gone: the manager then goes by its own timeouts.

use std::ffi::OsStr;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

/// See the module.
pub struct ServiceManager {
    socket: Option<(UnixDatagram, SocketAddr)>,
    watchdog: Option<Duration>,
}

impl ServiceManager {
    /// As `NOTIFY_SOCKET`, `WATCHDOG_USEC` and `WATCHDOG_PID` have it.
    pub fn from_environment() -> Self {
        let path = std::env::var_os("NOTIFY_SOCKET");
        let socket = path.and_then(|path| match open(&path) {
            Ok(socket) => Some(socket),
            Err(error) => {
                tracing::warn!(%error, "NOTIFY_SOCKET cannot be used");
                None
            }
        });
        let var = |name: &str| std::env::var(name).ok();
        let watchdog = watchdog(
            var("WATCHDOG_USEC").as_deref(),
            var("WATCHDOG_PID").as_deref(),
        );
        let watchdog = watchdog.filter(|_| socket.is_some());
        Self { socket, watchdog }
    }

    /// How long the manager waits for a sign of life at most, if it does.
    pub fn watchdog_period(&self) -> Option<Duration> {
        self.watchdog
    }

    /// The process serves.
    pub fn ready(&self) {
        self.tell("READY=1");
    }

    /// It reads its settings anew; it is ready again after that.
    pub fn reloading(&self) {
        let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC);
        let now = now.map(Duration::from).unwrap_or_default();
        self.tell(&format!("RELOADING=1\nMONOTONIC_USEC={}", now.as_micros()));
    }

    /// It ends.
    pub fn stopping(&self) {
        self.tell("STOPPING=1");
    }

    /// It lives.
    pub fn lives(&self) {
        self.tell("WATCHDOG=1");
    }

    fn tell(&self, words: &str) {
        if let Some((socket, address)) = &self.socket
            && let Err(error) = socket.send_to_addr(words.as_bytes(), address)
        {
            tracing::debug!(%error, words, "the service manager does not hear");
        }
    }
}

/// A path, or a name behind `@`.
fn open(path: &OsStr) -> io::Result<(UnixDatagram, SocketAddr)> {
    let address = match path.as_bytes().strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(path)?,
    };
    let socket = UnixDatagram::unbound()?;
    socket.set_nonblocking(true)?;
    Ok((socket, address))
}

/// The watchdog's period, if it is meant for this process.
fn watchdog(period_us: Option<&str>, pid: Option<&str>) -> Option<Duration> {
    let is_ours = pid.is_none_or(|pid| pid == std::process::id().to_string());
    let period = period_us?.parse().ok().filter(|us| *us > 0)?;
    is_ours.then(|| Duration::from_micros(period))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_watchdog_is_of_the_process_that_it_names() {
        let own = std::process::id().to_string();
        let period = Some(Duration::from_secs(20));
        assert_eq!(watchdog(Some("20000000"), None), period);
        assert_eq!(watchdog(Some("20000000"), Some(&own)), period);
        assert_eq!(watchdog(Some("20000000"), Some("1")), None);
        assert_eq!(watchdog(Some("0"), None), None);
        assert_eq!(watchdog(Some("soon"), None), None);
        assert_eq!(watchdog(None, None), None);
    }

    #[test]
    fn the_manager_hears_what_is_told() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("notify");
        let heard = UnixDatagram::bind(&path).unwrap();
        let manager = ServiceManager {
            socket: Some(open(path.as_os_str()).unwrap()),
            watchdog: None,
        };
        manager.ready();
        manager.reloading();
        manager.stopping();
        let mut words = Vec::new();
        for _ in 0..3 {
            let mut buffer = [0; 128];
            let len = heard.recv(&mut buffer).unwrap();
            words.push(String::from_utf8_lossy(&buffer[..len]).into_owned());
        }
        assert_eq!(
            (words[0].as_str(), words[2].as_str()),
            ("READY=1", "STOPPING=1")
        );
        let moment = words[1].strip_prefix("RELOADING=1\nMONOTONIC_USEC=");
        assert!(moment.unwrap().parse::<u64>().unwrap() > 0);
    }
}
