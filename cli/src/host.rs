//! What this machine and this run are called.

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
