//! The process itself: what it is, and what it takes of its machine, by the names that Prometheus's own
//! libraries use.

use super::exposition::Family;

/// Of this process.
pub fn families(role: &'static str) -> Vec<Family> {
    let mut build = Family::gauge(
        "ashlar_build_info",
        "Always 1; the labels say what runs here.",
    );
    let version = env!("CARGO_PKG_VERSION");
    build.push(&[("role", role), ("version", version)], 1);
    let mut families = vec![build];
    families.extend(usage());
    families
}

/// From `/proc/self`; what cannot be read is not told.
fn usage() -> Vec<Family> {
    let mut families = Vec::new();
    if let Some(used) = cpu_seconds() {
        let mut cpu = Family::counter(
            "process_cpu_seconds_total",
            "User and system time that the process has taken.",
        );
        cpu.push(&[], used);
        families.push(cpu);
    }
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    if let Some(bytes) = resident_bytes(&status) {
        let mut resident = Family::gauge(
            "process_resident_memory_bytes",
            "Memory that the process has in use.",
        );
        resident.push(&[], bytes);
        families.push(resident);
    }
    if let Ok(open) = std::fs::read_dir("/proc/self/fd") {
        let mut files = Family::gauge("process_open_fds", "Files that the process has open.");
        files.push(&[], open.count() as u64);
        families.push(files);
    }
    families
}

fn cpu_seconds() -> Option<f64> {
    let usage = nix::sys::resource::getrusage(nix::sys::resource::UsageWho::RUSAGE_SELF).ok()?;
    let seconds = |time: nix::sys::time::TimeVal| {
        let seconds = u32::try_from(time.tv_sec()).unwrap_or(u32::MAX);
        let micros = u32::try_from(time.tv_usec()).unwrap_or_default();
        f64::from(seconds) + f64::from(micros) / 1e6
    };
    Some(seconds(usage.user_time()) + seconds(usage.system_time()))
}

/// `VmRSS:    1234 kB`, as proc(5) has it.
fn resident_bytes(status: &str) -> Option<u64> {
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_read_from_the_status() {
        let status = "Name:\tashlar\nVmRSS:\t    2048 kB\nThreads:\t4\n";
        assert_eq!(resident_bytes(status), Some(2 << 20));
        assert_eq!(resident_bytes("VmRSS: lots"), None);
        assert_eq!(resident_bytes(""), None);
    }

    #[test]
    fn a_process_has_taken_time_and_memory() {
        assert!(cpu_seconds().unwrap() > 0.0);
        assert_eq!(usage().len(), 3);
    }
}
