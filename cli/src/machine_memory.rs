//! How much memory this process may use: what the machine has, or less where a cgroup says so.

use std::path::{Path, PathBuf};

use ashlar_proto::ByteCount;

/// Where the kernel tells of control groups, version 2; containers see their own as its root.
const CGROUPS: &str = "/sys/fs/cgroup";
/// The limit of version 1, as a container sees it.
const CGROUP_1_LIMIT: &str = "/sys/fs/cgroup/memory/memory.limit_in_bytes";

/// The memory that this process may use; none where the kernel does not say.
pub fn available() -> ByteCount {
    let read = |path: &Path| std::fs::read_to_string(path).unwrap_or_default();
    let total = total_of(&read(Path::new("/proc/meminfo")));
    let own = read(Path::new("/proc/self/cgroup"));
    let limits = limit_files(&own);
    let limits = limits.iter().filter_map(|path| limit_of(&read(path)));
    ByteCount::new(total.into_iter().chain(limits).min().unwrap_or(0))
}

/// `MemTotal` of `/proc/meminfo`, in bytes.
fn total_of(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|l| l.strip_prefix("MemTotal:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

/// What a limit's file says; `max` is none.
fn limit_of(text: &str) -> Option<u64> {
    text.trim().parse().ok()
}

/// The files with the limits of a process's group and of those around it, from the text of
/// `/proc/self/cgroup`.
fn limit_files(own: &str) -> Vec<PathBuf> {
    let group = own.lines().find_map(|line| line.strip_prefix("0::/"));
    let group = Path::new(group.unwrap_or_default());
    let around = group
        .ancestors()
        .map(|group| Path::new(CGROUPS).join(group));
    let mut files: Vec<PathBuf> = around.map(|group| group.join("memory.max")).collect();
    files.push(CGROUP_1_LIMIT.into());
    files
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_files_are_understood() {
        let meminfo = "MemTotal:       16303428 kB\nMemFree:         1234 kB\n";
        assert_eq!(total_of(meminfo), Some(16_303_428 << 10));
        assert_eq!(total_of(""), None);
        assert_eq!(limit_of("1073741824\n"), Some(1 << 30));
        assert_eq!(limit_of("max\n"), None);
        let files = limit_files("1:memory:/x\n0::/system.slice/ashlar.service\n");
        let expected = ["system.slice/ashlar.service/", "system.slice/", ""];
        let expected = expected.map(|group| PathBuf::from(format!("{CGROUPS}/{group}memory.max")));
        assert_eq!(files[..3], expected);
        assert_eq!(limit_files("").len(), 2);
    }
}
