//! What this machine and this run are called.

use ashlar_proto::limits::NAME_BYTES_MAX;
use std::time::{SystemTime, UNIX_EPOCH};

/// The host's name.
pub fn name() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let name = name.trim();
    if name.is_empty() {
        "host".to_owned()
    } else {
        name.to_owned()
    }
}

/// What an iSCSI server on this host is called: the host's name, as far as names of servers have it.
pub fn server_name() -> String {
    let plain = |c: char| match c.to_ascii_lowercase() {
        c if c.is_ascii_alphanumeric() || ".-_".contains(c) => c,
        _ => '-',
    };
    let name: String = name().chars().map(plain).take(NAME_BYTES_MAX - 3).collect();
    let name = name.trim_start_matches(['.', '-', '_']);
    if name.is_empty() {
        "host".to_owned()
    } else {
        name.to_owned()
    }
}

/// Who attaches volumes: role, host, and what makes this run unlike any other.
pub fn owner(role: &str) -> String {
    let since_1970 = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    format!(
        "{role}@{} pid {} {:x}",
        name(),
        std::process::id(),
        since_1970.as_millis()
    )
}
